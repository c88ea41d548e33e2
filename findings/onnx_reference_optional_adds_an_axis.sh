#!/usr/bin/env bash
# Guess: Optional followed by OptionalGetElement gives back the tensor as it was, in ONNX's reference evaluator as in
# ONNX Runtime. Seen: the reference evaluator of onnx 1.23.2 puts the tensor into a list, and the tensor comes back with
# an axis more; ONNX Runtime 1.32.0 and onnx's own shape inference keep the shape. Whoever folds constants with the
# reference evaluator changes the shapes of weights without an error.
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
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

graph = helper.make_graph(
    [helper.make_node("Optional", ["W"], ["o"]), helper.make_node("OptionalGetElement", ["o"], ["w"])],
    "g", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [None, None])],
    [numpy_helper.from_array(np.zeros((3, 4), np.float32), "W")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
reference = np.asarray(ReferenceEvaluator(model).run(None, {})[0]).shape
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
runtime = session.run(None, {})[0].shape
inferred = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
inferred = tuple(size.dim_value for size in inferred.dim)
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
print(f"stored (3, 4); reference evaluator {reference}; ONNX Runtime {runtime}; shape inference {inferred}")
assert (reference, runtime, inferred) == ((1, 3, 4), (3, 4), (3, 4)), "it behaves otherwise now"
PYTHON
