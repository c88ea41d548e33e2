#!/usr/bin/env bash
# Guess: onnx_ir.Model.clone() gives a model that may be changed while the original stays as it was; its documentation says
# that all graphs, nodes and values are other objects, and that tensors are shared, which are called immutable. Seen: to
# rename an initializer of the clone, as passes do, renames the tensor of the original, too (onnx-ir 1.1.0). The original's
# value keeps its name, so that the two differ; of a model made of an onnx.ModelProto, the proto of the caller is changed,
# whose nodes then read an initializer that is not there, and onnx.checker refuses it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnx==1.23.2 onnx-ir==1.1.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node("MatMul", ["x", "W"], ["y"])
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "W")
graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
onnx.checker.check_model(proto)
original = ir.from_proto(proto)
original.clone().graph.initializers["W"].name = "renamed in the clone"
value = original.graph.initializers["W"]
print(f"onnx {onnx.__version__}, onnx-ir {ir.__version__}")
print(f"the original's value: {value.name!r}, its tensor: {value.const_value.name!r}, in the proto: {proto.graph.initializer[0].name!r}")
try:
    onnx.checker.check_model(proto)
    refusal = None
except onnx.checker.ValidationError as error:
    refusal = str(error).splitlines()[0]
print(f"onnx.checker of the proto, which nobody touched: {refusal}")
assert value.name == "W" and value.const_value.name == "renamed in the clone", "it behaves otherwise now"
assert refusal is not None, "it behaves otherwise now"
PYTHON
