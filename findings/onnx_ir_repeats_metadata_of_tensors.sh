#!/usr/bin/env bash
# Guess: a model that onnx-ir loads and saves keeps the metadata_props of its initializers as they were, as it does for
# those of nodes. Seen: onnx-ir 1.1.0 writes each entry once more with every load and save: 1, 2, 3, 4 entries of one key.
# onnx.checker accepts that. Tools that keep notes at weights, and pipelines of many passes with files between them, end in
# models with a copy of all notes for each step.
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

weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "W")
weight.metadata_props.add(key="origin", value="layer 1")
node = helper.make_node("MatMul", ["x", "W"], ["y"])
node.metadata_props.add(key="origin", value="layer 1")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "0.onnx")
of_weight, of_node = [1], [1]
for number in range(3):
    ir.save(ir.load(f"{number}.onnx"), f"{number + 1}.onnx")
    saved = onnx.load(f"{number + 1}.onnx")
    onnx.checker.check_model(saved)
    of_weight.append(len(saved.graph.initializer[0].metadata_props))
    of_node.append(len(saved.graph.node[0].metadata_props))
print(f"onnx {onnx.__version__}, onnx-ir {ir.__version__}")
print(f"entries of the initializer, before and after each load and save: {of_weight}; of the node: {of_node}")
assert of_weight == [1, 2, 3, 4] and of_node == [1, 1, 1, 1], "it behaves otherwise now"
PYTHON
