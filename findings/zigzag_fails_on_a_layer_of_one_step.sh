#!/usr/bin/env bash
# Guess: get_hardware_performance_zigzag gives the energy of a fully connected layer of 64 inputs and 10 outputs on
# ZigZag's own analog in-memory accelerator, whose array of 128 x 128 holds it. Seen: zigzag-dse 3.9.1 computes it and
# fails when it draws the loops: an array that does all products at once leaves no temporal loop, and max() of an empty
# list raises ValueError. With two samples there is a loop, and it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install zigzag-dse==3.9.1 six==1.17.0 onnx==1.23.2 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import zigzag
from onnx import TensorProto, helper, numpy_helper
from zigzag.api import get_hardware_performance_zigzag

logging.disable(logging.CRITICAL)
inputs = Path(zigzag.__file__).parent / "inputs"


def outcome(samples):
    """The energy of the layer in pJ, or the error."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "W"], ["y"], name="layer")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [samples, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [samples, 10])],
        [numpy_helper.from_array(np.ones((64, 10), np.float32), "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
    try:
        return get_hardware_performance_zigzag(
            "model.onnx", str(inputs / "hardware/aimc.yaml"), str(inputs / "mapping/default_imc.yaml"),
            in_memory_compute=True, loma_show_progress_bar=False, dump_folder=f"out{samples}",
        )[0]
    except ValueError as error:
        return f"ValueError: {error}"


one, two = outcome(1), outcome(2)
print(f"zigzag-dse {version('zigzag-dse')}: one sample: {one}; two samples: {two}")
assert isinstance(one, str) and "empty" in one and not isinstance(two, str), "it behaves otherwise now"
PYTHON
