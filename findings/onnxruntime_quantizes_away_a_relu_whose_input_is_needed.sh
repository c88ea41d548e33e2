#!/usr/bin/env bash
# Guess: quantize_static of ONNX Runtime leaves out a Relu where the codes of its input, whose range then begins at 0, clip
# by themselves, and only if nothing else needs that input. Seen: onnxruntime 1.32.0 asks in three places, each in its own
# way. In the format QOperator a Relu or Clip is left out whatever else reads its input, whose range then holds negative
# numbers: h + relu(h) W becomes h + h W. If the input is an output of the model as well, and no other node reads it, its
# range begins at 0 in both formats, and the output has no negative numbers. Nothing is said; in these models the errors
# are a quarter of the largest number and more, up to all of it.
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
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

logging.disable(logging.CRITICAL)
random = np.random.default_rng(0)
weight = (random.standard_normal((16, 16)) / 4).astype(np.float32)
x = random.standard_normal((5, 16)).astype(np.float32)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": x}])

    def get_next(self):
        return next(self.rest, None)


tensors = [numpy_helper.from_array(weight, "W"), *(numpy_helper.from_array(np.float32(each), str(each)) for each in (-0.5, 0.5))]


def run(name):
    return onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def errors(nodes, outputs):
    """The largest error of the first output relative to the largest number, and the ops, for each format."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, 16]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "float.onnx")
    expected, found = run("float.onnx")[0], {}
    for kind in (QuantFormat.QDQ, QuantFormat.QOperator):
        quantize_static("float.onnx", "quantized.onnx", Samples(), quant_format=kind)
        onnx.checker.check_model("quantized.onnx")
        ops = [node.op_type for node in onnx.load("quantized.onnx").graph.node]
        output = run("quantized.onnx")[0]
        found[kind.name] = float(np.abs(output - expected).max() / np.abs(expected).max()), bool({"Relu", "Clip"} & set(ops)), float(output.min())
    return found


first = helper.make_node("MatMul", ["x", "W"], ["h"], name="first")
relu = helper.make_node("Relu", ["h"], ["r"], name="relu")
clip = helper.make_node("Clip", ["h", "-0.5", "0.5"], ["r"], name="clip")
second = helper.make_node("MatMul", ["r", "W"], ["p"], name="second")
total = helper.make_node("Add", ["h", "p"], ["y"], name="total")
cases = {
    "h = x W, y = relu(h) W; h is read by the Relu alone": errors([first, relu, second], ["p"]),
    "h = x W, y = h + relu(h) W": errors([first, relu, second, total], ["y"]),
    "h = x W, y = h + clip(h) W": errors([first, clip, second, total], ["y"]),
    "h = x W, r = relu(h); h and r are outputs": errors([first, relu], ["h", "r"]),
}
print(f"onnxruntime {onnxruntime.__version__}; errors relative to the largest number of the first output")
for text, found in cases.items():
    for kind, (error, has_relu, lowest) in found.items():
        print(f"{text}: {kind} {error:.3f}, {'with' if has_relu else 'without'} a limit, lowest {lowest:.2f}")
alone, skip, clipped, output = cases.values()
assert max(alone["QDQ"][0], alone["QOperator"][0], skip["QDQ"][0], clipped["QDQ"][0]) < 0.03, "it behaves otherwise now"
assert all(each["QOperator"][0] > 0.2 and not each["QOperator"][1] for each in (skip, clipped)), "it behaves otherwise now"
assert all(error > 0.2 and lowest == 0 for error, _, lowest in output.values()), "it behaves otherwise now"
PYTHON
