"""Writes a float32 model of any size to disk, without holding it in memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

__all__ = ["SyntheticModel", "layer_width", "write_synthetic_model"]

IR_VERSION = 10
OPSET = 17
WEIGHT_SIGMA = 0.02
LARGEST_WIDTH = 4096

_ITEM_BYTES = 4
_FEWEST_LAYERS = 8
_BUFFER_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class SyntheticModel:
    """A model on disk: a stack of layers with its weights in external data.

    Attributes:
        path: The ``.onnx`` file.
        data: The file with the weights.
        layers: Number of layers.
        width: Every weight is [width, width].
        bits: The bits that an element of a weight takes.
    """

    path: Path
    data: Path
    layers: int
    width: int
    bits: int = 8 * _ITEM_BYTES

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, or of their codes."""
        return self.layers * self.width**2 * self.bits // 8


def layer_width(size_bytes: int) -> int:
    """The largest power of two up to 4096 that gives a model of this size at least eight layers."""
    largest = math.isqrt(size_bytes // _FEWEST_LAYERS // _ITEM_BYTES)
    return min(1 << max(largest.bit_length() - 1, 0), LARGEST_WIDTH)


def write_synthetic_model(folder: Path, size_bytes: int, *, width: int | None = None, seed: int = 0) -> SyntheticModel:
    """Write a model of MatMul and Relu layers whose weights are drawn from N(0, 0.02).

    Args:
        folder: The folder for ``model.onnx`` and ``model.onnx.data``. It has to exist.
        size_bytes: Bytes of all weights; rounded to whole layers, at least one.
        width: Every weight is [width, width]; chosen by the size if None.
        seed: Seed of the weights.
    """
    width = layer_width(size_bytes) if width is None else width
    layers = max(round(size_bytes / (width**2 * _ITEM_BYTES)), 1)
    path = folder / "model.onnx"
    model = SyntheticModel(path, path.with_name(f"{path.name}.data"), layers, width)
    onnx.save(_proto(model), path)
    _write_weights(model, seed)
    return model


def _proto(model: SyntheticModel) -> onnx.ModelProto:
    names = ["x", *(f"activation_{layer}" for layer in range(1, model.layers)), "y"]
    nodes, weights = [], []
    for layer, (before, after) in enumerate(itertools.pairwise(names)):
        weight = _weight(model, layer)
        weights.append(weight)
        nodes.append(helper.make_node("MatMul", [before, weight.name], [f"product_{layer}"], f"matmul_{layer}"))
        nodes.append(helper.make_node("Relu", [f"product_{layer}"], [after], f"relu_{layer}"))
    shape: list[str | int | None] = ["batch", model.width]
    graph = helper.make_graph(
        nodes,
        "synthetic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializer=weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _weight(model: SyntheticModel, layer: int) -> onnx.TensorProto:
    """A weight that refers to its bytes in the data file."""
    length = model.width**2 * _ITEM_BYTES
    tensor = TensorProto(
        name=f"weight_{layer}",
        data_type=TensorProto.FLOAT,
        dims=[model.width, model.width],
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", model.data.name), ("offset", layer * length), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _write_weights(model: SyntheticModel, seed: int) -> None:
    generator = np.random.default_rng(seed)
    buffer = np.empty(_BUFFER_ELEMENTS, np.float32)
    remaining = model.weight_bytes // _ITEM_BYTES
    with model.data.open("wb", buffering=0) as file:
        while remaining:
            part = buffer[: min(buffer.size, remaining)]
            generator.standard_normal(dtype=np.float32, out=part)
            part *= np.float32(WEIGHT_SIGMA)
            part.astype("<f4", copy=False).tofile(file)
            remaining -= part.size
