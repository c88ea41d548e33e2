"""Tiles leave out what cannot be used of a chip; stuck cells are recorded with what they make of the weights."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from onnx_gconv import converters, open_bundle, write_bundle
from onnx_gconv.crossbars.placement import lines_of_devices
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.chip import programmed

LAYOUTS = ["separate_arrays", "adjacent_columns", "interleaved_rows"]
SCHEME = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0), Granularity("channel"))


def document(*arrays, **more):
    return {"format": "onnx_gconv.defects", "format_version": 1, "arrays": list(arrays), **more}


@pytest.fixture
def defects(tmp_path):
    """Writes a defect map."""

    def write(*arrays, **more):
        path = tmp_path / "defects.json"
        path.write_text(json.dumps(document(*arrays, **more)))
        return path

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_the_arrays_of_a_damaged_chip_compute_the_layer(mapped, defects, run, tmp_path, layout, kind):
    source = mapped("MatMul", scheme=SCHEME)
    path = defects(
        {"array": 0, "unusable_rows": [1], "unusable_columns": [0, 6]},
        {"array": 1, "unusable": True},
        {"array": 2, "unusable_rows": [7, 0], "unusable_columns": [3]},
    )
    write_bundle(
        source, tmp_path / "out", (9, 8), pair_layout=layout, defects=path, spare_rows=4, spare_columns=3, arrays=kind
    )
    x = np.random.default_rng(3).normal(size=(2, 13))
    [expected] = run(load_model(source), x=x.astype(np.float32))
    y, arrays = np.zeros((2, 10)), []
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()
        [layer] = bundle.layers
        for tile in layer.tiles:
            total = np.zeros((2, tile.shape[1]))
            for physical, placement in zip(tile.physical_arrays(), tile.record.placements, strict=True):
                assert physical.array == placement.array
                arrays.append(physical.array)
                assert physical.targets.shape == (9, 8)
                assert not (physical.is_used & physical.is_avoided).any()
                lines = lines_of_devices((9, 8), tile.shape, placement, layout)
                for device, (rows, columns) in zip(placement.devices, lines, strict=True):
                    driven = np.zeros((2, 9))
                    driven[:, rows] = x[:, slice(*tile.record.inputs)]
                    total += layer.record.devices[device].coefficient * (driven @ physical.targets)[:, columns]
            y[:, slice(*tile.record.outputs)] += total / tile.scale().values.repeat(
                np.diff([*tile.scale().column_starts, tile.shape[1]]), axis=1
            )
    assert 1 not in arrays
    assert {0, 2} <= set(arrays)
    assert len(set(arrays)) == len(arrays)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("op", ["Gemm transB", "grouped Conv"])
def test_stuck_cells_are_recorded_where_they_hold_a_device(mapped, defects, tmp_path, op):
    rng = np.random.default_rng(8)
    arrays = [
        {
            "array": array,
            "unusable_rows": [int(rng.integers(6))],
            "stuck_cells": [
                {"row": int(cell) // 5, "column": int(cell) % 5, "conductance_us": float(rng.choice([0.0, 17.5, 60.0]))}
                for cell in rng.choice(30, 4, replace=False)
            ],
        }
        for array in range(12)
    ]
    source = mapped(op, scheme=SCHEME)
    report = write_bundle(source, tmp_path / "out", (6, 5), defects=defects(*arrays), spare_rows=1)
    planned = write_bundle(source, tmp_path / "no", (6, 5), defects=defects(*arrays), spare_rows=1, dry_run=True)
    assert planned.layers == report.layers
    assert planned.defects == report.defects
    chip = programmed(tmp_path / "out", sigma=0.0, dropped=0)  # for the targets
    by_array, stuck_count, changed, squares, largest = {item["array"]: item for item in arrays}, 0, 0, 0.0, 0.0
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()
        [layer] = bundle.layers
        for tile in layer.tiles:
            expected = {}
            difference = np.zeros(tile.shape)
            for placement, record in zip(tile.record.placements, tile.record.conductances, strict=True):
                damage = by_array.get(placement.array, {"unusable_rows": [], "stuck_cells": []})
                rows = [row for row in range(6) if row not in damage["unusable_rows"]][: tile.shape[0]]
                cells = {
                    (rows.index(cell["row"]), cell["column"]): cell["conductance_us"]
                    for cell in damage["stuck_cells"]
                    if cell["row"] in rows and cell["column"] < tile.shape[1]
                }
                device = layer.record.devices[placement.devices[0]]
                if cells:
                    expected[device.name] = cells
                for place, conductance in cells.items():
                    difference[place] += device.coefficient * (conductance - chip.targets[record.key][place])
            found = {
                name: {tuple(cell): value for cell, value in zip(cells.tolist(), values.tolist(), strict=True)}
                for name, (cells, values) in tile.stuck_cells().items()
            }
            assert found == expected
            stuck_count += sum(map(len, expected.values()))
            scale = tile.scale()
            difference /= scale.values.repeat(np.diff([*scale.column_starts, tile.shape[1]]), axis=1)
            changed += np.count_nonzero(difference)
            squares += np.square(difference).sum()
            largest = max(largest, np.abs(difference).max())
    [figures] = report.layers
    assert 0 < figures.stuck_cells == stuck_count == report.defects.stuck_cells
    assert figures.stuck_weights == changed
    assert figures.stuck_max_abs_error == pytest.approx(largest, rel=1e-6)
    weights = int(np.prod(layer.record.shape))
    assert figures.stuck_rms_error == pytest.approx(np.sqrt(squares / weights), rel=1e-6)
    assert f"{stuck_count} devices stand on stuck cells, which changes {changed} weights" in str(report)
    json.dumps(report.to_json(), allow_nan=False)


def test_without_defects_arrays_are_numbered_in_order(handed_off):
    bundle = handed_off("Gemm", (5, 4))
    numbers = [item.array for tile in bundle.layers[0].tiles for item in tile.record.placements]
    assert numbers == list(range(bundle.manifest.total_arrays))
    assert bundle.manifest.defects is None
    assert all(tile.stuck_cells() == {} for tile in bundle.layers[0].tiles)


def test_the_manifest_names_the_map_and_the_arrays_that_are_left_out(mapped, defects, tmp_path):
    path = defects({"array": 0, "unusable": True}, {"array": 3, "unusable_columns": [1]}, array_count=30)
    report = write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=path)
    with open_bundle(tmp_path / "out") as bundle:
        found = bundle.manifest.defects
    assert (found.name, found.array_count, found.arrays, found.passed_over) == ("defects.json", 30, 2, (0,))
    assert report.defects.passed_over == (0,)  # array 3 holds a tile of two columns


def test_a_missing_defect_map_is_named(mapped, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the defect map '.*none.json': No such file"):
        write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spare_rows": 5}, "5 spare rows and 0 spare columns leave nothing of an array of 5x4"),
        ({"spare_columns": -1}, "spare rows and columns are 0 or more, but they are 0 and -1"),
        ({"spare_columns": 3, "pair_layout": "adjacent_columns"}, "cannot hold a pair"),
    ],
)
def test_spare_lines_that_cannot_be_are_an_error(mapped, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), **options)


def test_spare_lines_make_smaller_tiles(mapped, tmp_path):
    write_bundle(mapped("Gemm"), tmp_path / "out", (7, 6), spare_rows=2, spare_columns=2)
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.layers[0].tiles[0].shape == (5, 4)
        assert bundle.layers[0].tiles[0].physical_arrays()[0].targets.shape == (7, 6)


def test_damaged_records_are_refused(mapped, defects, tmp_path):
    cells = [{"row": 1, "column": 1, "conductance_us": 9.0}]
    write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=defects({"array": 0, "stuck_cells": cells}))
    with h5py.File(tmp_path / "out" / "conductances.h5", "r+") as file:
        file["L000/T0000/g_plus_stuck"][0] = 1, 4
    with pytest.raises(
        BundleError, match="names cells that tile L000/T0000 of 5x4 does not have; copy the bundle again"
    ):
        open_bundle(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layers"][0]["tiles"][2]["placements"].pop()
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="tile L000/T0002 is not placed with each of its 2 devices once"):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": 0}, "tile L000/T0001 stands on array 0, which another tile stands on, too; copy the bundle again"),
        ({"array": 40}, "tile L000/T0001 stands on array 40, but the chip has 40"),
        ({"avoided_rows": [5]}, "tile L000/T0001 stands on lines that array 2 does not have"),
        ({"avoided_columns": [2, 1]}, "tile L000/T0001 stands on lines that array 2 does not have"),
        ({"avoided_rows": [0, 1, 2]}, "tile L000/T0001 stands on lines that array 2 does not have"),
    ],
)
def test_placements_that_cannot_be_are_refused(mapped, defects, tmp_path, change, message):
    write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=defects(array_count=40))
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layers"][0]["tiles"][1]["placements"][0].update(change)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize(
    ("pair_layout", "change"),
    [
        ("adjacent_columns", {"avoided_columns": [3]}),
        ("adjacent_columns", {"avoided_columns": [1, 2]}),
        ("interleaved_rows", {"avoided_rows": [0]}),
        ("interleaved_rows", {"avoided_rows": [0, 1, 5]}),
    ],
)
def test_halves_of_pairs_of_lines_are_not_left_out(mapped, tmp_path, pair_layout, change):
    write_bundle(mapped("Gemm"), tmp_path / "out", (12, 12), pair_layout=pair_layout)
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    [placement] = manifest["layers"][0]["tiles"][0]["placements"]
    placement.update(change)
    path.write_text(json.dumps(manifest))
    message = "tile L000/T0000 stands on lines of array 0 whose partners are left out; copy the bundle again"
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "out")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_stuck_conductances_that_cannot_be_are_refused(mapped, defects, tmp_path, value):
    cells = [{"row": 1, "column": 1, "conductance_us": 9.0}]
    write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=defects({"array": 0, "stuck_cells": cells}))
    with h5py.File(tmp_path / "out" / "conductances.h5", "r+") as file:
        file["L000/T0000/g_plus_stuck_us"][0] = value
    with pytest.raises(BundleError, match="g_plus_stuck_us' should hold conductances, finite and not below 0"):
        open_bundle(tmp_path / "out")


def test_stuck_cells_of_the_bias_are_reported_apart(parse, defects, tmp_path):
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(4, 3)).astype(np.float32), np.array([0.1, -0.2, 0.3], np.float32)
    model = parse("g (float[2,4] x) => (float y) { y = Gemm <alpha = 0.5> (x, W, c) }", W=weight, c=bias)
    MapConductances(scheme=SCHEME)(model)
    save_model(model, tmp_path / "m.gconv.onnx")
    cells = [{"row": row, "column": 1, "conductance_us": 40.0} for row in (4, 5)]  # of G+, in the rows of the bias
    path = defects({"array": 0, "stuck_cells": cells})
    report = write_bundle(tmp_path / "m.gconv.onnx", array=(6, 3), bias_rows=2, defects=path)
    [layer] = report.layers
    with open_bundle(tmp_path / "m.gconv") as bundle:
        scale = bundle.layers[0].scale()[0, 0, 1]
        targets = bundle.tile("L000/T0000").conductances()["g_plus"][4:, 1]
    assert (layer.stuck_cells, layer.stuck_weights, layer.stuck_max_abs_error) == (2, 0, 0.0)
    assert layer.stuck_bias_error == pytest.approx(0.5 * (40.0 - targets.astype(np.float64)).sum() / scale)
    assert f"; the bias is off by at most {layer.stuck_bias_error:.3g}." in str(report)


def test_a_geometry_that_cannot_be_is_an_error_of_the_manifest(handed_off):
    bundle = handed_off("Gemm")
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["geometry"]["spare_rows"] = 5
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest.json' is damaged: geometry: 5 spare rows and 0 spare col"):
        open_bundle(bundle.path)
