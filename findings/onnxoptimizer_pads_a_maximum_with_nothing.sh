#!/usr/bin/env bash
# Guess: onnxoptimizer joins a Pad of zeros with the pooling behind it where that is the same, as for an AveragePool that
# counts the padding, and leaves a MaxPool, whose own padding is below every number. Seen: onnxoptimizer 0.4.2 with its
# default passes (fuse_pad_into_pool) joins a MaxPool as well: where all of a window is negative the zeros of the Pad
# were the largest, and now they are not there. Nothing is said. Behind a Relu nothing changes, which hides it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnxoptimizer==0.4.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

x = -np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def run(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def change(pooling, relu=False):
    """Nodes that are left, and the first row of outputs before and after."""
    first = [helper.make_node("Relu", ["x"], ["r"])] if relu else []
    graph = helper.make_graph(
        [*first, helper.make_node("Pad", ["r" if relu else "x", "pads"], ["p"]), helper.make_node(pooling, ["p"], ["y"], kernel_shape=[3, 3])],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    optimized = onnxoptimizer.optimize(model)
    onnx.checker.check_model(optimized, full_check=True)
    return [node.op_type for node in optimized.graph.node], run(model), run(optimized)


print(f"onnxoptimizer {version('onnxoptimizer')}, onnxruntime {onnxruntime.__version__}")
same = {}
for pooling, relu in (("MaxPool", False), ("MaxPool", True), ("AveragePool", False)):
    nodes, before, after = change(pooling, relu)
    same[pooling, relu] = bool(np.allclose(before, after))
    print(f"{pooling}{' behind a Relu' if relu else ''}: nodes {nodes}, first row {before[0, 0, 0]}, then {after[0, 0, 0]}")
assert same == {("MaxPool", False): False, ("MaxPool", True): True, ("AveragePool", False): True}, "it behaves otherwise now"
PYTHON
