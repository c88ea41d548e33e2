#!/usr/bin/env bash
# Guess: onnx-ir reads a model with a graph input of an opaque type and writes it again as it was, or raises an error, as
# it does for other things that it does not know. Seen: onnx-ir 1.1.0 writes the input without any type, and says
# nothing; onnx.checker accepts the model before and refuses it afterwards. Whatever is built on onnx-ir inherits that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

kind = onnx.TypeProto()
kind.opaque_type.domain, kind.opaque_type.name = "my.ops", "Tokens"
graph = helper.make_graph(
    [helper.make_node("Embed", ["t"], ["y"], domain="my.ops")],
    "g", [helper.make_value_info("t", kind)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])],
)
opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
onnx.checker.check_model(model)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    written = ir.to_proto(ir.from_proto(model))
before, after = model.graph.input[0].type.WhichOneof("value"), written.graph.input[0].type.WhichOneof("value")
try:
    onnx.checker.check_model(written)
    checked = "accepts it"
except onnx.checker.ValidationError as error:
    checked = str(error).splitlines()[0]
print(f"onnx {onnx.__version__}, onnx-ir {ir.__version__}")
print(f"type of the input: {before}, written again: {after}; warnings: {len(warned)}; checker: {checked}")
assert (before, after, len(warned)) == ("opaque_type", None, 0) and checked != "accepts it", "it behaves otherwise now"
PYTHON
