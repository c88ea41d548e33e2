#!/usr/bin/env bash
# Guess: OpenVINO computes an ONNX LSTM with peepholes, or with input_forget, or refuses it, as it refuses activations that
# it does not have. Seen: openvino 2026.4.1 reads the eighth input (P) and the attribute, checks the shape of P, and
# builds a layer that has a place for neither; outputs are those of the plain LSTM to the last bit. Nothing is said.
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

steps, batch, inputs, hidden = 5, 2, 3, 4
random = np.random.default_rng(0)


def values(*shape):
    return random.standard_normal(shape).astype(np.float32)


arrays = {"W": values(1, 4 * hidden, inputs), "R": values(1, 4 * hidden, hidden), "B": values(1, 8 * hidden), "P": values(1, 3 * hidden)}
x = values(steps, batch, inputs)


def run(peepholes=False, activations=("Sigmoid", "Tanh", "Tanh"), **attributes):
    """Outputs in OpenVINO (or its refusal) and in ONNX Runtime."""
    names = ["x", "W", "R", "B", "", "", "", "P"] if peepholes else ["x", "W", "R", "B"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", names, ["y"], hidden_size=hidden, activations=activations, **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, batch, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [steps, 1, batch, hidden])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    model = model.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    try:
        found = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0]
    except RuntimeError:
        found = None
    return found, session.run(None, {"x": x})[0]


print(f"openvino {openvino.__version__}, onnxruntime {onnxruntime.__version__}: largest differences of outputs")
plain, expected = run()
print(f"plain LSTM: {np.abs(plain - expected).max():.1e}")
assert np.abs(plain - expected).max() < 1e-5, "it behaves otherwise now"
for title, options in (("peepholes", {"peepholes": True}), ("input_forget", {"input_forget": 1})):
    found, expected = run(**options)
    same = found is not None and np.array_equal(found, plain)
    print(f"{title}: {np.abs(found - expected).max():.1e}; OpenVINO's output is that of the plain LSTM: {same}")
    assert same and np.abs(found - expected).max() > 0.1, "it behaves otherwise now"
refused, _ = run(activations=("HardSigmoid", "Tanh", "Tanh"))
print(f"activations that it does not have are refused: {refused is None}")
assert refused is None, "it behaves otherwise now"
PYTHON
