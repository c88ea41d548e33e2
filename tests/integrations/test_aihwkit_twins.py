"""Digital twins of models of aihwkit compute what these do with perfect products."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from aihwkit.inference import PCMLikeNoiseModel
from aihwkit.nn import AnalogConv1d, AnalogConv2d, AnalogConv3d, AnalogLinear, AnalogSequential, AnalogWrapper
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.nn.modules.base import AnalogLayerBase
from aihwkit.nn.modules.rnn.cells import AnalogGRUCell, AnalogLSTMCell, AnalogVanillaRNNCell
from aihwkit.nn.modules.rnn.rnn import AnalogRNN
from aihwkit.simulator.parameters.enums import RPUDataType
from torch import nn

from onnx_gconv.converters import weight_statistics
from onnx_gconv.errors import ModelError
from onnx_gconv.integrations.aihwkit import settings_from, to_digital
from tests.integrations.analog_twins import config, rows_of_tiles

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")


def assert_same(ours, theirs, atol=1e-6):
    """Outputs, or lists and tuples of outputs, that are equal but for the order of sums."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
        return
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other, atol)


class Block(nn.Module):
    """A module with one layer under two names, in a list, and as a reference that is no child."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    def forward(self, inputs):
        return self.again(self.inner(self.first(inputs)))


def analog_block():
    torch.manual_seed(0)
    block = convert_to_analog(Block(), config())
    block.again = block.first
    block.layers_by_name = {"first": block.first}
    return block.eval()


def test_modules_keep_their_names_their_classes_and_what_they_share():
    analog = analog_block()
    assert isinstance(analog, AnalogWrapper)
    assert isinstance(analog.inner, AnalogSequential)
    twin = to_digital(analog)
    assert type(twin) is Block
    assert type(twin.inner) is nn.Sequential
    assert type(twin.first) is nn.Linear
    assert twin.again is twin.first is twin.layers_by_name["first"]
    assert [name for name, _ in twin.named_parameters()] == [
        *("first.weight", "first.bias", "inner.0.weight", "inner.0.bias")
    ]
    assert not any(isinstance(module, AnalogLayerBase) for module in twin.modules())
    inputs = torch.randn(3, 6)
    assert_same(twin(inputs), analog(inputs))


def test_the_model_is_not_changed():
    analog = analog_block()
    modules, inputs = list(analog.modules()), torch.randn(3, 6)
    weights = [tile.tile.get_weights().clone() for tile in analog.analog_tiles()]
    before = analog(inputs)
    twin = to_digital(analog)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(0.5)
    assert all(one is other for one, other in zip(analog.modules(), modules, strict=True))
    assert all(map(torch.equal, (tile.tile.get_weights() for tile in analog.analog_tiles()), weights))
    torch.testing.assert_close(analog(inputs), before, rtol=0, atol=0)


def test_no_random_numbers_are_drawn():
    analog = analog_block()
    state = torch.get_rng_state()
    to_digital(analog)
    settings_from(analog)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_stays(training):
    analog = analog_block().train(training)
    assert {module.training for module in to_digital(analog).modules()} == {training}


def test_twins_can_be_copied_and_pickled():
    torch.manual_seed(1)
    analog = convert_to_analog(nn.Sequential(nn.Linear(9, 5)), config(4, omega=1.0, columnwise=True)).eval()
    twin, inputs = to_digital(analog), torch.randn(2, 9)
    assert type(twin[0]).__name__ == "TiledTwin"
    for other in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):  # noqa: S301 - written here
        assert torch.equal(other(inputs), twin(inputs))
    pieces = [f"0.pieces.{number}.weight" for number in range(3)]
    assert [name for name, _ in twin.named_parameters()] == ["0.bias", *pieces]


@pytest.mark.parametrize("settings", [config(), config(omega=1.0, columnwise=True), config(5, omega=0.5)])
def test_a_single_layer_is_turned(settings):
    torch.manual_seed(2)
    layer = AnalogLinear(12, 7, rpu_config=settings).eval()
    inputs = torch.randn(4, 3, 12)
    assert_same(to_digital(layer)(inputs), layer(inputs))


@pytest.mark.parametrize("settings", [config(), config(20, omega=1.0, columnwise=True)], ids=["whole", "split"])
@pytest.mark.parametrize("shape", [(2, 4, 9, 8), (4, 9, 8)], ids=["batch", "image"])
def test_convolutions_keep_stride_padding_and_dilation(settings, shape):
    torch.manual_seed(3)
    layer = AnalogConv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), rpu_config=settings).eval()
    inputs = torch.randn(shape)
    assert_same(to_digital(layer)(inputs), layer(inputs))


@pytest.mark.parametrize(("kind", "twin"), [(AnalogConv1d, nn.Conv1d), (AnalogConv3d, nn.Conv3d)])
def test_convolutions_of_one_and_three_axes(kind, twin):
    # aihwkit's torch tiles do not run them.
    layer = kind(3, 5, 2, stride=2, padding=1, rpu_config=config())
    digital = to_digital(layer)
    assert type(digital) is twin
    weight, bias = layer.get_weights()
    assert torch.equal(digital.weight.reshape(5, -1), weight)
    assert torch.equal(digital.bias, bias)
    assert (digital.stride, digital.padding) == (layer.stride, layer.padding)


@pytest.mark.parametrize("omega", [0.0, 1.0], ids=["plain", "scaled"])
@pytest.mark.parametrize("size", [512, 4], ids=["whole", "split"])
def test_weights_and_biases_keep_their_types(size, omega):
    settings = config(size, omega=omega)
    settings.runtime.data_type = RPUDataType.DOUBLE
    layer = AnalogLinear(9, 5, rpu_config=settings).eval()
    twin, inputs = to_digital(layer), torch.randn(2, 9, dtype=torch.float64)
    types = {name.rpartition(".")[2]: parameter.dtype for name, parameter in twin.named_parameters()}
    # In aihwkit, biases of arrays of tiles are float32, whatever the type of the tiles.
    assert types == {"weight": torch.float64, "bias": torch.float64 if size == 512 else torch.float32}
    assert_same(twin(inputs), layer(inputs), atol=1e-14)


@pytest.mark.parametrize("bidir", [False, True], ids=["one_direction", "two_directions"])
@pytest.mark.parametrize("settings", [config(), config(omega=1.0, columnwise=True)], ids=["plain", "scaled"])
@pytest.mark.parametrize("cell", [AnalogVanillaRNNCell, AnalogLSTMCell, AnalogGRUCell])
def test_recurrent_layers_take_and_give_states_as_before(cell, settings, bidir):
    torch.manual_seed(4)
    layer = AnalogRNN(cell, 5, 6, True, settings, num_layers=2, bidir=bidir, dropout=0.5).eval()
    twin = to_digital(layer)
    assert (type(twin).__name__ == "RecurrentTwin") == (settings.mapping.weight_scaling_omega == 0)
    steps = torch.randn(4, 3, 5)
    outputs, states = layer(steps)
    assert_same(twin(steps), (outputs, states))
    assert_same(twin(steps, states), layer(steps, states))
    assert_same(twin.get_zero_state(3), layer.get_zero_state(3))


def test_recurrent_layers_without_biases():
    layer = AnalogRNN(AnalogLSTMCell, 5, 6, False, config()).eval()
    steps = torch.randn(4, 3, 5)
    assert_same(to_digital(layer)(steps), layer(steps))


def test_a_programmed_model_has_the_twin_that_it_had_before():
    torch.manual_seed(5)
    analog = convert_to_analog(nn.Sequential(nn.Linear(9, 5)), config(omega=1.0)).eval()
    before = to_digital(analog).state_dict()
    analog.drift_analog_weights(1e6)
    [[tile]] = rows_of_tiles(analog[0])
    after = to_digital(analog).state_dict()
    assert not torch.equal(tile.tile.get_weights(), after["0.pieces.0.weight"])
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def with_analog_bias(layer, column):
    """A layer as aihwkit's compiled tiles have it with `digital_bias = False`; its torch tiles refuse that."""
    tile = layer.analog_module
    tile.analog_bias, tile.digital_bias = True, False
    tile.tile.weight.data = torch.cat([tile.tile.weight.data, column[:, None]], dim=1)
    return layer


@pytest.mark.parametrize("largest", ["weight", "bias"])
def test_an_analog_bias_becomes_a_digital_one_and_still_counts_for_the_scale(largest):
    torch.manual_seed(6)
    layer = AnalogLinear(9, 5, rpu_config=config())
    weight = layer.get_weights()[0]
    column = torch.randn(5) * (0.01 if largest == "weight" else 3.0)
    layer = with_analog_bias(layer, column)
    twin, settings = to_digital(layer), settings_from(layer)
    assert torch.equal(twin.weight, weight)
    assert torch.equal(twin.bias, column)
    note = "the bias is a column of the tile: the twin adds it in digital, and the scale of the tile is kept"
    assert f"layer 'AnalogLinear': {note}" in settings.notes
    scheme = settings.configuration.scheme()
    expected = None if largest == "weight" else float(column.abs().max())
    assert scheme.clipping.value == expected
    [[tile]] = rows_of_tiles(layer)
    (theirs, _), _ = PCMLikeNoiseModel().g_converter.convert_to_conductances(tile.tile.get_weights())
    statistics = scheme.clipping.clipped(weight_statistics([weight.numpy()]))
    scaling = scheme.converter.scaling(statistics, np.dtype(np.float32))
    ours = [np.empty(weight.shape, np.float32) for _ in range(2)]
    scheme.converter.convert_chunk(weight.numpy(), scaling, ours)
    np.testing.assert_array_equal(ours[0], theirs[:, :-1].numpy())


class OwnForward(AnalogLinear):
    def forward(self, inputs):
        return super().forward(inputs) * 2


class OwnLayer(AnalogLayerBase, nn.Module):
    """An analog layer that is neither linear nor a convolution."""

    def __init__(self):
        super().__init__()
        self.tiles = nn.ModuleList([AnalogLinear(3, 3, rpu_config=config()).analog_module])


UNTURNED = {
    "digital": nn.Sequential(nn.Linear(3, 2)),
    "path": "a.pt",
    "own_forward": nn.Sequential(OwnForward(3, 2, rpu_config=config())),
    "own_layer": nn.Sequential(nn.ReLU(), OwnLayer()),
}
MESSAGES = {
    "digital": "the Sequential has no analog layers; give a model that convert_to_analog of aihwkit or "
    "aihwkit-lightning has made",
    "path": "a model of aihwkit is a torch module, but not a str; give the model",
    "own_forward": "the analog layer '0' is a OwnForward, which overrides forward; have it call a "
    "layer of aihwkit instead of being one",
    "own_layer": "the analog layer '1' is a OwnLayer, which has no counterpart in torch: linear layers, convolutions "
    "and AnalogRNN can be turned; replace the layer, or leave it digital",
}


@pytest.mark.parametrize("model", UNTURNED)
@pytest.mark.parametrize("function", [to_digital, settings_from])
def test_what_cannot_be_turned_is_named(function, model):
    with pytest.raises(ModelError, match=f"^{re.escape(MESSAGES[model])}$"):
        function(UNTURNED[model])
