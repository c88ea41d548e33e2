"""Memory does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_gconv import map_model, open_bundle

WIDTH = 8192

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("large"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory is used"),
]


def test_a_large_weight_is_handed_off_in_little_memory(tmp_path):
    """256 MiB of weights become 512 MiB of conductances; reading one device as a whole would take 256 MiB."""
    block = np.random.default_rng(3).standard_normal((256, WIDTH), np.float32)
    with (tmp_path / "weights.bin").open("wb") as file:
        for row in range(WIDTH // 256):
            np.roll(block, row, axis=1).tofile(file)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [tensor],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    map_model(tmp_path / "m.onnx", tmp_path / "mapped.onnx")
    code = f"""
        from pathlib import Path
        from onnx_gconv.handoff import write_bundle
        peak = 0
        def watch(*_):
            global peak
            [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
            peak = max(peak, int(line.split()[1]))
        write_bundle({str(tmp_path / "mapped.onnx")!r}, {str(tmp_path / "out")!r}, (256, 256), progress=watch)
        print(peak / 1024)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 220
    with open_bundle(tmp_path / "out") as bundle:
        tile = bundle.tile("L000/T0033")  # the second row and column of 32 x 32 tiles
        weight = np.memmap(tmp_path / "out" / "plain.onnx.data", np.float32, "r", shape=(WIDTH, WIDTH))
        part = weight.T[256:512, 256:512]
        found = tile.conductances()
        np.testing.assert_array_equal((found["g_plus"] - found["g_minus"]) / tile.scale().values, part)
