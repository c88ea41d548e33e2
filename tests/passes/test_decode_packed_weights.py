"""Packed weights that MatMul multiplies with once they are decoded: of MatMulBnb4, and of others if asked for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_gconv
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances, RestoreWeights
from tests.packed_models import blocked_model, bnb4_model, matmul_model, quantized, run, saved

EXACT = SinglePairConductanceConverter(g_max=25.0, exact=True)


def initializers(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


# An odd number of codes, whose last byte has anything in its low bits; blocks that run across rows.
@pytest.mark.parametrize("is_normal", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "block"), [(64, 6, 32), (33, 7, 16)])
def test_the_weight_of_matmulbnb4_is_mapped_as_what_the_op_decodes(tmp_path, inputs, outputs, block, is_normal):
    original = saved(bnb4_model(inputs, outputs, block=block, is_normal=is_normal), tmp_path)
    mapped, restored = tmp_path / "mapped.onnx", tmp_path / "restored.onnx"
    result = onnx_gconv.map_model(original, mapped, EXACT)

    [record] = result.manifest.weights
    assert (record.name, record.shape, record.dtype, record.rounded) == ("W", (outputs, inputs), "float32", False)
    assert (record.decoded_from.table, record.decoded_from.block) == ("NF4" if is_normal else "FP4", block)
    assert "1 weight of MatMulBnb4 is decoded, and MatMul stands in place of the op" in str(result)
    feeds = {"x": np.vstack([np.eye(inputs), np.random.default_rng(1).normal(size=(5, inputs))]).astype(np.float32)}
    for optimized in (True, False):
        expected, found = (run(path, feeds, optimized=optimized)["y"] for path in (original, mapped))
        np.testing.assert_array_equal(found, expected, strict=True)
    assert onnx_gconv.verify(original, mapped).passed

    report = onnx_gconv.restore_model(mapped, restored)
    assert report.notes == (
        "1 weight is packed for MatMulBnb4 again, which decodes exactly what the mapped model computes",
    )
    [before], [after] = (onnx.load(path).graph.node for path in (original, restored))
    assert sorted(map(str, before.attribute)) == sorted(map(str, after.attribute))
    del before.attribute[:], after.attribute[:]
    assert before == after
    arrays = initializers(original)
    assert {name: array.tobytes() for name, array in initializers(restored).items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_roundings_of_a_mapping_change_the_scales_but_no_code(tmp_path):
    original = saved(bnb4_model(64, 6, block=32, is_normal=True), tmp_path)
    onnx_gconv.map_model(original, tmp_path / "mapped.onnx")
    [note] = onnx_gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx").notes
    assert "which decodes what the mapped model computes up to an error of " in note
    assert " of max|W|; mapped with --exact, weights come back bit for bit" in note
    before, after = initializers(original), initializers(tmp_path / "restored.onnx")
    assert before["W"].tobytes() == after["W"].tobytes()
    np.testing.assert_allclose(after["W_absmax"], before["W_absmax"], rtol=0, atol=4e-7)


def test_weights_that_no_codes_stand_for_stay_in_floating_point(tmp_path):
    model = ir.from_proto(bnb4_model(64, 6, block=32, is_normal=True))
    MapConductances(EXACT)(model)
    plus = model.graph.initializers["W.g_plus"]
    plus.const_value = ir.tensor((plus.const_value.numpy() * 1.01).clip(0, 25).astype(np.float32), name=plus.name)
    result = RestoreWeights()(model)
    assert [node.op_type for node in model.graph] == ["Transpose", "MatMul"]
    [note] = result.report.notes
    assert note.startswith("1 weight of MatMulBnb4 is left in floating point, for MatMul: the op's codes do not hold")


def test_two_nodes_with_one_weight_share_its_conductances(tmp_path):
    model = bnb4_model(8, 8, block=32, is_normal=True)
    [node] = model.graph.node
    first = onnx.NodeProto()
    first.CopyFrom(node)
    first.output[0], first.name, node.input[0] = "h", "first", "h"
    model.graph.node.insert(0, first)
    original = saved(model, tmp_path)
    onnx_gconv.map_model(original, tmp_path / "mapped.onnx", EXACT)
    x = {"x": np.ones((2, 8), np.float32)}
    np.testing.assert_array_equal(run(tmp_path / "mapped.onnx", x)["y"], run(original, x)["y"], strict=True)
    onnx_gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    restored = onnx.load(tmp_path / "restored.onnx").graph
    assert [(item.op_type, list(item.input)) for item in restored.node] == [
        ("MatMulBnb4", ["x", "W", "W_absmax"]),
        ("MatMulBnb4", ["h", "W", "W_absmax"]),
    ]


def without_constant(model):
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "W_absmax"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(helper.make_tensor_value_info("W_absmax", TensorProto.FLOAT, [12]))


def with_half_precision(model):
    tensor = next(item for item in model.graph.initializer if item.name == "W_absmax")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), "W_absmax"))


@pytest.mark.parametrize(
    ("said", "change", "reason", "detail"),
    [
        (
            {"transB": 0},
            None,
            "block_packed",
            "has transB = 0, for which ONNX Runtime decodes other numbers on the CPU",
        ),
        (
            {"K": 65},
            None,
            "invalid_shape",
            "reads 192 bytes and 12 scales, but N = 6, K = 65, block_size = 32 need 195",
        ),
        ({"block_size": 16}, None, "invalid_shape", "block_size = 16 need 192 and 24"),
        ({"quant_type": 2}, None, "invalid_shape", "says N = 6, K = 64, quant_type = 2, block_size = 32"),
        ({}, without_constant, "overridable_input", "reads bytes or scales that are no constants"),
        ({}, with_half_precision, "dtype_not_supported", "has scales of float16; only with those of float32"),
    ],
)
def test_what_is_not_decoded_stays_and_is_listed(said, change, reason, detail):
    model = bnb4_model(64, 6, block=32, is_normal=True, **said)
    if change is not None:
        change(model)
    model = ir.from_proto(model)
    result = MapConductances()(model)
    [skipped] = [item for item in result.report.skipped if item.is_mvm]
    assert skipped.reason == reason
    assert skipped.detail.startswith("layer (MatMulBnb4) ")
    assert detail in skipped.detail
    assert [node.op_type for node in model.graph] == ["MatMulBnb4"]


@pytest.mark.parametrize("options", [{"exclude": ["W"]}, {"quantized": "skip"}])
def test_a_weight_that_is_left_out_stays_packed(options):
    model = ir.from_proto(bnb4_model(64, 6, block=32, is_normal=True))
    result = MapConductances(**options)(model)
    [skipped] = result.report.skipped
    assert (skipped.shape, [node.op_type for node in model.graph]) == ((6, 64), ["MatMulBnb4"])


@pytest.mark.parametrize("points", ["none", "packed", "float"])
def test_numbers_of_matmulnbits_are_mapped_if_asked_for(tmp_path, points):
    weight = quantized(5, 40, points=points)
    model = matmul_model(weight)
    model.graph.node[0].input.extend([*[""] * (5 - len(model.graph.node[0].input)), "bias"])
    model.graph.initializer.append(numpy_helper.from_array(np.arange(5, dtype=np.float32), "bias"))
    original, mapped = saved(model, tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped, EXACT, quantized="dequantized")
    [record] = read_manifest(onnx_gconv.files.models.load_model(mapped)).weights
    assert (record.shape, record.dtype, record.packing) == ((5, 40), "float32", None)
    identity = {"x": np.eye(40, dtype=np.float32)}
    np.testing.assert_allclose(run(mapped, identity)["y"], run(original, identity)["y"], atol=1e-6)
    assert onnx_gconv.verify(original, mapped).passed
    [note] = onnx_gconv.restore_model(mapped, tmp_path / "restored.onnx").notes
    assert note == "1 weight of MatMulNBits is left in floating point, for MatMul: numbers were mapped, not codes"


def test_numbers_of_dequantizelinear_are_mapped_if_asked_for(tmp_path):
    original, mapped = saved(blocked_model(48, 5, block=16), tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped, EXACT, quantized="dequantized")
    [record] = read_manifest(onnx_gconv.files.models.load_model(mapped)).weights
    assert (record.name, record.dtype, record.stored_as, record.dequantization) == ("w", "float32", "computed", None)
    identity = {"x": np.eye(48, dtype=np.float32)}
    expected, found = (run(path, identity, optimized=False)["y"] for path in (original, mapped))
    np.testing.assert_array_equal(found, expected, strict=True)
    assert onnx_gconv.verify(original, mapped).passed
