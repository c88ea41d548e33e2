"""A configuration file is read, or refused in one line that names the file, the line and the key."""

from __future__ import annotations

import pytest

from onnx_gconv.configuration import ConverterSettings, DeviceSettings, GranularitySettings, read_configuration
from onnx_gconv.errors import ConfigError
from onnx_gconv.validation_messages import _WRITTEN_AS


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a text as the file gconv.toml."""
    monkeypatch.chdir(tmp_path)

    def read(text):
        (tmp_path / "gconv.toml").write_text(text, encoding="utf-8")
        return read_configuration("gconv.toml")

    return read


EXAMPLE = """
[defaults]
device = { g_min = 0.25, g_max = 25.0 }
converter = "single-pair"
granularity = "channel"
clipping = { percentile = 99.9 }
levels = 256
storage = "codes"

[model]
quantized = "skip"
include = ["*weight*"]

[[overrides]]
op = "Conv"
granularity = { tile = "128x64" }
converter = { name = "n-pair", factors = [1, 3] }

[[overrides]]
weight = ["*.bias_proj*", "*.head*"]
skip = true
"""


def test_everything_that_a_file_says_is_read(read):
    configuration = read(EXAMPLE)
    defaults, first, second = configuration.defaults, *configuration.overrides
    assert defaults.device == DeviceSettings(g_min=0.25, g_max=25.0)
    assert defaults.converter == ConverterSettings(name="single-pair")
    assert (defaults.clipping.percentile, defaults.levels, defaults.storage) == (99.9, 256, "codes")
    assert (configuration.model.quantized, configuration.model.include) == ("skip", ("*weight*",))
    assert (first.op, first.granularity) == (("Conv",), GranularitySettings(kind="tile", tile=(128, 64)))
    assert first.converter == ConverterSettings(name="n-pair", factors=(1.0, 3.0))
    assert (second.weight, second.skip) == (("*.bias_proj*", "*.head*"), True)


def test_an_empty_file_says_nothing(read):
    configuration = read("")
    assert (configuration.overrides, configuration.model.quantized) == ((), "map")
    assert configuration.defaults.converter is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tops = 1", "line 1: tops: unknown key; there are defaults, model, overrides"),
        ("[default]\nlevels = 4", "line 1: default: unknown key; did you mean defaults"),
        (
            '[defaults]\n\ngranularty = "x"',
            "line 3: defaults.granularty: unknown key; did you mean granularity",
        ),
        (
            '[[overrides]]\nop = "Conv"\nskip = true\n[[overrides]]\nop = "Conv"\nlevles = 3',
            "line 6: overrides[1].levles: unknown key; did you mean levels",
        ),
        (
            '[defaults]\nconverter = { nam = "n-pair" }',
            "line 2: defaults.converter.nam: unknown key; did you mean name",
        ),
        (
            '[defaults]\ngranularity = "x"',
            "line 2: defaults.granularity: should be 'tensor', 'channel', 'tile' or 'tile-channel', but it is 'x'",
        ),
        (
            '[defaults]\nconverter = "triple"',
            "line 2: defaults.converter: there is no converter 'triple'; there are ",
        ),
        (
            '[defaults]\nconverter = "n-pair"',
            "line 2: defaults.converter: the converter n-pair needs factors, one for each pair: e.g. factors = [1, 3]",
        ),
        (
            '[defaults]\nconverter = { name = "offset", factors = [1] }',
            "defaults.converter: factors needs the converter dual-pair, n-pair or custom-pair, not offset; leave",
        ),
        (
            '[defaults]\nconverter = { name = "custom-pair", factors = [1] }',
            "the converter custom-pair needs a table of conductances in µS",
        ),
        (
            '[defaults]\nconverter = { name = "n-pair", factors = ["1"] }',
            "defaults.converter.factors[0]: should be a number, but it is '1'",
        ),
        ("[defaults]\nconverter = 3", "defaults.converter: should be a name or a table of name, exact, factors, "),
        ('[defaults]\ndevice = "ibm"', "line 2: defaults.device: "),
        ("[defaults]\ndevice = { g_max = true }", "defaults.device.g_max: should be a number, but it is true"),
        ('[defaults]\ngranularity = { tile = "3x" }', "a tile is given as ROWSxCOLUMNS, e.g. 256x256, but not as '3x'"),
        (
            "[defaults]\ngranularity = { tile = [3, 0] }",
            "defaults.granularity.tile[1]: should be at least 1, but it is 0",
        ),
        (
            '[defaults]\ngranularity = { kind = "channel", tile = "3x4" }',
            "defaults.granularity: tile needs the granularity tile or tile-channel, not channel",
        ),
        ("[defaults]\nclipping = { percentile = 101 }", "the percentile of clipping is above 0 and at most 100"),
        ("[defaults]\nclipping = { percentile = 99, value = 1 }", "at a percentile or at a value, but both are given"),
        (
            '[defaults]\nclipping = "min"',
            "should be \"max\", { percentile = 99.9 } or { value = 0.5 }, but it is 'min'",
        ),
        ("[defaults]\nlevels = 1", "defaults.levels: should be a number of levels, at least two, or a list of them"),
        ("[defaults]\nlevels = true", 'or "preset" or "none", but it is true'),
        ('[defaults]\nlevels = ["a", 2]', "line 2: defaults.levels: should be a number of levels"),
        ('[defaults]\nstorage = "code"', "line 2: defaults.storage: should be 'float' or 'codes', but it is 'code'"),
        ('[model]\nfreeze_inputs = "yes"', "line 2: model.freeze_inputs: should be true or false, but it is 'yes'"),
        ('[model]\ninclude = "conv*"', "model.include: should be a list of patterns, but it is the text 'conv*'"),
        ('[model]\ninclude_ops = ["Relu"]', "model: include_ops knows Gather, GatherBlockQuantized, but not 'Relu'"),
        ("overrides = 3", "line 1: overrides: should be a list of tables; write [[overrides]] above each of them"),
        ('[overrides]\nop = "x"', "line 1: overrides: should be a list of tables; write [[overrides]] above"),
        ("[[overrides]]\nskip = true", "line 1: overrides[0]: needs a pattern: one of match, weight, parameter, "),
        ('[[overrides]]\nop = "x"', "line 1: overrides[0]: changes nothing; give skip or one of device, converter, "),
        (
            '[[overrides]]\nop = "x"\nskip = true\nlevels = 4',
            "line 1: overrides[0]: skip = true leaves the weights as they are, so that levels has no effect",
        ),
        ("[[overrides]]\nop = 3\nskip = true", "line 2: overrides[0].op: should be a pattern or a list of patterns"),
        ("[[overrides]]\nop = []\nskip = true", "line 2: overrides[0].op: needs more items: at least 1, but it is"),
        ("defaults = 3", "line 1: defaults: should be a table, but it is 3"),
        ("[defaults]\nlevels = [1, \n", "at the end: no TOML: "),
        ("[defaults]\nlevels = 3 4", "line 2, column 12: no TOML: "),
        ("[defaults]\nlevels = 3\nlevels = 4", "no TOML: Cannot overwrite a value; correct it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_its_place(read, text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value).startswith("'gconv.toml'")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_of_several_errors_the_first_is_told_and_the_others_are_counted(read):
    with pytest.raises(ConfigError, match=r"model.quantized: .* \(and 1 more wrong\)$"):
        read('[model]\nquantized = "x"\nshared = "y"')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.toml' cannot be read: No such file or directory; give the path"):
        read_configuration(tmp_path / "nothing.toml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: it is a folder; give the path of a TOML file"):
        read_configuration(tmp_path)


def test_a_file_in_another_encoding_is_refused_with_the_line(tmp_path):
    (tmp_path / "gconv.toml").write_bytes("[defaults]\n# 25 µS\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"gconv.toml', line 2: not UTF-8, which TOML files are; save it as that"):
        read_configuration(tmp_path / "gconv.toml")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    (tmp_path / "gconv.toml").write_bytes("\ufeff[defaults]\r\nlevels = 16\r\n".encode())
    assert read_configuration(tmp_path / "gconv.toml").defaults.levels == 16


def test_a_key_in_a_dotted_or_quoted_form_is_found_too(read):
    with pytest.raises(ConfigError, match=r"line 2: defaults.levels: should be"):
        read("# first\ndefaults.levels = 0")
    with pytest.raises(ConfigError, match=r"line 2: defaults.levels: should be"):
        read('["defaults"]\n"levels" = 0')


@pytest.mark.parametrize("name", [*_WRITTEN_AS, "clip-percentile"])
def test_a_key_with_the_name_of_an_option_is_answered_with_what_a_file_has_for_it(read, name):
    table = "model" if name.startswith("in") else "defaults"
    with pytest.raises(ConfigError, match=f"line 2: {table}.{name}: unknown key; it is written ") as refused:
        read(f"[{table}]\n{name} = 3")
    written = str(refused.value).partition("it is written ")[2]
    levels = "levels = 16\n" if written.startswith("storage") else ""
    found = read(f"[{table}]\n{levels}{written}")
    assert getattr(getattr(found, table), written.partition(" = ")[0])


def test_a_key_in_a_table_of_an_override_is_found_too(read):
    override = '[[overrides]]\nop = "Conv"\n[overrides.converter]\nname = "n-pair"\n'
    with pytest.raises(ConfigError, match=r"line 10: overrides\[1\]\.converter\.factor: unknown key"):
        read(f"{override}factors = [1]\n{override}factor = [1]\n")
