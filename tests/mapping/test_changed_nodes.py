"""Nodes between the conductances and a weight that other tools have changed: each change is said."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import (
    OffsetConductanceConverter,
    SingleDeviceConductanceConverter,
    SinglePairConductanceConverter,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.passes import CheckMapping, MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

PAIR = SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
STEPS = MappingScheme(PAIR, levels=ConductanceLevels.uniform(16, 1.0, 40.0), storage="codes")
TABLE = MappingScheme(PAIR, levels=ConductanceLevels.of_table([1.0, 3.0, 9.0, 40.0]), storage="codes")
TILES = MappingScheme(granularity=Granularity("tile", (2, 3)))


@pytest.fixture
def mapped(parse, normal):
    """Maps a model of one product by a scheme."""

    def build(scheme=None):
        model = parse("g (float[2,4] x, float[4,6] live) => (float[2,6] y) { [mm] y = MatMul(x, W) }", W=normal(4, 6))
        MapConductances(scheme=scheme or MappingScheme(PAIR))(model)
        return model

    return build


def violations(model):
    return [str(violation) for violation in CheckMapping().violations(model)]


def only(model, op_type, index=0):
    return [node for node in model.graph if node.op_type == op_type][index]


def initializer(model, name, array):
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    model.graph.initializers.add(value)
    return value


def behind(model, node, index, op_type):
    """Put a node before an input of another one."""
    between = ir.node(op_type, [node.inputs[index]], name="between")
    between.outputs[0].name = "passed_on"
    model.graph.insert_before(node, between)
    node.replace_input_with(index, between.outputs[0])
    return between


# The scale


def test_a_division_without_a_divisor(mapped):
    model = mapped()
    only(model, "Div").replace_input_with(1, None)
    assert violations(model) == ["'W': a node that rebuilds the weight lacks an input"]


def test_a_scale_that_is_computed(mapped):
    model = mapped()
    behind(model, only(model, "Div"), 1, "Abs")
    assert violations(model) == ["'W': it is divided by 'passed_on', which is no initializer"]


def test_scales_of_tiles_that_were_folded(mapped):
    model = mapped(TILES)
    folded = initializer(model, "folded", np.ones((4, 6), np.float32))
    only(model, "Div").replace_input_with(1, folded)
    [message] = violations(model)
    assert re.fullmatch(
        r"'W': a part of the mapping was folded away: 'folded' is an initializer now, no output of a \w+ node; mapping "
        "has to be the last step, after all constant folding",
        message,
    )


def test_scales_of_tiles_that_something_else_gives(mapped):
    model = mapped(TILES)
    given = behind(model, only(model, "Div"), 1, "Abs").inputs[0].producer().op_type
    assert violations(model) == [f"'W': 'passed_on' should be given by a {given} node, but Abs does"]


def test_scales_of_tiles_that_the_caller_gives(mapped):
    model = mapped(TILES)
    div = only(model, "Div")
    given = div.inputs[1].producer().op_type
    div.replace_input_with(1, model.graph.inputs[1])
    assert violations(model) == [f"'W': 'live' should be given by a {given} node, but no node does"]


def test_scales_of_tiles_that_are_expanded_from_nothing(mapped):
    model = mapped(TILES)
    gather = only(model, "Gather")
    gather.replace_input_with(0, None)
    assert violations(model) == [f"'W': the node '{gather.name}' (Gather) lacks an input"]


def test_scales_of_tiles_that_the_caller_chooses(mapped):
    model = mapped(TILES)
    gather = only(model, "Gather")
    gather.replace_input_with(1, model.graph.inputs[1])
    assert violations(model) == [f"'W': '{gather.name}' does not expand '{gather.inputs[0].name}' along axis 1"]


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("index", [0, 1])
def test_scales_of_tiles_that_are_expanded_along_another_axis(parse, normal, axis, index):
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(4, 4))
    MapConductances(scheme=MappingScheme(granularity=Granularity("tile", (2, 2))))(model)
    gather = only(model, "Gather", index)
    right = gather.attributes.get_int("axis", 0)
    if axis is None:
        del gather.attributes["axis"]
    else:
        gather.attributes["axis"] = ir.AttrInt64("axis", axis)
    message = f"'W': '{gather.name}' does not expand '{gather.inputs[0].name}' along axis {right}"
    assert violations(model) == ([] if (axis or 0) == right else [message])


@pytest.mark.parametrize("shape", ["live", "numbers"])
def test_scales_of_tiles_that_get_a_shape_which_is_no_constant_of_integers(parse, normal, shape):
    model = parse(
        "g (float[1,4,4,4] x, float[4] live) => (float y) { y = Conv <group = 2> (x, W) }", W=normal(6, 2, 2, 2)
    )
    MapConductances(scheme=MappingScheme(granularity=Granularity("tile", (3, 2))))(model)
    assert violations(model) == []
    reshape = only(model, "Reshape")
    numbers = initializer(model, "numbers", np.ones(4, np.float32))
    reshape.replace_input_with(1, numbers if shape == "numbers" else model.graph.inputs[1])
    assert violations(model) == [f"'W': '{reshape.name}' does not give 'W.g_scale_expanded_1' the shape of the weight"]


def test_a_zero_that_nothing_is_added_to(mapped):
    model = mapped(MappingScheme(SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0)))
    add = only(model, "Add")
    add.resize_inputs(1)
    assert violations(model) == [f"'W': the node '{add.name}' (Add) lacks an input or an output"]


def test_a_factor_of_the_whole_sum_is_one_of_the_offset_too(mapped):
    model = mapped(MappingScheme(OffsetConductanceConverter(g_max=40.0, g_min=1.0)))
    assert violations(model) == []
    product = behind(model, only(model, "Div"), 0, "Mul")
    product.resize_inputs(2)
    product.replace_input_with(1, initializer(model, "twice", np.array(2, np.float32)))
    assert violations(model) == ["'W': the nodes compute +2*W.g -41 instead of +1*W.g -20.5"]


# Codes of levels


def test_codes_that_are_decoded_without_a_step(mapped):
    model = mapped(STEPS)
    node = only(model, "DequantizeLinear")
    node.replace_input_with(1, None)
    assert violations(model) == [f"'W': the weight is computed by an unexpected node DequantizeLinear ('{node.name}')"]


def test_steps_of_no_codes(mapped):
    model = mapped(STEPS)
    node = only(model, "DequantizeLinear", 1)
    node.replace_input_with(0, None)
    assert violations(model) == [f"'W': the node '{node.name}' (DequantizeLinear) lacks an input"]


def test_a_zero_point_that_is_left_out_by_an_empty_name_is_none(mapped):
    model = mapped(STEPS)
    node = only(model, "DequantizeLinear")
    node.resize_inputs(3)
    assert node.inputs[2] is None
    assert violations(model) == []


@pytest.mark.parametrize("given", ["a constant", "the caller"])
def test_a_zero_point_that_codes_were_given(mapped, given):
    model = mapped(STEPS)
    node = only(model, "DequantizeLinear")
    node.resize_inputs(3)
    zero = initializer(model, "zero", np.array(3, np.uint8)) if given == "a constant" else model.graph.inputs[1]
    node.replace_input_with(2, zero)
    assert violations(model) == [f"'W': '{node.name}', which decodes the codes 'W.g_plus_code', has a zero point now"]


def test_codes_that_are_looked_up_by_another_index(mapped):
    model = mapped(TABLE)
    gather = only(model, "Gather", 1)
    behind(model, gather, 1, "Abs")
    assert violations(model) == [f"'W': the weight is computed by an unexpected node Gather ('{gather.name}')"]


@pytest.mark.parametrize("change", ["another type", "another axis"])
def test_codes_that_are_looked_up_in_another_way(mapped, change):
    model = mapped(TABLE)
    if change == "another type":
        only(model, "Cast").attributes["to"] = ir.AttrInt64("to", ir.DataType.INT64.value)
    else:
        only(model, "Gather").attributes["axis"] = ir.AttrInt64("axis", -1)
    assert violations(model) == ["'W': the codes 'W.g_plus_code' are not looked up in a table of levels"]


# Codes of integer weights

CODES = np.array([[0, 255, 3], [5, 7, 128]], np.uint8)


def test_another_half_before_codes_are_rounded_down(parse):
    model = parse("g (uint8[2,2] x) => (int32[2,3] y) { y = MatMulInteger(x, W) }", opsets='"" : 10', W=CODES)
    MapConductances()(model)
    assert violations(model) == []
    half = only(model, "Floor").inputs[0].producer().inputs[1]
    half.const_value = ir.tensor(np.array(0.25, np.float32), name=half.name)
    assert violations(model) == ["'W': 0.25 is added to it before it is rounded down, instead of 0.5"]


def test_codes_whose_zero_point_is_gone(parse):
    model = parse(
        "g (uint8[2,2] x) => (int32 y) { y = MatMulInteger(x, W, n, p) }", W=CODES, n=np.uint8(0), p=np.uint8(7)
    )
    MapConductances()(model)
    assert violations(model) == []
    add = only(model, "Add")
    add.replace_input_with(1, None)
    assert violations(model) == [f"'W': the node '{add.name}' (Add) lacks an input"]


# The whole mapping


def test_a_weight_that_another_tool_computes_in_its_own_way(mapped):
    model = mapped()
    div = only(model, "Div")
    packed = ir.node("Packed", [], domain="tool", outputs=[ir.Value(name="W")])
    model.graph.insert_before(div, packed)
    div.outputs[0].replace_all_uses_with(packed.outputs[0])
    model.graph.remove([div, only(model, "Sub")], safe=True)
    for name in list(model.graph.initializers):
        del model.graph.initializers[name]
    assert violations(model) == ["'W': 'W.g_plus' is gone; another tool replaced what computes 'W'"]


def test_a_folded_weight_that_stands_under_another_name_is_found_at_the_node_that_reads_it(parse, normal):
    model = parse(
        "g (float[2,4] x, int64[2] i) => (float y, float z, float a) "
        "{ y = MatMul(x, W) [mm] z = MatMul(x, W) [look_up] a = Gather(W, i) }",
        W=normal(4, 6),
    )
    MapConductances(shared="split")(model)
    div = only(model, "Div")
    plain = initializer(model, "joined", normal(4, 6))
    div.outputs[0].replace_all_uses_with(plain)
    model.graph.remove([div, only(model, "Sub")], safe=True)
    for name in ("W.g_plus", "W.g_minus", "W.g_scale"):
        del model.graph.initializers[name]
    [message] = violations(model)
    assert message == (
        "'W': the mapping was folded away: 'joined' is a plain initializer again and 'W.g_plus' is gone; mapping has "
        "to be the last step, after all constant folding"
    )


@pytest.mark.parametrize("wrong", [7.5, 256.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 2])
def test_zero_points_that_are_no_codes(parse, wrong, place):
    model = parse(
        "g (uint8[2,2] x) => (int32 y) { y = MatMulInteger(x, W, n, p) }",
        W=CODES,
        n=np.uint8(0),
        p=np.uint8([7, 0, 255]),
    )
    MapConductances()(model)
    assert violations(model) == []
    points = only(model, "Add").inputs[1]
    array = points.const_value.numpy().copy()
    array.reshape(-1)[place] = wrong
    points.const_value = ir.tensor(array, name=points.name)
    message = f"'W': one of its zero points, 'W.g_zero_point', is {wrong:.9g}, which is no integer from 0 to 255"
    assert violations(model) == [message]
