#!/usr/bin/env bash
# Guess: torch.onnx.export writes each parameter of a module, whatever its values are; only parameters that are tied share
# an initializer. Seen: torch 2.13.0 with onnxscript 0.7.2 merges all initializers of equal bytes when it optimizes. The
# layers of a new nn.TransformerEncoder are deep copies of one: of its 4 x 2 weights 4 are left, and no initializer bears
# a name of layers.1. Whoever sizes a chip, or counts weights, by the export of a model that is not trained yet gets the
# first layer alone. The FX node in the metadata of each node still names the parameter that it read in the program.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install torch==2.13.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import onnxscript
import torch
from torch import nn


def export(module, **options):
    """Names of the weights that the nodes of linear layers read, and the parameters that their FX nodes read."""
    program = torch.onnx.export(module.eval(), (torch.ones(2, 3, 8),), dynamo=True, verbose=False, **options)
    nodes = [node for node in program.model.graph if "aten.linear" in node.metadata_props.get("pkg.torch.onnx.fx_node", "")]
    nodes = [node for node in nodes if node.op_type in {"MatMul", "Gemm"}]
    read = {part.strip(",)") for node in nodes for part in node.metadata_props["pkg.torch.onnx.fx_node"].split() if "%p_" in part}
    return {node.inputs[1].name for node in nodes}, {name for name in read if "weight" in name}


torch.manual_seed(0)
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False)
new, read = export(encoder)
plain, _ = export(encoder, optimize=False)
with torch.no_grad():
    for parameter in encoder.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=1e-3)
trained, _ = export(encoder)
print(f"torch {torch.__version__}, onnxscript {onnxscript.__version__}")
print(f"weights of a new encoder of two layers: {len(new)}; without optimization: {len(plain)}; of a changed one: {len(trained)}")
print(f"parameters that its nodes read in the program: {len(read)}")
assert (len(new), len(plain), len(trained), len(read)) == (4, 8, 8, 8), "it behaves otherwise now"
PYTHON
