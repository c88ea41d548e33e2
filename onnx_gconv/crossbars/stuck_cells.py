"""Stuck cells in tiles: which devices of weights are stuck, and how that changes the weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.defects import ArrayDefects, StuckCell
from onnx_gconv.crossbars.error_figures import WeightErrors
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.placement import ArrayPlacement, lines_of_devices
from onnx_gconv.crossbars.tile_arrays import as_stored, block_with_bias
from onnx_gconv.crossbars.tiles import Tile
from onnx_gconv.tensors.matrix_reader import MatrixReader

__all__ = ["StuckDevice", "effect_on_weights", "stuck_devices"]


@dataclass(frozen=True, eq=False)
class StuckDevice:
    """The stuck cells of one device of a tile.

    Attributes:
        device: Index of the device.
        cells: Row and column of each stuck cell in the tile, [cells, 2].
        conductances: The conductance at which each cell is stuck, in µS, [cells].
    """

    device: int
    cells: NDArray[np.int64]
    conductances: FloatArray


def stuck_devices(layer: Layer, tile: Tile, array: ArrayPlacement, damage: ArrayDefects | None) -> list[StuckDevice]:
    """The stuck cells of an array that hold a device of a tile.

    Args:
        layer: The layer.
        tile: The tile of the layer.
        array: The array on which devices of the tile stand.
        damage: The defects of that array; None if it has none.
    """
    if damage is None or not damage.stuck_cells:
        return []
    geometry = layer.geometry
    lines = lines_of_devices((geometry.rows, geometry.columns), tile.shape, array, geometry.pair_layout)
    found = []
    for device, (rows, columns) in zip(array.devices, lines, strict=True):
        row_of = {line: index for index, line in enumerate(rows.tolist())}
        column_of = {line: index for index, line in enumerate(columns.tolist())}
        cells: list[StuckCell] = sorted(
            (cell for cell in damage.stuck_cells if cell.row in row_of and cell.column in column_of),
            key=lambda cell: (cell.row, cell.column),
        )
        if cells:
            places = np.array([(row_of[cell.row], column_of[cell.column]) for cell in cells], np.int64)
            values = np.array([cell.conductance_us for cell in cells], layer.array_dtype)
            found.append(StuckDevice(device, places, values))
    return found


def effect_on_weights(layer: Layer, stuck: dict[int, tuple[StuckDevice, ...]]) -> tuple[WeightErrors, float]:
    """How stuck cells change the weights and the bias of a layer.

    A weight changes by ``sum_k c_k * (G_stuck - G_target) / scale`` over its stuck devices k. The bias changes by the
    sum of these changes over its rows, times the factor of the matrix view.

    Args:
        layer: The layer.
        stuck: For each tile with stuck cells, by its number, the devices that have them.

    Returns:
        The statistics of the changes of the weights, and the largest change of the bias in units of the output.
    """
    total, layout = WeightErrors(0, 0, 0.0, 0.0), layer.layout
    of_bias = np.zeros((layout.matrices, layout.columns))
    scale = layer.scale_and_zero()[0].astype(np.float64)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(MatrixReader(tensor, layer.layout)) for tensor in layer.mapped.stored_tensors]
        tiles = layer.grid.tiles
        for number, devices in stuck.items():
            tile = tiles[number]
            difference = np.zeros(tile.shape)
            for item in devices:
                targets = _targets(layer, item.device, readers[item.device], tile)
                rows, columns = item.cells.T
                change = item.conductances.astype(np.float64) - targets[rows, columns]
                difference[rows, columns] += layer.record.conductances[item.device].coefficient * change
            difference /= layer.scale_of_cells(tile, scale)
            inputs = max(layout.rows - tile.inputs[0], 0)
            total |= WeightErrors.of(difference[:inputs])
            of_bias[tile.matrix, slice(*tile.outputs)] += difference[inputs:].sum(axis=0)
    view = layer.consumers[0].matrix_view
    factor = 1.0 if view is None else view.factor
    effect = WeightErrors(int(np.prod(layer.record.shape)), total.changed, total.largest, total.squares)
    return effect, float(np.abs(factor * of_bias).max())


def _targets(layer: Layer, device: int, reader: MatrixReader, tile: Tile) -> NDArray[Any]:
    block = block_with_bias(layer, device, reader, (tile.matrix, tile.inputs, tile.outputs))
    return as_stored(layer)(block)
