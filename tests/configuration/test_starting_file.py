"""The first configuration for a model says nothing but the defaults, and lists the weights as patterns."""

from __future__ import annotations

import re
import tomllib

import pytest

from onnx_gconv.configuration import Configuration, ModelSettings, WeightSettings
from onnx_gconv.configuration.starting_file import starting_file
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.weights import find_weights


@pytest.fixture
def survey(parse, normal):
    model = parse(
        "g (float[2,4] x) => (float[2,4] y) { [first] a = MatMul(x, W) y = Gemm(a, V) }",
        W=normal(4, 4),
        V=normal(4, 4),
    )
    model.graph.initializers["W"].metadata_props["pkg.onnxscript.optimizer.folded_from"] = "['lin.weight']"
    return find_weights(model)


def uncommented(text):
    """The file with its settings taken out of the comments."""
    return re.sub(r"^# (?=\w+ = )(?!weight = )", "", text, flags=re.MULTILINE)


def test_it_is_a_file_that_says_nothing(survey):
    data = tomllib.loads(starting_file("model.onnx", survey))
    assert data == {"defaults": {}, "model": {}}
    assert Configuration.of(data) == Configuration()


def test_the_settings_in_its_comments_are_the_defaults(survey):
    head = starting_file("model.onnx", survey).partition("# Overrides")[0]
    configuration = Configuration.of(tomllib.loads(uncommented(head)))
    assert configuration.scheme() == MappingScheme()
    assert configuration.model == Configuration().model
    assert configuration.model.model_fields_set == set(type(configuration.model).model_fields)
    assert configuration.defaults.model_fields_set == set(type(configuration.defaults).model_fields)


def test_every_setting_stands_in_it_with_its_sentence_and_its_default(survey):
    text = starting_file("model.onnx", survey).partition("# Overrides")[0]
    words = " ".join(text.replace("\n# ", " ").split())
    for settings in (WeightSettings, ModelSettings):
        for name, field in settings.model_fields.items():
            assert " ".join(field.description.split()) in words, name
            [line] = [line for line in text.splitlines() if line.startswith(f"# {name} = ")]
            written = tomllib.loads(line.removeprefix("# "))[name]
            if settings is ModelSettings:
                assert (tuple(written) if isinstance(written, list) else written) == field.default, name


def test_what_else_a_file_may_say_is_shown_and_is_right(survey):
    for settings in (WeightSettings, ModelSettings):
        for name, field in settings.model_fields.items():
            for example in field.examples or ():
                settings.model_validate({name: example})
    assert '# or "channel", "tile", "tile-channel", { kind = "tile", tile = "256x256" }' in starting_file("m", survey)


def test_it_lists_every_weight_with_shape_op_node_and_parameter(survey):
    lines = starting_file("model.onnx", survey).splitlines()
    assert '# weight = "W"   4x4   op = "MatMul"   node = "first"   parameter = "lin.weight"' in lines
    assert '# weight = "V"   4x4   op = "Gemm"' in lines


def test_its_first_line_names_the_schema_to_editors(survey):
    assert starting_file("model.onnx", survey).startswith("#:schema ./gconv.schema.json\n")


def test_a_model_without_weights_has_a_first_file_too(parse):
    survey = find_weights(parse("g (float x) => (float y) { y = Identity(x) }"))
    text = starting_file("model.onnx", survey)
    assert "no weight that can be mapped" in text
    assert tomllib.loads(text) == {"defaults": {}, "model": {}}


@pytest.mark.parametrize(
    "name",
    ['with "quotes"', "back\\slash", "line\nbreak", "bell\a", "\x85next", "a[0]*?", "µ 重み", "\u202ereversed", "😀"],
)
def test_names_are_escaped_so_that_each_pattern_matches_its_weight_alone(parse, normal, name):
    model = parse(
        "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, W) y = MatMul(a, V) }", W=normal(4, 4), V=normal(4, 4)
    )
    model.graph.initializers["W"].name = name
    survey = find_weights(model)
    text = starting_file(name, survey)
    assert Configuration.of(tomllib.loads(text)) == Configuration()
    [line] = [line for line in text.splitlines() if line.startswith("# weight") and "4x4" in line and '"V"' not in line]
    pattern = tomllib.loads(line.removeprefix("# ").partition("   4x4")[0])["weight"]
    resolved = Configuration.of({"overrides": [{"weight": pattern, "skip": True}]}).resolve(survey)
    assert [weight.name for weight in resolved.survey.weights] == ["V"]
