#!/usr/bin/env bash
# Guess: ONNX's reference evaluator computes each node by the rule of the opset that the model imports. Seen with onnx
# 1.23.2, against ONNX Runtime 1.32.0: Softmax before opset 13 flattens nothing, BatchNormalization before opset 14 mixes
# in statistics of its own, LpNormalization with p = 1 divides by a sum with signs, and ReduceSumSquare of int32 gives int64.
# Whoever folds constants with it changes weights without an error.
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
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

generator = np.random.default_rng(0)
cube = generator.normal(size=(2, 3, 4)).astype(np.float32)
vector = np.abs(generator.normal(size=3)).astype(np.float32)
cases = [
    ("Softmax", 11, [cube], {"axis": 1}, "other values"),
    ("BatchNormalization", 9, [cube, vector, vector, vector, vector], {}, "other values"),
    ("LpNormalization", 22, [cube], {"p": 1}, "other values"),
    ("ReduceSumSquare", 13, [np.arange(6, dtype=np.int32).reshape(2, 3)], {}, "another type"),
]
print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
for op_type, opset, inputs, attributes, expected in cases:
    tensors = [numpy_helper.from_array(np.asarray(array), f"i{number}") for number, array in enumerate(inputs)]
    node = helper.make_node(op_type, [tensor.name for tensor in tensors], ["y"], **attributes)
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [runtime] = session.run(None, {})
    [reference] = ReferenceEvaluator(model).run(None, {})
    if reference.dtype != runtime.dtype:
        seen = "another type"
    else:
        seen = "the same" if np.allclose(reference, runtime, rtol=1e-4, atol=1e-6) else "other values"
    print(f"{op_type} of opset {opset}: {seen}")
    assert seen == expected, "it behaves otherwise now"
PYTHON
