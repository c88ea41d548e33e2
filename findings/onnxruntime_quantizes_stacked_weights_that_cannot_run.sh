#!/usr/bin/env bash
# Guess: quantize_dynamic with per_channel=True takes a MatMul of several matrices at a time, such as those of experts, of
# shape [2, 8, 6], as it does without per_channel, or leaves it as it is. Seen: onnxruntime 1.32.0 writes one zero point
# for each of the 6 columns, which is the form for one matrix; for several ones MatMulInteger asks for [2, 1, 6]. The
# model passes the checker, a session is created, and each run fails. Static quantization in QDQ format is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

logging.disable(logging.CRITICAL)
random = np.random.default_rng(0)
weight = random.standard_normal((2, 8, 6)).astype(np.float32)
x = random.standard_normal((2, 3, 8)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "W"], ["y"], name="matmul")], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 6])], [numpy_helper.from_array(weight, "W")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "float.onnx")


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": x}])

    def get_next(self):
        return next(self.rest, None)


def outcome(name):
    """The error of outputs relative to the largest, or what the run says."""
    onnx.checker.check_model(name)
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    try:
        [found] = session.run(None, {"x": x})
    except Exception as error:
        return str(error).split("was false.")[-1].strip()
    return float(np.abs(found - x @ weight).max() / np.abs(x @ weight).max())


quantize_dynamic("float.onnx", "tensor.onnx", weight_type=QuantType.QInt8)
quantize_dynamic("float.onnx", "channel.onnx", weight_type=QuantType.QInt8, per_channel=True)
quantize_static("float.onnx", "static.onnx", Samples(), quant_format=QuantFormat.QDQ, per_channel=True)
shapes = {tensor.name: list(tensor.dims) for tensor in onnx.load("channel.onnx").graph.initializer}
found = {name: outcome(f"{name}.onnx") for name in ("tensor", "channel", "static")}
print(f"onnxruntime {onnxruntime.__version__}, a MatMul by a weight of shape {list(weight.shape)}")
print(f"dynamic, one scale: error {found['tensor']:.3f}; static QDQ with per_channel: error {found['static']:.3f}")
print(f"dynamic with per_channel: {shapes}: {found['channel']}")
assert found["tensor"] < 0.03 and found["static"] < 0.03, "it behaves otherwise now"
assert isinstance(found["channel"], str) and shapes["W_zero_point"] == [6], "it behaves otherwise now"
PYTHON
