#!/usr/bin/env bash
# Guess: torch.onnx.export takes x.clamp(0, 1.5), which torch runs, as it takes x.clamp(0.0, 1.5) and x.clamp(0, 1).
# Seen: torch 2.13.0 raises ConversionError for a whole number beside a fraction. A pass makes a tensor of the limit that is
# no float yet, and there is no clamp with a tensor on one side and a number on the other; the message speaks of
# an OpOverload. F.hardtanh(x, 0, 1.5), and clamp with one limit, are taken.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install torch==2.13.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import onnxscript
import torch

x = torch.linspace(-3, 3, 13)


class Limits(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def outcome(function):
    function(x)
    try:
        program = torch.onnx.export(Limits(function), (x,), dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        while error.__cause__ is not None:
            error = error.__cause__
        return f"refused: {str(error).splitlines()[0][:70]} ..."
    return "exported as " + ", ".join(node.op_type for node in program.model.graph)


print(f"torch {torch.__version__}, onnxscript {onnxscript.__version__}")
functions = {
    "x.clamp(0.0, 1.5)": lambda x: x.clamp(0.0, 1.5),
    "x.clamp(0, 1)": lambda x: x.clamp(0, 1),
    "x.clamp(max=1)": lambda x: x.clamp(max=1),
    "hardtanh(x, 0, 1.5)": lambda x: torch.nn.functional.hardtanh(x, 0, 1.5),
    "x.clamp(0, 1.5)": lambda x: x.clamp(0, 1.5),
    "x.clamp(-0.5, 1)": lambda x: x.clamp(-0.5, 1),
}
found = {name: outcome(function) for name, function in functions.items()}
for name, words in found.items():
    print(f"{name}: {words}")
refused = [name for name, words in found.items() if words.startswith("refused")]
assert refused == ["x.clamp(0, 1.5)", "x.clamp(-0.5, 1)"], "it behaves otherwise now"
PYTHON
