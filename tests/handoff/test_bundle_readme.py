"""README.txt of a bundle, whose lines run, and the labels of HDF5 files."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest

from onnx_gconv import converters, write_bundle
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.bundles import OPS


def labels_of(item):
    """The labels of a file, a group or an array; texts have the length that they need, which h5py gives as bytes."""
    return {
        name: value.decode() if isinstance(value, bytes) else value.tolist() for name, value in item.attrs.items()
    }  # fmt: skip


CONTENT = "target conductances of tiles, [inputs, outputs]; README.txt beside this file says how to read them"

LEVELS = MappingScheme(
    converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0), Granularity("channel"),
    levels=ConductanceLevels.uniform(32, 1.0, 40.0), storage="codes",
)  # fmt: skip


def blocks_of(text):
    """The lines to read a tile, by what is read and the language."""
    return {
        (found["file"], found["language"]): re.sub("^    ", "", found["lines"], flags=re.MULTILINE)
        for found in re.finditer(
            r"^(?P<file>[\w./-]+) in (?P<language>.+)\n(?P<lines>(?:    .*\n)+)", text, flags=re.MULTILINE
        )
    }


@pytest.mark.parametrize(("op", "scheme"), [("Gemm", None), ("grouped Conv", LEVELS), ("LSTM", None)])
@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_the_lines_of_python_read_a_tile(handed_off, monkeypatch, op, scheme, arrays):
    bundle = handed_off(op, scheme=scheme, arrays=arrays, csv=True, formats=["npy", "fusion-pair"])
    monkeypatch.chdir(bundle.path)
    text = (bundle.path / "README.txt").read_text(encoding="utf-8")
    read = {file: lines for (file, language), lines in blocks_of(text).items() if language == "Python"}
    assert list(read) == [bundle.manifest.arrays.path, "npy", "targets.csv"]
    tile = bundle.layers[0].tiles[0]
    [device, *_] = tile.conductances()
    assert f"Reading a tile: {device} of {tile.id}, {tile.shape[0]} inputs x {tile.shape[1]} outputs, in µS." in text
    for lines in read.values():
        assert len(lines.splitlines()) <= 3
        names = {}
        exec(lines, names)  # noqa: S102 - they are what is tested
        np.testing.assert_array_equal(np.float32(names["targets"]), tile.conductances()[device], strict=True)


def test_the_lines_of_matlab_name_the_same_tile(handed_off):
    """`make octave-checks` runs them."""
    bundle = handed_off(csv=True, formats=["npy"])
    found = blocks_of((bundle.path / "README.txt").read_text(encoding="utf-8"))
    rows, columns = bundle.layers[0].tiles[0].shape
    assert "h5read('conductances.h5', '/L000/T0000/g_plus')'" in found["conductances.h5", "MATLAB"]
    assert "load('conductances.h5', 'L000');" in found["conductances.h5", "Octave"]
    assert f"fread(file, [{columns}, {rows}], 'single', 0, 'ieee-le')'" in found["npy", "MATLAB and Octave"]
    assert f"reshape(cells{{7}}(is_mine), {columns}, {rows})'" in found["targets.csv", "MATLAB and Octave"]
    assert all(len(lines.splitlines()) <= 3 for lines in found.values())


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_it_names_what_is_in_the_bundle_and_nothing_else(handed_off, tmp_path, arrays):
    bundle = handed_off(arrays=arrays, external_data=True, formats=["neurosim"], pair_layout="interleaved_rows")
    text = (bundle.path / "README.txt").read_text(encoding="utf-8")
    files = text.partition("\nFiles\n")[2].partition("\n\n")[0]
    listed = {line.split()[0].rstrip("/") for line in files.splitlines()}
    assert listed == {path.name for path in bundle.path.iterdir()} - {"README.txt"}
    assert "the devices of a pair stand in neighbouring rows of one array." in text
    layer = bundle.manifest.layers[0]
    assert f'L000  "W" of Gemm: 13 inputs x 10 outputs in {len(layer.tiles)} tiles\n' in text
    assert f"0 to 25 µS, offset 0 µS, scale {layer.scale.value:.9g} µS per unit of weight\n" in text
    [record] = [file for file in bundle.manifest.files if file.path == "README.txt"]
    assert record.bytes == len(text.encode())
    bundle.verify_hashes()
    options = {"arrays": arrays, "formats": ["neurosim"], "pair_layout": "interleaved_rows"}
    write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "again", (5, 4), **options)
    assert (tmp_path / "again" / "README.txt").read_text(encoding="utf-8") == text


def test_a_preset_gives_the_tolerance(handed_off):
    bundle = handed_off(scheme=LEVELS, preset="rram-neurram")
    text = (bundle.path / "README.txt").read_text(encoding="utf-8")
    assert "How far from its target a device may be (rram-neurram): 1 µS.\n" in text


def test_the_file_its_layers_and_its_arrays_say_what_they_are(handed_off):
    bundle = handed_off("grouped Conv", (5, 4), scheme=LEVELS)
    with h5py.File(bundle.path / "conductances.h5") as file:
        assert labels_of(file) == {
            "format": "onnx_gconv.bundle", "format_version": 1, "unit": "uS", "tool": bundle.manifest.tool,
            "source": "model.gconv.onnx", "array": [5, 4],
            "content": CONTENT,
        }  # fmt: skip
        assert labels_of(file["L000"]) == {
            "layer": "L000", "weight": "W", "known_as": "W", "op_type": "Conv", "unit": "uS", "range": [1.0, 40.0],
            "devices": "g_plus, g_minus", "matrices": 3, "inputs": 12, "outputs": 3,
        }  # fmt: skip
        for tile in bundle.layers[0].tiles:
            for device in ("g_plus", "g_minus"):
                labels = {"layer": "L000", "tile": tile.id, "device": device}
                cells, codes = (labels_of(file[f"{tile.id}/{device}{end}"]) for end in ("", "_code"))
                assert cells == {**labels, "unit": "uS", "range": [1.0, 40.0]}
                assert codes == {**labels, "unit": "number of the level"}
        units = {key: labels_of(file[f"L000/{key}"])["unit"] for key in file["L000"] if not key.startswith("T")}
        assert units == {
            "scale": "uS per unit of weight", "zero": "unit of weight", "scale_row_starts": "row of a matrix",
            "scale_column_starts": "column of a matrix",
        }  # fmt: skip
        every = []
        file.visititems(lambda name, item: every.append(name) if isinstance(item, h5py.Dataset) else None)
        assert all(labels_of(file[name])["layer"] == "L000" for name in every)


def test_stuck_cells_and_biases_have_units_too(handed_off, tmp_path):
    cells = [{"row": 1, "column": 2, "conductance_us": 25.0}]
    defects = {
        "format": "onnx_gconv.defects", "format_version": 1, "arrays": [{"array": 0, "stuck_cells": cells}]
    }  # fmt: skip
    (tmp_path / "chip.json").write_text(json.dumps(defects), encoding="utf-8")
    bundle = handed_off("Gemm", defects=tmp_path / "chip.json")
    assert "c" in OPS["Gemm"][1]
    with h5py.File(bundle.path / "conductances.h5") as file:
        assert labels_of(file["L000/bias"])["unit"] == "unit of output"
        assert labels_of(file["L000/T0000/g_plus_stuck"])["unit"] == "row and column in the tile"
        assert labels_of(file["L000/T0000/g_plus_stuck_us"])["unit"] == "uS"


def test_it_says_where_cells_stand(handed_off):
    text = (handed_off().path / "README.txt").read_text(encoding="utf-8")
    assert "manifest.json says on which array each tile stands (placements)" in text
    assert "defect map" not in text


def test_it_says_what_a_defect_map_left_out(mapped, tmp_path):
    """A lab that reads no more would program each cell behind an unusable line one line too early."""
    arrays = [
        {"array": 0, "unusable_rows": [1], "unusable_columns": [0, 3]},
        {"array": 1, "stuck_cells": [{"row": 0, "column": 0, "conductance_us": 25.0}]},
    ]
    defects = tmp_path / "defects.json"
    document = {"format": "onnx_gconv.defects", "format_version": 1, "arrays": arrays}
    defects.write_text(json.dumps(document), encoding="utf-8")
    report = write_bundle(mapped("Gemm"), tmp_path / "out", (8, 8), defects=defects, spare_rows=1, spare_columns=2)
    assert report.defects.stuck_cells == 1
    text = (tmp_path / "out" / "README.txt").read_text(encoding="utf-8")
    assert 'Tiles were placed with the defect map "defects.json":' in text
    assert "    3 rows and columns of arrays are left out (avoided_rows and avoided_columns in placements)" in text
    assert "    cells are stuck: L000/T0000/g_minus_stuck of conductances.h5 has their rows and columns\n" in text
    assert "1 device stands on a stuck cell, which changes 1 weight:" in str(report)
