"""On which array of the chip each tile stands, and on which of its lines. Unusable rows and columns are left out."""

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
    """The array that some devices of a tile stand on.

    Attributes:
        array: Its number on the chip.
        devices: Indices of the devices: one, or the two of a pair.
        avoided_rows: Its rows that are left out, rising. Input by input, the tile takes the others in their order.
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


def units_of(devices: Sequence[int], pair_layout: PairLayout) -> tuple[int, int]:
    """How many neighbouring rows, and columns, of an array make an input, and an output.

    Args:
        devices: The devices that share the array.
        pair_layout: Where the devices of a pair stand.
    """
    if len(devices) == 1 or pair_layout == "separate_arrays":
        return 1, 1
    return (1, _PAIR) if pair_layout == "adjacent_columns" else (_PAIR, 1)


def avoided_lines(unusable: Iterable[int], size: int, unit: int) -> tuple[int, ...]:
    """The lines of an array that are left out, rising.

    Lines 2j and 2j + 1 read a pair together: if one of them is unusable, so is the pair.

    Args:
        unusable: Its unusable rows, or columns.
        size: How many rows, or columns, it has.
        unit: How many neighbouring lines make one of a tile.
    """
    lost = {line // unit for line in unusable}
    return tuple(sorted(line for first in lost for line in range(first * unit, (first + 1) * unit) if line < size))


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
    """How many inputs and outputs an array holds whose unusable rows and columns are given."""
    rows, columns = (
        size // unit - len({line // unit for line in unusable if line < size // unit * unit})
        for size, unusable, unit in zip((geometry.rows, geometry.columns), damage, units, strict=True)
    )
    return rows, columns
