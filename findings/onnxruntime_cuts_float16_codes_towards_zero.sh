#!/usr/bin/env bash
# Guess: QuantizeLinear of float16 numbers gives the codes that it gives for the same numbers and scale in float32, but for
# a few near ties: both round the quotient to the nearest code, and halves to even. Seen: on the CPU onnxruntime 1.29.0
# cuts the quotient towards zero for float16, with one scale and with a scale for each channel. Half of all codes are nearer to
# zero by one, also where the float16 tensor is a constant; nothing is said. Scales for blocks, and float32, are right, and
# 1.30.0 rounds. The reference evaluator of onnx 1.23.2 rounds, but divides in float16, as the standard says from opset 23
# on, which ONNX Runtime does not do: in opset 21 and 23 some 0.6 to 0.9 % of its codes here are neighbours of the others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > program.py <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)
values = (random.standard_normal((64, 64)) * 0.3).astype(np.float16)
scales = {
    "tensor": (np.float16(0.01), {}),
    "channel": (random.uniform(0.005, 0.02, 64).astype(np.float16), {"axis": 1}),
    "block": (random.uniform(0.005, 0.02, (4, 64)).astype(np.float16), {"axis": 0, "block_size": 16}),
}


def differences(scale, attributes, dtype, constant=False, opset=21):
    """How many codes of the runtime, and of the reference evaluator, differ from the exact quotient rounded."""
    rows = np.repeat(scale, 16, axis=0) if scale.ndim == 2 else scale
    quotient = values.astype(np.float64) / rows.astype(np.float64)
    expected, cut = (np.clip(each(quotient), -128, 127).astype(np.int8) for each in (np.rint, np.trunc))
    tensors = [numpy_helper.from_array(np.asarray(scale, dtype), "s"), numpy_helper.from_array(np.zeros(scale.shape, np.int8), "z")]
    inputs = [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [64, 64])]
    feeds = {"x": values.astype(dtype)}
    if constant:
        tensors.append(numpy_helper.from_array(feeds["x"], "x"))
        inputs, feeds = [], {}
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes)], "g", inputs,
        [helper.make_tensor_value_info("y", TensorProto.INT8, [64, 64])], tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [runtime], [reference] = session.run(None, feeds), ReferenceEvaluator(model).run(None, feeds)
    # Exactly the codes of the quotient without its fraction, where they are not those of the rounded one.
    assert (runtime == expected).all() or (runtime == cut).all(), "it behaves otherwise now"
    return int((runtime != expected).sum()), int((reference != expected).sum())


print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}: of {values.size} codes differ from the rounded quotient")
cuts = sys.argv[1] == "cut"
for name, (scale, attributes) in scales.items():
    half, single = (differences(scale, attributes, dtype) for dtype in (np.float16, np.float32))
    constant = differences(scale, attributes, np.float16, constant=True)
    newer = differences(scale, attributes, np.float16, opset=23)
    print(f"  a scale for each {name}: float16 {half[0]}, of a constant {constant[0]}, in opset 23 {newer[0]}, float32 {single[0]}; "
          f"reference evaluator: float16 {half[1]}, in opset 23 {newer[1]}, float32 {single[1]}")
    if cuts and name != "block":
        assert min(half[0], constant[0], newer[0]) > 0.4 * values.size, "it behaves otherwise now"
    else:
        assert half[0] == constant[0] == newer[0] == 0, "it behaves otherwise now"
    assert single == (0, 0) and 0 < half[1] == newer[1] < 0.03 * values.size, "it behaves otherwise now"
PYTHON
for version in 1.29.0 1.30.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/python" -m pip --quiet --disable-pip-version-check install onnxruntime==$version onnx==1.23.2 numpy==2.4.6 2>/dev/null
done
"$folder/1.29.0/bin/python" program.py cut
"$folder/1.30.0/bin/python" program.py right
