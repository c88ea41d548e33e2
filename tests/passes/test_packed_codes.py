"""Codes that ops read packed into bytes come back exactly, so that outputs in ONNX Runtime are bit-identical."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_gconv
from onnx_gconv.converters import (
    BitSlicedPairConductanceConverter,
    OffsetConductanceConverter,
    SinglePairConductanceConverter,
)
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from tests.packed_models import experts_model, matmul_model, quantized, run, saved, tied_model

# Bits, block, zero points and inputs; ONNX Runtime has no kernel for eight bits with zero points of floating point.
CASES = [
    case
    for case in itertools.product((2, 4, 8), (16, 32, 128), ("none", "packed", "float"), (33, 64))
    if (case[0], case[2]) != (8, "float")
]


def restored_arrays(mapped, folder):
    onnx_gconv.restore_model(mapped, folder / "restored.onnx")
    model = onnx.load(folder / "restored.onnx")
    assert not any(node.op_type == "Div" for node in model.graph.node)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("bits", "block", "points", "inputs"), CASES)
def test_a_matrix_of_packed_codes_comes_back_bit_by_bit(tmp_path, bits, block, points, inputs):
    weight = quantized(5, inputs, bits=bits, block=block, points=points, seed=bits + block + inputs)
    original = saved(matmul_model(weight), tmp_path)
    mapped = tmp_path / "mapped.onnx"
    result = onnx_gconv.map_model(original, mapped)

    [record] = result.manifest.weights
    assert (record.shape, record.dtype, record.packing.shape) == ((5, inputs), "uint8", weight.stored.shape)
    # What ONNX Runtime makes of the bytes is what the conductances stand for, times the scales.
    identity = {"x": np.eye(inputs, dtype=np.float32)}
    decoded = run(original, identity)["y"]
    wanted = (weight.numbers.astype(np.float32) * weight.scale_of_each).T
    if points == "float":  # where it takes the difference of two products
        np.testing.assert_allclose(decoded, wanted, atol=2e-7)
    else:
        np.testing.assert_array_equal(decoded, wanted)
    for optimized in (True, False):
        expected, found = (run(model, identity, optimized=optimized)["y"] for model in (original, mapped))
        np.testing.assert_array_equal(found, expected, strict=True)
    assert restored_arrays(mapped, tmp_path)["W"].tobytes() == weight.stored.tobytes()


def in_memory(weight, *arguments, **options):
    model = ir.from_proto(matmul_model(weight))
    MapConductances(*arguments, **options)(model)
    return model


def in_us(model, name):
    return model.graph.initializers[name].const_value.numpy()


@pytest.mark.parametrize("points", ["none", "packed", "float"])
def test_conductances_stand_for_codes_less_zero_points(points):
    weight = quantized(5, 40, points=points)
    model = in_memory(weight, SinglePairConductanceConverter(g_max=20.0))
    [record] = read_manifest(model).weights
    numbers = (in_us(model, "W.g_plus") - in_us(model, "W.g_minus")) / in_us(model, "W.g_scale")
    np.testing.assert_allclose(numbers, weight.numbers, atol=2e-6)
    assert record.dequantization.model_dump() == {
        "scale": "W_scales",
        "zero_point": None if points == "none" else "W_points",
        "axis": 1,
        "block": 16,
        "groups": None,
    }
    [consumer] = record.consumers
    assert (consumer.matrix_view.rows, consumer.matrix_view.columns) == (40, 5)
    assert CheckMapping().violations(model) == ()


def test_accuracy_levels_and_half_precision_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(3)
    for level, dtype in itertools.product((0, 4), (np.float32, np.float16)):
        weight = quantized(24, 96, block=32, points="packed", dtype=dtype)
        original = saved(matmul_model(weight, accuracy_level=level), tmp_path)
        onnx_gconv.map_model(original, tmp_path / "mapped.onnx")
        inputs = {"x": rng.normal(size=(3, 96)).astype(dtype)}
        for optimized in (True, False):
            expected = run(original, inputs, optimized=optimized)["y"]
            np.testing.assert_array_equal(run(tmp_path / "mapped.onnx", inputs, optimized=optimized)["y"], expected)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21, 23])
def test_the_nodes_that_pack_are_those_of_the_opset(tmp_path, opset):
    weight = quantized(4, 20, points="packed")
    original = saved(matmul_model(weight, opset=opset), tmp_path)
    onnx_gconv.map_model(original, tmp_path / "mapped.onnx")
    inputs = {"x": np.eye(20, dtype=np.float32)}
    for optimized in (True, False):
        expected = run(original, inputs, optimized=optimized)["y"]
        np.testing.assert_array_equal(run(tmp_path / "mapped.onnx", inputs, optimized=optimized)["y"], expected)
    onnx.checker.check_model(tmp_path / "mapped.onnx")


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "channel"},
        {"granularity": {"kind": "tile", "tile": "16x2"}},
        {"converter": OffsetConductanceConverter(g_max=20.0)},
        {"converter": SinglePairConductanceConverter(g_max=20.0, g_min=0.5)},
        {"levels": 256},
        {"levels": 256, "storage": "codes"},
    ],
    ids=str,
)
def test_every_scheme_gives_the_bytes_back(tmp_path, options):
    weight = quantized(5, 40, points="packed")
    model = in_memory(weight, **options)
    assert CheckMapping().violations(model) == ()
    ir.save(model, tmp_path / "mapped.onnx")
    inputs = {"x": np.eye(40, dtype=np.float32)}
    original = saved(matmul_model(weight), tmp_path)
    np.testing.assert_array_equal(run(tmp_path / "mapped.onnx", inputs)["y"], run(original, inputs)["y"])
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight.stored)


def test_codes_with_other_zero_points_than_integers_are_no_integers():
    weight = quantized(5, 40, points="float")
    message = (
        r"the weight 'W' has zero points that are no integers, but the bits of .* hold integers; map it with another"
    )
    with pytest.raises(UnmappableWeightError, match=message):
        in_memory(weight, BitSlicedPairConductanceConverter(g_max=20.0))


EXPERTS = [(bits, points, True) for bits in (4, 8) for points in ("none", "packed")] + [(4, "none", False)]


@pytest.mark.parametrize(("bits", "points", "is_blocked"), EXPERTS)
def test_experts_are_a_matrix_each(tmp_path, bits, points, is_blocked):
    block = 32 if is_blocked else 64
    first = quantized(3, 128, 64, bits=bits, block=block, points=points, seed=1)
    second = quantized(3, 64, 64, bits=bits, block=block, points=points, seed=2)
    original = saved(experts_model(first, second, experts=3, is_blocked=is_blocked), tmp_path)
    mapped = tmp_path / "mapped.onnx"
    result = onnx_gconv.map_model(original, mapped)
    views = [record.consumers[0].matrix_view for record in result.manifest.weights]
    assert [(view.matrices, view.rows, view.columns) for view in views] == [(3, 64, 128), (3, 64, 64)]
    rng = np.random.default_rng(5)
    inputs = {"x": rng.normal(size=(6, 64)).astype(np.float32), "router": rng.normal(size=(6, 3)).astype(np.float32)}
    for optimized in (True, False):
        expected = run(original, inputs, optimized=optimized)["y"]
        np.testing.assert_array_equal(run(mapped, inputs, optimized=optimized)["y"], expected)
    arrays = restored_arrays(mapped, tmp_path)
    for name, weight in (("fc1", first), ("fc2", second)):
        assert arrays[name].tobytes() == weight.stored.tobytes()
        model = ir.load(mapped)
        numbers = (in_us(model, f"{name}.g_plus") - in_us(model, f"{name}.g_minus")) / in_us(model, f"{name}.g_scale")
        np.testing.assert_allclose(numbers, weight.numbers, atol=1e-4)


@pytest.mark.parametrize(("bits", "points"), [(4, "none"), (4, "packed"), (8, "packed")])
@pytest.mark.parametrize("shared", ["rebuild", "split"])
def test_a_tied_table_is_mapped_once(tmp_path, bits, points, shared):
    weight = quantized(40, 64, bits=bits, block=32, points=points)
    original, mapped = saved(tied_model(weight), tmp_path), tmp_path / "mapped.onnx"
    [record] = onnx_gconv.map_model(original, mapped, shared=shared).manifest.weights
    by_op = {item.op_type: item for item in record.consumers}
    assert by_op["MatMulNBits"].is_mvm
    assert by_op["GatherBlockQuantized"].reads == ("digital" if shared == "split" else "rebuilt")
    inputs = {"tokens": np.array([0, 39, 7, 7])}
    for optimized in (True, False):
        expected = run(original, inputs, optimized=optimized)["y"]
        np.testing.assert_array_equal(run(mapped, inputs, optimized=optimized)["y"], expected)
    assert restored_arrays(mapped, tmp_path)["W"].tobytes() == weight.stored.tobytes()


def test_a_table_of_a_lookup_is_mapped_if_asked_for(tmp_path):
    weight = quantized(40, 64, block=32, points="packed")
    original, mapped = saved(tied_model(weight), tmp_path), tmp_path / "mapped.onnx"
    [record] = onnx_gconv.map_model(original, mapped, include_ops=["GatherBlockQuantized"]).manifest.weights
    views = {item.op_type: (item.matrix_view.rows, item.matrix_view.columns) for item in record.consumers}
    assert views == {"GatherBlockQuantized": (40, 64), "MatMulNBits": (64, 40)}
    assert onnx_gconv.verify(original, mapped).passed


def test_verify_finds_other_codes_and_other_padding(tmp_path):
    weight = quantized(5, 40)
    original, mapped = saved(matmul_model(weight), tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped)
    report = onnx_gconv.verify(original, mapped)
    assert report.passed
    assert [item.bit_identical for item in report.weights] == [True]
    assert all(item.bit_identical for item in report.outputs.comparisons)
    for byte, message in ((0, "'W'"), (-1, "the padding of its rows of codes differs from the original")):
        model = onnx.load(original)
        stored = weight.stored.copy()
        stored.reshape(5, -1)[2, byte] ^= 0x10
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(stored, "W"))
        onnx.save(model, tmp_path / "other.onnx")
        report = onnx_gconv.verify(tmp_path / "other.onnx", mapped)
        assert message in " ".join(report.problems)


def test_what_another_tool_changes_in_the_nodes_that_pack_is_found(tmp_path):
    weight = quantized(5, 40, points="packed")
    changes = {
        "W.g_zero_point": "the zero points 'W.g_zero_point' have the shape",
        "W.g_place": "does not put codes side by side in bytes",
        "W.g_padding": "its rows are filled with 'W.g_padding' of",
    }
    for name, message in changes.items():
        model = in_memory(weight)
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(np.ones((3, 1), np.float32) * 7, name=name)
        [violation, *_] = CheckMapping().violations(model)
        assert message in violation.message


def test_a_manifest_of_packed_codes_has_a_version_of_its_own():
    assert read_manifest(in_memory(quantized(5, 40))).format_version == 3
