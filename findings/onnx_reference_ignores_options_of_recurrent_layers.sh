#!/usr/bin/env bash
# Guess: ONNX's reference evaluator computes LSTM, GRU and RNN with all that the standard gives them, or says what it does
# not have. Seen with onnx 1.23.2, against ONNX Runtime 1.32.0: sequence_lens and clip are ignored by all three, activations
# by LSTM and GRU, and input_forget by LSTM, without a word: outputs are those of the node without the option to the
# last bit. Directions, peepholes, biases and linear_before_reset are right. Whoever takes it for the judge of a padded batch
# calls the right runtime wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

steps, batch, inputs, hidden = 5, 2, 3, 4
random = np.random.default_rng(0)
x = random.standard_normal((steps, batch, inputs)).astype(np.float32)


def run(kind, gates, lengths=None, **attributes):
    """Outputs of the reference evaluator and of ONNX Runtime."""
    random = np.random.default_rng(1)
    shapes = {"W": (1, gates * hidden, inputs), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    constants = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    names = ["x", "W", "R", "B"]
    if lengths is not None:
        names.append("lengths")
        constants["lengths"] = np.array(lengths, np.int32)
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], hidden_size=hidden, **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [steps, 1, batch, hidden])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(model).run(None, {"x": x})[0], session.run(None, {"x": x})[0]


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}: largest differences between the two")
for kind, gates, functions in (("LSTM", 4, ("Sigmoid", "Softsign", "Softsign")), ("GRU", 3, ("Sigmoid", "Softsign")), ("RNN", 1, None)):
    plain, expected = run(kind, gates)
    assert np.abs(plain - expected).max() < 1e-5, "it behaves otherwise now"
    backward, expected = run(kind, gates, direction="reverse")
    assert np.abs(backward - expected).max() < 1e-5, "it behaves otherwise now"
    options = {"sequence_lens": {"lengths": [5, 3]}, "clip": {"clip": 0.5}}
    if functions:
        options["activations"] = {"activations": functions}
    if kind == "LSTM":
        options["input_forget"] = {"input_forget": 1}
    for name, option in options.items():
        found, expected = run(kind, gates, **option)
        ignored = np.array_equal(found, plain)
        print(f"{kind} with {name}: {np.abs(found - expected).max():.2f}; as without it: {ignored}")
        assert ignored and np.abs(found - expected).max() > 0.05, "it behaves otherwise now"
PYTHON
