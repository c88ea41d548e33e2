"""What torch's exporters write is mapped whole: every matrix parameter that multiplies activations."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.passes.report import MappingReport
from onnx_gconv.verification.outputs import compare_outputs

# One worker exports each model once for all tests of it. That takes a minute or two.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torch_exports")]

EXACT = gconv.SinglePairConductanceConverter(exact=True)


class FirstOutput(nn.Module):
    """A recurrent net without its final states."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class TiedHead(nn.Module):
    """A language model in miniature: the output head has the embedding's weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.positive = nn.Linear(6, 4)
        self.negative = nn.Linear(6, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.positive, self.negative, (x,))


DYNAMO = ("dynamo_unoptimized", "dynamo")
ALL = (*DYNAMO, "torchscript")


@dataclass(frozen=True)
class Case:
    """A module, the input it is exported with, and the exporters that can."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    exporters: tuple[str, ...] = ALL


CASES = {
    "linear": Case(lambda: nn.Linear(6, 4), (3, 6)),
    "linear_on_sequences": Case(lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
    "linear_float16": Case(lambda: nn.Linear(6, 4), (3, 6), torch.float16),
    "linear_bfloat16": Case(lambda: nn.Linear(6, 4), (3, 6), torch.bfloat16),
    "linear_float64": Case(lambda: nn.Linear(6, 4), (3, 6), torch.float64),
    "conv1d": Case(lambda: nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "conv2d": Case(lambda: nn.Conv2d(3, 4, 3), (2, 3, 6, 6)),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "conv2d_grouped": Case(lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "conv2d_depthwise": Case(lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6)),
    "conv_transpose1d": Case(lambda: nn.ConvTranspose1d(3, 4, 3), (2, 3, 6)),
    "conv_transpose1d_grouped": Case(lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 6)),
    "conv_transpose2d": Case(lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 4, 4)),
    "conv_transpose2d_grouped": Case(lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 4, 4)),
    "lstm": Case(lambda: FirstOutput(nn.LSTM(5, 4, 2, bidirectional=True)), (3, 2, 5)),
    "gru": Case(lambda: FirstOutput(nn.GRU(5, 4, 2, bidirectional=True)), (3, 2, 5)),
    "rnn": Case(lambda: FirstOutput(nn.RNN(5, 4, 2, bidirectional=True)), (3, 2, 5)),
    "multihead_attention": Case(SelfAttention, (2, 3, 8)),
    # Two that the TorchScript exporter of torch 2.13 refuses: it passes the layer's `is_causal` on as a tensor, and it
    # cannot trace branches.
    "transformer_encoder_layer": Case(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (2, 3, 8), exporters=DYNAMO
    ),
    "tied_embedding_and_head": Case(TiedHead, (2, 3), torch.int64),
    "cond_with_linears": Case(Branches, (3, 6), exporters=DYNAMO),
}
PAIRS = [
    pytest.param((case, exporter), id=f"{case}-{exporter}")
    for case, item in CASES.items()
    for exporter in item.exporters
]
NOT_RUN_BY_ONNX_RUNTIME = {"linear_bfloat16"}


@dataclass(frozen=True)
class Export:
    """A module, and its file; no test may write beside it.

    Attributes:
        case: Of CASES.
        module: The module.
        folder: It has the file as each of the exporters writes it.
        exporter: Of ALL.
    """

    case: str
    module: nn.Module
    folder: Path
    exporter: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.exporter}.onnx"

    @functools.cached_property
    def mapped(self) -> MappingReport:
        return gconv.map_model(self.file, self.folder / f"{self.exporter}.mapped.onnx")

    @functools.cached_property
    def mapped_exactly(self) -> MappingReport:
        return gconv.map_model(self.file, self.folder / f"{self.exporter}.exact.onnx", EXACT)


def export(case: str, folder: Path) -> nn.Module:
    """Write a seeded module of a case as its exporters do."""
    item = CASES[case]
    torch.manual_seed(0)
    module = item.build().eval()
    if item.dtype.is_floating_point:
        module = module.to(item.dtype)
        example = torch.randn(*item.shape, dtype=item.dtype)
    else:
        example = torch.arange(np.prod(item.shape), dtype=item.dtype).reshape(item.shape)
    with warnings.catch_warnings():  # exporters warn of what they replace, and of each other
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (example,), dynamo=True, optimize=False, verbose=False)
        program.save(folder / "dynamo_unoptimized.onnx")
        program.optimize()  # what the exporter does unless it is told not to
        program.save(folder / "dynamo.onnx")
        if "torchscript" in item.exporters:
            torch.onnx.export(module, (example,), folder / "torchscript.onnx", dynamo=False)
    return module


@pytest.fixture(scope="module")
def exports(operators_read_once, tmp_path_factory) -> Callable[[str, str], Export]:
    """The export of a case by an exporter; each module is traced once."""
    folders: dict[str, tuple[nn.Module, Path]] = {}

    def find(case: str, exporter: str) -> Export:
        if case not in folders:
            folder = tmp_path_factory.mktemp(case)
            folders[case] = export(case, folder), folder
        return Export(case, *folders[case], exporter)

    return find


@pytest.fixture(scope="module", params=PAIRS)
def exported(request, exports) -> Export:
    return exports(*request.param)


def stored_arrays(path: Path) -> dict[str, np.ndarray]:
    """All initializers of all graphs by name."""
    graphs = ir.load(path).graphs()
    return {name: value.const_value.numpy() for graph in graphs for name, value in graph.initializers.items()}


def rebuilt_weights(report: MappingReport) -> list[np.ndarray]:
    """Each mapped weight, computed from the conductances in the file by the rule that the manifest states."""
    arrays = stored_arrays(report.output)
    weights = []
    for weight in report.mapped:
        total = sum(item.coefficient * arrays[item.name] for item in weight.conductances)
        rebuilt = (total - weight.offset_us) / arrays[weight.scale.name] + weight.zero
        weights.append(rebuilt.astype(weight.ir_dtype.numpy()))
    return weights


def matrix_parameters(module: nn.Module) -> dict[str, np.ndarray]:
    """The parameters that multiply activations: all of these modules but biases, norms and untied embeddings."""
    return {
        name: parameter.detach().double().numpy()
        for name, parameter in module.named_parameters()
        if parameter.dim() >= 2
    }


def test_every_parameter_in_a_weight_slot_is_mapped(exported):
    report = exported.mapped
    assert [item for item in report.skipped if item.is_mvm] == []
    assert report.mvm_share == 1.0


def test_every_matrix_parameter_of_the_module_is_held_by_conductances(exported):
    """Exporters rename, transpose, slice and stack parameters, but they keep their elements."""
    parameters = matrix_parameters(exported.module)
    report = exported.mapped_exactly
    held = np.concatenate([weight.astype(np.float64).ravel() for weight in rebuilt_weights(report)])
    for name, values in parameters.items():
        assert np.isin(values, held).all(), name
    assert report.mapped_parameters == sum(values.size for values in parameters.values())


def test_the_mapped_export_verifies(exported):
    report = gconv.verify(exported.file, exported.mapped.output)
    report.raise_if_failed()
    assert all(item.passed for item in report.weights)
    if exported.case in NOT_RUN_BY_ONNX_RUNTIME:
        assert "ONNX Runtime does not load the original" in report.outputs.not_compared
        assert report.outputs.comparisons == ()
    else:
        assert report.outputs.not_compared is None
        assert {item.optimization for item in report.outputs.comparisons} == {"all", "none"}


def test_an_exactly_mapped_export_is_restored_to_bit_identical_weights_and_outputs(exported, tmp_path):
    mapped = exported.mapped_exactly
    restored = tmp_path / "restored.onnx"
    gconv.restore_model(mapped.output, restored)
    before, after = stored_arrays(exported.file), stored_arrays(restored)
    for weight in mapped.mapped:
        if weight.name in before:
            assert after[weight.name].tobytes() == before[weight.name].tobytes(), weight.name
    report = compare_outputs(exported.file, restored, inputs=None, dims={}, values={}, seed=0, mapped_weights=0)
    assert report.passed
    assert all(item.bit_identical for item in report.comparisons)
    assert (report.not_compared is None) == (exported.case not in NOT_RUN_BY_ONNX_RUNTIME)


def test_a_restored_export_gives_the_same_outputs(exported, tmp_path):
    mapped = exported.mapped
    restored = tmp_path / "restored.onnx"
    gconv.restore_model(mapped.output, restored)
    report = compare_outputs(
        exported.file, restored, inputs=None, dims={}, values={}, seed=0, mapped_weights=len(mapped.mapped)
    )
    assert report.passed
    assert (report.not_compared is None) == (exported.case not in NOT_RUN_BY_ONNX_RUNTIME)


@pytest.mark.parametrize("exporter", ALL)
def test_a_tied_parameter_is_the_matrix_of_the_head_and_the_table_of_the_embedding(exporter, exports):
    [weight] = exports("tied_embedding_and_head", exporter).mapped.mapped
    assert [consumer.op_type for consumer in weight.consumers if consumer.is_mvm] == ["MatMul"]


@pytest.mark.parametrize("exporter", DYNAMO)
def test_weights_of_branches_are_read_in_the_branches(exporter, exports):
    report = exports("cond_with_linears", exporter).mapped
    assert {weight.name for weight in report.mapped} == {"positive.weight", "negative.weight"}
    assert all(consumer.graph for weight in report.mapped for consumer in weight.consumers)


@pytest.mark.parametrize("exporter", DYNAMO)
@pytest.mark.parametrize(
    ("pattern", "parameters"),
    [
        ("linear1.weight", ["linear1.weight"]),
        ("self_attn.*", ["self_attn.in_proj_weight", "self_attn.out_proj.weight"]),
        ("linear?", ["linear1.weight", "linear2.weight"]),
    ],
    ids=["parameter", "all_parameters_of_a_module", "module_scope"],
)
def test_include_patterns_match_names_of_torch_parameters_and_modules(exporter, pattern, parameters, exports, tmp_path):
    """The optimizer folds transpositions into initializers with names of its own, such as `val_0`."""
    exported = exports("transformer_encoder_layer", exporter)
    report = gconv.map_model(exported.file, tmp_path / "mapped.onnx", EXACT, include=[pattern])
    held = np.concatenate([weight.ravel() for weight in rebuilt_weights(report)])
    expected = [exported.module.get_parameter(name).detach().numpy().ravel() for name in parameters]
    assert np.array_equal(np.sort(held), np.sort(np.concatenate(expected)))
