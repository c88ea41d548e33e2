"""Each tile gets the first free array of a chip that holds it, and stands on its usable lines."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from onnx_gconv import converters, write_bundle
from onnx_gconv.crossbars.chip import Chip
from onnx_gconv.crossbars.defects import DefectMap
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.placement import lines_of_devices
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme

LAYOUTS = ["separate_arrays", "adjacent_columns", "interleaved_rows"]
CONVERTERS = {
    "single pair": converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
    "n pair": converters.NPairConductanceConverter([1.0, 2.0]),
    "single device": converters.SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0),
}


def defect_map(*arrays, **keys):
    return {"format": "onnx_gconv.defects", "format_version": 1, "arrays": list(arrays), **keys}


def written(folder, document):
    path = folder / "defects.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def random_defects(seed, *, arrays, size, lines=2):
    """Each array has a few unusable lines, the first one is unusable."""
    rng = np.random.default_rng(seed)
    found = [{"array": 0, "unusable": True}]
    found.extend(
        {
            "array": array,
            "unusable_rows": rng.choice(size[0], rng.integers(lines + 1), replace=False).tolist(),
            "unusable_columns": rng.choice(size[1], rng.integers(lines + 1), replace=False).tolist(),
        }
        for array in range(1, arrays)
    )
    return defect_map(*found)


@pytest.fixture(scope="module", params=["single pair", "n pair", "single device"])
def model(request, parse):
    found = parse(
        "g (float[2, 13] x) => (float y) { h = MatMul(x, V) y = MatMul(h, W) }",
        V=np.ones((13, 10), np.float32), W=np.ones((10, 3), np.float32),
    )  # fmt: skip
    MapConductances(CONVERTERS[request.param])(found)
    return found


def placed_on(model, geometry, document):
    """The layers with the arrays of their tiles."""
    layers = layers_of(model, geometry, None)
    chip = Chip(geometry, DefectMap.model_validate_json(json.dumps(document)), "defects.json")
    return list(zip(layers, chip.place(layers), strict=True))


@st.composite
def chips(draw):
    rows, columns = draw(st.integers(4, 9)), draw(st.integers(4, 9))
    geometry = ArrayGeometry(
        rows,
        columns,
        draw(st.sampled_from(["max", "equal"])),
        draw(st.sampled_from(LAYOUTS)),
        spare_rows=draw(st.integers(0, 2)),
        spare_columns=draw(st.integers(0, 2)),
    )
    numbers = draw(st.lists(st.integers(0, 30), unique=True, max_size=12))
    arrays = [
        {
            "array": number,
            "unusable": draw(st.integers(0, 5)) == 0,
            "unusable_rows": draw(st.lists(st.integers(0, rows - 1), unique=True, max_size=4)),
            "unusable_columns": draw(st.lists(st.integers(0, columns - 1), unique=True, max_size=4)),
        }
        for number in numbers
    ]
    return geometry, defect_map(*arrays)


def usable_lines(unusable, size, unit):
    """The lines that tiles may use, unit by unit."""
    units = [range(first, first + unit) for first in range(0, size - unit + 1, unit)]
    return [list(lines) for lines in units if not set(lines) & set(unusable)]


@given(chips())
def test_tiles_avoid_what_is_unusable_and_keep_the_order_of_their_lines(model, chip):
    geometry, document = chip
    damage = {item["array"]: item for item in document["arrays"]}
    held = set()
    for layer, tiles in placed_on(model, geometry, document):
        for tile, placements in zip(layer.grid.tiles, tiles, strict=True):
            assert sorted(device for item in placements for device in item.devices) == list(
                range(len(layer.record.conductances))
            )
            for placement in placements:
                assert placement.array not in held
                held.add(placement.array)
                item = damage.get(placement.array, {"unusable": False, "unusable_rows": [], "unusable_columns": []})
                assert not item["unusable"]
                lines = lines_of_devices((geometry.rows, geometry.columns), tile.shape, placement, geometry.pair_layout)
                cells = set()
                for rows, columns in lines:
                    assert (len(rows), len(columns)) == tile.shape
                    assert list(rows) == sorted(set(rows.tolist()) - set(item["unusable_rows"]))
                    assert list(columns) == sorted(set(columns.tolist()) - set(item["unusable_columns"]))
                    assert 0 <= rows[0] <= rows[-1] < geometry.rows
                    assert 0 <= columns[0] <= columns[-1] < geometry.columns
                    cells |= {(row, column) for row in rows for column in columns}
                assert len(cells) == math.prod(tile.shape) * len(lines)
                if len(lines) == 2:
                    axis = 1 if geometry.pair_layout == "adjacent_columns" else 0
                    plus, minus = lines
                    assert (plus[axis] % 2 == 0).all()
                    np.testing.assert_array_equal(plus[axis] + 1, minus[axis])
                    np.testing.assert_array_equal(plus[1 - axis], minus[1 - axis])


@given(chips())
def test_each_tile_gets_the_first_free_array_that_holds_it(model, chip):
    geometry, document = chip
    damage = {item["array"]: item for item in document["arrays"]}
    free = list(range(500))
    for layer, tiles in placed_on(model, geometry, document):
        for tile, placements in zip(layer.grid.tiles, tiles, strict=True):
            for placement in placements:
                is_pair = len(placement.devices) == 2
                for array in free:
                    item = damage.get(array, {})
                    rows = usable_lines(
                        item.get("unusable_rows", []), geometry.rows,
                        2 if is_pair and geometry.pair_layout == "interleaved_rows" else 1,
                    )  # fmt: skip
                    columns = usable_lines(
                        item.get("unusable_columns", []), geometry.columns,
                        2 if is_pair and geometry.pair_layout == "adjacent_columns" else 1,
                    )  # fmt: skip
                    if not item.get("unusable") and len(rows) >= tile.shape[0] and len(columns) >= tile.shape[1]:
                        break
                assert placement.array == array
                free.remove(array)


def arrays_in_use(model, geometry, document):
    return [item.array for _, tiles in placed_on(model, geometry, document) for tile in tiles for item in tile]


@given(chips(), st.integers(4, 40))
def test_a_chip_with_too_few_arrays_is_an_error_that_names_spare_lines_that_do(model, chip, count):
    geometry, document = chip
    document = {
        **document, "array_count": count, "arrays": [item for item in document["arrays"] if item["array"] < count]
    }  # fmt: skip
    found, spare = None, (geometry.spare_rows, geometry.spare_columns)
    try:
        found = arrays_in_use(model, geometry, document)
    except ConfigError as error:
        text = str(error)
        remedy = re.search(r"spare_rows=(\d+), spare_columns=(\d+)\) would do", text)
        event("no remedy" if remedy is None else "remedy")
        spare = None if remedy is None else (int(remedy[1]), int(remedy[2]))
    if spare is None:
        assert text.endswith("use a chip with more, larger or better arrays")
        return
    rows, columns = spare
    better = dataclasses.replace(geometry, spare_rows=rows, spare_columns=columns)
    found = arrays_in_use(model, better, document) if found is None else found
    assert max(found) < count


def test_large_tiles_choose_first_where_not_all_find_a_place_otherwise(parse):
    model = parse(
        "g (float[2, 3] x) => (float y) { h = MatMul(x, V) y = MatMul(h, W) }",
        V=np.ones((3, 8), np.float32), W=np.ones((8, 8), np.float32),
    )  # fmt: skip
    MapConductances(CONVERTERS["single device"])(model)
    geometry = ArrayGeometry(8, 8)
    damaged = {"array": 1, "unusable_rows": [0, 1, 2]}
    (_, [[small]]), (_, [[large]]) = placed_on(model, geometry, defect_map(damaged, array_count=2))
    assert (small.array, large.array) == (1, 0)
    (_, [[small]]), (_, [[large]]) = placed_on(model, geometry, defect_map(damaged, array_count=3))
    assert (small.array, large.array) == (0, 2)


def test_ten_thousand_arrays_are_placed_without_comparing_each_tile_with_each_array(parse):
    """Searches go on where the last one for a tile of the same size ended: the steps grow with the arrays, not more."""
    model = parse("g (float[2, 400] x) => (float y) { y = MatMul(x, W) }", W=np.ones((400, 400), np.float32))
    MapConductances(CONVERTERS["single device"])(model)
    arrays = [{"array": number, "unusable_rows": [0]} for number in range(10000)]
    [(_, tiles)] = placed_on(model, ArrayGeometry(4, 4), defect_map(*arrays))
    assert [tile[0].array for tile in tiles] == list(range(10000, 20000))


def test_too_few_arrays_are_an_error_with_numbers_and_a_remedy(mapped, tmp_path):
    source = mapped("Gemm", scheme=MappingScheme(CONVERTERS["single pair"]))  # 13 x 10 weights of two devices
    path = tmp_path / "defects.json"
    arrays = [{"array": number, "unusable_rows": [3]} for number in range(1, 13)]
    path.write_text(json.dumps(defect_map({"array": 0, "unusable": True}, *arrays, array_count=13)))
    with pytest.raises(
        ConfigError,
        match=(
            r"model.gconv.onnx': it needs 8 arrays of 7x5, but of the 13 that '.*defects.json' gives the chip only 4 "
            r"hold one of its tiles each \(unusable: 1, with other defects: 12\); keep lines of each array free .*: "
            r"--spare-rows 1 --spare-columns 0 \(spare_rows=1, spare_columns=0\) would do$"
        ),
    ):
        write_bundle(source, tmp_path / "out", (7, 5), defects=path)
    assert not (tmp_path / "out").exists()
    assert write_bundle(source, tmp_path / "out", (7, 5), defects=path, spare_rows=1).arrays == 12


def test_unusable_lines_beyond_a_tile_are_avoided_too(handed_off, tmp_path):
    """They would be programmed to g_min otherwise, like all cells outside of tiles."""
    document = defect_map({"array": 0, "unusable_rows": [17], "unusable_columns": [21]})
    bundle = handed_off("MatMul", (20, 24), defects=written(tmp_path, document), pair_layout="adjacent_columns")
    [placement] = bundle.manifest.layers[0].tiles[0].placements
    assert (placement.avoided_rows, placement.avoided_columns) == ((17,), (20, 21))
    [array] = bundle.layers[0].tiles[0].physical_arrays()
    assert array.is_avoided[17].all()
    assert array.is_avoided[:, [20, 21]].all()
    assert array.is_avoided.sum() == 24 + 2 * 19


def lines_not_avoided(size, avoided):
    return [line for line in range(size) if line not in avoided]


def seen_by_hand(bundle, tile, device):
    """The array that a device of a tile stands on, and its rows and columns there, as the page on bundles says it."""
    geometry = bundle.manifest.geometry
    placement = next(item for item in tile.record.placements if device in item.devices)
    rows = lines_not_avoided(geometry.rows, placement.avoided_rows)
    columns = lines_not_avoided(geometry.columns, placement.avoided_columns)
    place = placement.devices.index(device)
    if len(placement.devices) == 2 and geometry.pair_layout == "adjacent_columns":
        columns = columns[place::2]
    if len(placement.devices) == 2 and geometry.pair_layout == "interleaved_rows":
        rows = rows[place::2]
    return placement.array, rows[: tile.shape[0]], columns[: tile.shape[1]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_currents_give_the_product_whatever_unusable_lines_do(handed_off, run, tmp_path, op, layout):
    document = random_defects(3, arrays=25, size=(7, 8))
    bundle = handed_off(
        op, (7, 8), defects=written(tmp_path, document), pair_layout=layout,
        scheme=MappingScheme(CONVERTERS["single pair"]),
    )  # fmt: skip
    damage = {item["array"]: item for item in document["arrays"]}
    [layer] = bundle.layers
    model = load_model(bundle.path / "model.onnx")
    x = np.random.default_rng(5).normal(size=(2, 13)).astype(np.float32)
    y, used = np.zeros((2, 10)), []
    for tile in layer.tiles:
        inputs = x[:, slice(*tile.record.inputs)].astype(np.float64)
        found = {device.name: 0.0 for device in layer.record.devices}
        for array in tile.physical_arrays():
            used.append(array.array)
            item = damage.get(array.array, {})
            broken = np.zeros(array.targets.shape, bool)
            broken[item.get("unusable_rows", [])] = True
            broken[:, item.get("unusable_columns", [])] = True
            assert not (broken & ~array.is_avoided).any()
            assert not (array.is_used & array.is_avoided).any()
            conductances = np.where(array.is_avoided, 1e6, array.targets)  # nobody programs these
            for number, device in enumerate(layer.record.devices):
                if device.name not in array.devices:
                    continue
                _, rows, columns = seen_by_hand(bundle, tile, number)
                voltages = np.zeros((2, array.targets.shape[0]))
                voltages[:, rows] = inputs
                found[device.name] = (voltages @ conductances)[:, columns]
        total = sum(device.coefficient * found[device.name] for device in layer.record.devices)
        y[:, slice(*tile.record.outputs)] += total / layer.record.scale.value
    assert 0 not in used
    assert len(set(used)) == len(used) == bundle.manifest.total_arrays
    y *= layer.record.matrix_view.factor
    if layer.record.bias is not None:
        y += model.graph.initializers[layer.record.bias.initializer].const_value.numpy()
    [expected] = run(model, x=x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
