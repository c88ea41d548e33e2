"""Models beyond the 2 GiB of a single file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import onnx_gconv as gconv

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("large")]

WIDTH = 8192
LAYERS = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.25 GiB of weights in external data, written layer by layer; its mapping has 2.5 GiB."""
    path = tmp_path_factory.mktemp("large") / "model.onnx"
    rng = np.random.default_rng(3)
    nodes, weights = [], []
    with path.with_name("weights.bin").open("wb") as file:
        for layer in range(LAYERS):
            block = (rng.standard_normal((256, WIDTH), np.float32) * 0.01).astype(np.float32)
            offset = file.tell()
            for row in range(WIDTH // 256):  # blocks differ by a shift, so that no two rows are equal
                np.roll(block, row + layer, axis=1).tofile(file)
            tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": "weights.bin", "offset": offset, "length": file.tell() - offset}.items():
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            node = helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], name=f"layer{layer}")
            nodes.append(node)
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, ["batch", WIDTH])],
        weights,
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), path)
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
