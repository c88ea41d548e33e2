"""Models beyond the 2 GiB of a single file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_gconv as gconv
from tests import graphs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("large")]

WIDTH = 8192
LAYERS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.25 GiB of weights in external data, written layer by layer; its mapping has 2.5 GiB."""
    path = tmp_path_factory.mktemp("large") / "model.onnx"
    rng = np.random.default_rng(3)
    weights = []
    with path.with_name("weights.bin").open("wb") as file:
        for layer in range(LAYERS):
            block = (rng.standard_normal((256, WIDTH), np.float32) * 0.01).astype(np.float32)
            offset = file.tell()
            for row in range(WIDTH // 256):  # blocks differ by a shift, so that no two rows are equal
                np.roll(block, row + layer, axis=1).tofile(file)
            weights.append(graphs.external_tensor(f"w{layer}", [WIDTH, WIDTH], "weights.bin", offset))
    nodes = graphs.chain([tensor.name for tensor in weights])
    ends = ([graphs.value(name, shape=["batch", WIDTH])] for name in ("x0", f"x{LAYERS}"))
    onnx.save(graphs.model(nodes, *ends, weights), path)
    return path


def test_a_model_whose_output_exceeds_2_gib_maps_verifies_and_loads_in_onnx_runtime(
    model: Path, tmp_path: Path
) -> None:
    report = gconv.map_model(model, tmp_path / "mapped.onnx")
    assert sum(file.stat().st_size for file in report.files) > 2 << 30
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(tmp_path / "mapped.onnx", options, providers=["CPUExecutionProvider"])
    verified = gconv.verify(model, tmp_path / "mapped.onnx")
    verified.raise_if_failed()
    assert len(verified.outputs.comparisons) == 2
    assert verified.outputs.not_compared is None


def test_a_model_that_large_cannot_be_forced_into_one_file(model: Path, tmp_path: Path) -> None:
    with pytest.raises(gconv.ConfigError, match=r"2\.50 GiB .* ends at 2 GiB"):
        gconv.map_model(model, tmp_path / "mapped.onnx", external_data=False)
    assert not list(tmp_path.iterdir())
