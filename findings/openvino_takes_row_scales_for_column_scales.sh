#!/usr/bin/env bash
# Guess: a MatMul whose int8 weight has a scale for each row (DequantizeLinear with axis 0, an input each) gives the same
# numbers in OpenVINO as in ONNX Runtime, whatever the batch is. Seen: openvino 2026.4.1 fuses the two on the CPU, counts the
# dimensions of the scales that are longer than 1, finds one, and takes the scales for scales of outputs. For one sample it
# multiplies all rows by the first scale, and zero points are treated alike; for 16 samples another kernel runs, and the
# numbers are right. Nothing is said. Scales of columns (axis 1) are right for both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

size = 16
scales = np.arange(1, size + 1, dtype=np.float32)


def weights(axis, samples):
    """The weight that each runtime multiplies by, where all codes are 1: outputs for unit vectors, some samples a time."""
    codes, zeros = np.ones((size, size), np.int8), np.zeros(size, np.int8)
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis), helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["samples", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["samples", size])],
        [numpy_helper.from_array(array, name) for name, array in (("q", codes), ("s", scales), ("z", zeros))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    model = model.SerializeToString()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    units = np.eye(size, dtype=np.float32)
    parts = [units[start : start + samples] for start in range(0, size, samples)]
    return np.concatenate([compiled({"x": part})[0] for part in parts]), np.concatenate([session.run(None, {"x": part})[0] for part in parts])


print(f"openvino {openvino.__version__}, onnxruntime {onnxruntime.__version__}; the scales are 1 to {size}")
found = {}
for axis in (0, 1):
    expected = np.broadcast_to(scales[:, None] if axis == 0 else scales, (size, size))
    for samples in (1, size):
        ours, theirs = weights(axis, samples)
        assert np.array_equal(theirs, expected), "ONNX Runtime behaves otherwise now"
        found[axis, samples] = np.array_equal(ours, expected)
        print(f"axis {axis}, {samples:2} samples: OpenVINO's weight is {'right' if found[axis, samples] else 'wrong'}, first column {ours[:4, 0]} ...")
        if (axis, samples) == (0, 1):
            assert np.all(ours == scales[0]), "it behaves otherwise now"
assert found == {(0, 1): False, (0, size): True, (1, 1): True, (1, size): True}, "it behaves otherwise now"
PYTHON
