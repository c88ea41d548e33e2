"""Checking finds what breaks scales and zeros of channels and tiles, and codes of levels."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import (
    NPairConductanceConverter,
    OffsetConductanceConverter,
    SingleDeviceConductanceConverter,
    SinglePairConductanceConverter,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

CHANNEL, TILE = Granularity("channel"), Granularity("tile", (2, 3))
SINGLE = SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0)
LEVELS = ConductanceLevels.uniform(16, 1.0, 40.0)
TABLE = ConductanceLevels.of_table([1.0, 3.0, 9.0, 20.0, 40.0])


@pytest.fixture
def model(parse, normal):
    def mapped(scheme):
        model = parse("g (float[2,4] x) => (float[2,6] y) { y = MatMul(x, W) }", W=normal(4, 6))
        MapConductances(scheme=scheme)(model)
        assert not CheckMapping().violations(model)
        return model

    return mapped


def change(model, name, edit):
    """Give an initializer what a function makes of its elements."""
    value = model.graph.initializers[name]
    array = edit(value.const_value.numpy().copy())
    value.const_value = ir.tensor(array, name=name)
    value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)


def with_entry(number):
    def edit(array):
        array.reshape(-1)[1] = number
        return array

    return edit


def violation(model):
    [found] = CheckMapping().violations(model)
    return str(found)


@pytest.mark.parametrize("granularity", [CHANNEL, TILE], ids=["channel", "tile"])
@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("W.g_scale", with_entry(1e6), "the scale 'W.g_scale' is .* to 1000000.0, the manifest says"),
        ("W.g_scale", with_entry(-1.0), "the scale 'W.g_scale' has -1.0 at flat index 1, no positive number"),
        ("W.g_scale", with_entry(np.nan), "the scale 'W.g_scale' has nan at flat index 1, no positive number"),
        ("W.g_scale", lambda array: array[None], "the scale 'W.g_scale' has the shape .*, the manifest says"),
        ("W.g_scale", lambda array: array.astype(np.float64), "'W.g_scale' is float64 now, it was float32"),
        ("W.g_zero", with_entry(-50.0), "the zero 'W.g_zero' is -50.0 to .*, the manifest says"),
        ("W.g_zero", with_entry(np.nan), "the zero 'W.g_zero' is nan to nan, the manifest says"),
        ("W.g_zero", lambda array: array[None], "the zero 'W.g_zero' has the shape .*, the manifest says"),
        ("W.g_zero", lambda array: array.astype(np.float64), "'W.g_zero' is float64 now, it was float32"),
    ],
)
def test_damaged_scales_and_zeros_are_found(model, granularity, name, edit, message):
    mapped = model(MappingScheme(SINGLE, granularity))
    change(mapped, name, edit)
    assert re.search(message, violation(mapped))


@pytest.mark.parametrize("granularity", [Granularity(), CHANNEL, TILE], ids=lambda item: item.kind)
def test_a_zero_that_float32_rounds_is_as_the_manifest_says(model, granularity):
    model(MappingScheme(SINGLE, granularity, Clipping(value=0.3)))  # which checks it


def test_a_zero_that_does_not_come_from_its_initializer_is_found(model):
    mapped = model(MappingScheme(SINGLE, CHANNEL))
    [add] = [node for node in mapped.graph if node.op_type == "Add"]
    other = ir.Value(name="other", const_value=ir.tensor(np.zeros(6, np.float32), name="other"))
    mapped.graph.initializers.add(other)
    add.replace_input_with(1, other)
    assert "the zero added to it is 'other', but the manifest names 'W.g_zero'" in violation(mapped)


def test_a_zero_of_which_the_manifest_says_nothing_is_found(model):
    mapped = model(MappingScheme(SINGLE))
    manifest = json.loads(mapped.metadata_props[MANIFEST_KEY])
    manifest["weights"][0]["zero"] = 0.0
    mapped.metadata_props[MANIFEST_KEY] = json.dumps(manifest)
    assert "a zero is added to it, but the manifest names none" in violation(mapped)


@pytest.mark.parametrize("granularity", [CHANNEL, TILE])
def test_a_shape_of_the_scale_that_the_tiles_do_not_have_is_found(model, granularity):
    mapped = model(MappingScheme(SINGLE, granularity))
    manifest = json.loads(mapped.metadata_props[MANIFEST_KEY])
    manifest["weights"][0]["scale"]["shape"] = [3, 7]
    mapped.metadata_props[MANIFEST_KEY] = json.dumps(manifest)
    assert "the manifest gives the scale a shape of [3, 7] that does not fit" in violation(mapped)


@pytest.mark.parametrize(("op_type", "attribute"), [("Gather", "axis"), ("Transpose", "perm")])
def test_scales_that_are_expanded_along_other_axes_are_found(parse, normal, op_type, attribute):
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Gemm <transB = 1> (x, W) }", W=normal(4, 4))
    MapConductances(scheme=MappingScheme(granularity=Granularity("tile", (2, 2))))(model)
    assert not CheckMapping().violations(model)
    node = next(node for node in model.graph if node.op_type == op_type)
    node.attributes[attribute] = ir.AttrInt64("axis", 0) if op_type == "Gather" else ir.AttrInt64s("perm", [0, 1])
    expected = "does not expand" if op_type == "Gather" else "into another order"
    assert expected in violation(model)


@pytest.mark.parametrize(
    ("levels", "name", "edit", "message"),
    [
        (LEVELS, "W.g_step", lambda _: np.full((), 0.5, np.float32), "count steps of 0.5 µS"),
        (LEVELS, "W.g_lowest", lambda _: np.full((), 2.0, np.float32), "the lowest level of 'W.g_plus_code' is 2.0 µS"),
        (LEVELS, "W.g_plus_code", with_entry(16), "has the code 16 at flat index 1, but there are 16 levels"),
        (TABLE, "W.g_levels", with_entry(4.0), "are looked up in another table than the manifest has"),
        (TABLE, "W.g_minus_code", with_entry(5), "has the code 5 at flat index 1, but there are 5 levels"),
    ],
)
def test_damaged_codes_are_found(model, levels, name, edit, message):
    converter = SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
    mapped = model(MappingScheme(converter, levels=levels, storage="codes"))
    change(mapped, name, edit)
    assert message in violation(mapped)


def test_a_zero_point_of_codes_is_found(model):
    mapped = model(MappingScheme(OffsetConductanceConverter(g_max=40.0, g_min=1.0), levels=LEVELS, storage="codes"))
    [node] = [node for node in mapped.graph if node.op_type == "DequantizeLinear"]
    zero_point = ir.Value(name="zero_point", const_value=ir.tensor(np.array(3, np.uint8), name="zero_point"))
    mapped.graph.initializers.add(zero_point)
    node.resize_inputs(3)
    node.replace_input_with(2, zero_point)
    assert "has a zero point" in violation(mapped)


def test_a_conductance_between_levels_is_found(model):
    mapped = model(MappingScheme(SINGLE, levels=LEVELS))
    change(mapped, "W.g", with_entry(2.0))
    assert "'W.g' has 2.0 µS at flat index 1, which is none of its 16 levels" in violation(mapped)


def test_tiles_have_the_rows_and_the_columns_that_were_asked_for(model):
    mapped = model(MappingScheme(granularity=Granularity("tile", (3, 2), "max"), clipping=Clipping(value=1.0)))
    [record] = read_manifest(mapped).weights
    tiling = record.tiling
    assert (tiling.row_starts, tiling.column_starts) == ((0, 3), (0, 2, 4))
    assert (tiling.rows, tiling.columns, record.scale.shape) == (3, 2, (2, 3))


def test_the_highest_level_may_be_above_g_max_by_its_roundings(parse):
    """As code times step, it need not be g_max in float32; converters that clip at g_max have to allow that."""
    counts = (
        count for count in range(2, 1000) if ConductanceLevels.uniform(count, 0.0, 25.0).values(np.float32)[-1] > 25
    )
    levels = ConductanceLevels.uniform(next(counts), 0.0, 25.0)
    converter = NPairConductanceConverter([1.0, 2.0])
    for storage in ("float", "codes"):
        model = parse("g (float[2,3] x) => (float y) { y = MatMul(x, W) }", W=np.float32([[1.0], [-1.0], [0.2]]))
        MapConductances(scheme=MappingScheme(converter, levels=levels, storage=storage))(model)
        assert CheckMapping().violations(model) == ()
