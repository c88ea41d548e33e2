"""Defect maps that are wrong are refused with one line that names the file, the array and the value."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from onnx_gconv import write_bundle
from onnx_gconv.crossbars.defects import ArrayDefects, DefectMap, defects_schema, read_defects
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = DOCS / "defects.schema.json"
GEOMETRY = ArrayGeometry(8, 6)


def text_of(*arrays, **keys):
    return json.dumps({"format": "onnx_gconv.defects", "format_version": 1, "arrays": list(arrays), **keys})


def cell(row=0, column=0, conductance=1.0, **keys):
    return {"array": 2, "stuck_cells": [{"row": row, "column": column, "conductance_us": conductance, **keys}]}


WRONG = {
    "": r"is no JSON",
    "[]": r"'.*defects.json' is no defect map: its format is None, not 'onnx_gconv.defects'; give the right file",
    '{"format": "onnx_gconv.bundle", "format_version": 1, "layers": []}': r"its format is 'onnx_gconv.bundle', not",
    text_of(format_version=2): r"has format version 2, this version reads 1; .* use a newer version of onnx_gconv",
    text_of(format_version=True): r"has format version True, this version reads 1",
    '{"format": "onnx_gconv.defects", "format_version": 1}': r"arrays is missing; add it",
    text_of({"array": 2, "unusable_row": [1]}): r"array 2 \(arrays.0.unusable_row\) is no key of a defect map",
    text_of(size=[8, 6]): r"size is no key of a defect map; leave it out, or correct its name",
    text_of(cell(colour=1)): r"array 2 \(arrays.0.stuck_cells.0.colour\) is no key of a defect map",
    text_of({"unusable": True}): r"arrays.0.array is missing",
    text_of({"array": -1}): r"array -1 \(arrays.0.array\) is -1: should be at least 0; correct it",
    text_of(
        {"array": 2, "unusable_rows": ["3"]}
    ): r"array 2 \(arrays.0.unusable_rows.0\) is '3': should be a whole number; correct it",
    text_of({"array": 2, "unusable": 1}): r"array 2 \(arrays.0.unusable\) is 1: should be true or false; correct it",
    text_of(cell(conductance=-0.5)): r"array 2 \(arrays.0.stuck_cells.0.conductance_us\) is -0.5: should be at least 0",
    text_of(cell(conductance=float("nan"))): r"array 2 \(.*conductance_us\) is nan: should be a finite number",
    text_of(cell(conductance=float("inf"))): r"array 2 \(.*conductance_us\) is inf: should be a finite number",
    text_of(cell(conductance=1e39)): r"array 2 \(.*conductance_us\) is 1e\+39: should be at most 3.4",
    text_of(cell(row=8)): r"array 2 has the stuck cell at row 8, column 0, but arrays are 8x6, counted from 0 on",
    text_of(cell(column=6)): r"array 2 has the stuck cell at row 0, column 6, but arrays are 8x6",
    text_of(
        {"array": 2, "stuck_cells": cell()["stuck_cells"] * 2}
    ): r"array 2 lists the stuck cell at row 0, column 0 t",
    text_of(
        {"array": 3, "unusable_rows": [1, 8]}
    ): r"array 3 has the unusable row 8, but arrays are 8x6, counted from 0",
    text_of({"array": 3, "unusable_columns": [-1]}): r"array 3 has the unusable column -1, but arrays are 8x6",
    text_of({"array": 3, "unusable_columns": [4, 1, 4]}): r"array 3 lists the unusable column 4 twice; list it once",
    text_of({"array": 3}, {"array": 3}): r"array 3 is listed twice; join the entries",
    text_of({"array": 3}, array_count=3): r"array 3 is listed, but the chip has 3, counted from 0 on",
    text_of(array_count=0): r"array_count is 0: should be at least 1",
    text_of(array_size=[8, 8]): r"it is of arrays of 8x8, but the bundle is for 8x6; give the right one",
    text_of({"array": 3})[:-3] + ', "array": 4}]}': r"has the key 'array' twice in one object; join them",
    "[" * 100000: r"nested too deeply",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_map_that_is_wrong_is_one_line(tmp_path, text):
    path = tmp_path / "defects.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=WRONG[text]) as found:
        read_defects(path, GEOMETRY)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the defect map '.*nowhere.json': No such file or directory"):
        read_defects(tmp_path / "nowhere.json", GEOMETRY)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"the defect map '.*binary.json' is no JSON"):
        read_defects(tmp_path / "binary.json", GEOMETRY)


def test_a_map_of_all_keys_is_read(tmp_path):
    path = tmp_path / "defects.json"
    path.write_text(
        text_of(
            {"array": 5, "unusable": True},
            {"array": 1, "unusable_rows": [7, 0], "unusable_columns": [5], **cell(7, 5, 0)} | {"array": 1},
            array_count=6,
            array_size=[8, 6],
        )
    )
    found, _ = read_defects(path, GEOMETRY)
    assert (found.array_count, found.array_size) == (6, (8, 6))
    assert [(item.array, item.unusable) for item in found.arrays] == [(5, True), (1, False)]
    assert found.arrays[1].unusable_rows == (7, 0)
    [stuck] = found.arrays[1].stuck_cells
    assert (stuck.row, stuck.column, stuck.conductance_us) == (7, 5, 0.0)


def test_the_documented_map_is_one(tmp_path):
    page = (DOCS / "bundle" / "defects.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "defects.json").write_text(example)
    found, _ = read_defects(tmp_path / "defects.json", ArrayGeometry(256, 256))
    assert found.arrays[1].stuck_cells[0].conductance_us == 25.0
    assert set(re.findall(r'"(\w+)":', example)) - {"format", "format_version"} == {
        *DefectMap.model_fields, *ArrayDefects.model_fields, "row", "column", "conductance_us"
    } - {"format", "format_version"}  # fmt: skip


def test_the_published_schema_is_current():
    current = defects_schema()
    assert PUBLISHED.read_text(encoding="utf-8") == current, f"write what defects_schema() gives to {PUBLISHED}"
    assert set(json.loads(current)["properties"]) == set(DefectMap.model_fields)


def test_a_wrong_map_is_found_before_the_model_is_read_and_nothing_is_written(tmp_path):
    path = tmp_path / "defects.json"
    path.write_text(text_of({"array": 3}, {"array": 3}))
    with pytest.raises(ConfigError, match="array 3 is listed twice"):
        write_bundle(tmp_path / "nowhere.onnx", tmp_path / "out", (8, 6), defects=path)
    assert list(tmp_path.iterdir()) == [path]
