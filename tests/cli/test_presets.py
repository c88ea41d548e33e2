"""Published devices on the command line: a table of all, and everything of one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnx_gconv.cli.commands.presets import _Presets
from onnx_gconv.devices.presets import presets


def shown(width, *, name=None):
    chosen = [item for item in presets() if name in {None, item.name}]
    text = io.StringIO()
    Console(file=text, width=width).print(_Presets(tuple(chosen), is_detailed=name is not None))
    return text.getvalue()


def test_all_presets_are_listed_with_their_sources(gconv):
    found = gconv("presets")
    assert (found.code, found.stderr) == (0, "")
    for item in presets():
        assert found.stdout.count(item.name) >= 2  # in the table and above its sources
    assert "0.25 .. 25" in found.stdout
    assert "V. Joshi et al. 2020, CrossSim" in found.stdout


@pytest.mark.parametrize("width", [80, 120])
def test_tables_are_readable_at_usual_widths(width):
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    [row] = [line.split() for line in lines if line.strip().startswith("sonos-40nm") and ".." in line]
    assert row == ["sonos-40nm", "0", "..", "28.5714", "128", "1152", "x", "256", "-"]
    [row] = [line.split() for line in lines if line.strip().startswith("reram-cmo-hfox") and ".." in line]
    assert row[-2:] == ["0.2", "%"]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("item", presets(), ids=lambda item: item.name)
def test_everything_of_a_preset_is_shown(item, width):
    text = shown(width, name=item.name)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert item.description in words
    assert "…" not in words
    for source in item.sources:
        assert (source.title or source.tool).split()[0] in words


def test_one_preset_is_shown_with_its_notes_and_sources(gconv):
    found = gconv("presets", "rram-neurram")
    assert (found.code, found.stderr) == (0, "")
    for text in ("1 .. 40 µS", "256 x 256", "tolerance  1 µS", "95th percentile", "Nature 608, 504-512"):
        assert text in found.stdout


def test_json_holds_all_values(gconv):
    found = gconv("presets", "--json").json
    assert [item["name"] for item in found["presets"]] == [item.name for item in presets()]
    [one] = gconv("presets", "isaac", "--json").json["presets"]
    assert (one["g_min"], one["g_max"], one["levels"], one["array"]) == (0.5, 500.0, 4, [128, 128])
    assert one["converter"] == "bit-sliced-offset"
    assert one["sources"][1]["file"] == "simulator/configs/ISAAC.json"


def test_a_name_that_is_not_known_is_one_line_with_the_nearest(gconv):
    found = gconv("presets", "pcm-joshy")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr == "onnx-gconv: there is no preset 'pcm-joshy'; did you mean pcm-joshi?\n"


def test_quiet_prints_nothing(gconv):
    assert gconv("presets", "--quiet") == (0, "", "")
