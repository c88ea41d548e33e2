"""How ops read packed codes: the shapes that their attributes ask for, and what is not unpacked."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnx_gconv.weights import find_weights
from onnx_gconv.weights.records import Dequantization, SkipReason
from tests.packed_models import experts_model, matmul_model, quantized, tied_model


def skipped(model):
    survey = find_weights(ir.from_proto(model))
    assert survey.weights == ()
    return [item for item in survey.skipped if item.is_mvm]


def set_initializer(model, name, array):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"K": 72}, "reads bytes of [5, 2, 16], but N = 5, K = 72, bits = 4, block_size = 32 need [5, 3, 16]"),
        ({"N": 6}, "reads bytes of [5, 2, 16], but N = 6, K = 64, bits = 4, block_size = 32 need [6, 2, 16]"),
        ({"bits": 8}, "reads bytes of [5, 2, 16], but N = 5, K = 64, bits = 8, block_size = 32 need [5, 2, 32]"),
        ({"block_size": 0}, "says N = 5, K = 64, bits = 4, block_size = 0, but block_size has to be at least 1"),
        ({"K": 0}, "says N = 5, K = 0, bits = 4, block_size = 32, but K has to be at least 1"),
        (
            {"block_size": 15},
            "says N = 5, K = 64, bits = 4, block_size = 15, but a block of 60 bits does not fill whole bytes",
        ),
        ({"K": -64}, "says N = 5, K = -64, bits = 4, block_size = 32, but K has to be at least 1"),
    ],
)
def test_bytes_that_are_not_those_of_the_attributes_are_not_decoded(attributes, message):
    [item] = skipped(matmul_model(quantized(5, 64, block=32), **attributes))
    assert (item.reason, item.detail) == (SkipReason.INVALID_SHAPE, f"layer (MatMulNBits) {message}")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("W_scales", (5, 3), "layer (MatMulNBits) has scales of [5, 3], but 5 rows of 2 blocks need [5, 2]"),
        (
            "W_points",
            (5, 2),
            "layer (MatMulNBits) has zero points of [5, 2], but 5 rows of 2 need 5 times 1 bytes",
        ),
    ],
)
def test_scales_and_zero_points_of_other_blocks_are_named(name, shape, message):
    model = matmul_model(quantized(5, 64, block=32, points="packed"))
    dtype = np.float32 if name == "W_scales" else np.uint8
    set_initializer(model, name, np.ones(shape, dtype))
    [item] = skipped(model)
    assert (item.reason, item.detail) == (SkipReason.INVALID_SHAPE, message)


@pytest.mark.parametrize(
    ("name", "array", "reason", "detail"),
    [
        (
            "W",
            np.zeros((5, 2, 4), np.int32),
            "dtype_not_supported",
            "reads codes packed into int32, not into bytes (uint8)",
        ),
        ("W_points", np.zeros((5, 1), np.int32), "invalid_shape", "has zero points of int32, but they are bytes or"),
        ("W_scales", np.ones((2, 5), np.float32), "invalid_shape", "has scales of [2, 5], but 5 rows of 2 blocks need"),
        (
            "W",
            np.zeros((5, 2, 15), np.uint8),
            "invalid_shape",
            "reads bytes of [5, 2, 15], but N = 5, K = 64, bits = 4",
        ),
    ],
)
def test_what_no_runtime_unpacks_is_told_with_its_numbers(name, array, reason, detail):
    model = matmul_model(quantized(5, 64, block=32, points="packed"))
    set_initializer(model, name, array)
    [item] = skipped(model)
    assert (item.reason, item.shape) == (reason, (5, 64))
    assert item.detail.startswith(f"layer (MatMulNBits) {detail}")


def test_zero_points_of_floating_point_are_one_for_each_block():
    model = matmul_model(quantized(5, 64, block=32, points="float"))
    set_initializer(model, "W_points", np.ones(9, np.float32))
    [item] = skipped(model)
    assert item.detail == "layer (MatMulNBits) has zero points of [9], but 5 rows of 2 blocks need 10"


@pytest.mark.parametrize("layout", [1, 2])
def test_prepacked_bytes_are_refused_with_the_reason(layout):
    [item] = skipped(matmul_model(quantized(5, 64, block=32), weight_prepacked=layout))
    assert (item.reason, item.detail) == (
        SkipReason.PREPACKED,
        f"layer (MatMulNBits) has weight_prepacked = {layout}",
    )
    assert item.shape == (5, 64)  # of its parameters, not of its bytes
    assert "permuted for one processor" in item.reason.explanation


@pytest.mark.parametrize(
    ("prepacked", "said"),
    [(None, "has no weights_prepacked, which is 0 for plain bytes"), (1, "has weights_prepacked = 1")],
)
def test_experts_are_unpacked_only_if_their_bytes_are_plain(prepacked, said):
    first, second = quantized(3, 128, 64, block=32), quantized(3, 64, 64, block=32)
    items = skipped(experts_model(first, second, experts=3, prepacked=prepacked))
    assert [(item.name, item.reason, item.shape) for item in items] == [
        ("fc1", SkipReason.PREPACKED, (3, 128, 64)),
        ("fc2", SkipReason.PREPACKED, (3, 64, 64)),
    ]
    assert {item.detail for item in items} == {f"experts (QMoE) {said}"}


@pytest.mark.parametrize(
    ("attribute", "detail"),
    [
        ({"quant_type": "fp4"}, "experts (QMoE) has quant_type = fp4"),
        ({"expert_weight_bits": 3}, "experts (QMoE) has codes of 3 bits, not of 2, 4 or 8"),
    ],
)
def test_experts_of_other_codes_are_not_unpacked(attribute, detail):
    model = experts_model(quantized(3, 128, 64, block=32), quantized(3, 64, 64, block=32), experts=3)
    [node] = model.graph.node
    for name, found in attribute.items():
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, found)])
    assert [(item.reason, item.detail) for item in skipped(model)] == [(SkipReason.BLOCK_PACKED, detail)] * 2


def test_experts_whose_matrices_do_not_follow_each_other_are_named():
    model = experts_model(quantized(3, 128, 64, block=32), quantized(3, 64, 32, block=32), experts=3)
    survey = find_weights(ir.from_proto(model))
    assert [(item.name, item.detail) for item in survey.skipped if item.is_mvm] == [
        ("fc2", "experts (QMoE) has fc2 of 64 outputs and 32 inputs, but fc1 has 128 outputs")
    ]


def test_groups_of_inputs_keep_their_zero_points_digital():
    model = matmul_model(quantized(5, 64, block=32, points="packed"))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(64, dtype=np.int32) // 32, "groups"))
    model.graph.node[0].input.append("groups")
    [weight] = find_weights(ir.from_proto(model)).weights
    assert weight.zero_point.values == 8
    said = "layer (MatMulNBits) says by g_idx which scale and which zero point belong to an input"
    assert weight.notes == (f"the codes less 8 are mapped: {said}",)


def test_readers_that_unpack_one_tensor_differently_are_named():
    model = tied_model(quantized(40, 64, block=32))
    for attribute in model.graph.node[1].attribute:
        if attribute.name == "bits":
            attribute.i = 8
    survey = find_weights(ir.from_proto(model), lookups=["GatherBlockQuantized"])
    [item] = [item for item in survey.skipped if item.is_mvm]
    assert item.reason == SkipReason.INVALID_SHAPE
    assert item.detail in {
        "lookup (GatherBlockQuantized) has scales of [40, 2], but 40 rows of 1 block need [40, 1]",
        "its readers unpack it differently, to [40, 32] of 8 bits, [40, 64] of 4 bits",
    }


def of_op(op_type, inputs, arrays, outputs=("y",), **said):
    """A model of one node with constants."""
    model = matmul_model(quantized(8, 64, block=32))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node(op_type, inputs, outputs, "layer", domain="com.microsoft", **said))
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@pytest.mark.parametrize(
    ("op_type", "inputs", "array", "said", "shape", "detail"),
    [
        (
            "MatMulBlockQuantizedFp4Weight",
            ["x", "W", "s", "g"],
            np.zeros((8, 32), np.uint8),
            {},
            (8, 64),
            "layer (MatMulBlockQuantizedFp4Weight) reads numbers of four bits (E2M1), two in a byte, no integers",
        ),
        ("MatMulPacked", ["x", "W"], np.zeros((8, 40), np.uint8), {"N": 8, "K": 64}, (8, 64), "MatMulPacked"),
        ("MoEPacked", ["x", "r", "W"], np.zeros((2, 8, 40), np.uint8), {"gate_type": 1}, None, "MoEPacked"),
    ],
)
def test_bytes_that_nodes_cannot_pack_count_as_the_numbers_they_hold(op_type, inputs, array, said, shape, detail):
    model = of_op(op_type, inputs, {"W": array}, **said)
    without = find_weights(ir.from_proto(model), quantized=False).skipped
    for [item] in (skipped(model), [each for each in without if each.is_mvm]):
        assert (item.reason, item.shape, item.detail) == (SkipReason.BLOCK_PACKED, shape, detail)


def test_an_adapter_beside_packed_codes_is_packed_its_own_way():
    base, down, up = quantized(8, 64, block=32), quantized(4, 64, bits=8, block=16), quantized(8, 4, bits=8, block=16)
    arrays = {"W": base.stored, "s": base.scales, "A": down.stored, "t": down.scales, "B": up.stored, "u": up.scales}
    said = {"N": 8, "K": 64, "lora_block_size": 16}
    model = of_op("MatMulNBitsQLoRA", ["x", *arrays], arrays, **said)
    weights = {weight.name: weight for weight in find_weights(ir.from_proto(model)).weights}
    for name, matrix in (("W", base), ("A", down), ("B", up)):
        np.testing.assert_array_equal(weights[name].numbers.numpy(), matrix.numbers)
    set_initializer(model, "B", np.zeros((8, 0, 16), np.uint8))
    [item] = [item for item in find_weights(ir.from_proto(model)).skipped if item.is_mvm]
    assert (item.name, item.reason) == ("B", SkipReason.EMPTY)


def test_float8_weights_have_scales_of_blocks_of_inputs():
    arrays = {"W": np.zeros((8, 40), ml_dtypes.float8_e4m3fn), "s": np.ones((8, 3), np.float32)}
    model = of_op("MatMulBlockQuantizedFp8Weight", ["x", *arrays], arrays, block_size=16)
    [weight] = find_weights(ir.from_proto(model)).weights
    assert weight.dequantization == Dequantization("s", None, 1, 16)
    assert (weight.consumers[0].view.rows, weight.consumers[0].view.columns) == (40, 8)


def test_parameters_of_bytes_of_a_wrong_shape_are_those_that_the_node_says():
    model = matmul_model(quantized(5, 64, block=32), K=72)
    [item] = skipped(model)
    assert (item.reason, item.shape) == (SkipReason.INVALID_SHAPE, (5, 72))


def test_zero_points_that_nobody_can_tell_are_no_obstacle():
    model = matmul_model(quantized(5, 64, block=32, points="packed"))
    kept = [item for item in model.graph.initializer if item.name != "W_points"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(helper.make_tensor_value_info("W_points", 2, [5, 1]))
    [weight] = find_weights(ir.from_proto(model)).weights
    assert weight.zero_point.values == 8
    assert weight.notes[0].startswith("the codes less 8 are mapped: its zero points cannot be told")


def test_parameters_of_bytes_that_stay_packed_are_counted_as_the_node_says_them():
    node = helper.make_node(
        "MatMulBnb4", ["x", "W", "absmax"], ["y"], domain="com.microsoft", K=64, N=8, block_size=64, quant_type=1
    )
    model = matmul_model(quantized(8, 64, block=32))
    arrays = {"W": np.zeros(256, np.uint8), "absmax": np.ones(8, np.float32)}
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(node)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    [item] = skipped(model)
    assert (item.name, item.reason, item.shape) == ("W", SkipReason.BLOCK_PACKED, (8, 64))


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "shapes"),
    [
        ("MatMulNBitsMlp", ["x", "", "", "A", "s", "", "B", "s", ""], {"N": 8, "activation": "silu"}, {"A": 8, "B": 8}),
        (
            "MatMulNBitsQkv",
            ["x", "", "g", "A", "s", "", "B", "t", "", "C", "t"],
            {"Nq": 8, "Nkv": 4},
            {"A": 8, "B": 4, "C": 4},
        ),
    ],
)
def test_ops_of_several_matrices_have_a_weight_for_each(op_type, inputs, attributes, shapes):
    outputs = ["y"] if op_type == "MatMulNBitsMlp" else ["y", "k", "v"]
    node = helper.make_node(
        op_type, inputs, outputs, "fused", domain="com.microsoft", K=64, bits=4, block_size=32, **attributes
    )
    model = matmul_model(quantized(8, 64, block=32))
    arrays = {name: quantized(rows, 64, block=32, seed=rows + ord(name)).stored for name, rows in shapes.items()}
    arrays |= {name: np.ones((rows, 2), np.float32) for name, rows in (("s", 8), ("t", 4))}
    arrays["g"] = np.ones(64, np.float32)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(node)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    weights = find_weights(ir.from_proto(model)).weights
    assert {weight.name: weight.shape for weight in weights} == {name: (rows, 64) for name, rows in shapes.items()}
    assert {item.dequantization.scale for item in weights} == {"s"} | ({"t"} if "C" in shapes else set())
    views = [weight.consumers[0].view for weight in weights]
    assert [(view.rows, view.columns) for view in views] == [(64, rows) for rows in shapes.values()]


@pytest.mark.parametrize(
    ("factor", "notes"),
    [
        (2, ("other readers have other scales ('other' of second (MatMulNBits)); 'W_scales' is recorded",)),
        (1, ()),
    ],
)
def test_scales_of_a_second_reader_are_named_unless_they_are_equal(factor, notes):
    weight = quantized(8, 64, block=32)
    model = matmul_model(weight)
    [first] = model.graph.node
    second = type(first).FromString(first.SerializeToString())
    second.name, second.input[2], second.output[0] = "second", "other", "z"
    model.graph.node.append(second)
    model.graph.initializer.append(numpy_helper.from_array(weight.scales * np.float32(factor), "other"))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, ["rows", None]))
    [found] = find_weights(ir.from_proto(model)).weights
    assert found.notes == notes
    assert found.dequantization.scale == "W_scales"
