"""Models that ONNX Runtime has optimized and written: the weights of its fused ops are mapped, or listed."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnxruntime.transformers import optimizer
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.models import model_path
from onnx_gconv.passes.report import MappingReport
from onnx_gconv.verification.outputs import compare_outputs

# One worker exports and optimizes each model once for all tests of it.
pytestmark = [pytest.mark.xdist_group("optimized_models")]

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
HIDDEN = 16
HEADS = 2
POSITIONS = 12
BERT_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


class SelfAttention(nn.Module):
    """Attention as BERT has it, and as the fusions look for it."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, x, mask):
        query, key, value = (self.heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(HIDDEN // HEADS) + mask
        context = torch.matmul(torch.softmax(scores, -1), value).permute(0, 2, 1, 3).contiguous()
        return self.norm(self.output(context.view(context.shape[0], context.shape[1], HIDDEN)) + x)

    @staticmethod
    def heads(x):
        return x.view(x.shape[0], x.shape[1], HEADS, HIDDEN // HEADS).permute(0, 2, 1, 3)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.position, self.kind = (nn.Embedding(rows, HIDDEN) for rows in (30, POSITIONS, 2))
        self.embedding_norm, self.norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention = SelfAttention()
        self.up, self.down = nn.Linear(HIDDEN, 24), nn.Linear(24, HIDDEN)
        self.register_buffer("positions", torch.arange(POSITIONS).expand((1, -1)))

    def forward(self, tokens, mask, kinds):
        mask = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
        positions = self.position(self.positions[:, : tokens.shape[1]])
        x = self.attention(self.embedding_norm(self.word(tokens) + self.kind(kinds) + positions), mask)
        return self.norm(self.down(nn.functional.gelu(self.up(x))) + x)


def export_bert(folder: Path) -> Path:
    """As the TorchScript exporter writes it, whose patterns the optimizer for transformers knows."""
    torch.manual_seed(0)
    shape = (2, 8)
    example = (torch.arange(16).reshape(shape), torch.ones(shape, dtype=torch.int64), torch.zeros(shape).long())
    file = folder / "bert.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Bert().eval(),
            example,
            file,
            dynamo=False,
            opset_version=14,
            input_names=BERT_INPUTS,
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in BERT_INPUTS},
        )
    return file


def export_encoder_layer(folder: Path) -> Path:
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(8, HEADS, 12, batch_first=True).eval()
    file = folder / "encoder_layer.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.randn(2, 3, 8),), dynamo=True, verbose=False).save(file)
    return file


def export_lstm(folder: Path) -> Path:
    torch.manual_seed(0)
    file = folder / "lstm.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(nn.LSTM(5, 4, bidirectional=True).eval(), (torch.randn(3, 2, 5),), file, dynamo=False)
    return file


def digits_model(name: str) -> Callable[[Path], Path]:
    return lambda _: model_path(f"{name}.onnx")


def from_text(text: str, **weights: tuple[int, ...]) -> Callable[[Path], Path]:
    """A model with weights of the given shapes."""

    def build(folder: Path) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]>\n{text}')
        rng = np.random.default_rng(0)
        for name, shape in weights.items():
            array = rng.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        file = folder / "model.onnx"
        onnx.save(model, file)
        return file

    return build


def optimize(file: Path, level: str, target: Path) -> Path:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3  # it warns that the file may depend on this machine
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return target


def optimize_transformer(file: Path, level: str, target: Path) -> Path:
    """The fusions that onnxruntime.transformers makes in Python, after those of a level of the runtime."""
    number = {"none": 0, "basic": 1, "extended": 2}[level]
    optimized = optimizer.optimize_model(
        str(file), model_type="bert", num_heads=HEADS, hidden_size=HIDDEN, opt_level=number, use_gpu=False
    )
    optimized.save_model_to_file(str(target))
    return target


@dataclass(frozen=True)
class Case:
    """A model, how it is optimized, and ops with weights that it has then.

    Attributes:
        build: Writes the plain model into a folder.
        level: The level of optimization.
        ops: Number of mapped weights by op.
        optimize: Writes the optimized model.
    """

    build: Callable[[Path], Path]
    level: str
    ops: dict[str, int]
    optimize: Callable[[Path, str, Path], Path] = optimize


TRANSPOSED = """g (float[3, 4, 5] x) => (y) {
    turned = Transpose<perm = [0, 2, 1]>(x)
    y = MatMul(turned, W)
}"""
SCALED = """g (float[3, 4] x) => (y) {
    product = MatMul(x, W)
    half = Constant<value_float = 0.5>()
    y = Mul(product, half)
}"""
TRANSPOSED_AND_SCALED = """g (float[3, 4, 5] x) => (y) {
    turned = Transpose<perm = [0, 2, 1]>(x)
    product = MatMul(turned, W)
    four = Constant<value_float = 4.0>()
    y = Div(product, four)
}"""
WEIGHT_FIRST = """g (float[3, 4, 5] x) => (y) {
    turned = Transpose<perm = [0, 2, 1]>(x)
    y = MatMul(W, turned)
}"""
GROUPED = """g (float[1, 4, 6, 6] x) => (y) {
    sums = Conv<group = 2, pads = [1, 1, 1, 1]>(x, W)
    y = LeakyRelu<alpha = 0.1>(sums)
}"""
LEAKY = """g (float[2, 6] x) => (y) {
    product = Gemm<transB = 1>(x, W)
    y = LeakyRelu<alpha = 0.1>(product)
}"""

CASES = {
    "digits_mlp_extended": Case(digits_model("digits_mlp"), "extended", {"FusedGemm": 2, "Gemm": 1}),
    "digits_mlp_all": Case(digits_model("digits_mlp"), "all", {"FusedGemm": 2, "Gemm": 1}),
    "digits_cnn_extended": Case(digits_model("digits_cnn"), "extended", {"FusedConv": 3, "FusedGemm": 1, "Gemm": 1}),
    "digits_cnn_torchscript_extended": Case(
        digits_model("digits_cnn_torchscript"), "extended", {"FusedConv": 3, "FusedGemm": 1, "Gemm": 1}
    ),
    "transposed_activations": Case(from_text(TRANSPOSED, W=(4, 6)), "extended", {"FusedMatMul": 1}),
    "scaled_product": Case(from_text(SCALED, W=(4, 6)), "extended", {"FusedMatMul": 1}),
    "transposed_and_scaled": Case(from_text(TRANSPOSED_AND_SCALED, W=(4, 6)), "all", {"FusedMatMul": 1}),
    "weight_before_transposed_activations": Case(from_text(WEIGHT_FIRST, W=(6, 5)), "extended", {"FusedMatMul": 1}),
    "grouped_convolution_with_activation": Case(from_text(GROUPED, W=(6, 2, 3, 3)), "extended", {"FusedConv": 1}),
    "gemm_with_activation": Case(from_text(LEAKY, W=(4, 6)), "extended", {"FusedGemm": 1}),
    "lstm_all": Case(export_lstm, "all", {"LSTM": 2}),
    "encoder_layer_extended": Case(export_encoder_layer, "extended", {}),
    "encoder_layer_all": Case(export_encoder_layer, "all", {}),
    "bert_extended": Case(export_bert, "extended", {"MatMul": 6}),
    "bert_all": Case(export_bert, "all", {"MatMul": 6}),
    "bert_with_attention": Case(export_bert, "none", {"Attention": 1, "MatMul": 3}, optimize_transformer),
    "bert_with_attention_basic": Case(export_bert, "basic", {"Attention": 1, "MatMul": 3}, optimize_transformer),
    "bert_with_attention_extended": Case(export_bert, "extended", {"Attention": 1, "MatMul": 3}, optimize_transformer),
}


@dataclass(frozen=True)
class Optimized:
    case: Case
    plain: Path
    file: Path

    @functools.cached_property
    def report(self) -> MappingReport:
        """The report of the default mapping, whose output is beside the optimized model."""
        return gconv.map_model(self.file, self.file.with_name("mapped.onnx"))


@pytest.fixture(scope="module")
def find(tmp_path_factory) -> Callable[[str], Optimized]:
    """The models of a case; each plain model is built once, and optimized once for each case."""
    plain: dict[Callable[[Path], Path], Path] = {}
    found: dict[str, Optimized] = {}

    def models(name: str) -> Optimized:
        if name not in found:
            case, folder = CASES[name], tmp_path_factory.mktemp(name)
            if case.build not in plain:
                plain[case.build] = case.build(folder)
            file = plain[case.build]
            found[name] = Optimized(case, file, case.optimize(file, case.level, folder / "optimized.onnx"))
        return found[name]

    return models


@pytest.fixture(scope="module", params=CASES)
def optimized(request, find) -> Optimized:
    """A plain model and the optimized one; no test may write beside them."""
    return find(request.param)


@pytest.fixture(scope="module")
def bert_with_attention(find) -> Path:
    return find("bert_with_attention").file


def op_types(file: Path) -> set[str]:
    return {node.op_type for node in onnx.load(file).graph.node}


def test_each_weight_of_a_fused_op_is_mapped(optimized):
    assert set(optimized.case.ops) <= op_types(optimized.file)
    report = optimized.report
    mapped = [item.op_type for weight in report.mapped for item in weight.consumers if item.is_mvm]
    assert {op_type: mapped.count(op_type) for op_type in optimized.case.ops} == optimized.case.ops
    assert [item for item in report.skipped if item.is_mvm] == []


def test_as_many_parameters_are_mapped_as_in_the_model_before(optimized):
    report = optimized.report
    plain = gconv.map_model(optimized.plain, dry_run=True)
    assert report.mapped_parameters == plain.mapped_parameters
    assert report.mvm_share == plain.mvm_share == 1.0


def test_the_mapped_optimized_model_verifies(optimized):
    report = gconv.verify(optimized.file, optimized.report.output)
    report.raise_if_failed()
    assert report.outputs.not_compared is None
    assert {item.optimization for item in report.outputs.comparisons} == {"all", "none"}


def test_every_mapped_weight_has_a_matrix_view(optimized):
    for weight in optimized.report.mapped:
        views = [item.matrix_view for item in weight.consumers if item.is_mvm]
        assert all(view.rows * view.columns * view.matrices == math.prod(weight.shape) for view in views), weight.name


def test_an_exactly_mapped_optimized_model_is_restored_to_bit_identical_outputs(optimized, tmp_path):
    gconv.map_model(optimized.file, tmp_path / "mapped.onnx", gconv.SinglePairConductanceConverter(exact=True))
    gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    report = compare_outputs(
        optimized.file, tmp_path / "restored.onnx", inputs=None, dims={}, values={}, seed=0, mapped_weights=0
    )
    assert report.not_compared is None
    assert all(item.bit_identical for item in report.comparisons)


def test_the_factor_of_a_fused_product_is_part_of_the_matrix_view(tmp_path):
    file = optimize(CASES["scaled_product"].build(tmp_path), "extended", tmp_path / "optimized.onnx")
    [weight] = gconv.map_model(file, dry_run=True).mapped
    [consumer] = weight.consumers
    assert consumer.matrix_view.factor == 0.5


def test_queries_keys_and_values_of_fused_attention_are_columns_side_by_side(bert_with_attention):
    weights = gconv.map_model(bert_with_attention, dry_run=True).mapped
    [view] = [item.matrix_view for weight in weights for item in weight.consumers if item.op_type == "Attention"]
    assert (view.rows, view.columns, view.matrices) == (HIDDEN, 3 * HIDDEN, 1)


def test_tables_of_fused_embeddings_are_listed_and_are_no_weights_of_mvm_ops(bert_with_attention):
    assert "EmbedLayerNormalization" in op_types(bert_with_attention)
    skipped = [item for item in gconv.inspect_model(bert_with_attention).skipped if "Embed" in item.detail]
    assert {item.name for item in skipped} == {"word.weight", "position.weight", "kind.weight"}
    assert all(item.reason == "not_an_mvm_weight" and not item.is_mvm for item in skipped)


def test_convolutions_in_the_blocked_layout_of_one_processor_are_mapped_or_count_as_skipped(tmp_path):
    """At the highest level, convolutions become ops of a private domain on some processors."""
    plain = model_path("digits_cnn.onnx")
    file = optimize(plain, "all", tmp_path / "optimized.onnx")
    report = gconv.inspect_model(file)
    read_by_conv = {
        node.input[1] for node in onnx.load(file).graph.node if node.op_type in {"Conv", "FusedConv", "NhwcFusedConv"}
    }
    assert len(read_by_conv) == 3
    listed = {weight.name for weight in report.mapped} | {item.name for item in report.skipped if item.is_mvm}
    assert read_by_conv <= listed
    assert {item.reason for item in report.skipped if item.is_mvm} <= {"block_packed"}
    total = report.mapped_parameters + report.skipped_mvm_parameters
    assert total >= gconv.inspect_model(plain).mapped_parameters
