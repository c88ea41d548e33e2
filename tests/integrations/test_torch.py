"""What torch exports is mapped in memory, in one call, and stays the program that it was."""

from __future__ import annotations

import importlib.util
import inspect
import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import onnx_gconv as gconv
from onnx_gconv.configuration.options import MappingOptions
from onnx_gconv.integrations import torch as integration
from onnx_gconv.integrations.aihwkit import to_digital
from onnx_gconv.integrations.torch import ExportReport, export, map_program
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # torch's exporter warns of its own parts
    pytest.mark.xdist_group("torch_integration"),  # one worker exports for all
]

SHAPES = ({0: "batch"},)


class Net(nn.Module):
    """An embedding, a folded transposition, a Gemm and a convolution."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.mixing = nn.Linear(8, 16, bias=False)
        self.conv = nn.Conv1d(16, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens):
        mixed = torch.relu(self.mixing(self.embedding(tokens)))
        return self.head(self.conv(mixed.transpose(1, 2)).mean(-1))


@pytest.fixture(scope="module")
def module():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Net().eval()


def test_a_file_is_needed(module):
    with pytest.raises(
        gconv.ConfigError, match="path is the file of the mapped model to write, but it is None; name a"
    ):
        export(module, (TOKENS,), None)


def test_analog_layers_are_sent_to_their_digital_twin(tmp_path):
    analog = convert_to_analog(nn.Sequential(nn.Linear(4, 3)), TorchInferenceRPUConfig())
    with pytest.raises(gconv.ConfigError, match=r"the module '0' is an analog layer of aihwkit, .*to_digital"):
        export(analog, (torch.zeros(1, 4),), tmp_path / "m.onnx")
    report = export(to_digital(analog.eval()), (torch.zeros(1, 4),), tmp_path / "m.onnx")
    assert len(report.mapped) == 1


TOKENS = torch.arange(12).reshape(2, 6)


@pytest.fixture(scope="module")
def report(module, tmp_path_factory):
    """One export for all tests that need no other."""
    return export(
        module,
        (TOKENS,),
        tmp_path_factory.mktemp("exported") / "net.gconv.onnx",
        gconv.SinglePairConductanceConverter(exact=True),
        dynamic_shapes=SHAPES,
        input_names=["tokens"],
        opset_version=19,
        verbose=False,
        granularity="channel",
        exclude=["head.*"],
    )


def content(model):
    return ir.to_proto(model).SerializeToString(deterministic=True)


def output_of(path, tokens):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"tokens": tokens.numpy()})[0]


def test_all_weights_of_the_module_are_mapped_and_only_the_mapped_model_is_written(report):
    assert isinstance(report, ExportReport)
    assert isinstance(report, gconv.MappingReport)
    assert sorted(name for weight in report.mapped for name in weight.parameters) == ["conv.weight", "mixing.weight"]
    assert [item.name for item in report.skipped if item.is_mvm] == ["head.weight"]
    assert str(report.model) == "<ONNXProgram>"
    assert [item.name for item in report.output.parent.iterdir()] == ["net.gconv.onnx"]


def test_the_mapped_model_computes_what_the_module_computes(report, module):
    tokens = torch.arange(24).reshape(4, 6) % 20
    np.testing.assert_allclose(output_of(report.output, tokens), module(tokens).detach(), rtol=1e-5, atol=1e-6)


def test_options_reach_torch_and_the_mapping(report):
    model = onnx.load(report.output)
    assert model.graph.input[0].name == "tokens"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.opset_import[0].version == 19
    assert {weight.granularity for weight in report.mapped} == {"channel"}
    assert all(weight.converter.parameters["exact"] for weight in report.mapped)


def test_the_program_stays_plain_and_is_the_original_for_verify(report, module):
    assert read_manifest(report.program.model) is None
    np.testing.assert_allclose(report.program(TOKENS)[0], module(TOKENS).detach(), rtol=1e-5, atol=1e-6)
    verified = gconv.verify(report.program, report.output)
    verified.raise_if_failed()
    assert all(item.bit_identical for item in verified.weights)
    assert (str(verified.original), verified.mapped) == ("<ONNXProgram>", report.output)


def test_the_weights_are_those_of_the_module_in_its_memory(report, module):
    conv = report.program.model.graph.initializers["conv.weight"].const_value
    assert np.shares_memory(conv.numpy(), module.conv.weight.detach().numpy())


def test_a_program_maps_as_the_file_does_that_it_is_saved_to(report, tmp_path):
    report.program.save(tmp_path / "net.onnx")
    before = content(report.program.model)
    of_file = gconv.map_model(tmp_path / "net.onnx", tmp_path / "a.onnx")
    of_program = map_program(report.program, tmp_path / "b.onnx")
    assert of_program.manifest == of_file.manifest
    assert of_program.program is report.program
    assert content(report.program.model) == before
    tensors = [
        {tensor.name: tensor.raw_data for tensor in onnx.load(file).graph.initializer}
        for file in (tmp_path / "a.onnx", tmp_path / "b.onnx")
    ]
    assert tensors[0] == tensors[1]
    gconv.verify(tmp_path / "net.onnx", tmp_path / "b.onnx").raise_if_failed()


def test_a_dry_run_writes_nothing(report, tmp_path):
    assert map_program(report.program, tmp_path / "a.onnx", dry_run=True).mvm_share == 1
    assert not list(tmp_path.iterdir())


def test_functions_take_the_program(report):
    assert gconv.inspect_model(report.program).mvm_share == 1
    found = gconv.simulate(report.program, "pcm", times="1s", repeats=1)
    assert str(found.mapped) == "<ONNXProgram>"


def test_passes_take_the_program_and_change_its_model(module):
    program = torch.onnx.export(module, (TOKENS,), dynamo=True, verbose=False)
    plain = program(TOKENS)[0]
    result = MapConductances(gconv.SinglePairConductanceConverter(exact=True))(program)
    assert result.model is program.model
    assert result.report.mvm_share == 1
    assert not CheckMapping()(program).modified
    program.release()
    np.testing.assert_allclose(program(TOKENS)[0], plain, rtol=1e-5, atol=1e-6)
    restored = RestoreWeights()(program)
    assert len(restored.report.restored) == 3
    assert read_manifest(program.model) is None


def test_an_exported_program_of_torch_is_taken(module, tmp_path):
    captured = torch.export.export(module, (TOKENS,))
    found = export(captured, (), tmp_path / "net.onnx", verbose=False)
    assert found.mvm_share == 1
    np.testing.assert_allclose(
        onnxruntime.InferenceSession(found.output).run(None, {"tokens": TOKENS.numpy()})[0],
        module(TOKENS).detach(),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_the_weights(tmp_path, dtype):
    """The transposition of each weight is folded into a view of the parameter, which is read in chunks."""
    width = 3072
    layers = nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False)
    large = nn.Sequential(*layers).to(dtype).eval()
    program = torch.onnx.export(large, (torch.zeros(1, 2, width, dtype=dtype),), dynamo=True, verbose=False)
    map_program(program, tmp_path / "large.onnx", dry_run=True)  # which imports what it needs
    tracemalloc.start()
    try:
        found = map_program(program, tmp_path / "large.onnx", external_data=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20 < 4 * width**2  # what one tensor of conductances has
    tensor = ir.load(found.output).graph.initializers[f"{found.mapped[1].name}.g_plus"].const_value
    expected = large[2].weight.detach().float().T.clamp(min=0)
    np.testing.assert_allclose(tensor.numpy() / found.mapped[1].scale.value, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_a_program_without_weights_is_refused(kind):
    tensor = torch.empty(3, 4, device="meta") if kind == "meta" else FakeTensorMode().from_tensor(torch.empty(3, 4))
    x, weight = ir.Value(name="x"), ir.Value(name="W", const_value=ir.tensor_adapters.TorchTensor(tensor, name="W"))
    x.shape, x.type = ir.Shape([1, 3]), ir.TensorType(ir.DataType.FLOAT)
    node = ir.node("MatMul", [x, weight])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20}, name="g")
    with pytest.raises(gconv.ModelError) as caught:
        gconv.map_model(ir.Model(graph, ir_version=10), "never.onnx")
    assert str(caught.value) == (
        "'<onnx_ir.Model>': its weight 'W' is a fake tensor without values; "
        "ONNXProgram.apply_weights(module.state_dict()) gives the program its weights"
    )


# Options


@pytest.fixture
def no_export(monkeypatch):
    """Fails if torch exports: what is wrong has to be told before, since an export takes its time."""
    real = torch.onnx.export

    def fail(*_args, **_options):
        raise AssertionError("exported")

    fail.__signature__ = inspect.signature(real)
    monkeypatch.setattr(torch.onnx, "export", fail)


def test_no_option_of_the_mapping_is_one_of_torch():
    of_torch = inspect.signature(torch.onnx.export).parameters
    assert not MappingOptions.__annotations__.keys() & of_torch.keys()
    assert of_torch.keys() >= integration._OF_THE_WRITTEN_FILE
    assert of_torch.keys() >= integration._OF_THE_OLDER_EXPORTER - {"fallback"}  # which is gone since 2.11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularty": "tile"}, "has an option 'granularty'; did you mean granularity?"),
        ({"input_name": ["x"]}, "has an option 'input_name'; did you mean input_names?"),
        ({"qwertz": 1}, "has an option 'qwertz'"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(no_export, tmp_path, options, message):
    with pytest.raises(TypeError) as caught:
        export(nn.Linear(2, 2), (), tmp_path / "x.onnx", **options)
    assert str(caught.value) == f"neither the mapping nor torch.onnx.export {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"f": "x.onnx"}, "f: the path of the mapped model is what export writes; no other file is written"),
        ({"dynamo": False}, "dynamo: this is for torch's older exporter"),
        ({"do_constant_folding": True}, "do_constant_folding: this is for torch's older exporter"),
        ({"export_params": False}, "export_params: torch.onnx.export uses it only in a file that it writes itself"),
        ({"granularity": "nothing"}, "granularity: "),
        ({"levels": 1}, "levels: "),
        ({"config": "missing.toml"}, "missing.toml"),
    ],
)
def test_an_option_that_is_wrong_or_would_have_no_effect_is_refused(no_export, tmp_path, options, message):
    with pytest.raises(gconv.ConfigError) as caught:
        export(nn.Linear(2, 2), (), tmp_path / "x.onnx", **options)
    assert message in str(caught.value)


def test_a_place_that_cannot_be_written_is_refused_before_the_export(no_export, tmp_path):
    with pytest.raises(gconv.ConfigError, match=r"the folder '.*missing' does not exist; create it first"):
        export(nn.Linear(2, 2), (), tmp_path / "missing" / "x.onnx")


def test_a_program_is_for_map_program(no_export, report):
    with pytest.raises(gconv.ConfigError) as caught:
        export(report.program, (), "x.onnx")
    assert str(caught.value) == "the module is exported already: map_program(program, path) maps it"


def test_a_module_gets_the_right_call(module):
    with pytest.raises(gconv.ModelError, match=r"^a torch module \(Net\) is no ONNX model: export it with torch"):
        map_program(module, "x.onnx")


@pytest.mark.parametrize(
    ("missing", "said"),
    [(["torch"], "torch, which is missing"), (["torch", "onnxscript"], "torch and onnxscript, which are missing")],
)
def test_what_is_missing_is_named_with_the_extra(monkeypatch, missing, said):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(gconv.ConfigError) as caught:
        export(nn.Linear(2, 2), (), "x.onnx")
    assert str(caught.value) == f"exporting a module needs {said}; pip install 'onnx_gconv[torch]'"
