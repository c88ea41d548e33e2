"""Models of aihwkit-lightning become digital twins, as far as its objects carry what aihwkit's do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aihwkit_lightning.nn.conversion import convert_to_analog
from aihwkit_lightning.nn.export import export_to_aihwkit
from aihwkit_lightning.optim import AnalogOptimizer
from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightClipType
from aihwkit_lightning.simulator.parameters import WeightNoiseInjectionType, WeightQuantizationType
from torch import nn

import onnx_gconv as gconv
from onnx_gconv.integrations.aihwkit import settings_from, to_digital
from tests.integrations.analog_twins import (
    conductances_of_tiles,
    conductances_of_twin,
    digits,
    export,
    network,
    outputs_of,
    tensors_of,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*", "ignore::UserWarning:aihwkit_lightning.*"
)

EPS = float(np.finfo(np.float32).eps)
SIZE = 32


def config(size=-1):
    settings = TorchInferenceRPUConfig()
    settings.mapping.max_input_size = size
    return settings


def trained(settings):
    """The small network of the digits after one epoch, in evaluation mode."""
    model = convert_to_analog(network(), settings)
    images, labels = digits()
    optimizer = AnalogOptimizer(torch.optim.SGD, model.analog_layers, model.parameters(), lr=0.05, momentum=0.9)
    for start in range(0, len(images), 10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[start : start + 10]), labels[start : start + 10].long()).backward()
        optimizer.step()
    return model.eval()


def of_each_output(settings):
    settings.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    settings.modifier.std_dev = 0.02
    return settings


@pytest.mark.parametrize("settings", [config(SIZE), of_each_output(config(SIZE))], ids=["tiles", "outputs_of_tiles"])
def test_a_trained_network_is_mapped_as_its_export_to_aihwkit_has_it(tmp_path, settings):
    model, (images, _) = trained(settings), digits()
    found = settings_from(model)
    export(to_digital(model), images, tmp_path / "twin.onnx")
    gconv.map_model(tmp_path / "twin.onnx", tmp_path / "mapped.onnx", config=found.configuration)
    [outputs] = outputs_of(tmp_path / "mapped.onnx", images)
    expected = model(images).detach().numpy()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
    analog = dict(export_to_aihwkit(model).named_modules())
    tensors = tensors_of(tmp_path / "mapped.onnx")
    for layer in found.layers:
        widths = [row[0][0] for row in layer.tiles]
        ours = conductances_of_twin(tensors, layer.parameters, ("g_plus", "g_minus"), widths)
        for here, theirs in zip(ours, conductances_of_tiles(analog[layer.name]), strict=True):
            # That export divides weights by their scales: two more roundings.
            np.testing.assert_allclose(here, theirs, rtol=0, atol=3 * EPS * 25)


def test_what_lightning_does_not_have_is_named():
    found = settings_from(convert_to_analog(nn.Sequential(nn.Linear(6, 4)), config()))
    assert found.notes == ("aihwkit-lightning has no converters, devices and drift compensation: choose them yourself",)
    assert found.chip == {"drift_compensation": "none"}
    assert found.handoff == {}
    assert found.configuration.scheme() == gconv.MappingScheme(parts="none")
    by_output = settings_from(convert_to_analog(nn.Sequential(nn.Linear(6, 4)), of_each_output(config())))
    assert by_output.configuration.scheme().granularity == gconv.Granularity("channel")


def test_input_ranges_and_converters_are_those_of_each_tile():
    settings = config(4)
    settings.forward.inp_res, settings.forward.out_res, settings.forward.out_bound = 254, 1 / 510, 10.0
    settings.pre_post.input_range.enable = True
    model = convert_to_analog(nn.Sequential(nn.Linear(7, 3)), settings)
    model[0].input_range.data[:] = torch.tensor([2.0, 3.5])
    found = settings_from(model)
    [layer] = found.layers
    assert layer.input_ranges == (2.0, 3.5)
    assert layer.tiles == (((4, 3),), ((3, 3),))
    assert (layer.dac_bits, layer.adc_steps, layer.adc_bits, layer.adc_bound) == (8, 510, 9, 10)
    assert (found.array, found.notes[1]) == ((4, 3), "layer '0': input ranges: the twin does not clip its inputs")


@pytest.mark.parametrize("clip", [WeightClipType.NONE, WeightClipType.LEARNABLE_PER_CHANNEL])
def test_quantized_weights_are_in_the_twin(clip):
    torch.manual_seed(0)
    settings = config(4)
    settings.clip.type = clip
    settings.modifier.quantization_type, settings.modifier.res = WeightQuantizationType.DISCRETIZE_PER_CHANNEL, 14
    model = convert_to_analog(nn.Sequential(nn.Linear(7, 3)), settings).eval()
    weights = model[0].weight.detach().clone()
    twin, inputs = to_digital(model), torch.randn(5, 7)
    assert type(twin[0]) is nn.Linear
    assert not torch.equal(twin[0].weight, weights)
    assert torch.equal(model[0].weight, weights)
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=0, atol=1e-6)
    assert settings_from(model).notes[1] == (
        "layer '0': weights are quantized (DISCRETIZE_PER_CHANNEL, res = 14): the twin has the quantized weights, and "
        "conductances take any value; give levels to the mapping"
    )


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Conv1d(3, 5, 2, padding=1), torch.randn(2, 3, 9)),
        (nn.Conv2d(3, 5, 2, stride=2), torch.randn(2, 3, 8, 8)),
        (nn.Conv3d(2, 3, 2), torch.randn(2, 2, 4, 4, 4)),
    ],
    ids=["1d", "2d", "3d"],
)
def test_convolutions(layer, inputs):
    model = convert_to_analog(nn.Sequential(layer), config(5)).eval()
    twin = to_digital(model)
    assert type(twin) is nn.Sequential
    assert type(twin[0]) is type(layer)
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind, bidirectional):
    torch.manual_seed(0)
    model = convert_to_analog(nn.Sequential(kind(5, 6, num_layers=2, bidirectional=bidirectional)), config(4)).eval()
    twin, steps = to_digital(model), torch.randn(4, 3, 5)
    outputs, states = model(steps)
    ours, last = twin(steps)
    torch.testing.assert_close(ours, outputs, rtol=0, atol=1e-6)
    torch.testing.assert_close(_flat(last), _flat(states), rtol=0, atol=1e-6)
    if not bidirectional:
        first, state = twin(steps[:2])
        second, _ = twin[0](steps[2:], state)
        torch.testing.assert_close(torch.cat([first, second]), ours, rtol=0, atol=1e-6)
    if kind is nn.LSTM:  # lightning's own layers take no other states, and not even those that they give
        zeros = model[0].get_zero_state(3)
        torch.testing.assert_close(twin[0](steps, zeros)[0], model[0](steps, zeros)[0], rtol=0, atol=1e-6)
    parameters = {name for layer in settings_from(model).layers for name in layer.parameters}
    assert parameters == {name for name, _ in twin.named_parameters() if "weight" in name}


def _flat(states):
    """The tensors in states; lightning's layers have None where there is no second one."""
    if not isinstance(states, (list, tuple)):
        return [states]
    return [tensor for state in states for tensor in _flat(state)]
