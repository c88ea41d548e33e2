"""Weights of torch's exports are shown and chosen by the names that they have in the program, wherever they are."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

import onnx_gconv as gconv
from onnx_gconv.handoff.pictures.write import layer_figures
from onnx_gconv.terminal_text import rendered

# One worker exports each model once for all tests of it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("parameter_names")]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Block(nn.Module):
    """Each BatchNorm is folded into what is before it."""

    def __init__(self):
        super().__init__()
        self.c1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.c2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.up, self.bn3 = nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4)
        self.up2, self.bn4 = nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)

    def forward(self, x):
        x = x + torch.relu(self.bn1(self.c1(x)))[:, :3]
        return self.bn4(self.up2(torch.relu(self.bn3(self.up(torch.relu(self.bn2(self.c2(self.pad(x)))))))))

    def pad(self, x):
        return torch.cat([x, x[:, :1]], 1)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = Block()
        self.seq = nn.Sequential(nn.Conv1d(6, 5, 3), nn.BatchNorm1d(5), nn.ReLU())
        self.up = nn.ConvTranspose1d(5, 4, 2)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.up(self.seq(self.layer1(x).flatten(2))).mean(-1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for parameter in self.parameters():  # the layers are copies of each other
            nn.init.normal_(parameter)

    def forward(self, x):
        return self.encoder(x)


class LanguageModel(nn.Module):
    """Its head has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.emb, self.lin, self.head = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 11, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.lin(self.emb(tokens))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 2, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(4, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.gru(self.lstm(x)[0])[0])


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Parametrized(nn.Module):
    def __init__(self):
        super().__init__()
        self.wn = parametrizations.weight_norm(nn.Linear(4, 4))
        self.sn = parametrizations.spectral_norm(nn.Linear(4, 4))
        self.sym = nn.Linear(4, 4)
        parametrize.register_parametrization(self.sym, "weight", Symmetric())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older ways, which models still have
            self.old_wn = weight_norm(nn.Linear(4, 4))
            self.old_sn = spectral_norm(nn.Linear(4, 4))
        self.conv = parametrizations.weight_norm(nn.Conv1d(4, 5, 2))
        self.normed, self.bn = parametrizations.weight_norm(nn.Conv1d(5, 5, 1)), nn.BatchNorm1d(5)

    def forward(self, x):
        for module in (self.wn, self.sn, self.sym, self.old_wn, self.old_sn):
            x = torch.relu(module(x))
        return self.bn(self.normed(self.conv(x.transpose(1, 2))))


IH, HH = "lstm.weight_ih_l{0} + lstm.weight_ih_l{0}_reverse", "lstm.weight_hh_l{0} + lstm.weight_hh_l{0}_reverse"


@dataclass(frozen=True)
class Case:
    """A module, its input, and the names of its weights in the order of its layers.

    Attributes:
        build: Makes the module.
        shape: Shape of its input.
        known: What people know its weights by.
        torchscript: The same, as far as the older exporter leaves traces; None if it cannot export the module.
        dtype: Type of its input.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    known: tuple[str, ...]
    torchscript: tuple[str, ...] | None
    dtype: torch.dtype = torch.float32


def _layers(*names: str) -> tuple[str, ...]:
    return tuple(f"encoder.layers.{number}.{name}" for number in (0, 1) for name in names)


CASES = {
    "residual": Case(
        Residual,
        (2, 3, 4, 4),
        (*(f"layer1.{name}.weight" for name in ("c1", "c2", "up", "up2")), "seq.0.weight", "up.weight", "fc.weight"),
        ("layer1.c1", "layer1.c2", "layer1.up.weight", "layer1.up2.weight", "seq.0", "up.weight", "fc.weight"),
    ),
    "encoder": Case(
        Encoder,
        (2, 3, 4),
        _layers("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"),
        _layers("self_attn", "self_attn.out_proj.weight", "linear1", "linear2"),
    ),
    "language_model": Case(LanguageModel, (2, 3), ("lin.weight", "head.weight"), ("lin", "head"), torch.long),
    "recurrent": Case(
        Recurrent,
        (2, 3, 3),
        (IH.format(0), HH.format(0), IH.format(1), HH.format(1), "gru.weight_ih_l0", "gru.weight_hh_l0", "fc.weight"),
        (*["lstm"] * 4, "gru", "gru", "fc"),
    ),
    "parametrized": Case(
        Parametrized,
        (2, 3, 4),
        tuple(f"{name}.weight" for name in ("wn", "sn", "sym", "old_wn", "old_sn", "conv", "normed")),
        None,  # it has no vdot
    ),
}


@dataclass(frozen=True)
class Export:
    """A module and its exports.

    Attributes:
        module: The module.
        files: By exporter.
        case: What is to be found.
    """

    module: nn.Module
    files: Mapping[str, Path]
    case: Case


def export(case: Case, folder: Path) -> Export:
    torch.manual_seed(0)
    module = case.build().eval()
    for norm in module.modules():
        if isinstance(norm, BATCH_NORMS):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
    example = torch.ones(case.shape, dtype=case.dtype)
    files = {name: folder / f"{name}.onnx" for name in ("unoptimized", "dynamo", "torchscript")}
    with warnings.catch_warnings():  # exporters warn of what they replace, and of each other
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (example,), dynamo=True, optimize=False, verbose=False)
        program.save(files["unoptimized"])
        program.optimize()  # what the exporter does unless it is told not to
        program.save(files["dynamo"])
        if case.torchscript is None:
            del files["torchscript"]
        else:
            torch.onnx.export(module, (example,), files["torchscript"], dynamo=False)
    module(example)  # by which the older spectral_norm computes its weight
    return Export(module, files, case)


@pytest.fixture(scope="module")
def exports(operators_read_once, tmp_path_factory) -> Callable[[str], Export]:
    found: dict[str, Export] = {}

    def of_case(name: str) -> Export:
        if name not in found:
            found[name] = export(CASES[name], tmp_path_factory.mktemp(name))
        return found[name]

    return of_case


@pytest.fixture(params=CASES)
def exported(request, exports) -> Export:
    return exports(request.param)


def known(report) -> tuple[str, ...]:
    return tuple(weight.known_as for weight in report.mapped)


def tensor_of(module: nn.Module, name: str) -> np.ndarray:
    """A tensor of a module as people see it: what a parametrization computes, or a parameter."""
    path, _, last = name.rpartition(".")
    found = getattr(module.get_submodule(path), last)
    return found.detach().numpy()


def folded(module: nn.Module, name: str, norm: str) -> np.ndarray:
    """The weight of a convolution times what a BatchNorm behind it multiplies its outputs with."""
    conv, bn = module.get_submodule(name.removesuffix(".weight")), module.get_submodule(norm)
    factor = (bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach().numpy()
    weight = tensor_of(module, name)
    if not isinstance(conv, nn.ConvTranspose2d):
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    grouped = weight.reshape(conv.groups, -1, *weight.shape[1:])  # [groups, inputs, outputs, ...]
    return grouped * factor.reshape(conv.groups, 1, -1, *[1] * (weight.ndim - 2))


def rebuilt(path: Path, weight) -> np.ndarray:
    """A mapped weight, by the rule that the manifest states."""
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    total = sum(item.coefficient * arrays[item.name] for item in weight.conductances)
    return (total - weight.offset_us) / arrays[weight.scale.name] + weight.zero


@pytest.mark.parametrize("exporter", ["unoptimized", "dynamo"])
def test_each_weight_has_its_name_in_the_program_and_stands_in_the_order_of_the_layers(exported, exporter):
    report = gconv.inspect_model(exported.files[exporter])
    assert known(report) == exported.case.known
    assert tuple(weight.parameter for weight in report.mapped) == exported.case.known


def test_the_older_exporter_leaves_modules_where_it_folds_parameters(exported):
    if (file := exported.files.get("torchscript")) is not None:
        report = gconv.inspect_model(file)
        assert known(report) == exported.case.torchscript
        for weight in report.mapped:  # a module is no parameter
            assert weight.parameter == (weight.known_as if "weight" in weight.known_as else None)


def test_a_weight_has_the_values_of_the_parameter_that_it_is_named_after(exported, tmp_path):
    exact = gconv.SinglePairConductanceConverter(exact=True)
    report = gconv.map_model(exported.files["dynamo"], tmp_path / "mapped.onnx", exact)
    for weight in report.mapped:
        if weight.folded_norms:
            [norm] = weight.folded_norms
            expected = folded(exported.module, weight.parameter, norm)
        else:
            parts = [tensor_of(exported.module, name).ravel() for name in weight.parameter.split(" + ")]
            expected = np.concatenate(parts)
        found = rebuilt(report.output, weight)
        np.testing.assert_allclose(np.sort(found, None), np.sort(expected, None), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def outputs(exports, tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """All that is made of the export of a case, as texts."""
    found: dict[str, dict[str, str]] = {}

    def of_case(name: str) -> dict[str, str]:
        if name not in found:
            found[name] = all_outputs(exports(name).files["dynamo"], tmp_path_factory.mktemp(f"{name}_outputs"))
        return found[name]

    return of_case


def all_outputs(source: Path, folder: Path) -> dict[str, str]:
    mapped = folder / "mapped.onnx"
    reports = {
        "inspect": gconv.inspect_model(source),
        "map": gconv.map_model(source, mapped),
        "inspect mapped": gconv.inspect_model(mapped),
        "verify": gconv.verify(source, mapped),
        "handoff": gconv.handoff.write_bundle(
            mapped, folder / "b.gconv", array=(16, 16), csv=True, formats=["fusion-pair"]
        ),
        "program": gconv.program_model(mapped, folder / "chip.onnx"),
        "simulate": gconv.simulate(mapped, repeats=1, times=["1d"], sensitivity=True),
    }
    bundle = reports["handoff"].output
    reports["readback"] = gconv.handoff.read_back(mapped, bundle, folder / "measured.onnx", as_if_measured=True)
    texts = {name: rendered(report, width=300) for name, report in reports.items()}
    texts |= {f"{name} JSON": json.dumps(report.to_json(), default=str) for name, report in reports.items()}
    texts["manifest"] = ir.load(mapped).metadata_props["onnx_gconv"]
    for file in ("manifest.json", "targets.csv", "fusion-pair/scales.csv", "fusion-pair/README.txt"):
        texts[file] = (bundle / file).read_text(encoding="utf-8")
    with h5py.File(bundle / "conductances.h5") as file:
        texts["HDF5"] = "\n".join(group.attrs["known_as"].decode() for group in file.values())
    with gconv.handoff.open_bundle(bundle) as opened:
        figures = (figure for layer in opened.layers for _, _, figure in layer_figures(layer))
        texts["pictures"] = "\n".join(" ".join(figure.get_suptitle().split()) for figure in figures)
    return texts


@pytest.mark.parametrize("case", CASES)
def test_every_output_names_each_weight_as_the_program_does(case, outputs):
    missing = [
        (output, name)
        for output, text in outputs(case).items()
        for known_as in CASES[case].known
        for name in known_as.split(" + ")
        if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)
    ]
    assert missing == []


def test_weights_are_chosen_by_parameter_by_exact_module_and_by_glob(exported):
    file, names = exported.files["dynamo"], exported.case.known

    def chosen(*include: str) -> tuple[str, ...]:
        return known(gconv.inspect_model(file, include=include))

    for known_as in names:
        for parameter in known_as.split(" + "):
            module = parameter.rpartition(".")[0]
            assert chosen(parameter) == (known_as,)
            assert chosen(module) == tuple(name for name in names if name.startswith(f"{module}."))
            assert known_as in chosen(f"{module[:-1]}?.*")
            assert known_as not in known(gconv.inspect_model(file, exclude=[module]))


def test_a_module_of_the_older_exporter_chooses_its_weights(exports):
    file = exports("residual").files["torchscript"]
    for module in ("layer1.c1", "seq.0", "layer1.up"):
        [weight] = gconv.inspect_model(file, include=[module]).mapped
        assert weight.modules == (module,)


def test_what_a_parametrization_is_computed_from_is_told_and_chooses_it_too(exports):
    file, source = exports("parametrized").files["dynamo"], "wn.parametrizations.weight.original1"
    [weight] = gconv.inspect_model(file, include=[source]).mapped
    assert weight.parameters == ("wn.parametrizations.weight.original0", source)
    table = rendered(gconv.inspect_model(file), width=300)
    assert f"from wn.parametrizations.weight.original0, {source}" in table


def test_a_batch_norm_that_was_folded_in_is_told(exports):
    report = gconv.inspect_model(exports("residual").files["dynamo"])
    assert report.mapped[0].modules == ("layer1.c1", "layer1.bn1")
    assert "with layer1.bn1 folded in" in rendered(report, width=300)
    assert known(gconv.inspect_model(report.model, include=["layer1.bn1"])) == ("layer1.c1.weight",)


def test_a_message_about_a_weight_names_it_as_the_program_does(exports, tmp_path):
    exported = exports("language_model")
    model = ir.load(exported.files["dynamo"])
    value = next(value for value in model.graph.initializers.values() if value.name == "val_0")
    value.const_value = ir.tensor(np.full(value.shape.numpy(), np.nan, np.float32), name="val_0")
    ir.save(model, tmp_path / "nan.onnx")
    known_as = r"the weight 'lin\.weight' \('val_0' in the model\)"
    with pytest.raises(gconv.UnmappableWeightError, match=f"{known_as} has the value nan"):
        gconv.map_model(tmp_path / "nan.onnx")


def test_layers_of_a_bundle_are_found_by_parameter_and_older_bundles_open(exports, tmp_path):
    mapped = gconv.map_model(exports("recurrent").files["dynamo"], tmp_path / "mapped.onnx").output
    path = gconv.handoff.write_bundle(mapped, tmp_path / "b.gconv", array=(16, 16)).output
    with gconv.handoff.open_bundle(path) as bundle:
        bundle.verify_hashes()
        for name in ("lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse", bundle.layers[0].record.weight):
            assert bundle.layer(name) is bundle.layers[0]
        with pytest.raises(gconv.BundleError, match=r"no layer 'lstm'; there are L000 \(lstm\.weight_ih_l0 \+ "):
            bundle.layer("lstm")
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    for layer in manifest["layers"]:  # as it was before bundles had these names
        del layer["parameter"], layer["modules"]
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with gconv.handoff.open_bundle(path) as bundle:
        bundle.verify_hashes()
        assert bundle.layers[-1].record.known_as == bundle.layers[-1].record.weight


def test_tied_parameters_are_told_from_such_that_were_merged_because_they_are_equal(operators_read_once, tmp_path):
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
            self.b.weight = self.a.weight
            self.d.load_state_dict(self.c.state_dict())

        def forward(self, x):
            return reduce(lambda x, module: torch.relu(module(x)), (self.a, self.b, self.c, self.d), x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Pairs().eval(), (torch.ones(2, 3, 4),), dynamo=True, verbose=False)
    program.save(tmp_path / "pairs.onnx")
    report = gconv.inspect_model(tmp_path / "pairs.onnx")
    others = {weight.known_as: weight.other_parameters for weight in report.mapped}
    assert {name: [(item.name, item.relation) for item in found] for name, found in others.items()} == {
        "b.weight": [("a.weight", "tied")],
        "c.weight": [("d.weight", "merged")],
    }
    tied, merged = report.to_json()["remarks"]
    assert tied == "'b.weight' ('val_0' in the model) is 'a.weight', too: the program ties them."
    assert merged.endswith("is 'd.weight', too: their values were equal, so that the exporter kept one for all.")
    for name in ("a.weight", "b.weight", "a", "b"):
        assert known(gconv.inspect_model(report.model, include=[name])) == ("b.weight",)


def test_parameters_of_equal_values_are_not_called_one_parameter(operators_read_once, tmp_path):
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.load_state_dict(self.a.state_dict())

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Twins().eval(), (torch.ones(2, 4),), dynamo=True, optimize=False, verbose=False)
    program.save(tmp_path / "twins.onnx")
    report = gconv.inspect_model(tmp_path / "twins.onnx")
    assert [item.same_source_as for item in report.mapped] == [(), ()]
    [remark] = report.to_json()["remarks"]
    assert remark == (
        "'b.weight' is 'a.weight': equal values, held 2 times on devices; the program has a parameter for each."
    )


def test_layers_come_in_the_order_of_their_execution_with_those_of_branches(operators_read_once, tmp_path):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.negative, self.positive, self.first = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            x = self.first(x)
            return self.last(torch.cond(x.sum() > 0, self.positive, self.negative, (x,)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Branches().eval(), (torch.ones(2, 4),), dynamo=True, verbose=False)
    program.save(tmp_path / "branches.onnx")
    mapped = gconv.map_model(tmp_path / "branches.onnx")
    for report in (mapped, gconv.inspect_model(mapped.output)):
        assert known(report) == tuple(f"{name}.weight" for name in ("first", "positive", "negative", "last"))
    layers = gconv.handoff.write_bundle(mapped.output, dry_run=True, array=(8, 8)).layers
    assert [layer.known_as for layer in layers] == list(known(mapped))
