"""Configuration files and the options of mapping schemes on the command line."""

from __future__ import annotations

import json
import tomllib
from typing import get_type_hints

import onnx_ir as ir
import pytest

from onnx_gconv.cli.mapping_configuration import mapping_configuration
from onnx_gconv.cli.mapping_flags import MappingFlags
from onnx_gconv.configuration import Configuration
from onnx_gconv.configuration.json_schema import json_schema
from onnx_gconv.configuration.options import MappingOptions as PythonOptions
from onnx_gconv.configuration.settings import GranularityName
from onnx_gconv.converters import CONVERTERS, BitSlicedPairConductanceConverter, NPairConductanceConverter
from onnx_gconv.converters.registry import CONVERTER_KINDS
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.simulation.comparison.json_schema import comparison_schema


@pytest.fixture
def folder(parse, normal, tmp_path, monkeypatch):
    """The current folder, with a model of two layers."""
    monkeypatch.chdir(tmp_path)
    text = "g (float[2,4] x) => (float[2,4] y) { [one] a = MatMul(x, W) [two] y = Gemm(a, V) }"
    ir.save(parse(text, W=normal(4, 4), V=normal(4, 4, seed=1)), tmp_path / "in.onnx")
    return tmp_path


def refused(found, message):
    assert (found.code, found.stdout) == (2, "")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    return True


# Options


def scheme(**options):
    return mapping_configuration(MappingFlags(**options)).scheme()


def test_the_choices_of_options_are_those_of_the_settings():
    types = get_type_hints(MappingFlags)
    assert types["granularity"] == GranularityName | None


def test_every_named_converter_exists():
    assert [kind.class_name for kind in CONVERTER_KINDS.values()] == list(CONVERTERS)


@pytest.mark.parametrize(
    ("options", "converter"),
    [
        ({"converter": "n-pair", "factor": [1.0, 3.0], "g_min": 1.0}, NPairConductanceConverter([1, 3], g_min=1.0)),
        (
            {"converter": "bit-sliced-pair", "bits": 6, "slice_bits": 3, "g_max": 30.0},
            BitSlicedPairConductanceConverter(6, 3, g_max=30.0),
        ),
        *(
            ({"converter": name}, CONVERTERS[CONVERTER_KINDS[name].class_name]())
            for name in ("single-pair", "single-device", "two-sided-pair", "offset", "bit-sliced-offset")
        ),
    ],
)
def test_options_make_the_converter(options, converter):
    assert scheme(**options).converter == converter


@pytest.mark.parametrize(
    ("options", "granularity"),
    [
        ({"granularity": "channel"}, Granularity("channel")),
        ({"tile": "256x128"}, Granularity("tile", (256, 128))),
        (
            {"granularity": "tile-channel", "tile": "8x4", "partition": "max"},
            Granularity("tile_channel", (8, 4), "max"),
        ),
    ],
)
def test_options_make_the_granularity(options, granularity):
    assert scheme(**options).granularity == granularity


def test_options_make_the_clipping_and_the_levels():
    assert scheme(clip_percentile=99.0).clipping == Clipping(percentile=99.0)
    assert scheme(clip_value=0.5).clipping == Clipping(value=0.5)
    found = scheme(levels="16", level_codes=True)
    assert (found.levels.count, found.storage) == (16, "codes")
    table = scheme(levels="0, 1.5,25")
    assert (table.levels.count, table.converter.g_max) == (3, 25.0)
    assert scheme(levels="none").levels is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "many"}, "--levels is a number of levels, a list of them in µS such as 0,1.5,25, preset or none, "),
        ({"levels": "1"}, "--levels: should be a number of levels, at least two"),
        (
            {"levels": "0,20", "g_max": 30.0},
            "--levels: the levels go from 0 to 20 µS, but the device has g_max",
        ),
        ({"level_codes": True}, "--level-codes: codes need levels"),
        ({"granularity": "tile"}, "--granularity: the granularity tile needs the size of a tile"),
        ({"partition": "max"}, "--granularity: the granularity tile needs the size of a tile"),
        ({"granularity": "channel", "tile": "3x3"}, "--tile: tile needs the granularity tile or tile-channel, not ch"),
        ({"tile": "3"}, "--tile: a tile is given as ROWSxCOLUMNS, e.g. 256x256, but not as '3'"),
        ({"clip_percentile": 99.0, "clip_value": 1.0}, "--clip-percentile: clipping is at a percentile or at a value"),
        ({"bits": 8}, "--bits needs --converter bit-sliced-pair or bit-sliced-offset, not single-pair"),
        ({"converter": "custom-pair", "factor": [1.0]}, "--converter custom-pair needs a table of conductances, which"),
        ({"exact": True, "g_min": 1.0}, "--exact: exact mapping needs g_min = 0"),
        ({"exact": True, "levels": "8"}, "--levels: rounded weights do not come back exactly"),
        (
            {"levels": "8", "conductance_dtype": "weight"},
            "--conductance-dtype: conductances of the weight's type",
        ),
        ({"preset": "none-such"}, "--preset"),
    ],
)
def test_options_that_cannot_be_are_refused_by_their_names(options, message):
    with pytest.raises(ConfigError) as error:
        scheme(**options)
    assert str(error.value).startswith(message)


def test_every_option_of_python_is_one_of_the_command_line():
    """Those that are spelled differently are listed here."""
    spelled = {"device": "preset", "clipping": "clip_value", "storage": "level_codes"}
    options = MappingFlags.__annotations__
    assert all(spelled.get(name, name) in options for name in PythonOptions.__annotations__)


# --config


def test_map_follows_the_configuration(gconv, folder):
    (folder / "gconv.toml").write_text('[defaults]\nconverter = { name = "n-pair", factors = [1, 3] }\n')
    found = gconv("map", "in.onnx", "--config", "gconv.toml", "--json")
    assert {item["converter"] for item in found.json["mapped"]} == {"NPairConductanceConverter"}


def test_options_win_over_the_configuration(gconv, folder):
    (folder / "gconv.toml").write_text('[defaults]\nconverter = "offset"\n[model]\nexclude = ["V"]\n')
    found = gconv("inspect", "in.onnx", "--config", "gconv.toml", "--converter", "single-pair", "--json")
    assert [(item["name"], item["converter"]) for item in found.json["mapped"]] == [
        ("W", "SinglePairConductanceConverter")
    ]


@pytest.mark.parametrize("command", ["map", "inspect"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("levels = 3", "'gconv.toml', line 1: levels: unknown key"),
        ('[defaults]\nstorage = "codes"', "'gconv.toml', line 2: defaults.storage: codes need levels"),
        ("[model]\nexclude = ['nothing']", "the pattern 'nothing' matches no weight"),
        ("[model", "'gconv.toml', "),
    ],
)
def test_an_error_in_the_configuration_is_one_line_and_nothing_is_written(gconv, folder, command, text, message):
    (folder / "gconv.toml").write_text(text)
    assert refused(gconv(command, "in.onnx", "--config", "gconv.toml"), message)
    assert sorted(file.name for file in folder.iterdir()) == ["gconv.toml", "in.onnx"]


def test_a_configuration_that_is_not_there_is_bad_input(gconv, folder):
    assert refused(gconv("map", "in.onnx", "--config", "nothing.toml"), "'nothing.toml' cannot be read")


# config init


def test_init_writes_a_first_file_beside_the_model(gconv, folder):
    found = gconv("config", "init", "in.onnx")
    assert (found.code, found.stderr) == (0, "")
    text = (folder / "gconv.toml").read_text(encoding="utf-8")
    assert Configuration.of(tomllib.loads(text)) == Configuration()
    assert '# weight = "W"   4x4   op = "MatMul"   node = "one"' in text
    assert gconv("map", "in.onnx", "--config", "gconv.toml").code == 0


def test_init_prints_to_stdout_if_asked_to(gconv, folder):
    found = gconv("config", "init", "in.onnx", "-o", "-")
    assert tomllib.loads(found.stdout) == {"defaults": {}, "model": {}}
    assert [file.name for file in folder.iterdir()] == ["in.onnx"]


def test_init_overwrites_nothing_unless_it_is_forced_to(gconv, folder):
    (folder / "my.toml").write_text("mine")
    assert refused(gconv("config", "init", "in.onnx", "-o", "my.toml"), "'my.toml' exists; choose another file with -o")
    assert (folder / "my.toml").read_text() == "mine"
    assert gconv("config", "init", "in.onnx", "-o", "my.toml", "--force").code == 0
    assert (folder / "my.toml").read_text().startswith("#:schema")
    assert sorted(file.name for file in folder.iterdir()) == ["in.onnx", "my.toml"]


def test_init_says_where_it_cannot_write(gconv, folder):
    assert refused(
        gconv("config", "init", "in.onnx", "-o", "none/my.toml"), "'none/my.toml' cannot be written: No such"
    )


def test_init_refuses_what_is_no_model(gconv, folder):
    assert refused(gconv("config", "init", "missing.onnx"), "'missing.onnx'")
    gconv("map", "in.onnx")
    assert refused(gconv("config", "init", "in.gconv.onnx"), "'in.gconv.onnx'")


# config schema


def test_schema_prints_the_schema(gconv, folder):
    assert gconv("config", "schema").stdout == json_schema()
    assert gconv("config", "schema", "--of", "comparison").stdout == comparison_schema()
    assert gconv("config", "schema", "-o", "gconv.schema.json").code == 0
    assert json.loads((folder / "gconv.schema.json").read_text(encoding="utf-8"))["title"] == "onnx_gconv"


# config check

CHECKED = """[defaults]
levels = 16
[[overrides]]
op = "*"
granularity = "channel"
[[overrides]]
weight = "V"
skip = true
"""


def test_check_says_what_a_configuration_does_with_a_model(gconv, folder):
    (folder / "gconv.toml").write_text(CHECKED)
    found = gconv("config", "check", "gconv.toml", "in.onnx")
    assert "overrides[0]  2 weights:  op *  ->  granularity" in found.stdout
    assert "overrides[1]  1 weight:  weight V  ->  skip" in found.stdout
    assert "1 weight of in.onnx would be mapped, 1 are left out" in found.stdout
    document = gconv("config", "check", "gconv.toml", "in.onnx", "--json").json
    assert [item["weights"] for item in document["overrides"]] == [2, 1]
    assert (document["mapped"], document["left_out"]) == (1, 1)


def test_check_works_without_a_model(gconv, folder):
    (folder / "gconv.toml").write_text(CHECKED)
    found = gconv("config", "check", "gconv.toml")
    assert (found.code, found.stdout.splitlines()[0]) == (0, "Nothing is wrong with gconv.toml")
    (folder / "gconv.toml").write_text('[[overrides]]\nop = "Conv"\nstorage = "codes"\n')
    assert refused(gconv("config", "check", "gconv.toml"), "line 3: overrides[0].storage: codes need levels")


def test_check_refuses_patterns_that_match_nothing(gconv, folder):
    (folder / "gconv.toml").write_text('[[overrides]]\nop = "Conv"\nskip = true\n')
    message = "'gconv.toml', line 2: overrides[0].op: the pattern 'Conv' matches no op type"
    assert refused(gconv("config", "check", "gconv.toml", "in.onnx"), message)
