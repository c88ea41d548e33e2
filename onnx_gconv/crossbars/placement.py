"""On which array of the chip a tile stands, and on which of its rows and columns; unusable ones are left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.tiles import ArrayGeometry, PairLayout

__all__ = ["ArrayPlacement", "avoided_lines", "device_groups", "lines_of_devices", "units_of", "usable_counts"]

_PAIR = 2


@dataclass(frozen=True)
class ArrayPlacement:
    """The array on which one device, or a pair of devices, of a tile stands.

    Attributes:
        array: Number of the array on the chip.
        devices: Indices of the devices: one, or the two of a pair.
        avoided_rows: Rows of the array that are left out, ascending. The inputs of the tile take the other rows in
            order.
        avoided_columns: Columns of the array that are left out, ascending. The outputs take the others in order.
    """

    array: int
    devices: tuple[int, ...]
    avoided_rows: tuple[int, ...] = ()
    avoided_columns: tuple[int, ...] = ()


def device_groups(devices: int, pairs: Sequence[tuple[int, int]], pair_layout: PairLayout) -> list[tuple[int, ...]]:
    """Group the devices of a cell by the array that they share.

    Args:
        devices: How many devices a cell has.
        pairs: Indices of the devices of each pair.
        pair_layout: Where the devices of a pair stand.

    Returns:
        The indices of the devices in each group: one, or the two of a pair.
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


def units_of(devices: Sequence[int], pair_layout: PairLayout) -> tuple[int, int]:
    """How many neighbouring rows of an array hold one input, and how many columns hold one output.

    Args:
        devices: The devices that share the array.
        pair_layout: Where the devices of a pair stand.
    """
    if len(devices) == 1 or pair_layout == "separate_arrays":
        return 1, 1
    return (1, _PAIR) if pair_layout == "adjacent_columns" else (_PAIR, 1)


def avoided_lines(unusable: Iterable[int], size: int, unit: int) -> tuple[int, ...]:
    """The rows, or columns, of an array that are left out, ascending.

    With two lines per input or output, lines 2j and 2j + 1 hold a pair: if one of them is unusable, both are left out.

    Args:
        unusable: The unusable rows, or columns, of the array.
        size: How many rows, or columns, the array has.
        unit: How many neighbouring lines hold one input or output.
    """
    lost = {line // unit for line in unusable}
    return tuple(sorted(line for first in lost for line in range(first * unit, (first + 1) * unit) if line < size))


def lines_of_devices(
    size: tuple[int, int], shape: tuple[int, int], placement: ArrayPlacement, pair_layout: PairLayout
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each device on an array, the rows that hold the inputs and the columns that hold the outputs of a tile.

    Args:
        size: Rows and columns of the array.
        shape: Inputs and outputs of the tile.
        placement: The array, its devices, and the lines that are left out.
        pair_layout: Where the devices of a pair stand.

    Returns:
        For each device of `placement`: row numbers, [inputs], and column numbers, [outputs].
    """
    units = units_of(placement.devices, pair_layout)
    avoided = placement.avoided_rows, placement.avoided_columns
    rows, columns = (
        np.delete(np.arange(length), lines)[: unit * count].reshape(count, unit)
        for length, lines, unit, count in zip(size, avoided, units, shape, strict=True)
    )
    return [(rows[:, device % units[0]], columns[:, device % units[1]]) for device in range(len(placement.devices))]


def usable_counts(
    geometry: ArrayGeometry, damage: tuple[Sequence[int], Sequence[int]], units: tuple[int, int]
) -> tuple[int, int]:
    """How many inputs and outputs an array with unusable lines holds.

    Args:
        geometry: The size of the array.
        damage: Its unusable rows, and its unusable columns.
        units: How many neighbouring rows hold one input, and how many columns hold one output.
    """
    rows, columns = (
        size // unit - len({line // unit for line in unusable if line < size // unit * unit})
        for size, unusable, unit in zip((geometry.rows, geometry.columns), damage, units, strict=True)
    )
    return rows, columns
