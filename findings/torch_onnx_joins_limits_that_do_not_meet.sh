#!/usr/bin/env bash
# Guess: torch.onnx.export keeps what two limits in a row do: x.clamp(-2, -1).relu() is 0 everywhere, and so is the exported
# model. Seen: torch 2.13.0 with onnxscript 0.7.2 joins Clip and Relu (and Clip and Clip) to one Clip with the larger lower
# and the smaller upper limit, whether the ranges meet or not. If they do not, the upper limit is below the lower one, and
# Clip gives the upper one: -1 instead of 0. Where the lower range comes last, that is right by luck. With optimize=False
# it is right; onnxscript's optimizer changes a finished model in the same way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install torch==2.13.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnxruntime
import onnxscript.optimizer
import torch

x = torch.linspace(-3, 3, 13)


class Limits(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def error(function, optimizer=None, **options):
    """Largest difference between the exported model in ONNX Runtime and torch, and the names of its nodes."""
    proto = torch.onnx.export(Limits(function), (x,), dynamo=True, verbose=False, **options).model_proto
    if optimizer is not None:
        proto = optimizer(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    nodes = [node.op_type for node in proto.graph.node if node.op_type not in {"Constant", "CastLike"}]
    return float(np.abs(found - function(x).numpy()).max()), nodes


print(f"torch {torch.__version__}, onnxscript {onnxscript.__version__}, onnxruntime {onnxruntime.__version__}")
functions = {
    "x.clamp(-2., -1.).relu()": lambda x: x.clamp(-2.0, -1.0).relu(),
    "x.relu().clamp(-2., -1.)": lambda x: x.relu().clamp(-2.0, -1.0),
    "x.clamp(-1., 0.).clamp(1., 2.)": lambda x: x.clamp(-1.0, 0.0).clamp(1.0, 2.0),
    "x.clamp(1., 2.).clamp(-1., 0.)": lambda x: x.clamp(1.0, 2.0).clamp(-1.0, 0.0),
    "x.clamp(-1., 1.).relu()": lambda x: x.clamp(-1.0, 1.0).relu(),
}
errors = []
for name, function in functions.items():
    found, nodes = error(function)
    errors.append(found)
    print(f"{name}: error {found}, nodes {nodes}")
plain, nodes = error(functions["x.clamp(-2., -1.).relu()"], optimize=False)
later, _ = error(functions["x.clamp(-2., -1.).relu()"], onnxscript.optimizer.optimize, optimize=False)
print(f"the first one with optimize=False: error {plain}, nodes {nodes}; that model after onnxscript.optimizer: error {later}")
assert errors == [1, 0, 1, 0, 0] and (plain, later) == (0, 1), "it behaves otherwise now"
PYTHON
