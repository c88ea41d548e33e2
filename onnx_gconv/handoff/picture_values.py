"""The values that a picture shows, gathered tile by tile: cells themselves, or means or extremes of blocks of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.tiles import Tile
from onnx_gconv.handoff.picture_layout import AxisLayout, PanelLayout

__all__ = ["Blocks", "ErrorFigures", "Samples", "limit_of"]

Blocks: TypeAlias = Literal["mean", "extreme"]

# float32 without its last 16 bits: bins whose edges are less than 1 % apart, and in order for numbers from 0 on.
_BIN_BITS = 16
_BINS = 1 << (31 - _BIN_BITS)
# What colours leave out at most, and only if the largest error is so much further away that the others would pale.
_SHARE = 0.99
_FAR = 1.25


@dataclass(frozen=True)
class _Stretch:
    """The blocks that a tile touches in one direction.

    Attributes:
        blocks: The first block of its field, and the one after the last.
        edges: The cells of the tile at which blocks begin.
        counts: How many cells of the tile each block has.
    """

    blocks: slice
    edges: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(cls, axis: AxisLayout, tile: int, cells: int) -> _Stretch:
        """The stretch of a tile, numbered in the window, of so many cells."""
        blocks = (axis.offset(tile) + np.arange(cells)) // axis.scale.cells
        edges = np.flatnonzero(np.diff(blocks, prepend=-1))
        return cls(slice(int(blocks[0]), int(blocks[-1]) + 1), edges, np.diff(edges, append=cells))


class Samples:
    """The values of a window of tiles: one for each cell or block of cells.

    Args:
        layout: Where tiles stand.
        devices: The names of the devices.
        blocks: What stands for a block of cells: their mean, or the one that is furthest from 0.
    """

    def __init__(self, layout: PanelLayout, devices: Sequence[str], blocks: Blocks) -> None:
        self.layout = layout
        self.devices = tuple(devices)
        self.blocks: Blocks = blocks
        self._fields: dict[tuple[str, int, int, int], list[NDArray[np.floating]]] = {}

    def add(self, tile: Tile, values: Mapping[str, FloatArray]) -> None:
        """Add a tile of the window: for each device its values [inputs, outputs], NaN where there is none.

        Devices that are not named have none.
        """
        layout, window = self.layout, self.layout.window
        row, column = tile.grid[0] - window.rows[0], tile.grid[1] - window.columns[0]
        rows = _Stretch.of(layout.rows, row, tile.shape[0])
        columns = _Stretch.of(layout.columns, column, tile.shape[1])
        for device in self.devices:
            if device in values:
                key = device, tile.matrix, layout.rows.field(row), layout.columns.field(column)
                self._add(key, np.asarray(values[device]), rows, columns)

    def field(self, device: str, matrix: int, row: int, column: int) -> FloatArray:
        """The values of a field, numbered in the window, [blocks of inputs, blocks of outputs]; NaN for none."""
        found = self._fields.get((device, matrix, row, column))
        if found is None:
            return np.full(self._blocks_of_field(row, column), np.nan, np.float32)
        if self._is_mean:
            total, cells = found
            return np.asarray(total / cells)
        lowest, highest = found
        return np.asarray(np.where(-lowest > highest, lowest, highest))

    def all(self) -> FloatArray:
        """All values, one after the other, but those that are missing."""
        if not self._fields:
            return np.empty(0, np.float32)
        values = np.concatenate([self.field(*key).reshape(-1) for key in self._fields])
        return np.asarray(values[~np.isnan(values)])

    @property
    def _is_mean(self) -> bool:
        return self.blocks == "mean" and not self.layout.is_cell_by_cell

    def _blocks_of_field(self, row: int, column: int) -> tuple[int, int]:
        (top, bottom), (left, right) = self.layout.rows.field_range(row), self.layout.columns.field_range(column)
        return self.layout.rows.scale.blocks(bottom - top), self.layout.columns.scale.blocks(right - left)

    def _add(self, key: tuple[str, int, int, int], values: FloatArray, rows: _Stretch, columns: _Stretch) -> None:
        place = rows.blocks, columns.blocks
        if key not in self._fields:
            shape = self._blocks_of_field(*key[2:])
            if self._is_mean:
                self._fields[key] = [np.zeros(shape), np.zeros(shape, np.float32)]
            else:
                self._fields[key] = [np.full(shape, np.nan, np.float32) for _ in range(2)]
        first, second = self._fields[key]
        if self._is_mean:
            first[place] += np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows.edges, 0), columns.edges, 1)
            second[place] += np.outer(rows.counts, columns.counts)
            return
        for field, extreme in ((first, np.fmin), (second, np.fmax)):
            found = extreme.reduceat(extreme.reduceat(values, rows.edges, 0), columns.edges, 1)
            field[place] = extreme(field[place], found)


class ErrorFigures:
    """How errors are distributed, counted tile by tile, to choose colours for them."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self.missing = 0
        self.largest = 0.0
        self.largest_cell = ""

    def add(self, tile_id: str, device: str, errors: FloatArray) -> None:
        """Count the errors of a device of a tile, in µS; NaN for cells without one."""
        is_missing = np.isnan(errors)
        self.missing += int(is_missing.sum())
        if is_missing.all():
            return
        sizes = np.abs(errors).astype(np.float32)
        bins = sizes[~is_missing].view(np.uint32) >> _BIN_BITS
        self._counts += np.bincount(bins, minlength=_BINS)
        cell = np.unravel_index(np.nanargmax(sizes), sizes.shape)
        if float(sizes[cell]) > abs(self.largest):
            self.largest = float(errors[cell])
            self.largest_cell = f"tile {tile_id}, {device}, row {cell[0]}, column {cell[1]}"

    def add_missing(self, cells: int) -> None:
        """Count cells of a device that nothing is known of."""
        self.missing += cells

    @property
    def measured(self) -> int:
        """How many cells have an error."""
        return int(self._counts.sum())

    @property
    def limit(self) -> float:
        """The error of the last colour, in µS: the largest one, or the 99th percentile if that is far below it."""
        if self.largest == 0:
            return 0.0
        last = int(np.searchsorted(np.cumsum(self._counts), _SHARE * self.measured))
        edge = float(np.array([last + 1 << _BIN_BITS], np.uint32).view(np.float32)[0])
        return edge if edge * _FAR < abs(self.largest) else abs(self.largest)

    @property
    def beyond(self) -> int:
        """How many errors are at `limit` or beyond it; 0 if that is the largest one."""
        limit = self.limit
        if limit == abs(self.largest):
            return 0
        last = int(np.array([limit], np.float32).view(np.uint32)[0]) >> _BIN_BITS
        return int(self._counts[last:].sum())


def limit_of(errors: FloatArray) -> tuple[float, int]:
    """The limit of errors as in `ErrorFigures`, and how many are at it or beyond it."""
    if errors.size == 0:
        return 0.0, 0
    sizes = np.abs(errors)
    limit, largest = float(np.quantile(sizes, _SHARE)), float(sizes.max())
    if limit * _FAR >= largest:
        return largest, 0
    return limit, int((sizes >= limit).sum())
