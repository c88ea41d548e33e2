"""Reads the conductances of whole matrices line by line, in constant memory, for formats without tiles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import as_stored
from onnx_gconv.tensors.matrix_reader import MatrixReader

__all__ = ["LayerConductances", "Line", "device_cells"]

# A line of a matrix: all inputs of an output, or all outputs of an input.
Line: TypeAlias = Literal["output", "input"]

# Cells of each device that are read at once: 8 MiB of float32. Blocks are that large so that reads from disk are long
# even if the lines run across the storage order of the tensor.
_BLOCK_CELLS = 1 << 21


def device_cells(layers: Sequence[Layer]) -> int:
    """Number of conductances of all layers, over all devices."""
    return sum(math.prod(layer.record.shape) * len(layer.record.conductances) for layer in layers)


class LayerConductances:
    """Reads the conductances of a layer; use it in a with statement.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._in_us = as_stored(layer)
        with contextlib.ExitStack() as stack:
            self._readers = [
                stack.enter_context(MatrixReader(tensor, layer.layout)) for tensor in layer.mapped.stored_tensors
            ]
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def blocks(self, matrix: int, devices: Sequence[int], line: Line) -> Iterator[tuple[NDArray[Any], ...]]:
        """Read the conductances of a matrix in µS, block by block in the order of its lines.

        Args:
            matrix: Number of the matrix.
            devices: Indices of the devices to read.
            line: Whether a line has all inputs of an output (``output``) or all outputs of an input (``input``).

        Yields:
            An array [lines, cells] for each of the devices: whole lines, or a part of one line if it is very long.

        Raises:
            ModelError: If the external data has become shorter since the model was loaded.
        """
        rows, columns = self._layer.layout.rows, self._layer.layout.columns
        count, length = (columns, rows) if line == "output" else (rows, columns)
        lines, cells = max(_BLOCK_CELLS // length, 1), min(length, _BLOCK_CELLS)
        for first in range(0, count, lines):
            across = first, min(first + lines, count)
            for start in range(0, length, cells):
                along = start, min(start + cells, length)
                yield tuple(self._block(device, matrix, across, along, line) for device in devices)

    def _block(
        self, device: int, matrix: int, across: tuple[int, int], along: tuple[int, int], line: Line
    ) -> NDArray[Any]:
        rows, columns = (along, across) if line == "output" else (across, along)
        block = self._in_us(self._readers[device].read(matrix, rows, columns))
        return np.ascontiguousarray(block.T if line == "output" else block)
