#!/usr/bin/env bash
# Guess: a torch.nn.LSTM that is exported with dynamic_shapes for its steps runs with any number of steps: the exported model
# names that axis of its input, and ONNX's LSTM takes any. Seen: with torch 2.13.0 and onnxscript 0.7.2 the exporter says
# nothing, the input is named dynamic, and a Reshape behind the LSTM has the steps of the example as a constant: another
# number of steps fails in ONNX Runtime. So does a GRU. The batch is dynamic, as asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import onnxruntime
import torch


class Outputs(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent = kind(4, 6)

    def forward(self, inputs):
        return self.recurrent(inputs)[0]


print(f"torch {torch.__version__}, onnxscript {version('onnxscript')}, ONNX Runtime {onnxruntime.__version__}")
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
for kind in (torch.nn.LSTM, torch.nn.GRU):
    shapes = ({0: "steps", 1: "batch"},)
    torch.onnx.export(Outputs(kind).eval(), (torch.zeros(5, 3, 4),), "model.onnx", dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", options)
    [given] = session.get_inputs()
    print(f"{kind.__name__}: the input is {given.shape}")
    found = {}
    for steps, batch in ((5, 3), (5, 2), (9, 3)):
        try:
            session.run(None, {given.name: torch.zeros(steps, batch, 4).numpy()})
            found[steps, batch] = "runs"
        except Exception as error:
            found[steps, batch] = "fails: " + str(error).rpartition("was false. ")[2].strip()
        print(f"  {steps} steps, a batch of {batch}: {found[steps, batch]}")
    assert given.shape[:2] == ["steps", "batch"], "it behaves otherwise now"
    assert [text[:4] for text in found.values()] == ["runs", "runs", "fail"], "it behaves otherwise now"
PYTHON
