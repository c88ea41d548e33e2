"""Memory does not grow with the model."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_gconv import map_model, open_bundle
from onnx_gconv.files.models import load_model
from onnx_gconv.tensors.streamed import element_chunks
from tests import graphs

WIDTH = 4096
MOST, MOST_WITH_TEXT = 96, 64  # MiB; it is about 62 and 45, whatever the width

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("large"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory is used"),
]


def test_a_large_weight_is_handed_off_and_read_back_in_little_memory(tmp_path):
    """64 MiB of weights become 128 MiB of conductances; reading one device as a whole would take 64 MiB."""
    map_large(tmp_path, WIDTH)
    run = watched(tmp_path)
    write = 'write_bundle(folder / "mapped.onnx", folder / "out", (256, 256), progress=watch)'
    assert growth_of(run, write) < MOST
    with open_bundle(tmp_path / "out") as bundle:
        tile = bundle.tile("L000/T0017")  # the second row and column of 16 x 16 tiles
        weight = np.memmap(tmp_path / "out" / "plain.onnx.data", np.float32, "r", shape=(WIDTH, WIDTH))
        part = weight.T[256:512, 256:512]
        found = tile.conductances()
        np.testing.assert_array_equal((found["g_plus"] - found["g_minus"]) / tile.scale().values, part)
    (tmp_path / "measured.h5").hardlink_to(tmp_path / "out" / "conductances.h5")
    read = """read_back(
        folder / "mapped.onnx", folder / "measured.h5", folder / "chip.onnx", bundle=folder / "out", progress=watch,
        as_if_measured=True,
    )"""
    assert growth_of(run, read) < MOST
    targets, measured = (
        load_model(tmp_path / name).graph.initializers["w.g_minus"] for name in ("mapped.onnx", "chip.onnx")
    )
    for one, other in zip(element_chunks(targets.const_value), element_chunks(measured.const_value), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["fusion", "fusion-pair", "csv"])
def test_text_of_a_large_weight_is_written_in_little_memory(tmp_path, name):
    """4 Mi weights; all numbers of one device as Python's own would take 128 MiB, and their text 32 MiB and more."""
    map_large(tmp_path, 2048)
    write = f'write_bundle(folder / "mapped.onnx", folder / "out", (256, 256), formats=[{name!r}], progress=watch)'
    assert growth_of(watched(tmp_path), write) < MOST_WITH_TEXT
    [text] = (tmp_path / "out" / name).glob("*conductances.csv" if name != "csv" else "L000_g_plus.csv")
    assert text.stat().st_size > 8 * 2048 * 2048


def map_large(folder, width):
    """A mapped model of a weight [width, width] in external data."""
    block = np.random.default_rng(3).standard_normal((256, width), np.float32)
    with (folder / "weights.bin").open("wb") as file:
        for row in range(width // 256):
            np.roll(block, row, axis=1).tofile(file)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    x, y = (graphs.value(name, shape=["batch", width]) for name in "xy")
    weight = graphs.external_tensor("w", [width, width], "weights.bin")
    onnx.save(graphs.model([node], [x], [y], [weight]), folder / "m.onnx")
    map_model(folder / "m.onnx", folder / "mapped.onnx")


def watched(folder):
    """Code that takes down the most anonymous memory that `watch` sees."""
    return f"""
        from pathlib import Path
        from onnx_gconv.handoff import read_back, write_bundle
        peak = 0
        def watch(*_):
            global peak
            [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
            peak = max(peak, int(line.split()[1]))
        folder = Path({str(folder)!r})
        watch()
        before = peak
    """


def growth_of(before, call):
    """Anonymous memory in MiB that a call needs in a process of its own, beside what the process has before."""
    code = f"{textwrap.dedent(before)}\n{call}\nprint((peak - before) / 1024)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
