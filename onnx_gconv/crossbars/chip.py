"""Assigns tiles of a model to arrays of a chip, and finds how stuck cells of these arrays change the weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.defects import ArrayDefects, DefectMap
from onnx_gconv.crossbars.error_figures import WeightErrors
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.placement import ArrayPlacement, avoided_lines, device_groups, units_of, usable_counts
from onnx_gconv.crossbars.stuck_cells import StuckDevice, effect_on_weights, stuck_devices
from onnx_gconv.crossbars.tiles import ArrayGeometry, TileGrid
from onnx_gconv.errors import ConfigError

__all__ = ["Chip", "LayerArrays", "LayerPlacement", "passed_over", "placed"]

LayerArrays: TypeAlias = tuple[tuple[ArrayPlacement, ...], ...]
"""For each tile of a layer, the arrays on which its groups of devices stand."""

_NONE = -1

# How many numbers of spare rows, and of spare columns, are tried before an error says that none suffices.
_TRIED_SPARES = 12


class _Need(NamedTuple):
    """What a group of devices of a tile needs of an array.

    Attributes:
        rows: How many inputs.
        columns: How many outputs.
        units: How many neighbouring rows of the array hold one input, and how many columns hold one output.
    """

    rows: int
    columns: int
    units: tuple[int, int]

    @property
    def cells(self) -> int:
        """How many cells of the array the group takes."""
        return self.rows * self.columns * self.units[0] * self.units[1]


@dataclass(frozen=True)
class Chip:
    """The arrays of a chip.

    Attributes:
        geometry: The size of an array, and how tiles stand on it.
        defects: The defect map; None for a chip without defects.
        source: The file of the defect map, for messages.
    """

    geometry: ArrayGeometry
    defects: DefectMap | None = None
    source: str = ""

    @cached_property
    def damaged(self) -> dict[int, ArrayDefects]:
        """The arrays that have defects, by their numbers."""
        return {} if self.defects is None else {item.array: item for item in self.defects.arrays}

    def place(self, layers: Sequence[Layer]) -> tuple[LayerArrays, ...]:
        """Assign arrays to every tile of all layers.

        Layer by layer, tile by tile, each group of devices that share an array takes the first free array with enough
        usable rows and columns. If some group finds no array this way, the search starts again with the largest groups
        first. The second search finds an array for every group, if that is possible at all, provided that each array
        that holds a group also holds all smaller groups.

        Args:
            layers: The layers, cut into tiles for the geometry of the chip.

        Returns:
            For each layer, the arrays of its tiles.

        Raises:
            ConfigError: If the chip has too few arrays; the message says what would suffice.
        """
        needs = self._needs(layers, [layer.grid for layer in layers])
        arrays = self._first_fit(needs, range(len(needs)))
        if _NONE in arrays:
            arrays = self._large_first(needs)
        if _NONE in arrays:
            raise ConfigError(self._too_few(layers, needs, arrays))
        given = iter(arrays.tolist())
        return tuple(
            tuple(tuple(self._placement(next(given), group) for group in self._groups(layer)) for _ in layer.grid.tiles)
            for layer in layers
        )

    def _groups(self, layer: Layer) -> list[tuple[int, ...]]:
        return device_groups(len(layer.record.conductances), layer.pairs, self.geometry.pair_layout)

    def _needs(self, layers: Sequence[Layer], grids: Sequence[TileGrid]) -> list[_Need]:
        """What each group of devices needs of an array, in the order of layers, tiles and groups."""
        found: list[_Need] = []
        for layer, grid in zip(layers, grids, strict=True):
            units = [units_of(group, self.geometry.pair_layout) for group in self._groups(layer)]
            for tile in grid.tiles:
                found.extend(_Need(*tile.shape, unit) for unit in units)
        return found

    def _placement(self, array: int, group: tuple[int, ...]) -> ArrayPlacement:
        item = self.damaged.get(array)
        if item is None:
            return ArrayPlacement(array, group)
        units = units_of(group, self.geometry.pair_layout)
        return ArrayPlacement(
            array,
            group,
            avoided_lines(item.unusable_rows, self.geometry.rows, units[0]),
            avoided_lines(item.unusable_columns, self.geometry.columns, units[1]),
        )

    # Which array

    def _large_first(self, needs: Sequence[_Need]) -> NDArray[np.int64]:
        return self._first_fit(needs, sorted(range(len(needs)), key=lambda number: -needs[number].cells))

    def _first_fit(self, needs: Sequence[_Need], order: Iterable[int]) -> NDArray[np.int64]:
        """For each need the first free array that meets it; `_NONE` if there is none.

        Args:
            needs: What the groups of devices need; an array without defects meets each need.
            order: Indices of the needs, in the order in which they choose.
        """
        count = self._considered(len(needs))
        found, taken = np.full(len(needs), _NONE, np.int64), bytearray(count)
        # Equal needs share a search: it goes on where the last one ended, because all marked arrays before are taken.
        marks: dict[_Need, bytes] = {}
        begin: dict[_Need, int] = {}
        for number in order:
            need = needs[number]
            if need not in marks:
                marks[need] = self._marks(need, count)
            array = marks[need].find(1, begin.get(need, 0))
            while array != _NONE and taken[array]:
                array = marks[need].find(1, array + 1)
            begin[need] = count if array == _NONE else array + 1
            if array != _NONE:
                taken[array] = True
                found[number] = array
        return found

    def _considered(self, needed: int) -> int:
        """How many arrays of the chip, counted from the first, a search for so many needs has to look at."""
        enough = needed + len(self.damaged)  # at least `needed` of these have no defects
        return enough if self.defects is None or self.defects.array_count is None else min(
            enough, self.defects.array_count
        )  # fmt: skip

    def _marks(self, need: _Need, count: int) -> bytes:
        """A byte for each array: 1 if the array meets the need, else 0."""
        marks = bytearray(b"\x01") * count
        for array, (rows, columns) in self._usable(need.units).items():
            if array < count:
                marks[array] = rows >= need.rows and columns >= need.columns
        return bytes(marks)

    def _usable(self, units: tuple[int, int]) -> dict[int, tuple[int, int]]:
        """How many inputs and outputs each array with defects holds, by the number of the array."""
        if units not in self._usable_by_units:
            self._usable_by_units[units] = {
                array: (0, 0)
                if item.unusable
                else usable_counts(self.geometry, (item.unusable_rows, item.unusable_columns), units)
                for array, item in self.damaged.items()
            }
        return self._usable_by_units[units]

    @cached_property
    def _usable_by_units(self) -> dict[tuple[int, int], dict[int, tuple[int, int]]]:
        return {}

    # What would suffice

    def _too_few(self, layers: Sequence[Layer], needs: Sequence[_Need], arrays: NDArray[np.int64]) -> str:
        assert self.defects is not None  # noqa: S101 - without a map there are arrays for all
        unusable = sum(item.unusable for item in self.damaged.values())
        placed = int((arrays != _NONE).sum())
        spare = self._sufficient_spare_lines(layers)
        remedy = (
            "no spare rows and columns were found that would do; use a chip with more, larger or better arrays"
            if spare is None
            else f"keep lines of each array free for others to take their place: --spare-rows {spare[0]} "
            f"--spare-columns {spare[1]} (spare_rows={spare[0]}, spare_columns={spare[1]}) would do"
        )
        return (
            f"it needs {len(needs):,} arrays of {self.geometry.size_text}, but of the {self.defects.array_count:,} "
            f"that '{self.source}' gives the chip only {placed:,} hold one of its tiles each (unusable: "
            f"{unusable:,}, with other defects: {len(self.damaged) - unusable:,}); {remedy}"
        )

    def _sufficient_spare_lines(self, layers: Sequence[Layer]) -> tuple[int, int] | None:
        """The fewest tried spare rows and columns with which all tiles find an array; None if none suffice."""
        rows, columns = self._spares_to_try(layers)
        size = self.geometry.rows, self.geometry.columns
        candidates = sorted(
            itertools.product(rows, columns), key=lambda spare: (spare[0] * size[1] + spare[1] * size[0], spare)
        )
        for spare in candidates:
            if self._suffices(layers, spare):
                return spare
        return None

    def _spares_to_try(self, layers: Sequence[Layer]) -> tuple[list[int], list[int]]:
        """Numbers of spare rows, and of spare columns, from which on a further array with defects holds a full tile."""
        units = {
            unit for layer in layers for unit in (units_of(g, self.geometry.pair_layout) for g in self._groups(layer))
        }
        lost: tuple[set[int], set[int]] = {0}, {0}
        for unit in units:
            for usable in self._usable(unit).values():
                for axis, size in enumerate((self.geometry.rows, self.geometry.columns)):
                    if usable[axis]:
                        # The smallest number s of spare lines with (size - s) // unit <= what the array holds.
                        lost[axis].add(max(size - usable[axis] * unit[axis] - (unit[axis] - 1), 0))
        rows, columns = (_thinned(sorted(numbers)) for numbers in lost)
        return rows, columns

    def _suffices(self, layers: Sequence[Layer], spare: tuple[int, int]) -> bool:
        try:
            geometry = replace(self.geometry, spare_rows=spare[0], spare_columns=spare[1])
            grids = [layer.cut_for(geometry) for layer in layers]
        except ConfigError:  # so many spare lines leave nothing of an array, or too little for a whole kernel
            return False
        groups = [len(self._groups(layer)) for layer in layers]
        needed = sum(len(grid) * count for grid, count in zip(grids, groups, strict=True))
        unusable = sum(item.unusable for item in self.damaged.values())
        if self.defects is None or self.defects.array_count is None or needed > self.defects.array_count - unusable:
            return False
        return _NONE not in self._large_first(self._needs(layers, grids))


@dataclass(frozen=True, eq=False)
class LayerPlacement:
    """The arrays on which the tiles of a layer stand, and their stuck cells.

    Attributes:
        tiles: For each tile its arrays.
        stuck: For each tile with stuck cells, by its number, the devices that have them.
        effect: How the stuck cells change the weights; None if there are none.
        bias_error: Largest error of the bias that is due to stuck cells in its rows, in units of the output.
    """

    tiles: LayerArrays
    stuck: dict[int, tuple[StuckDevice, ...]]
    effect: WeightErrors | None
    bias_error: float

    @property
    def stuck_cells(self) -> int:
        """How many cells that hold a device of a weight or of the bias are stuck."""
        return sum(len(item.cells) for devices in self.stuck.values() for item in devices)


def placed(layers: Sequence[Layer], chip: Chip) -> tuple[LayerPlacement, ...]:
    """Assign arrays to the tiles of all layers, and find the stuck cells in them.

    Returns:
        The placement of each layer.

    Raises:
        ConfigError: If the chip has too few arrays.
        ModelError: If conductances of tiles with stuck cells cannot be read.
    """
    return tuple(_placed(layer, tiles, chip) for layer, tiles in zip(layers, chip.place(layers), strict=True))


def passed_over(placements: Sequence[LayerPlacement]) -> tuple[int, ...]:
    """The numbers of the arrays that no tile uses, though arrays with higher numbers are used."""
    used = {array.array for placement in placements for tile in placement.tiles for array in tile}
    return tuple(array for array in range(max(used, default=0)) if array not in used)


def _placed(layer: Layer, tiles: LayerArrays, chip: Chip) -> LayerPlacement:
    stuck = {}
    for tile, arrays in zip(layer.grid.tiles, tiles, strict=True):
        found = (stuck_devices(layer, tile, array, chip.damaged.get(array.array)) for array in arrays)
        if devices := tuple(item for each in found for item in each):
            stuck[tile.number] = devices
    effect, bias_error = effect_on_weights(layer, stuck) if stuck else (None, 0.0)
    return LayerPlacement(tiles, stuck, effect, bias_error)


def _thinned(numbers: list[int]) -> list[int]:
    """At most `_TRIED_SPARES` of the numbers, evenly spread over the list, with the first and the last one."""
    if len(numbers) <= _TRIED_SPARES:
        return numbers
    return sorted({numbers[round(k * (len(numbers) - 1) / (_TRIED_SPARES - 1))] for k in range(_TRIED_SPARES)})
