#!/usr/bin/env bash
# Guess: a branch of If sees what stands outside of it, so DequantizeLinear and MatMul in a branch run wherever their int8
# weight and its scale are initializers: of the branch, or of the main graph. Seen: onnxruntime 1.32.0 fuses the two to
# MatMulNBits from the extended level of optimization on, looks for weight, scale and zero point in the branch alone, and
# does not create a session where one of them is outside. onnx.checker accepts all these models, and at the basic level,
# which does not fuse, they run and give the same numbers. 8 bits, per tensor; the shapes do not matter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install)
"${pip[@]}" onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

TEXT = """<ir_version: 10, opset_import: ["": 17]>
g (float[2,8] x, bool first) => (float[2,4] y) {
    y = If (first) <
        then_branch = one () => (float[2,4] a) { w = DequantizeLinear(W, s) a = MatMul(x, w) },
        else_branch = other () => (float[2,4] b) { t = Constant <value = float[8,4] {ONES}> () b = MatMul(x, t) }
    >
}"""
CONSTANTS = {"W": np.arange(32, dtype=np.int8).reshape(8, 4), "s": np.float32(0.5)}
LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def model(outside):
    proto = parser.parse_model(TEXT.replace("ONES", ", ".join(["1.0"] * 32)))
    branch = next(item.g for item in proto.graph.node[0].attribute if item.name == "then_branch")
    for name, array in CONSTANTS.items():
        graph = proto.graph if name in outside else branch
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def result(proto, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    except Exception as error:  # noqa: BLE001
        return "refused: " + str(error).split(" : ")[-1].strip()
    (found,) = session.run(None, {"x": np.ones((2, 8), np.float32), "first": np.array(True)})
    return f"runs, {found[0].tolist()}"


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
seen = {}
for outside in ((), ("W",), ("s",), ("W", "s")):
    for name, level in LEVELS.items():
        seen[outside, name] = result(model(outside), level)
        print(f"outside of the branch: {' and '.join(outside) or 'nothing'}; {name}: {seen[outside, name]}")
expected = seen[(), "all"]
assert expected == "runs, [56.0, 60.0, 64.0, 68.0]"
for (outside, name), what in seen.items():
    if outside and name != "basic":
        assert what.startswith("refused: qdq_actions.cc"), "it behaves otherwise now"
    else:
        assert what == expected, "it behaves otherwise now"
PYTHON
