#!/usr/bin/env bash
# Guess: onnx-tool counts the multiplications of a ConvTranspose right, as it does for Conv and MatMul: positions of the input
# times the size of the weight. Seen: onnx-tool 1.0.1 uses the rule of Conv, positions and channels of the output times the
# weight without its first axis, which is an axis of inputs here. The count is too large by the elements of the output
# over those of the input: 2 times for a decoder that halves channels and doubles both sides, 16 times for the last layer
# of one that ends in as many channels with a stride of 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install onnx-tool==1.0.1 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnx_tool
from onnx import TensorProto, helper, numpy_helper


def products(channels, side, outputs, kernel, stride, group=1, kind="ConvTranspose"):
    """Multiplications that onnx-tool counts, and those that there are: each input meets each of its weights once."""
    shape = (channels, outputs // group, kernel, kernel) if kind == "ConvTranspose" else (outputs, channels // group, kernel, kernel)
    after = (side - 1) * stride + kernel if kind == "ConvTranspose" else (side - kernel) // stride + 1
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "W"], ["y"], name="n", strides=[stride, stride], group=group)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, after, after])],
        [numpy_helper.from_array(np.ones(shape, np.float32), "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx_tool.Model(model, {}).graph
    with contextlib.redirect_stdout(io.StringIO()):
        graph.shape_infer({"x": np.ones((1, channels, side, side), np.float32)})
        graph.profile()
    positions = side if kind == "ConvTranspose" else after
    return int(graph.macs[0]), int(np.prod(shape)) * positions**2


print(f"onnx-tool {version('onnx-tool')}, onnx {onnx.__version__}: multiplications counted, and those that there are")
cases = {
    "Conv": (dict(channels=8, side=10, outputs=4, kernel=3, stride=1, kind="Conv"), 1),
    "Conv, 2 groups": (dict(channels=8, side=10, outputs=4, kernel=3, stride=1, group=2, kind="Conv"), 1),
    "ConvTranspose, half the channels, stride 2": (dict(channels=8, side=10, outputs=4, kernel=2, stride=2), 2),
    "ConvTranspose, 2 groups": (dict(channels=8, side=10, outputs=4, kernel=2, stride=2, group=2), 2),
    "ConvTranspose, as many channels, stride 4": (dict(channels=8, side=10, outputs=8, kernel=4, stride=4), 16),
}
for name, (options, times) in cases.items():
    counted, true = products(**options)
    print(f"{name}: {counted}, {true}: {counted / true:g} times")
    assert counted == times * true, "it behaves otherwise now"
PYTHON
