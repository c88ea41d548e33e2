"""Scales for each tile and each output channel are those of aihwkit's own tiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter as TheirSinglePair
from aihwkit.nn import AnalogConv2d, AnalogLinear
from aihwkit.simulator.configs import TorchInferenceRPUConfig

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

G_MAX, G_MIN = 25.0, 0.5
EPS = float(np.finfo(np.float32).eps)


def settings(size, *, columnwise):
    """Tiles of at most that size, with a scale of its own for each output if `columnwise`."""
    config = TorchInferenceRPUConfig()
    config.mapping.max_input_size = config.mapping.max_output_size = size
    config.mapping.weight_scaling_omega = 1.0 if columnwise else 0.0
    config.mapping.weight_scaling_columnwise = columnwise
    return config


def analog_layer(kind, config):
    """An analog layer of aihwkit with its weight, as [outputs, inputs] and as PyTorch has it."""
    generator = torch.Generator().manual_seed(1)
    if kind == "linear":
        layer = AnalogLinear(700, 530, bias=False, rpu_config=config)
        weight = torch.randn(530, 700, generator=generator)
    else:
        layer = AnalogConv2d(70, 530, 3, bias=False, rpu_config=config)
        weight = torch.randn(530, 70, 3, 3, generator=generator)
    weight[:40] *= 0.1
    layer.set_weights(weight.reshape(530, -1))
    return layer, weight.numpy()


def tiles(layer):
    """The weights of each tile [outputs, inputs], its scales, and the slices of the whole matrix that it holds."""
    array = layer.analog_module
    if not hasattr(array, "array"):  # a layer that is not split
        yield array.tile.get_weights().detach(), array.get_scales(), slice(None), slice(None)
        return
    inputs, outputs = ([0, *itertools.accumulate(sizes)] for sizes in (array.in_sizes, array.out_sizes))
    for row, modules in enumerate(array.array):
        for column, module in enumerate(modules):
            yield (
                module.tile.get_weights().detach(),
                module.get_scales(),
                slice(outputs[column], outputs[column + 1]),
                slice(inputs[row], inputs[row + 1]),
            )


def mapped(parse, kind, weight, granularity):
    """Conductances and the scale of each element, as [outputs, inputs]."""
    if kind == "linear":
        model = parse("g (float[N,700] x) => (float y) { y = Gemm <transB = 1> (x, W) }", W=weight)
    else:
        model = parse("g (float[N,70,9,9] x) => (float y) { y = Conv(x, W) }", W=weight)
    converter = SinglePairConductanceConverter(g_max=G_MAX, g_min=G_MIN)
    MapConductances(scheme=MappingScheme(converter, granularity))(model)
    [record] = read_manifest(model).weights
    values = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    scale = values["W.g_scale"]
    grid = record.grid
    if grid is not None:
        scale = grid.values(scale).reshape(-1)[grid.groups(0, weight.size)]
    return (
        values["W.g_plus"].reshape(530, -1),
        values["W.g_minus"].reshape(530, -1),
        np.broadcast_to(scale, weight.size).reshape(530, -1),
        record,
    )


@pytest.mark.parametrize("size", [512, 256, 100])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_tiles_have_the_conductances_of_aihwkits_tiles_bit_for_bit(parse, kind, size):
    layer, weight = analog_layer(kind, settings(size, columnwise=False))
    g_plus, g_minus, scale, record = mapped(parse, kind, weight, Granularity("tile", (size, size), "equal"))
    theirs = list(tiles(layer))
    assert len(theirs) == len(record.tiling.row_starts) * len(record.tiling.column_starts) > 1
    for tile_weights, _, outputs, inputs in theirs:
        (expected_plus, expected_minus), params = TheirSinglePair(G_MAX, G_MIN).convert_to_conductances(tile_weights)
        assert np.array_equal(g_plus[outputs, inputs], expected_plus.numpy())
        assert np.array_equal(g_minus[outputs, inputs], expected_minus.numpy())
        assert np.all(scale[outputs, inputs] == float(params["scale_ratio"]))


@pytest.mark.parametrize("size", [512, 256, 100, 0])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_scales_of_the_channels_of_tiles_are_those_of_aihwkits_columnwise_scaling(parse, kind, size):
    layer, weight = analog_layer(kind, settings(size, columnwise=True))
    granularity = Granularity("tile_channel", (size, size), "equal") if size else Granularity("channel")
    g_plus, g_minus, scale, _ = mapped(parse, kind, weight, granularity)
    for tile_weights, out_scales, outputs, inputs in tiles(layer):
        (expected_plus, expected_minus), params = TheirSinglePair(G_MAX, G_MIN).convert_to_conductances(tile_weights)
        # aihwkit divides the weights by a digital scale before it converts them: two more roundings.
        np.testing.assert_allclose(g_plus[outputs, inputs], expected_plus.numpy(), rtol=0, atol=3 * EPS * G_MAX)
        np.testing.assert_allclose(g_minus[outputs, inputs], expected_minus.numpy(), rtol=0, atol=3 * EPS * G_MAX)
        expected_scale = float(params["scale_ratio"]) / out_scales.detach().numpy()
        shape = scale[outputs, inputs].shape
        np.testing.assert_allclose(
            scale[outputs, inputs], np.broadcast_to(expected_scale[:, None], shape), rtol=3 * EPS
        )
