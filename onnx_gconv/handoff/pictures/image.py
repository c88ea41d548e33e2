"""The image of a layer: values of each device, reduced tile by tile to few dots, so that memory stays limited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.errors import BundleError
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import LayerRecord, TileRecord
from onnx_gconv.suggestions import suggestion

__all__ = ["Errors", "LayerImage", "Starts", "Subject"]

Errors: TypeAlias = Callable[[BundleTile], Mapping[str, FloatArray]]
Starts: TypeAlias = tuple[Sequence[int], Sequence[int]]

_MOST_ZOOM, _APART = 16, 4  # pixels: the most of a cell, and the least of a tile that has a gap to its neighbours
# If the largest error is more than _FAR times this quantile of all errors, colours end at the quantile.
_SHARE, _FAR = 0.99, 1.25


class Axis:
    """An axis of the image: the inputs of a matrix (downwards), or its outputs (to the right).

    A dot of the image, `zoom` pixels wide, stands for `block` neighbouring cells of one tile. `dots` has the index of
    the dot of each cell. Each tile gets as many dots as the largest tile needs (`slot`); `slots` has the indices of all
    of them, and `size` is the number of dots with the gaps between tiles.
    """

    def __init__(self, starts: Sequence[int], pixels: int) -> None:
        self.starts: tuple[int, ...] = tuple(starts)
        sizes, tiles = np.diff(starts), len(starts) - 1
        self.block: int = -(-tiles * int(sizes.max()) // max(pixels - tiles - 1, pixels // 2))
        self.slot: int = -(-int(sizes.max()) // self.block)
        self.zoom: int = min(max(pixels // (tiles * (self.slot + 1) + 1), 1), _MOST_ZOOM)
        pitch = self.slot + (self.slot * self.zoom >= _APART)
        self.dots: NDArray[np.intp] = np.concatenate(
            [1 + n * pitch + np.arange(size) // self.block for n, size in enumerate(sizes)]
        )
        self.slots: NDArray[np.intp] = np.add.outer(np.arange(tiles) * pitch, 1 + np.arange(self.slot)).reshape(-1)
        self.size: int = int(self.slots[-1]) + 2

    def of(self, cells: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """The dots of a tile; for each dot the first cell of the tile in it, and its number of cells."""
        return np.unique(self.dots[slice(*np.subtract(cells, self.starts[0]))], return_index=True, return_counts=True)


class LayerImage:
    """The values of all matrices of a layer, `across` of them side by side, or of one tile.

    `values` are in µS, float32 [devices, dots down, dots across]: NaN where there is no weight, inf between tiles, and
    -inf where nothing was measured. A dot of several cells has the mean of targets, or the error furthest from 0.
    """

    def __init__(self, matrices: range, starts: Starts, devices: int, pixels: int, *, is_measured: bool) -> None:
        self.matrices: range = matrices
        self.is_measured: bool = is_measured
        count, most = len(matrices), pixels // 3
        high, wide = (Axis(some, 1 << 30).size for some in starts)
        self.across: int = min(max(round((count * high / wide) ** 0.5), -(-count // most), 1), most, count)
        down = -(-count // self.across)
        self.rows: Axis = Axis(starts[0], pixels // down)
        self.columns: Axis = Axis(starts[1], pixels // self.across)
        self.is_cell_by_cell: bool = self.rows.block == self.columns.block == 1
        high, wide = down * self.rows.size, self.across * self.columns.size
        zoom = min(self.rows.zoom, self.columns.zoom)  # cells are square, unless the image would be thin
        self.rows.zoom = min(self.rows.zoom, zoom * max(wide // high // 2, 1))
        self.columns.zoom = min(self.columns.zoom, zoom * max(high // wide // 2, 1))
        self.values: NDArray[np.float32] = np.full((devices, high, wide), np.inf, np.float32)
        for y, x in map(self.origin, matrices):
            self.values[np.ix_(np.arange(devices), y + self.rows.slots, x + self.columns.slots)] = np.nan

    def origin(self, matrix: int) -> tuple[int, int]:
        """Row and column of the first dot of a matrix."""
        down, across = divmod(matrix - self.matrices[0], self.across)
        return down * self.rows.size, across * self.columns.size

    def add(self, tile: TileRecord, values: Sequence[FloatArray | None]) -> None:
        """Add a tile.

        Args:
            tile: The tile's entry in the manifest.
            values: The values of each device in µS, [inputs, outputs], NaN where nothing was measured; None for a
                device without measurements.
        """
        (rows, down, high), (columns, right, wide) = self.rows.of(tile.inputs), self.columns.of(tile.outputs)
        y, x = self.origin(tile.matrix)
        place = self.values[:, y + rows[0] : y + rows[-1] + 1, x + columns[0] : x + columns[-1] + 1]
        for there, found in zip(place, values, strict=True):
            there[...] = -np.inf
            if found is not None and self.is_measured:
                low, top = (end.reduceat(end.reduceat(found, down, 0), right, 1) for end in (np.fmin, np.fmax))
                there[...] = np.nan_to_num(np.where(-low > top, low, top), nan=-np.inf)
            elif found is not None:
                sums = np.add.reduceat(np.add.reduceat(found, down, 0, np.float64), right, 1)
                there[...] = sums / np.outer(high, wide)


class Subject:
    """What is drawn of a layer: its targets, or errors (measured minus target) if they are given."""

    def __init__(self, layer: LayerRecord, errors: Errors | None) -> None:
        self._layer, self._errors = layer, errors
        self._cells, self._measured, self._largest, self._place = 0, 0, 0.0, "no cell"

    def read(self, tile: BundleTile) -> Sequence[FloatArray | None]:
        """The values of each device of a tile in µS, [inputs, outputs]; None for a device without measurements.

        Raises:
            BundleError: If targets cannot be read, or errors are infinite, of another shape, or of an unknown device.
        """
        if self._errors is None:
            return list(tile.conductances().values())
        found, known = self._errors(tile), [device.name for device in self._layer.devices]
        self._cells += tile.shape[0] * tile.shape[1] * len(known)
        for device, values in found.items():
            if device not in known:
                raise BundleError(f"tile {tile.id} has no device '{device}'; {suggestion(device, known)}")
            if np.shape(values) != tile.shape:
                shapes = f"{list(np.shape(values))}, but the tile is {list(tile.shape)}; give one for each cell"
                raise BundleError(f"the errors of tile {tile.id}, {device}, have the shape {shapes}")
            sizes = np.nan_to_num(np.abs(values), nan=-1.0, posinf=np.inf)
            row, column = np.unravel_index(sizes.argmax(), sizes.shape)
            place, error = f"tile {tile.id}, {device}, row {row}, column {column}", float(values[row, column])
            if np.isinf(error):
                raise BundleError(
                    f"the error of {place} is {error:g}; give a number, or NaN where nothing was measured"
                )
            self._measured += int(np.count_nonzero(sizes >= 0))
            if abs(error) > abs(self._largest):
                self._largest, self._place = error, place
        return [found.get(name) for name in known]

    def colors(self, image: LayerImage) -> tuple[float, float, list[str]]:
        """The values in µS of the first and last colour, and notes for the caption, once all tiles are read."""
        low, high, known = self._layer.g_min, self._layer.g_max, image.values[np.isfinite(image.values)]
        if self._errors is None:  # means are far below g_max; with colours up to g_max, all would be dark
            said = f"Colours end at the largest mean; single cells may have up to {high:g} \u00b5S."
            mean = max(float(known.max()), low + (high - low) / 1000)
            return (low, high, []) if image.is_cell_by_cell else (low, mean, [said])
        sizes = np.abs(known)
        limit = largest = float(sizes.max(initial=0.0))
        notes = [f"Measured: {self._measured:,} of {self._cells:,} cells of all devices; the others are black."]
        notes += [f"The largest error is {self._largest:.4g} \u00b5S ({self._place})."]
        if sizes.size and (share := float(np.quantile(sizes, _SHARE))) * _FAR < largest:
            limit, what = share, "cells" if image.is_cell_by_cell else "blocks of cells"
            notes += [f"Colours end at the 99th percentile of {what}; {(sizes >= share).sum():,} are there or beyond."]
        end = limit or (high - low) / 100  # any positive end: if all errors are 0, all is white
        return -end, end, notes
