#!/usr/bin/env bash
# Guess: the number of intra-op threads of ONNX Runtime changes no bit of a float32 MatMul: each element of the output is
# summed by one thread, whoever that is, and outputs of a session are the same in each run. Seen: with onnxruntime 1.32.0
# they are the same in each run, and with any number of threads if the matrix is an initializer; if it is an input of the
# model, almost nine in ten elements of a [32, 512] x [512, 128] product have other last bits with 2 threads than with 1, and others
# again with 4. Threads share out columns, and how many terms are summed before they are added up depends on the columns
# of a thread. The default is a thread for each core, so that outputs depend on the machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 512), (512, 128)))


def outputs(w_is_input, threads):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    if w_is_input:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, w.shape))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [32, 128])],
        [] if w_is_input else [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": x, "w": w} if w_is_input else {"x": x}
    runs = [session.run(None, feeds)[0] for _ in range(5)]
    assert all((each == runs[0]).all() for each in runs), "a session does not repeat its outputs now"
    return runs[0]


print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}")
differing = {}
for w_is_input in (False, True):
    one = outputs(w_is_input, 1)
    for threads in (2, 4):
        other = outputs(w_is_input, threads)
        differing[w_is_input, threads] = share = float((other != one).mean())
        what = "an input" if w_is_input else "an initializer"
        print(f"  matrix is {what}, {threads} threads: {share:.0%} of the elements differ from those with 1 thread, "
              f"by at most {np.abs(other - one).max():.1e}")
assert differing[False, 2] == differing[False, 4] == 0, "it behaves otherwise now"
assert differing[True, 2] > 0.5 and differing[True, 4] > 0.5, "it behaves otherwise now"
assert (outputs(True, 2) != outputs(True, 4)).any(), "it behaves otherwise now"
PYTHON
