#!/usr/bin/env bash
# Guess: the default optimizations of ONNX Runtime keep the outputs of DequantizeLinear (an int8 weight) and MatMul on
# float32 inputs up to the order of sums, about 1e-6. Seen: onnxruntime 1.32.0 joins both to one MatMulNBits from the
# extended level on, whose default accuracy level rounds the float inputs to eight bits: outputs move by some 1 % of the
# largest one. The session option session.qdq_matmulnbits_accuracy_level = 0 keeps float32 inputs, and the outputs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
weight = random.integers(-128, 128, (64, 32)).astype(np.int8)
graph = helper.make_graph(
    [helper.make_node("DequantizeLinear", ["W", "s", "z"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 32])],
    [
        numpy_helper.from_array(weight, "W"), numpy_helper.from_array(np.float32(0.01), "s"),
        numpy_helper.from_array(np.int8(3), "z"),
    ],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), "model.onnx")
x = random.normal(size=(5, 64)).astype(np.float32)
expected = x.astype(np.float64) @ ((weight.astype(np.float64) - 3) * np.float64(np.float32(0.01)))


def error(level, accuracy_level=None):
    """The largest error relative to the largest output, and the ops that run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = "optimized.onnx"
    options.log_severity_level = 4
    if accuracy_level is not None:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy_level)
    session = ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})[0]
    ops = [node.op_type for node in onnx.load("optimized.onnx", load_external_data=False).graph.node]
    return np.abs(found - expected).max() / np.abs(expected).max(), ops


levels = ort.GraphOptimizationLevel
basic, whole, exact = error(levels.ORT_ENABLE_BASIC), error(levels.ORT_ENABLE_ALL), error(levels.ORT_ENABLE_ALL, "0")
print(f"onnxruntime {ort.__version__}: basic {basic[0]:.1e} {basic[1]}; all {whole[0]:.1e} {whole[1]}; all, level 0 {exact[0]:.1e} {exact[1]}")
assert basic[0] < 1e-5 and exact[0] < 1e-5 and whole[0] > 1e-3 and whole[1] == ["MatMulNBits"], "it behaves otherwise now"
PYTHON
