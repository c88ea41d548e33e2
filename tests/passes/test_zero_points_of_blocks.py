"""Weights of which each block has a zero point of its own, as exporters write int4 and int8 with DequantizeLinear."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_gconv
from onnx_gconv.errors import ModelError
from onnx_gconv.files.models import load_model
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances
from tests.packed_models import blocked_model, run, saved

# Of 50 inputs the last block has fewer than the others.
CASES = [
    (ml_dtypes.uint4, 48, 16, False),
    (ml_dtypes.int4, 48, 16, True),
    (np.uint8, 50, 16, True),
    (np.int8, 50, 16, False),
]


@pytest.mark.parametrize(("dtype", "inputs", "block", "is_transposed"), CASES)
def test_the_zero_point_of_its_block_is_taken_off_each_code(tmp_path, dtype, inputs, block, is_transposed):
    model = blocked_model(inputs, 5, block=block, dtype=dtype, is_transposed=is_transposed)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    original, mapped = saved(model, tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped)

    in_memory = load_model(mapped)
    [record] = read_manifest(in_memory).weights
    axis = int(is_transposed)
    assert (record.zero_point_blocks.axis, record.zero_point_blocks.size, record.notes) == (axis, block, ())
    plus, minus, scale = (
        in_memory.graph.initializers[name].const_value.numpy() for name in ("W.g_plus", "W.g_minus", "W.g_scale")
    )
    points, scales = (
        np.repeat(arrays[name].astype(np.float32), block, axis).take(range(inputs), axis).reshape(arrays["W"].shape)
        for name in ("W_points", "W_scales")
    )
    numbers = (plus - minus) / scale
    np.testing.assert_allclose(numbers, arrays["W"].astype(np.float32) - points, atol=4e-5)

    identity = {"x": np.eye(inputs, dtype=np.float32)}
    expected = run(original, identity, optimized=False)["y"]
    weight = np.rint(numbers) * scales
    np.testing.assert_allclose(expected, weight.T if is_transposed else weight, rtol=1e-6)
    np.testing.assert_array_equal(run(mapped, identity, optimized=False)["y"], expected, strict=True)
    assert onnx_gconv.verify(original, mapped).passed

    onnx_gconv.restore_model(mapped, tmp_path / "restored.onnx")
    restored = onnx.load(tmp_path / "restored.onnx").graph.initializer
    found = {tensor.name: numpy_helper.to_array(tensor).astype(int).tolist() for tensor in restored}
    assert found == {name: array.astype(int).tolist() for name, array in arrays.items()}

    onnx_gconv.write_bundle(mapped, tmp_path / "bundle", (32, 32))
    with onnx_gconv.open_bundle(tmp_path / "bundle") as bundle:
        [layer] = bundle.layers
        assert layer.record.zero_point_blocks == record.zero_point_blocks
        np.testing.assert_array_equal(layer.rebuilt_weight(), arrays["W"])


def test_other_blocks_than_the_manifest_names_are_found():
    model = ir.from_proto(blocked_model(48, 5, block=16))
    MapConductances()(model)
    assert read_manifest(model).format_version == 3  # older readers would add the zero points of other codes
    gather = next(node for node in model.graph if node.op_type == "Gather")
    indices = gather.inputs[1].const_value.numpy().copy()
    indices[0] = 1
    gather.inputs[1].const_value = ir.tensor(indices)
    [violation] = CheckMapping().violations(model)
    assert "does not look up zero points of blocks of 16 along axis 0" in str(violation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_point_blocks": {"axis": 2, "size": 16}}, "blocks of 16 along axis 2 do not fit a weight of [48, 5]"),
        ({"zero_point": None}, "it has blocks of zero points, but no zero points that follow its axes"),
    ],
)
def test_a_manifest_with_blocks_that_cannot_be_is_refused(changes, message):
    model = ir.from_proto(blocked_model(48, 5, block=16))
    MapConductances()(model)
    document = json.loads(model.metadata_props[MANIFEST_KEY])
    document["weights"][0].update(changes)
    model.metadata_props[MANIFEST_KEY] = json.dumps(document)
    with pytest.raises(ModelError) as error:
        read_manifest(model)
    assert message in str(error.value)
