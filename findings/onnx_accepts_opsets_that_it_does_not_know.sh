#!/usr/bin/env bash
# Guess: onnx.checker, strict shape inference and the reference evaluator refuse a model that imports an opset newer than
# the installed onnx knows, as the checker refuses a newer ir_version, and ONNX Runtime a newer opset. Seen: onnx 1.21.0, which
# knows opset 26, and onnx 1.23.2, which knows 28, take any number, 100 as well: get_schema(op, 100) gives the newest
# definition that there is, and that one is used. In opset 28 a Mod of floats with fmod = 0 takes the sign of the divisor; onnx
# 1.21.0 passes the model with full_check and computes -7 mod 3 = -1, where onnx 1.23.2 and ONNX Runtime 1.32.0 compute 2.
# Only new ops and attributes are refused, not new rules. With a low ir_version, as runtimes ask for, nothing else says it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > program.py <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

feeds = {"a": np.array([-7, 7, -1], np.float32), "b": np.array([3, -3, 5], np.float32)}


def build(opset, ir_version=10):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "aby"]
    graph = helper.make_graph([helper.make_node("Mod", ["a", "b"], ["y"])], "g", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def checked(model):
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.checker.ValidationError as error:
        return str(error)
    return "accepted"


def runtime(model):
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return "refused"
    return session.run(None, feeds)[0].tolist()


print(f"onnx {onnx.__version__} knows opset {onnx.defs.onnx_opset_version()}; onnxruntime {onnxruntime.__version__}")
found = {}
for opset in (28, 100):
    model = build(opset)
    found[opset] = checked(model), ReferenceEvaluator(model).run(None, feeds)[0].tolist(), runtime(model)
    print(f"  opset {opset}: checker {found[opset][0]}, evaluator {found[opset][1]}, ONNX Runtime {found[opset][2]}")
newer = checked(build(13, ir_version=onnx.IR_VERSION + 1))
schema = onnx.defs.get_schema("Mod", 100).since_version
print(f'  a newer ir_version: checker "{newer}"; get_schema("Mod", 100) is that of opset {schema}')
old, truncated, floored = sys.argv[1] == "old", [-1, 1, -1], [2, -2, 4]
expected = truncated if old else floored
assert found[28] == ("accepted", expected, floored) and found[100] == ("accepted", expected, "refused"), "it behaves otherwise now"
assert newer != "accepted" and schema == (13 if old else 28), "it behaves otherwise now"
PYTHON
for version in 1.21.0 1.23.2; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip --quiet --disable-pip-version-check install onnx==$version onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
done
"$folder/1.21.0/bin/python" program.py old
"$folder/1.23.2/bin/python" program.py new
