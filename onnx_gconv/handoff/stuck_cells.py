"""Stuck cells that hold devices of weights: where they are, and what they make of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.handoff.chip import Chip, LayerArrays
from onnx_gconv.handoff.defects import StuckCell
from onnx_gconv.handoff.layers import Layer
from onnx_gconv.handoff.placement import ArrayPlacement, lines_of_devices
from onnx_gconv.handoff.programming_errors import WeightErrors
from onnx_gconv.handoff.tile_arrays import as_stored, block_with_bias
from onnx_gconv.handoff.tiles import Tile
from onnx_gconv.tensors.matrix_reader import MatrixReader

__all__ = ["LayerPlacement", "StuckDevice", "passed_over", "placed"]


@dataclass(frozen=True, eq=False)
class StuckDevice:
    """The stuck cells of one device of a tile.

    Attributes:
        device: Its index.
        cells: Row and column of each in the tile, [cells, 2].
        conductances: Where they are stuck, in µS.
    """

    device: int
    cells: NDArray[np.int64]
    conductances: FloatArray


@dataclass(frozen=True, eq=False)
class LayerPlacement:
    """Where the tiles of a layer stand.

    Attributes:
        tiles: For each tile its arrays.
        stuck: For the number of each tile that has stuck cells, its devices.
        effect: What they make of the weights; None if there are none.
        bias_error: How far what the rows of the bias add is off at most, in units of the output.
    """

    tiles: LayerArrays
    stuck: dict[int, tuple[StuckDevice, ...]]
    effect: WeightErrors | None
    bias_error: float

    @property
    def stuck_cells(self) -> int:
        """How many cells that hold devices are stuck."""
        return sum(len(item.cells) for devices in self.stuck.values() for item in devices)


def placed(layers: Sequence[Layer], chip: Chip) -> tuple[LayerPlacement, ...]:
    """Give each tile its arrays, and find the stuck cells on them.

    Raises:
        ConfigError: If the chip has too few arrays.
        ModelError: If conductances of tiles with stuck cells cannot be read.
    """
    return tuple(_placed(layer, tiles, chip) for layer, tiles in zip(layers, chip.place(layers), strict=True))


def passed_over(placements: Sequence[LayerPlacement]) -> tuple[int, ...]:
    """The arrays that no tile stands on, though arrays of higher numbers are used."""
    used = {array.array for placement in placements for tile in placement.tiles for array in tile}
    return tuple(array for array in range(max(used, default=0)) if array not in used)


def _placed(layer: Layer, tiles: LayerArrays, chip: Chip) -> LayerPlacement:
    stuck = {}
    for tile, arrays in zip(layer.grid.tiles, tiles, strict=True):
        if devices := tuple(item for array in arrays for item in _stuck_devices(layer, tile, array, chip)):
            stuck[tile.number] = devices
    effect, bias_error = _effect(layer, stuck) if stuck else (None, 0.0)
    return LayerPlacement(tiles, stuck, effect, bias_error)


def _stuck_devices(layer: Layer, tile: Tile, array: ArrayPlacement, chip: Chip) -> list[StuckDevice]:
    """The stuck cells of an array that hold a device of a weight."""
    damage = chip.damaged.get(array.array)
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


def _effect(layer: Layer, stuck: dict[int, tuple[StuckDevice, ...]]) -> tuple[WeightErrors, float]:
    """What stuck cells make of the weights, ``sum_k c_k * (G_stuck - G_target) / scale`` of each, and of the bias.

    The bias is the sum of its rows, times the factor of the product.
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
