"""A tile of a bundle: its conductances, scales, stuck cells, and the arrays of the chip that it stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.placement import ArrayPlacement, device_groups, lines_of_devices
from onnx_gconv.crossbars.tile_arrays import first_out_of_range
from onnx_gconv.crossbars.tiles import ArrayGeometry, PairLayout
from onnx_gconv.errors import BundleError
from onnx_gconv.handoff.bundle_arrays import LayerScales
from onnx_gconv.handoff.manifest import TileRecord

__all__ = ["BundleTile", "PhysicalArray", "TileScale"]


@dataclass(frozen=True, eq=False)
class TileScale:
    """The scales of a tile. A piece is a block of rows and columns that share one scale.

    Attributes:
        values: The scales in µS per unit of weight, [pieces of rows, pieces of columns].
        zeros: What is added after the division by the scale, in units of weight, of the same shape.
        row_starts: The rows of the tile at which pieces begin; the first is 0.
        column_starts: The columns of the tile at which pieces begin; the first is 0.
    """

    values: FloatArray
    zeros: FloatArray
    row_starts: NDArray[np.int64]
    column_starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PhysicalArray:
    """What one array of the chip is programmed to.

    Attributes:
        devices: The devices that stand on it: one, or the two of a pair.
        targets: Target conductances in µS, [rows, columns]; cells without a weight are at g_min.
        is_used: Which cells hold a conductance of a weight or bias, of the same shape.
        is_avoided: Which cells are on a row or column that cannot be used and is avoided; do not program these cells.
        array: The number of the array on the chip; None in a pair layout other than the bundle's.
    """

    devices: tuple[str, ...]
    targets: FloatArray
    is_used: NDArray[np.bool_]
    is_avoided: NDArray[np.bool_]
    array: int | None


class BundleTile:
    """A tile of a layer.

    Attributes:
        layer: The layer, with the open bundle.
        record: The tile's entry in the manifest.
    """

    def __init__(self, layer: LayerScales, record: TileRecord) -> None:
        self.layer = layer
        self.record = record

    @property
    def id(self) -> str:
        """The id of the tile, such as ``L003/T0007``."""
        return self.record.id

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs (rows) and outputs (columns) of the tile."""
        (first_input, input_stop), (first_output, output_stop) = self.record.inputs, self.record.outputs
        return input_stop - first_input, output_stop - first_output

    def conductances(self) -> dict[str, FloatArray]:
        """The target conductances in µS by the name of the device, each [inputs, outputs].

        Raises:
            BundleError: If they cannot be read, or a target is out of the range of the device.
        """
        found = {}
        layer, bundle = self.layer.record, self.layer.bundle
        for device, array in zip(layer.devices, self.record.conductances, strict=True):
            targets = bundle.read(array)
            cell = first_out_of_range(targets, layer.g_min, layer.g_max, layer.compute_dtype)
            if cell is not None:
                raise BundleError(
                    f"'{bundle.arrays_path}': tile {self.id}, {device.name}, row {cell[0]}, column {cell[1]} is "
                    f"{targets[cell]:g} µS, but the device reaches {layer.g_min:g} .. {layer.g_max:g} µS; copy the "
                    "bundle again"
                )
            found[device.name] = targets
        return found

    def codes(self) -> dict[str, NDArray[Any]] | None:
        """The numbers of the levels by the name of the device, each [inputs, outputs]; None without levels."""
        if self.record.codes is None:
            return None
        devices = self.layer.record.devices
        return {
            device.name: self.layer.bundle.read(array) for device, array in zip(devices, self.record.codes, strict=True)
        }

    def scale(self) -> TileScale:
        """The scales of the tile, and the cells that each of them holds for."""
        record = self.record
        rows, columns = slice(*record.scale_rows), slice(*record.scale_columns)
        row_starts, column_starts = self.layer.scale_starts()
        return TileScale(
            self.layer.scale()[record.matrix, rows, columns],
            self.layer.zero()[record.matrix, rows, columns],
            np.maximum(row_starts[rows] - record.inputs[0], 0),
            np.maximum(column_starts[columns] - record.outputs[0], 0),
        )

    def physical_arrays(self, pair_layout: PairLayout | None = None) -> tuple[PhysicalArray, ...]:
        """The arrays of the chip that the tile stands on.

        Args:
            pair_layout: Where the devices of a pair stand; the layout of the bundle if None. In the layout of the
                bundle, arrays have the size of the chip's arrays. In any other layout, they have room for the most
                inputs and outputs that a tile of the bundle may have.

        Raises:
            BundleError: If targets cannot be read or are out of range, or there is no memory for an array of that size.
        """
        layer, geometry = self.layer.record, self.layer.bundle.geometry
        chosen = geometry.pair_layout if pair_layout is None else pair_layout
        size, placements = (geometry.rows, geometry.columns), self._placements()
        if chosen != geometry.pair_layout:
            size = _size_in_other_layout(geometry, chosen, is_paired=bool(layer.pairs))
            groups = device_groups(len(layer.devices), layer.pairs, chosen)
            placements = [ArrayPlacement(-1, group) for group in groups]
        conductances = list(self.conductances().values())
        return tuple(self._physical_array(placement, size, chosen, conductances) for placement in placements)

    def _placements(self) -> list[ArrayPlacement]:
        return [
            ArrayPlacement(item.array, item.devices, item.avoided_rows, item.avoided_columns)
            for item in self.record.placements
        ]

    def _physical_array(
        self,
        placement: ArrayPlacement,
        size: tuple[int, int],
        pair_layout: PairLayout,
        conductances: list[FloatArray],
    ) -> PhysicalArray:
        layer = self.layer.record
        if len(placement.devices) == 1 and placement.array < 0:
            size = self.layer.bundle.geometry.capacity(is_paired=bool(layer.pairs))
        try:
            targets = np.full(size, layer.g_min, conductances[0].dtype)
            is_used, is_avoided = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        except (MemoryError, ValueError) as error:
            bundle = self.layer.bundle.path
            raise BundleError(f"'{bundle}': no memory for an array of {size[0]}x{size[1]}: {error}") from None
        is_avoided[list(placement.avoided_rows)] = True
        is_avoided[:, list(placement.avoided_columns)] = True
        lines = lines_of_devices(size, self.shape, placement, pair_layout)
        for device, (rows, columns) in zip(placement.devices, lines, strict=True):
            targets[rows[:, None], columns] = conductances[device]
            is_used[rows[:, None], columns] = True
        return PhysicalArray(
            tuple(layer.devices[device].name for device in placement.devices),
            targets,
            is_used,
            is_avoided,
            None if placement.array < 0 else placement.array,
        )

    def stuck_cells(self) -> dict[str, tuple[NDArray[np.int64], FloatArray]]:
        """The stuck cells by the name of the device; devices without stuck cells are missing.

        Each entry has the row and column of the cells in the tile, int64 [cells, 2], and the conductances in µS at
        which they are stuck, [cells].

        Raises:
            BundleError: If they cannot be read.
        """
        bundle, devices = self.layer.bundle, self.layer.record.devices
        return {
            devices[item.device].name: (bundle.read(item.cells), bundle.read(item.conductances))
            for item in self.record.stuck
        }


def _size_in_other_layout(geometry: ArrayGeometry, pair_layout: PairLayout, *, is_paired: bool) -> tuple[int, int]:
    """The size of an array that holds the largest tile in a pair layout other than the bundle's."""
    rows, columns = geometry.capacity(is_paired=is_paired)
    if pair_layout == "separate_arrays":
        return rows, columns
    return (rows, 2 * columns) if pair_layout == "adjacent_columns" else (2 * rows, columns)
