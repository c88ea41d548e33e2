"""Patterns choose weights by their names or those of the nodes that read them; a pattern has to match something."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnx_gconv.configuration import Configuration
from onnx_gconv.errors import ConfigError
from onnx_gconv.weights import WeightSelection, find_weights


@pytest.fixture
def survey(parse, normal):
    """Three layers, a table that is no weight, and a weight that cannot be mapped."""
    return find_weights(
        parse(
            """g (float[2,4] x, int64[1] i) => (float y, float z, float u) {
                [encoder_mm] a = MatMul(x, encoder_weight)
                [decoder_mm] b = MatMul(a, decoder_weight)
                [head_mm] y = MatMul(b, Head_weight)
                [tied_mm] z = MatMul(b, encoder_weight)
                u = Gather(table, i)
                v = MatMul(x, codes)
            }""",
            encoder_weight=normal(4, 4),
            decoder_weight=normal(4, 4),
            Head_weight=normal(4, 4),
            table=normal(5, 4),
            codes=np.ones((4, 4), np.int64),
        )
    )


def names(survey):
    return [weight.name for weight in survey.weights]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["encoder_weight", "decoder_weight", "Head_weight"]),
        (["*"], [], ["encoder_weight", "decoder_weight", "Head_weight"]),
        (["*coder*"], [], ["encoder_weight", "decoder_weight"]),
        (["?ecoder_weight"], [], ["decoder_weight"]),
        (["[Hh]ead_weight"], [], ["Head_weight"]),
        (["head_mm"], [], ["Head_weight"]),
        (["tied_*"], [], ["encoder_weight"]),
        (["Head*", "decoder*"], [], ["decoder_weight", "Head_weight"]),
        ([], ["head_*"], ["encoder_weight", "decoder_weight"]),
        (["*coder*"], ["en*"], ["decoder_weight"]),
        (["*"], ["*"], []),
    ],
)
def test_weights_are_chosen_by_globs_over_their_names_and_those_of_their_nodes(survey, include, exclude, expected):
    assert names(WeightSelection(include, exclude).apply(survey)) == expected


def test_what_is_left_out_is_listed_with_the_reason(survey):
    chosen = WeightSelection(include=["*coder*"], exclude=["decoder_mm*"]).apply(survey)
    left_out = {item.name: item for item in chosen.skipped if item.reason == "not_selected"}
    assert {name: item.detail for name, item in left_out.items()} == {
        "decoder_weight": "excluded by 'decoder_mm*'",
        "Head_weight": "not matched by an include pattern",
    }
    assert left_out["decoder_weight"].shape == (4, 4)
    assert left_out["decoder_weight"].consumers == ("decoder_mm (MatMul)",)
    assert left_out["decoder_weight"].is_mvm


def test_consumers_of_what_is_left_out_are_written_like_those_of_other_skipped_weights(parse, normal):
    model = parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
    [skipped] = WeightSelection(exclude=["W"]).apply(find_weights(model)).skipped
    assert skipped.consumers == ("MatMul",)


def test_what_was_skipped_before_stays_skipped(survey):
    chosen = WeightSelection(include=["Head*"]).apply(survey)
    assert chosen.skipped[: len(survey.skipped)] == survey.skipped


@pytest.mark.parametrize("selection", [{"include": ["encodr_weight"]}, {"exclude": ["encodr_weight"]}])
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest_names(survey, selection):
    with pytest.raises(ConfigError, match=r"'encodr_weight' matches no weight .*; did you mean 'encoder_weight'"):
        WeightSelection(**selection).apply(survey)


def test_a_pattern_that_is_near_to_nothing_gets_some_of_the_names(survey):
    with pytest.raises(ConfigError) as error:
        WeightSelection(include=["zzz"]).apply(survey)
    assert re.fullmatch(r".*; there are \d+, such as ('\w+', ){4}'\w+'", str(error.value))


@pytest.mark.parametrize(
    ("pattern", "expected"), [("w[0]", ["w[0]"]), ("w[01]", ["w0"]), ("w*", ["w[0]", "w0"]), ("w[[]0]", ["w[0]"])]
)
def test_a_name_with_brackets_is_itself_and_no_glob(parse, normal, pattern, expected):
    model = parse(
        "g (float[2,4] x) => (float y) { a = MatMul(x, first) y = MatMul(a, w0) }", first=normal(4, 4), w0=normal(4, 4)
    )
    model.graph.initializers["first"].name = "w[0]"
    found = find_weights(model)
    assert names(WeightSelection(include=[pattern]).apply(found)) == expected
    settings = Configuration.of({"overrides": [{"weight": pattern, "levels": 4}]})
    assert settings.resolve(found).matches == (len(expected),)


def test_a_name_with_brackets_that_is_skipped_says_why(parse, normal):
    model = parse(
        "g (float[2,4] x, int64 c) => (float y) { y = MatMul(x, W) v = MatMul(c, codes) }",
        W=normal(4, 4),
        codes=np.ones((4, 4), np.int64),
    )
    model.graph.initializers["codes"].name = "layers[0].codes"
    with pytest.raises(ConfigError, match=r"'layers\[0\]\.codes' is skipped"):
        WeightSelection(include=["layers[0].codes"]).apply(find_weights(model))


def test_case_matters(survey):
    with pytest.raises(ConfigError, match=r"'head_weight' matches no weight .* did you mean 'Head_weight'\?"):
        WeightSelection(include=["head_weight"]).apply(survey)


def test_one_wrong_pattern_among_right_ones_is_an_error(survey):
    with pytest.raises(ConfigError, match="'bogus' matches no weight"):
        WeightSelection(include=["*", "bogus"]).apply(survey)


def test_a_pattern_that_another_one_makes_redundant_is_no_error(survey):
    assert names(WeightSelection(include=["*", "Head_weight"]).apply(survey))[-1] == "Head_weight"


def test_a_pattern_that_only_a_skipped_weight_matches_says_why_that_is_skipped(survey):
    with pytest.raises(ConfigError, match=r"'code\*' matches no weight .*: 'codes' is skipped \(weights of this type"):
        WeightSelection(include=["code*"]).apply(survey)


def test_a_pattern_for_a_model_without_weights_says_that_there_are_none(parse):
    survey = find_weights(parse("g (float x) => (float y) { y = Identity(x) }"))
    with pytest.raises(ConfigError, match="the model has no weight that can be mapped"):
        WeightSelection(include=["W"]).apply(survey)


def test_a_module_for_a_model_that_tells_none_says_so(survey):
    with pytest.raises(ConfigError) as raised:
        Configuration.of({"overrides": [{"module": "encoder", "levels": 4}]}).resolve(survey)
    assert str(raised.value) == (
        "overrides[0].module: the pattern 'encoder' matches no module with a weight that can be mapped; the model has "
        "no such names"
    )


def test_names_of_nodes_that_read_a_weight_other_than_as_a_weight_do_not_choose_it(parse, normal):
    model = parse(
        "g (float[3,4] x) => (float y, float z) { [mm] y = MatMul(x, W) [plus] z = Add(x, W) }", W=normal(4, 4)
    )
    with pytest.raises(ConfigError, match="'plus' matches no weight"):
        WeightSelection(include=["plus"]).apply(find_weights(model))


EXPORTED = """g (float[2,4] x) => (float[2,4] y) {
    [first] a = MatMul(x, val_0)
    [second] b = com.microsoft.FusedMatMul(a, val_1)
    [third] y = Gemm(b, val_2)
}"""


@pytest.fixture
def exported(parse, normal):
    """Three anonymous weights whose parameters and modules the metadata tells."""
    weights = {f"val_{k}": normal(4, 4, seed=k) for k in range(3)}
    model = parse(EXPORTED, opsets='"" : 17, "com.microsoft" : 1', **weights)
    for number, (node, name) in enumerate(
        zip(model.graph, ["encoder.layers.0", "encoder.layers.1", "head"], strict=True)
    ):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", name.partition(".")[0], name, f"linear_{number}"])
        value = model.graph.initializers[f"val_{number}"]
        value.metadata_props["pkg.onnxscript.optimizer.folded_from"] = repr([f"{name}.weight"])
    return find_weights(model)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder.layers.1.weight", ["val_1"]),
        ("*.weight", ["val_0", "val_1", "val_2"]),
        ("encoder", ["val_0", "val_1"]),
        ("encoder.layers", ["val_0", "val_1"]),
        ("encoder.layers.[01]", ["val_0", "val_1"]),
        ("head", ["val_2"]),
        ("MatMul", ["val_0"]),
        ("com.microsoft.*", ["val_1"]),
        ("Gemm", ["val_2"]),
    ],
)
def test_weights_are_chosen_by_their_parameters_modules_and_op_types(exported, pattern, expected):
    assert names(WeightSelection(include=[pattern]).apply(exported)) == expected
    left = [name for name in ["val_0", "val_1", "val_2"] if name not in expected]
    assert names(WeightSelection(exclude=[pattern]).apply(exported)) == left


def test_the_operation_that_an_exporter_notes_is_no_module(exported):
    with pytest.raises(ConfigError, match="'linear_0' matches no weight"):
        WeightSelection(include=["linear_0"]).apply(exported)


def test_the_nearest_names_may_be_parameters_and_modules(exported):
    with pytest.raises(ConfigError, match=r"did you mean 'encoder.layers.0.weight'"):
        WeightSelection(include=["encoder.layer.0.weights"]).apply(exported)


def test_a_parameter_of_a_skipped_weight_says_why_that_is_skipped(parse):
    model = parse("g (int64[2,4] x) => (int64[2,4] y) { y = MatMul(x, val_0) }", val_0=np.ones((4, 4), np.int64))
    model.graph.initializers["val_0"].metadata_props["pkg.onnxscript.optimizer.folded_from"] = "['lin.weight']"
    known = r"'lin\.weight' \('val_0' in the model\)"
    with pytest.raises(ConfigError, match=rf"'lin\.weight' matches no weight .*: {known} is skipped"):
        WeightSelection(include=["lin.weight"]).apply(find_weights(model))


@pytest.mark.parametrize("pattern", ["emb", "look_up", "Gather"])
def test_a_node_or_module_that_reads_only_skipped_weights_says_why_they_are_skipped(parse, normal, pattern):
    model = parse("g (int64[1] i) => (float[1,4] y) { [look_up] y = Gather(table, i) }", table=normal(5, 4))
    next(iter(model.graph)).metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'emb', 'embedding']"
    with pytest.raises(ConfigError, match=f"'{pattern}' matches no weight .*: 'table' is skipped"):
        WeightSelection(include=[pattern]).apply(find_weights(model))


def test_a_computed_weight_is_chosen_by_what_it_is_computed_from(parse, normal):
    model = parse(
        "g (float[2,4] x) => (float y, float z) { t = Neg(lstm_weight) y = MatMul(x, t) z = MatMul(x, other) }",
        lstm_weight=normal(4, 4),
        other=normal(4, 4),
    )
    assert names(WeightSelection(include=["lstm_*"]).apply(find_weights(model))) == ["t"]
