"""Weights as the numbers between -1 and 1 from which NeuroSim computes codes.

NeuroSim rounds ``2^bits / 2 * (w - 1) + 2^bits`` and splits this code into cells, the most significant bits first
(``LoadInWeightData`` in ``Chip.cpp``). A weight of exactly 1 would give the code ``2^bits``, of which the cells hold
only the lowest bits: 0, like the weight -1. So the highest code is ``2^bits - 1``, as in NeuroSim's own quantizer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters import Scaling
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances
from onnx_gconv.handoff.formats.number_table import NumberTable
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["numbers_of_weights", "write_weights"]

_DECIMAL = 1e5


def numbers_of_weights(weights: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Round weights to five decimals such that NeuroSim computes the same code as from the exact weight.

    Where rounding would change the code, the result is the nearest number with five decimals that has the right code.

    Args:
        weights: Weights from -1 to 1, of any shape.
        bits: Bits of a code.

    Returns:
        The numbers, of the same shape.
    """
    half = 2 ** (bits - 1)
    codes = np.clip(np.floor(half * weights + half + 0.5), 0, 2 * half - 1)
    lowest = np.ceil(_DECIMAL * ((codes - 0.5) / half - 1))
    highest = np.ceil(_DECIMAL * ((codes + 0.5) / half - 1)) - 1
    numbers: NDArray[np.float64] = np.clip(np.rint(_DECIMAL * weights), lowest, highest) / _DECIMAL
    return numbers + 0.0  # no -0, which would be written as -0.00000


def write_weights(layer: Layer, bits: int, folder: Path, name: str, advance: Callable[[int], None]) -> FileRecord:
    """Write the matrix of a layer: a line for each input, a number for each output.

    Args:
        layer: A layer with one matrix.
        bits: Bits of a code.
        folder: The bundle.
        name: Path of the file in the bundle.
        advance: Called with the number of weights that were written since the last call.

    Returns:
        The manifest's record of the file.
    """
    record, grid = layer.record, layer.scale_grid
    scale, zero = (values[0].astype(np.float64) for values in layer.scale_and_zero())
    largest = _largest(layer, scale, zero)
    row_pieces, column_pieces = (
        np.searchsorted(starts, np.arange(size), side="right") - 1
        for starts, size in ((grid.row_starts, layer.layout.rows), (grid.column_starts, layer.layout.columns))
    )
    coefficients = [item.coefficient for item in record.conductances]
    done = 0
    with HashedFile(folder, name) as file, LayerConductances(layer) as conductances:
        table = NumberTable(file, layer.layout.columns)
        for devices in conductances.blocks(0, range(len(coefficients)), "input"):
            total: NDArray[np.float64] = np.zeros(devices[0].shape)
            for coefficient, device in zip(coefficients, devices, strict=True):
                total += coefficient * device
            row, column = divmod(done, layer.layout.columns)
            place = np.ix_(row_pieces[row : row + total.shape[0]], column_pieces[column : column + total.shape[1]])
            weights = (total - record.offset_us) / scale[place] + zero[place]
            if layer.has_integers:
                weights = np.rint(weights)
            table.add(numbers_of_weights(np.clip(weights / largest[place], -1, 1), bits))
            done += total.size
            advance(total.size)
    return file.record


def _largest(layer: Layer, scale: NDArray[np.float64], zero: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each scale the weight that becomes 1: the largest that devices can represent, or max|W| if that is less."""
    converter = layer.record.converter.converter()
    ends = converter.limits(Scaling(scale, zero))
    largest = np.minimum(np.max(np.abs(np.broadcast_arrays(*ends)), axis=0), layer.record.max_abs)
    return np.where(largest > 0, largest, 1.0)
