"""Writes a model of packed integer weights of any size to disk, without holding it in memory."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.synthetic_model import SyntheticModel

__all__ = ["write_packed_model"]

IR_VERSION = 10
OPSET = 21
BITS = 4
BLOCK = 32

_CODES_OF_A_BYTE = 2


def write_packed_model(folder: Path, size_bytes: int, width: int, *, has_points: bool, seed: int = 0) -> SyntheticModel:
    """Write a stack of MatMulNBits nodes with random codes of four bits, and their scales.

    Args:
        folder: The folder for ``model.onnx`` and ``model.onnx.data``. It has to exist.
        size_bytes: Bytes of all codes; rounded to whole layers, at least one.
        width: Every weight is [width, width]; a multiple of 64.
        has_points: Whether each block has a zero point of its own; if not, all have the zero point 8.
        seed: Seed of the codes.
    """
    layers = max(round(size_bytes * _CODES_OF_A_BYTE / width**2), 1)
    path = folder / "model.onnx"
    model = SyntheticModel(path, path.with_name(f"{path.name}.data"), layers, width, bits=BITS)
    generator, blocks = np.random.default_rng(seed), width // BLOCK
    nodes, tensors = [], []
    with model.data.open("wb", buffering=0) as file:
        for layer in range(layers):
            names = [f"weight_{layer}", f"scales_{layer}"]
            codes = generator.integers(0, 256, (width, blocks, BLOCK // _CODES_OF_A_BYTE), np.uint8)
            tensors.append(_written(names[0], codes, file))
            tensors.append(_written(names[1], generator.uniform(0.01, 0.1, (width, blocks)).astype(np.float32), file))
            if has_points:
                names.append(f"points_{layer}")
                points = generator.integers(0, 256, (width, blocks // _CODES_OF_A_BYTE), np.uint8)
                tensors.append(_written(names[2], points, file))
            nodes.append(_node(layer, layers, names, width))
    shape: list[str | int | None] = ["batch", width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "synthetic", ends[:1], ends[1:], initializer=tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
    return model


def _node(layer: int, layers: int, names: list[str], width: int) -> onnx.NodeProto:
    before = "x" if not layer else f"activation_{layer}"
    after = "y" if layer == layers - 1 else f"activation_{layer + 1}"
    return helper.make_node(
        "MatMulNBits",
        [before, *names],
        [after],
        f"matmul_{layer}",
        domain="com.microsoft",
        K=width,
        N=width,
        bits=BITS,
        block_size=BLOCK,
    )


def _written(name: str, array: NDArray[np.generic], file: BinaryIO) -> onnx.TensorProto:
    """Write an array to the end of the data file, and return a tensor that refers to it."""
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    place = ("location", Path(file.name).name), ("offset", file.tell()), ("length", array.nbytes)
    for key, value in place:
        tensor.external_data.add(key=key, value=str(value))
    array.tofile(file)
    return tensor
