"""Analog models of aihwkit, their exported twins, and the conductances of both."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from aihwkit.optim import AnalogSGD
from aihwkit.simulator.configs import TorchInferenceRPUConfig
from onnx import numpy_helper
from torch import nn

from onnx_gconv.models import model_path

SIZE = 32


def config(size=512, *, omega=0.0, columnwise=False, learned=None, perfect=True):
    """Torch tiles: of at most that size, with mapping scales, and with learned scales ("tensor" or "output")."""
    found = TorchInferenceRPUConfig()
    found.forward.is_perfect = perfect
    mapping = found.mapping
    mapping.max_input_size = mapping.max_output_size = size
    mapping.weight_scaling_omega, mapping.weight_scaling_columnwise = omega, columnwise
    mapping.learn_out_scaling, mapping.out_scaling_columnwise = learned is not None, learned == "output"
    return found


def digits():
    """Images of digits, [450, 1, 8, 8], and their labels."""
    with np.load(model_path("digits_test.npz")) as data:
        return torch.from_numpy(data["images"].astype(np.float32)).reshape(-1, 1, 8, 8), torch.from_numpy(
            data["labels"]
        )


def network():
    """A small convolutional net for the digits, with layers of more inputs and outputs than `SIZE`."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 40),
        nn.ReLU(),
        nn.Linear(40, 10, bias=False),
    )


def trained(model):
    """The model after one epoch with noisy products, in evaluation mode, with perfect products."""
    configs = [tile.rpu_config for tile in model.analog_tiles()]
    for each in configs:
        each.forward.is_perfect = False
    images, labels = digits()
    optimizer = AnalogSGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer.regroup_param_groups(model)
    model.train()
    for start in range(0, len(images), 10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[start : start + 10]), labels[start : start + 10].long()).backward()
        optimizer.step()
    for each in configs:
        each.forward.is_perfect = True
    return model.eval()


def export(module, example, path, **options):
    """Write a module as an ONNX model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of itself
        torch.onnx.export(module, (example,), path, dynamo=True, verbose=False, **options)


def outputs_of(path, inputs):
    """What ONNX Runtime gives for the one input of a model."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})


def tensors_of(path):
    """The initializers of a model."""
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def rows_of_tiles(layer):
    """aihwkit's tiles of a layer: for each piece of the inputs those of the outputs."""
    holder = getattr(layer, "analog_module", layer)
    return [list(row) for row in holder.array] if hasattr(holder, "array") else [[holder]]


def conductances_of_tiles(layer):
    """The conductances of a layer as aihwkit's own converter gives them, tile by tile.

    For each piece of the inputs a list of arrays [outputs, inputs], one for each device.
    """
    pieces = []
    for row in rows_of_tiles(layer):
        of_tiles = []
        for tile in row:
            found, _ = tile.rpu_config.noise_model.g_converter.convert_to_conductances(tile.tile.get_weights())
            # The converter of single devices gives no list.
            of_tiles.append([found] if isinstance(found, torch.Tensor) else found)
        pieces.append([torch.cat(devices).numpy() for devices in zip(*of_tiles, strict=True)])
    return pieces


def conductances_of_twin(tensors, parameters, devices, widths, kernel=1):
    """The conductances of the weights of a mapped twin that hold a layer, as `conductances_of_tiles` gives them.

    Args:
        tensors: The initializers of the mapped twin.
        parameters: The weights.
        devices: The names of the devices of the converter.
        widths: How many inputs each piece has.
        kernel: How many inputs a channel has; where a piece ends inside of one, its weight goes on with zeros.
    """
    pieces, start = [], 0
    if len(parameters) == 1:
        whole = [_matrix(tensors[f"{parameters[0]}.{device}"]) for device in devices]
        ends = np.cumsum(widths)[:-1]
        return [list(piece) for piece in zip(*(np.split(each, ends, axis=1) for each in whole), strict=True)]
    for parameter, width in zip(parameters, widths, strict=True):
        before = start % kernel
        found = [_matrix(tensors[f"{parameter}.{device}"]) for device in devices]
        pieces.append([each[:, before : before + width] for each in found])
        start += width
    return pieces


def _matrix(weight):
    return weight.reshape(weight.shape[0], -1)
