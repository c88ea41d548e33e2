"""The mapped twin of a trained model has the conductances of aihwkit's own tiles, and computes what the model does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from aihwkit.inference import PCMLikeNoiseModel
from aihwkit.inference.converter.conductance import (
    CustomPairConductanceConverter,
    DualPairConductanceConverter,
    NPairConductanceConverter,
    SingleDeviceConductanceConverter,
    SinglePairConductanceConverter,
)
from aihwkit.nn import AnalogLinear
from aihwkit.nn.conversion import _DEFAULT_MAPPED_CONVERSION_MAP, convert_to_analog
from aihwkit.nn.modules.rnn.cells import AnalogGRUCell, AnalogLSTMCell, AnalogLSTMCellCombinedWeight
from aihwkit.nn.modules.rnn.rnn import AnalogRNN
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.files.models import load_model
from onnx_gconv.integrations.aihwkit import settings_from, to_digital
from onnx_gconv.mapping import read_manifest
from tests.integrations.analog_twins import (
    SIZE,
    conductances_of_tiles,
    conductances_of_twin,
    config,
    digits,
    export,
    network,
    outputs_of,
    tensors_of,
    trained,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")

MODELS = {
    "default": (config(), None),
    "columnwise": (config(omega=1.0, columnwise=True), None),
    "learned": (config(omega=0.6, learned="output"), None),
    "split": (config(SIZE), None),
    "split_columnwise": (config(SIZE, omega=1.0, columnwise=True, learned="tensor"), None),
    "split_between_channels": (config(SIZE), _DEFAULT_MAPPED_CONVERSION_MAP),
    "split_between_channels_columnwise": (config(SIZE, omega=1.0, columnwise=True), _DEFAULT_MAPPED_CONVERSION_MAP),
}


class SideBySide(nn.Module):
    """Networks that get the same inputs: the exporter takes seconds, and one after the other, a minute."""

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, inputs):
        return tuple(network(inputs) for network in self.networks.values())


class Twins:
    """A model, its settings, and the files of its twin and of the mapped twin."""

    def __init__(self, model, example, folder, **options):
        self.model, self.settings = model, settings_from(model)
        self.twin, self.mapped = folder / "twin.onnx", folder / "twin.gconv.onnx"
        export(to_digital(model), example, self.twin, **options)
        gconv.map_model(self.twin, self.mapped, config=self.settings.configuration)


@pytest.fixture(scope="module")
def trained_networks(tmp_path_factory):
    networks = {
        name: trained(convert_to_analog(network(), settings, conversion_map=conversions))
        for name, (settings, conversions) in MODELS.items()
    }
    return Twins(SideBySide(networks).eval(), digits()[0], tmp_path_factory.mktemp("trained"))


def assert_conductances_are_those_of_the_tiles(twins, prefix="", devices=("g_plus", "g_minus")):
    layers = dict(twins.model.named_modules())
    tensors = tensors_of(twins.mapped)
    chosen = [found for found in twins.settings.layers if found.name.startswith(prefix)]
    for found in chosen:
        layer = layers[found.name]
        kernel = math.prod(getattr(layer, "kernel_size", (1,)))
        widths = [row[0][0] for row in found.tiles]
        expected = conductances_of_tiles(layer)
        ours = conductances_of_twin(tensors, found.parameters, devices, widths, kernel)
        for their_piece, our_piece in zip(expected, ours, strict=True):
            for theirs, here in zip(their_piece, our_piece, strict=True):
                np.testing.assert_array_equal(here, theirs)
    return chosen


@pytest.mark.parametrize("name", MODELS)
def test_conductances_of_a_trained_network_are_those_of_its_tiles(trained_networks, name):
    assert len(assert_conductances_are_those_of_the_tiles(trained_networks, f"networks.{name}.")) == 4


def test_outputs_of_the_mapped_twins_are_those_of_the_trained_networks(trained_networks):
    images, labels = digits()
    for name, outputs in zip(MODELS, outputs_of(trained_networks.mapped, images), strict=True):
        with torch.no_grad():
            expected = trained_networks.model.networks[name](images).numpy()
        # Sums of up to 192 products are added up in another order, and mapped weights are off by an ulp.
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
        assert (outputs.argmax(axis=1) == labels.numpy()).mean() > 0.3  # it has learned something


def test_tiles_are_those_of_the_model(trained_networks):
    manifest = read_manifest(load_model(trained_networks.mapped))
    tiles = {
        record.name: 1 if record.tiling is None else len(record.tiling.row_starts) * len(record.tiling.column_starts)
        for record in manifest.weights
    }
    assert sum(tiles.values()) == sum(
        len(list(each.analog_tiles())) for each in trained_networks.model.networks.values()
    )
    for found in trained_networks.settings.layers:
        assert sum(tiles[parameter] for parameter in found.parameters) == sum(map(len, found.tiles))


def test_chips_of_the_settings_are_simulated_and_handed_off(trained_networks, tmp_path):
    settings, mapped = trained_networks.settings, trained_networks.mapped
    assert (settings.device, settings.drift_compensation) == ("pcm", "tile")
    report = gconv.simulate(mapped, times=["1d"], repeats=2, **settings.chip)
    assert (report.device, report.drift_compensation) == ("pcm", "tile")
    gconv.program_model(mapped, tmp_path / "chip.onnx", time="1d", **settings.chip)
    report = gconv.write_bundle(mapped, tmp_path / "bundle", **settings.handoff)
    assert settings.array == (SIZE, SIZE)
    of_split = [layer.grid for layer in report.layers if layer.weight.startswith("networks.split.")]
    assert of_split == [(1, 1), (3, 1), (6, 2), (2, 1)]


CONVERTERS = {
    "single_pair": SinglePairConductanceConverter(g_max=20.0, g_min=0.5),
    "n_pair": NPairConductanceConverter([1.0, 2.0, 3.0], g_max=20.0),
    "dual_pair": DualPairConductanceConverter([1.0, 3.0], g_max=18.0, g_min=0.1),
    "custom_pair": CustomPairConductanceConverter(
        f_lst=[1.0], g_lst=[[0.0, 0.0, 0.0, 12.5, 25.0], [25.0, 12.5, 0.0, 0.0, 0.0]], g_max=25.0, g_min=0.0
    ),
    "single_device": SingleDeviceConductanceConverter(),
}


@pytest.fixture(scope="module")
def converted_layers(tmp_path_factory):
    """A layer for each converter, and a digital one."""
    torch.manual_seed(3)
    layers = {name: nn.Linear(50, 30) for name in CONVERTERS}

    def of_layer(name, _, settings):
        settings.noise_model = PCMLikeNoiseModel(g_converter=CONVERTERS[name.removeprefix("networks.")])
        settings.mapping.max_input_size = 16 if name.endswith("n_pair") else 20
        return settings

    model = convert_to_analog(
        SideBySide({**layers, "digital": nn.Linear(50, 3)}),
        config(20, omega=1.0, columnwise=True),
        specific_rpu_config_fun=of_layer,
        exclude_modules=["networks.digital"],
    ).eval()
    return Twins(model, torch.randn(2, 50), tmp_path_factory.mktemp("converters"))


@pytest.mark.parametrize("name", CONVERTERS)
def test_conductances_of_each_converter(converted_layers, name):
    records = read_manifest(load_model(converted_layers.mapped)).weights
    of_layer = [record for record in records if record.name.startswith(f"networks.{name}.")]
    assert len(of_layer) == (4 if name == "n_pair" else 3)
    devices = of_layer[0].converter.converter().device_names
    assert len(assert_conductances_are_those_of_the_tiles(converted_layers, f"networks.{name}", devices)) == 1


def test_digital_layers_are_not_mapped(converted_layers):
    records = read_manifest(load_model(converted_layers.mapped)).weights
    assert len(records) == 4 * 3 + 4
    assert not any("digital" in record.name for record in records)


def test_the_toml_file_says_what_the_configuration_says(converted_layers, tmp_path):
    file = tmp_path / "gconv.toml"
    file.write_text(converted_layers.settings.toml(), encoding="utf-8")
    assert gconv.read_configuration(file).model_dump() == converted_layers.settings.configuration.model_dump()
    gconv.map_model(converted_layers.twin, tmp_path / "by_file.onnx", config=file)
    by_file, ours = tensors_of(tmp_path / "by_file.onnx"), tensors_of(converted_layers.mapped)
    assert by_file.keys() == ours.keys()
    assert all(np.array_equal(array, ours[name]) for name, array in by_file.items())


class Sequences(nn.Module):
    """A recurrent layer, an analog layer behind it, and a digital one."""

    def __init__(self, cell, settings, *, bidir=False):
        super().__init__()
        self.recurrent = AnalogRNN(cell, 30, 12, True, settings, num_layers=2, bidir=bidir)
        self.head = AnalogLinear(24 if bidir else 12, 5, rpu_config=settings)
        self.digital = nn.Linear(5, 3)

    def forward(self, steps):
        return self.digital(self.head(self.recurrent(steps)[0]))


# ONNX has the gates in another order than torch: numbers of torch's rows, by ONNX's.
GATES = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}


def in_two_directions(cell):
    # Tiles are cut along the inputs; along the outputs, all gates are on one.
    settings = config(20)
    settings.mapping.max_output_size = 0
    return Sequences(cell, settings, bidir=True)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    torch.manual_seed(5)
    networks = {
        "LSTM": in_two_directions(AnalogLSTMCell),
        "GRU": in_two_directions(AnalogGRUCell),
        "scaled": Sequences(AnalogLSTMCell, config(omega=1.0, columnwise=True)),
        "combined": Sequences(AnalogLSTMCellCombinedWeight, config(20)),
    }
    return Twins(SideBySide(networks).eval(), torch.randn(3, 2, 30), tmp_path_factory.mktemp("recurrent"))


@pytest.mark.parametrize("op_type", GATES)
def test_conductances_of_recurrent_layers_of_two_directions(recurrent, op_type):
    nodes = [node for node in onnx.load(recurrent.mapped).graph.node if node.op_type == op_type]
    assert len(nodes) == 2
    tensors = tensors_of(recurrent.mapped)
    for number, node in enumerate(nodes):
        for part, weight in zip(("ih", "hh"), node.input[1:3], strict=True):
            layer = recurrent.model.networks[op_type].recurrent.rnn.layers[number]
            for direction, cells in enumerate(layer.directions):
                pieces = conductances_of_tiles(getattr(cells.cell, f"weight_{part}"))
                for device, name in enumerate(("g_plus", "g_minus")):
                    theirs = np.concatenate([piece[device] for piece in pieces], axis=1)
                    gates = theirs.reshape(len(GATES[op_type]), -1, theirs.shape[1])[GATES[op_type]]
                    np.testing.assert_array_equal(tensors[f"{weight}.{name}"][direction], gates.reshape(theirs.shape))


@pytest.mark.parametrize("name", ["scaled", "combined"])
def test_recurrent_layers_that_torch_does_not_have_are_exported_step_by_step(recurrent, name):
    note = (
        f"layer 'networks.{name}.recurrent': no recurrent layer of torch can have its cells, tiles or digital scales; "
        "it is exported step by step, for the number of steps of the example"
    )
    assert note in recurrent.settings.notes
    prefix = f"networks.{name}.recurrent."
    assert len(assert_conductances_are_those_of_the_tiles(recurrent, prefix)) == (4 if name == "scaled" else 2)


def test_outputs_of_recurrent_twins_are_those_of_the_models(recurrent):
    steps = torch.randn(3, 2, 30)
    for outputs, expected in zip(outputs_of(recurrent.mapped, steps), recurrent.model(steps), strict=True):
        np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=0, atol=1e-6)


def test_a_batch_normalization_is_not_folded_by_an_export_without_optimization(tmp_path):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images = digits()[0][:8]
    net(images)  # whose statistics it takes
    twins = Twins(convert_to_analog(net, config()).eval(), images, tmp_path, optimize=False)
    [note] = twins.settings.notes
    assert note == (
        "layer '1': torch's exporter folds a BatchNorm2d into the weights of the layer before it, which are then not "
        "those of its tiles; export with optimize=False"
    )
    assert len(assert_conductances_are_those_of_the_tiles(twins)) == 2
