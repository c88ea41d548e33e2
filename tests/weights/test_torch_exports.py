"""What PyTorch's exporters leave behind is enough to choose weights by the names of the program's code."""

from __future__ import annotations

import warnings

import pytest

from onnx_gconv.operations.operations import inspect_model, map_model
from onnx_gconv.passes import CheckMapping, MapConductances
from onnx_gconv.verification import verify

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.xdist_group("torch_names")  # one worker exports the model


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.lin(x))


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class LanguageModel(torch.nn.Module):
    """Its head has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(20, 8)
        self.encoder = Encoder()
        self.head = torch.nn.Linear(8, 20, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens):
        return self.head(self.encoder(self.emb(tokens)))


EXPORTS = {
    "dynamo": {"dynamo": True},
    "unoptimized": {"dynamo": True, "optimize": False},
    "torchscript": {"dynamo": False},
}


@pytest.fixture(scope="module")
def exported(operators_read_once, tmp_path_factory):
    """The language model as each of the exporters writes it."""
    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    model, tokens = LanguageModel().eval(), (torch.zeros(2, 5, dtype=torch.long),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, options in EXPORTS.items():
            torch.onnx.export(model, tokens, folder / f"{name}.onnx", verbose=False, **options)
    return folder


@pytest.fixture(params=EXPORTS)
def export(request, exported):
    return exported / f"{request.param}.onnx"


def chosen(path, *include):
    return {weight.consumers[-1].node: weight for weight in inspect_model(path, include=include).mapped}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("encoder", 2), ("encoder.layers", 2), ("encoder.layers.1", 1), ("encoder.layers.?.lin", 2), ("head", 1)],
)
def test_a_module_stands_for_all_weights_beneath_it(export, pattern, count):
    assert len(chosen(export, pattern)) == count


def test_the_innermost_module_is_recorded(export):
    modules = {module for weight in chosen(export).values() for module in weight.modules}
    assert modules == {"encoder.layers.0.lin", "encoder.layers.1.lin", "head"}


@pytest.mark.parametrize("name", ["dynamo", "unoptimized"])
def test_a_parameter_stands_for_the_weight_folded_from_it(exported, name):
    [weight] = inspect_model(exported / f"{name}.onnx", include=["encoder.layers.1.lin.weight"]).mapped
    assert weight.parameters == ("encoder.layers.1.lin.weight",)
    assert weight.modules == ("encoder.layers.1.lin",)


@pytest.mark.parametrize("name", ["dynamo", "unoptimized"])
def test_the_table_shows_the_parameter_first_and_another_name_below(exported, name):
    report = inspect_model(exported / f"{name}.onnx")
    lines = str(report).splitlines()
    for weight in report.mapped:
        place = next(number for number, line in enumerate(lines) if weight.known_as in line)
        assert weight.known_as.endswith(".weight")
        assert weight.name in lines[place + (weight.name != weight.known_as)]


def test_a_mapped_export_still_says_where_its_weights_come_from(exported, tmp_path):
    mapped = map_model(exported / "dynamo.onnx", tmp_path / "mapped.onnx")
    assert inspect_model(mapped.output).mapped == mapped.mapped
    assert ("encoder.layers.0.lin.weight",) in {weight.parameters for weight in mapped.mapped}


def test_a_head_that_the_exporter_untied_is_recognized(exported):
    # The older exporter leaves no parameters behind: that values are equal is all that is known.
    for name, relation in (("dynamo", "same_source_as"), ("torchscript", "equal_values")):
        report = inspect_model(exported / f"{name}.onnx")
        [(head, others)] = [(item, found) for item in report.mapped if (found := getattr(item, relation))]
        [table] = [item for item in report.skipped if getattr(item, relation)]
        assert not any(item.same_source_as for item in report.mapped if relation == "equal_values")
        assert head.modules == ("head",)
        assert head.known_as == {"dynamo": "head.weight", "torchscript": "head"}[name]
        assert [(item.name, item.relation) for item in others] == [(table.name, "transposed")]
    # The newer exporter keeps one of the names that are tied.
    assert inspect_model(exported / "dynamo.onnx", include=["head.weight"]).mapped[0].parameters == ("head.weight",)


def test_a_head_that_is_still_tied_can_be_split_off(exported, tmp_path):
    mapped = map_model(exported / "unoptimized.onnx", tmp_path / "mapped.onnx", shared="split")
    verify(exported / "unoptimized.onnx", mapped.output).raise_if_failed()
    [head] = [weight for weight in mapped.mapped if weight.digital_copy]
    assert head.digital_copy == "head.weight.digital"
    assert {consumer.op_type: consumer.reads for consumer in head.consumers} == {
        "Gather": "digital",
        "MatMul": "rebuilt",
    }


def test_thirds_of_a_fused_parameter_are_different_weights():
    class Thirds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fused = torch.nn.Linear(8, 24, bias=False)

        def forward(self, x):
            parts = (self.fused.weight[start : start + 8] for start in (0, 8, 16))
            q, k, v = (torch.nn.functional.linear(x, part) for part in parts)
            return q * k + v

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Thirds(), (torch.randn(2, 8),), dynamo=True, verbose=False)
    plan = MapConductances().plan(program.model)
    assert {weight.found.parameters for weight in plan.weights} == {("fused.weight",)}
    assert [weight.same_source_as for weight in plan.weights] == [(), (), ()]
    MapConductances(shared="split")(program.model)
    CheckMapping()(program.model)
