"""On which array of the chip each tile stands, and on which of its lines. Unusable rows and columns are left out."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.defects import ArrayDefects, DefectMap
from onnx_gconv.handoff.tiles import ArrayGeometry, PairLayout

__all__ = ["ArrayPlacement", "Chip", "device_groups", "lines_of_devices"]

_PAIR = 2


@dataclass(frozen=True)
class ArrayPlacement:
    """The array that some devices of a tile stand on.

    Attributes:
        array: Its number on the chip.
        devices: Indices of the devices: one, or the two of a pair.
        avoided_rows: Its rows that are left out, as far as they lie before the last one that is used.
        avoided_columns: Its columns that are left out, likewise.
    """

    array: int
    devices: tuple[int, ...]
    avoided_rows: tuple[int, ...] = ()
    avoided_columns: tuple[int, ...] = ()


def device_groups(devices: int, pairs: Sequence[tuple[int, int]], pair_layout: PairLayout) -> list[tuple[int, ...]]:
    """The devices that share an array.

    Args:
        devices: How many devices a cell has.
        pairs: Indices of the devices of each pair.
        pair_layout: Where the devices of a pair stand.
    """
    if pair_layout == "separate_arrays":
        return [(device,) for device in range(devices)]
    partners = dict(pairs)
    second = set(partners.values())
    return [
        (device, partners[device]) if device in partners else (device,)
        for device in range(devices)
        if device not in second
    ]


def lines_of_devices(
    size: tuple[int, int], shape: tuple[int, int], placement: ArrayPlacement, pair_layout: PairLayout
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows and the columns of an array that hold the inputs and the outputs of a tile, for each of its devices.

    Args:
        size: Rows and columns of the array.
        shape: Inputs and outputs of the tile.
        placement: The array.
        pair_layout: Where the devices of a pair stand.
    """
    along = _units(len(placement.devices), pair_layout)
    rows, columns = (
        np.setdiff1d(np.arange(length), avoided)[: unit * count].reshape(count, unit)
        for length, avoided, unit, count in zip(
            size, (placement.avoided_rows, placement.avoided_columns), along, shape, strict=True
        )
    )
    return [(rows[:, device % along[0]], columns[:, device % along[1]]) for device in range(len(placement.devices))]


def _units(devices: int, pair_layout: PairLayout) -> tuple[int, int]:
    """How many neighbouring rows, and columns, of an array make an input, and an output."""
    if devices == 1 or pair_layout == "separate_arrays":
        return 1, 1
    return (1, _PAIR) if pair_layout == "adjacent_columns" else (_PAIR, 1)


@dataclass
class Chip:
    """The arrays of a chip, which are given away one by one, in the order of their numbers.

    An array whose usable lines are too few for a tile is kept for a smaller one.

    Attributes:
        geometry: The arrays.
        defects: What is wrong with them; None for a chip without defects.
        source: The name of the defect map, for messages.
    """

    geometry: ArrayGeometry
    defects: DefectMap | None = None
    source: str = ""
    _next: int = 0
    _kept: list[int] = field(default_factory=list)  # arrays that were passed over, by their numbers
    _too_small: dict[tuple[int, int, tuple[int, int]], int] = field(default_factory=dict)  # up to this one, for a tile

    def __post_init__(self) -> None:
        arrays = () if self.defects is None else self.defects.arrays
        self._damaged = {item.array: item for item in arrays}

    def damage(self, array: int) -> ArrayDefects | None:
        """What is wrong with an array; None if nothing is."""
        return self._damaged.get(array)

    @property
    def passed_over(self) -> tuple[int, ...]:
        """The arrays that no tile stands on, though arrays of higher numbers are used."""
        return tuple(self._kept)

    def place(self, shape: tuple[int, int], groups: Iterable[tuple[int, ...]], needed: int) -> list[ArrayPlacement]:
        """Take an array for each group of devices of a tile.

        Args:
            shape: Inputs and outputs of the tile.
            groups: The devices that share an array.
            needed: How many arrays all tiles need, for the message.

        Raises:
            ConfigError: If the chip has none left.
        """
        return [self._place(shape, group, needed) for group in groups]

    def _place(self, shape: tuple[int, int], group: tuple[int, ...], needed: int) -> ArrayPlacement:
        units = _units(len(group), self.geometry.pair_layout)
        rows, columns = shape[0] * units[0], shape[1] * units[1]
        array = self._kept_for(rows, columns, units)
        while array is None:
            self._check_count(shape, needed)
            candidate, self._next = self._next, self._next + 1
            usable = self._usable_lines(candidate, units)
            if usable[0].size >= rows and usable[1].size >= columns:
                array = candidate
            else:
                self._kept.append(candidate)
        used = [lines[:count] for lines, count in zip(self._usable_lines(array, units), (rows, columns), strict=True)]
        avoided = [np.setdiff1d(np.arange(lines[-1]), lines).tolist() for lines in used]
        return ArrayPlacement(array, group, tuple(avoided[0]), tuple(avoided[1]))

    def _kept_for(self, rows: int, columns: int, units: tuple[int, int]) -> int | None:
        """The first of the arrays that were passed over that holds so many rows and columns."""
        request = rows, columns, units
        for array in self._kept[bisect.bisect_right(self._kept, self._too_small.get(request, -1)) :]:
            usable = self._usable_lines(array, units)
            if usable[0].size >= rows and usable[1].size >= columns:
                self._kept.remove(array)
                return array
            self._too_small[request] = array
        return None

    def _check_count(self, shape: tuple[int, int], needed: int) -> None:
        count = None if self.defects is None else self.defects.array_count
        if count is None or self._next < count:
            return
        spare = self._spare_lines()
        remedy = (
            "take more or larger arrays"
            if not any(spare)
            else f"cut smaller tiles with --spare-rows {spare[0]} --spare-columns {spare[1]}, which every usable array "
            "holds, or take more arrays"
        )
        left = len(self._kept)
        raise ConfigError(
            f"the model needs {needed:,} arrays, but the chip of '{self.source}' has {count:,}, and {left:,} of them "
            f"are unusable or too damaged for a tile of {shape[0]}x{shape[1]}; {remedy}"
        )

    def _spare_lines(self) -> tuple[int, int]:
        """How many rows and columns of an array have to be spare, so that every usable one holds the largest tiles."""
        units = _units(_PAIR, self.geometry.pair_layout)
        most = [0, 0]
        for array, item in self._damaged.items():
            if item.unusable:
                continue
            for axis, (lines, size) in enumerate(
                zip(self._usable_lines(array, units), (self.geometry.rows, self.geometry.columns), strict=True)
            ):
                most[axis] = max(most[axis], size - lines.size)
        return most[0], most[1]

    def _usable_lines(self, array: int, units: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows and columns of an array that can be used; with one line of a pair the other one is lost, too."""
        item, geometry = self._damaged.get(array), self.geometry
        if item is not None and item.unusable:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        found = []
        for size, unit, unusable in zip(
            (geometry.rows, geometry.columns),
            units,
            ((), ()) if item is None else (item.unusable_rows, item.unusable_columns),
            strict=True,
        ):
            whole = np.arange(size // unit * unit).reshape(-1, unit)
            found.append(whole[~np.isin(whole, unusable).any(axis=1)].reshape(-1))
        return found[0], found[1]
