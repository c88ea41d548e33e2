"""Reports as notebooks show them, in one line, and as data frames: of every function that returns one."""

from __future__ import annotations

import html.parser
import math
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pandas as pd
import pytest

import onnx_gconv as gconv
from onnx_gconv import ConfigError
from onnx_gconv.data_frame import Column, data_frame
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff.pictures import write_pictures
from onnx_gconv.models import model_path
from onnx_gconv.operations import check_configuration
from onnx_gconv.passes import MapConductances, RestoreWeights
from onnx_gconv.shown_report import ShownReport
from onnx_gconv.terminal_text import rendered
from tests import graphs

SCRIPT = "<script>alert('W')</script>"
OUTPUT = "<svg onload=alert(2)>"
NAMES = ["plain.weight", SCRIPT, '"><img src=x onerror=alert(1)>', "a\x1b[31mred\n&amp;\u202e[b]W[/b]"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A report of each kind, of a model whose names try to be markup, in a folder whose name does."""
    folder = tmp_path_factory.mktemp("reports") / "<b onclick=x>f"
    folder.mkdir()
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(4, 4)).astype(np.float32) for name in NAMES}
    ends = [graphs.value("x", shape=["n", 4])], [graphs.value(OUTPUT)]
    nodes = graphs.chain(NAMES, first="x", last=OUTPUT)
    onnx.save(graphs.model(nodes, *ends, graphs.tensors(weights)), folder / "m.onnx")
    (folder / "c.toml").write_text('[[overrides]]\nweight = "*"\nlevels = 16\n')
    found = {"map": gconv.map_model(folder / "m.onnx", folder / "g.onnx", levels=16)}
    found["inspect"] = gconv.inspect_model(folder / "m.onnx")
    found["explain"] = gconv.explain_weight(folder / "g.onnx", SCRIPT, original=folder / "m.onnx")
    found["check"] = gconv.check_model(folder / "g.onnx")
    found["failed check"] = gconv.check_model(folder / "m.onnx")
    found["verify"] = gconv.verify(folder / "m.onnx", folder / "g.onnx")
    found["outputs"] = found["verify"].outputs
    found["restore"] = gconv.restore_model(folder / "g.onnx", folder / "r.onnx")
    found["configuration"] = check_configuration(folder / "c.toml", folder / "m.onnx")
    found["hand-off"] = gconv.write_bundle(folder / "g.onnx", folder / "b", (2, 4))
    with gconv.open_bundle(folder / "b") as bundle:
        found["bundle"] = bundle
        found["pictures"] = write_pictures(bundle, folder / "p")
    found["program"] = gconv.program_model(folder / "g.onnx", folder / "chip.onnx", "pcm")
    measurements = measured(folder / "b", folder / "measured.npz")
    found["read-back"] = gconv.read_back(
        folder / "g.onnx", measurements, folder / "back.onnx", bundle=folder / "b", as_if_measured=True
    )
    found["targets"] = gconv.write_targets(folder / "b", folder / "t.csv")
    found["simulate"] = gconv.simulate(folder / "g.onnx", "pcm", times="1s,1d", repeats=2, sensitivity=True)
    candidates = {"candidates": [{"name": "<i>four</i>", "device": "pcm"}, {"name": "b", "device": "gaussian"}]}
    found["compare"] = gconv.compare(folder / "m.onnx", {**candidates, "times": ["1s", "1d"], "repeats": 2})
    return found


def measured(bundle_folder, path):
    """The targets of a bundle as measurements."""
    with gconv.open_bundle(bundle_folder) as bundle:
        arrays = {
            array.key: bundle.read(array)
            for layer in bundle.layers
            for tile in layer.record.tiles
            for array in tile.conductances
        }
    np.savez(path, **arrays)
    return path


KINDS = {
    "map": "MappingReport",
    "inspect": "MappingReport",
    "explain": "Explanation",
    "check": "CheckReport",
    "failed check": "CheckReport",
    "verify": "VerificationReport",
    "outputs": "OutputsReport",
    "restore": "RestoreReport",
    "configuration": "ConfigurationReport",
    "hand-off": "HandoffReport",
    "bundle": "Bundle",
    "pictures": "PicturesReport",
    "program": "ProgramReport",
    "read-back": "ReadbackReport",
    "targets": "TargetsReport",
    "simulate": "SimulationReport",
    "compare": "ComparisonReport",
}

each_report = pytest.mark.parametrize("kind", KINDS)


def every_report(cls):
    return {cls, *(each for below in cls.__subclasses__() for each in every_report(below))}


def test_all_kinds_of_reports_are_tried(reports):
    assert {kind: type(report).__name__ for kind, report in reports.items()} == KINDS
    # An ExportReport is a MappingReport with the program beside it, and is there only where torch's exports are tried.
    found = {cls.__name__ for cls in every_report(ShownReport) - {ShownReport}} - {"ExportReport"}
    assert found == {*KINDS.values()}
    public = {name for name in gconv.__all__ if name.endswith("Report")} | {"Bundle"}
    assert public <= {*KINDS.values()}


@each_report
def test_repr_is_one_short_printable_line_with_the_name_of_its_class(reports, kind):
    found = repr(reports[kind])
    assert found.startswith(f"<{KINDS[kind]}: ")
    assert found.endswith(">")
    assert found.isprintable()
    assert len(found) <= 260


def test_a_report_on_a_model_in_memory_names_no_file():
    model = ir.load(model_path("digits_cnn.onnx"))
    MapConductances()(model)
    found = repr(RestoreWeights()(model).report)
    assert " as " not in found
    assert found.endswith(": 5 weights restored>")


class Elements(html.parser.HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@each_report
def test_a_notebook_shows_what_is_printed_and_nothing_of_it_is_markup(reports, kind):
    page = Elements()
    page.feed(reports[kind]._repr_html_())
    page.close()
    assert set(page.tags) <= {"pre", "span"}
    assert page.attributes <= {"style"}
    shown = [line.rstrip() for line in page.text.strip("\n").split("\n")]
    printed = [line.rstrip() for line in rendered(reports[kind]).split("\n")]
    assert shown == printed


@each_report
def test_a_frame_has_typed_columns(reports, kind):
    report = reports[kind]
    frames = [report.to_frame(table) for table in report._frame_tables()]
    assert sum(map(len, frames))
    for frame in frames:
        assert {str(dtype) for dtype in frame.dtypes} <= {"string", "Int64", "float64", "boolean"}
        assert all(name.isidentifier() and name.isascii() for name in frame.columns)


def test_the_frame_of_a_mapping_has_a_row_for_each_weight(reports):
    report, frame = reports["map"], reports["map"].to_frame().set_index("weight")
    assert list(frame.index) == [item.name for item in (*report.mapped, *report.skipped)] == NAMES
    for record in report.mapped:
        row = frame.loc[record.name]
        assert (row["status"], row["shape"], row["parameters"]) == ("mapped", "4x4", 16)
        assert row["largest_scale_us_per_unit"] == record.scale.value
        assert row["sqnr_db"] == record.loss.sqnr_db
    assert set(reports["inspect"].to_frame()["status"]) == {"to be mapped"}


def test_skipped_and_broken_weights_have_rows_with_the_reason(tmp_path, parse, normal):
    text = "g (float[2,16] x, float[4,4] d) => (float[2,4] y) { h = MatMul(x, W) y = MatMul(h, d) }"
    save_model(parse(text, W=normal(16, 4)), tmp_path / "m.onnx")
    frame = gconv.inspect_model(tmp_path / "m.onnx", include_ops=()).to_frame()
    assert list(frame["status"]) == ["to be mapped"]
    gconv.map_model(tmp_path / "m.onnx", tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    next(node for node in model.graph.node if node.op_type == "Sub").op_type = "Add"
    onnx.save(model, tmp_path / "g.onnx")
    frame = gconv.inspect_model(tmp_path / "g.onnx").to_frame()
    assert list(frame["status"]) == ["broken"]
    assert "the nodes compute +1*W.g_plus +1*W.g_minus" in frame["reason"][0]


def test_frames_of_a_simulation_have_the_figures_of_chips_and_of_times(reports):
    report = reports["simulate"]
    times, chips = report.to_frame(), report.to_frame("chips")
    assert list(times["seconds"]) == [1.0, 86400.0]
    assert list(times["mean_db"]) == [time.spread.mean for time in report.times]
    np.testing.assert_allclose(chips.groupby("seconds")["sqnr_db"].mean(), times["mean_db"])
    assert list(report.to_frame("sensitivity")["weight"]) == [item.name for item in report.sensitivity]


def test_frames_of_a_comparison_name_the_candidates(reports):
    report = reports["compare"]
    assert len(report.to_frame("chips")) == 2 * 2 * 2
    assert list(report.to_frame()["candidate"]) == ["<i>four</i>"] * 2 + ["b"] * 2


def test_frames_of_a_hand_off_and_of_its_read_back_agree_on_layers_and_tiles(reports):
    layers = reports["hand-off"].to_frame()
    assert list(layers["layer"]) == list(reports["bundle"].to_frame()["layer"])
    assert list(layers["layer"]) == list(reports["read-back"].to_frame()["layer"])
    tiles = reports["read-back"].to_frame("tiles")
    assert list(tiles["tile"]) == list(reports["bundle"].to_frame("tiles")["tile"])
    assert (tiles["max_abs_error_us"] == 0).all()
    assert layers["tiles"].sum() == len(tiles) == 8


def test_frames_of_a_verification_have_weights_and_outputs(reports):
    report = reports["verify"]
    assert list(report.to_frame()["weight"]) == NAMES
    assert report.to_frame()["passed"].all()
    pd.testing.assert_frame_equal(report.to_frame("outputs"), report.outputs.to_frame())
    assert list(report.to_frame("outputs")["optimization"]) == ["all", "none"]


def test_missing_values_are_missing_and_infinite_ones_infinite():
    frame = data_frame(
        {
            "a": Column("number", [None, math.inf]),
            "b": Column("whole number", [None, 2**60 + 1]),
            "c": Column("text", [None, "x"]),
            "d": Column("yes or no", [None, True]),
        }
    )
    assert frame.iloc[0].isna().all()
    assert list(frame.iloc[1]) == [math.inf, 2**60 + 1, "x", True]


def test_a_table_that_a_report_does_not_have_is_refused(reports):
    with pytest.raises(ConfigError, match="SimulationReport has no table 'layers'; there are times, chips, "):
        reports["simulate"].to_frame("layers")


def test_without_pandas_the_error_says_what_to_install(reports, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"^data frames need pandas, which is missing; pip install pandas$"):
        reports["map"].to_frame()


def test_the_page_about_python_lists_the_tables_of_each_report(reports):
    page = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (`\w+`(?:, `\w+`)*) \|$", page, flags=re.MULTILINE)
    said = {name: re.findall(r"\w+", tables) for names, tables in rows for name in re.findall(r"\w+", names)}
    found = {type(report).__name__: list(report._frame_tables()) for report in reports.values()}
    assert said == {name: found[name] for name in said}
    assert {name for name in gconv.__all__ if name.endswith("Report")} | {"Bundle"} == set(said) | {"TargetsReport"}
