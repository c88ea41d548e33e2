"""Presets are data with sources; what is wrong in the data is refused with the name of the preset."""

from __future__ import annotations

import importlib.resources
import json
import re

import pytest

from onnx_gconv.converters import CONVERTERS
from onnx_gconv.devices.presets import DevicePreset, Source, preset, presets, presets_in
from onnx_gconv.errors import ConfigError

NAMES = {
    "ideal", "pcm-joshi", "pcm-hermes-1", "pcm-hermes-2", "pcm-fusion", "rram-neurram", "rram-wan", "rram-milo",
    "reram-cmo-hfox", "sonos-40nm", "isaac", "prime", "neurosim-rram", "mnsim-rram", "cimloop-raella",
    "cimloop-neurosim", "cimloop-ecram", "crosssim-default", "memtorch-vteam",
}  # fmt: skip

ONE = """
[[preset]]
name = "one"
description = "A device"
g_min = 0
g_max = 25.0
[[preset.source]]
tool = "A tool"
"""


def changed(old, new=""):
    assert old in ONE
    return ONE.replace(old, new)


def added(lines):
    return ONE.replace("g_max = 25.0", f"g_max = 25.0\n{lines}")


@pytest.mark.parametrize("item", presets(), ids=lambda item: item.name)
class TestShippedPreset:
    def test_it_has_a_source(self, item):
        assert item.sources
        for source in item.sources:
            assert source.title or source.tool
            assert str(source).count(source.tool or "") >= 1

    def test_its_range_is_consistent(self, item):
        assert 0 <= item.g_min < item.g_max

    def test_its_levels_are_levels_of_its_range(self, item):
        levels = item.conductance_levels
        assert (levels is None) == (item.levels is None)
        if levels is not None:
            assert (levels.count, levels.g_min, levels.g_max) == (item.levels, item.g_min, item.g_max)

    def test_its_array_and_its_tolerances_are_positive(self, item):
        assert item.array is None or min(item.array) > 0
        for tolerance in (item.tolerance_us, item.tolerance_relative):
            assert tolerance is None or tolerance > 0

    def test_its_converter_exists(self, item):
        if item.converter is not None:
            words = item.converter.replace("-", " ").title().replace(" ", "")
            assert f"{words}ConductanceConverter" in CONVERTERS

    def test_its_name_can_be_typed(self, item):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", item.name)
        assert preset(item.name) is item

    def test_it_is_written_as_json(self, item):
        assert json.loads(json.dumps(item.to_json(), allow_nan=False))["sources"]


def test_the_published_devices_are_there():
    assert {item.name for item in presets()} == NAMES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ideal", {"g_min": 0.0, "g_max": 25.0, "levels": None}),
        ("pcm-joshi", {"g_min": 0.25, "g_max": 25.0}),
        ("pcm-hermes-2", {"g_max": 20.7, "array": (256, 256)}),
        ("rram-neurram", {"g_min": 1.0, "g_max": 40.0, "tolerance_us": 1.0, "array": (256, 256)}),
        ("reram-cmo-hfox", {"g_min": 9.0, "g_max": 88.199997, "converter": "single-device"}),
        ("sonos-40nm", {"levels": 128, "array": (1152, 256)}),
        ("isaac", {"g_min": 0.5, "g_max": 500.0, "levels": 4, "array": (128, 128)}),
        ("memtorch-vteam", {"g_min": 1000.0, "g_max": 20000.0, "tolerance_relative": 0.01}),
    ],
)
def test_figures_are_those_of_the_sources(name, expected):
    assert {key: getattr(preset(name), key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "g_min_ohm", "g_max_ohm"),
    [("neurosim-rram", 1.7e6, 100e3), ("cimloop-raella", 20000, 1333), ("cimloop-neurosim", 9e5, 6e3)],
)
def test_conductances_are_those_of_the_resistances_that_tools_give(name, g_min_ohm, g_max_ohm):
    assert preset(name).g_min == pytest.approx(1e6 / g_min_ohm, rel=1e-12)
    assert preset(name).g_max == pytest.approx(1e6 / g_max_ohm, rel=1e-12)


def test_a_name_that_is_not_known_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"there is no preset 'PCM-Joshy'; did you mean pcm-joshi\?"):
        preset("PCM-Joshy")
    with pytest.raises(ConfigError, match="there is no preset 'zzz'; there are ideal, pcm-joshi, "):
        preset("zzz")


@pytest.mark.parametrize(("model", "with_it"), [("pcm", "pcm-joshi"), ("reram-cmo", "reram-cmo-hfox")])
def test_the_name_of_a_device_model_is_answered_with_the_presets_that_have_it(model, with_it):
    with pytest.raises(
        ConfigError, match=f"no preset '{model}': that is a device model.*; presets with it: {with_it}$"
    ):
        preset(model)


def test_the_presets_are_a_file_of_the_package():
    assert importlib.resources.files("onnx_gconv.devices").joinpath("presets.toml").is_file()


def test_a_document_gives_its_presets():
    [found] = presets_in(ONE)
    assert found == DevicePreset("one", "A device", 0.0, 25.0, (Source(tool="A tool"),))
    assert isinstance(found.g_min, float)
    assert presets_in("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[preset", "presets are no TOML"),
        ("preset = 3", r"array of tables \[\[preset\]\]"),
        ("[device]\n", r"array of tables \[\[preset\]\], and nothing else"),
        (ONE + ONE, "there is more than one preset 'one'"),
        (changed('name = "one"'), "preset 1: name is missing"),
        (changed("g_max = 25.0"), "preset 'one': g_max is missing"),
        (changed('[[preset.source]]\ntool = "A tool"'), "preset 'one': source is missing"),
        (changed('[[preset.source]]\ntool = "A tool"', "source = []"), "preset 'one': a preset needs a source"),
        (changed("g_min = 0", "g_min = 25"), "they are 25.0 and 25.0 µS"),
        (changed("g_min = 0", "g_min = -1"), "they are -1.0 and 25.0 µS"),
        (changed("25.0", "inf"), "they are 0.0 and inf µS"),
        (changed("25.0", "nan"), "they are 0.0 and nan µS"),
        (changed("25.0", '"25"'), "g_max is '25', which is of the wrong type"),
        (changed("25.0", "true"), "g_max is True, which is of the wrong type"),
        (changed('"A device"', '""'), "needs a name and a description"),
        (added("levels = 1"), "an integer from 2 to 65536, but it is 1"),
        (added("levels = 2.5"), "levels is 2.5, which is of the wrong type"),
        (added("array = [256]"), r"but this one is \(256,\)"),
        (added("array = [256, 0]"), r"but this one is \(256, 0\)"),
        (added("array = [256.5, 1]"), "array is .*, which is of the wrong type"),
        (added("tolerance_us = 0.0"), "tolerance_us is positive and finite, but it is 0.0"),
        (added("tolerance_relative = nan"), "tolerance_relative is positive and finite"),
        (added("level = 4"), "there is no 'level'; did you mean levels"),
        (added("notes = [3]"), "notes is .*, which is of the wrong type"),
        (changed('tool = "A tool"', 'file = "a.py"'), "preset 'one': a source needs a paper or a tool"),
        (changed('tool = "A tool"', 'title = "T"\nyear = 2020'), "a paper needs authors, title, venue and year"),
        (changed('tool = "A tool"', 'doi = "1"'), "there is no 'doi'"),
        (added(f"tolerance_us = 1{'0' * 400}"), "preset 'one': one of its whole numbers is too large for a float"),
    ],
)
def test_data_that_is_wrong_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        presets_in(text)


def test_a_file_without_its_tool_is_refused():
    with pytest.raises(ConfigError, match=r"the file a\.py needs the tool"):
        Source(authors="A. B.", title="T", venue="V", year=2020, file="a.py")


def test_a_source_is_shown_whole_and_short():
    paper = Source(authors="A. B., C. D.", title="T", venue="V", year=2020)
    both = Source(authors="A. B. et al.", title="T", venue="V", year=2020, tool="X", file="x.py")
    tool = Source(tool="X", file="x.py")
    assert [str(source) for source in (paper, both, tool)] == [
        "A. B., C. D., T, V, 2020",
        "A. B. et al., T, V, 2020; X, x.py",
        "X, x.py",
    ]
    assert [source.short for source in (paper, both, tool)] == ["A. B. et al. 2020", "A. B. et al. 2020 (X)", "X"]


@pytest.mark.parametrize("text", [f"x = {'9' * 5000}", f"x = {'[' * 3000}"])
def test_numbers_and_lists_without_end_are_refused(text):
    with pytest.raises(ConfigError, match="presets are no TOML: "):
        presets_in(text)
