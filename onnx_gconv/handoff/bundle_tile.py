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
    """The scales of a tile.

    Attributes:
        values: In µS per unit of weight, [pieces of rows, pieces of columns].
        zeros: In units of weight, of the same shape.
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
        targets: In µS, [rows, columns]; cells without a weight are at g_min.
        is_used: Which cells belong to a weight, of the same shape.
        is_avoided: Which cells are on a row or column that is left out because it cannot be used; they are not to be
            programmed.
        array: The number of the array on the chip; None in another pair layout than that of the bundle.
    """

    devices: tuple[str, ...]
    targets: FloatArray
    is_used: NDArray[np.bool_]
    is_avoided: NDArray[np.bool_]
    array: int | None


class BundleTile:
    """A tile of a layer.

    Attributes:
        layer: The layer.
        record: What the manifest says of the tile.
    """

    def __init__(self, layer: LayerScales, record: TileRecord) -> None:
        self.layer = layer
        self.record = record

    @property
    def id(self) -> str:
        """E.g. ``L003/T0007``."""
        return self.record.id

    @property
    def shape(self) -> tuple[int, int]:
        """Its inputs and outputs."""
        (first_input, input_stop), (first_output, output_stop) = self.record.inputs, self.record.outputs
        return input_stop - first_input, output_stop - first_output

    def conductances(self) -> dict[str, FloatArray]:
        """For each device its targets in µS, [inputs, outputs].

        Raises:
            BundleError: If they cannot be read, or one is out of the range of the device.
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
        """For each device the codes of its levels, [inputs, outputs]; None if the mapping has none."""
        if self.record.codes is None:
            return None
        devices = self.layer.record.devices
        return {
            device.name: self.layer.bundle.read(array) for device, array in zip(devices, self.record.codes, strict=True)
        }

    def scale(self) -> TileScale:
        """Its scales, and the cells that they hold for."""
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
            pair_layout: Where the devices of a pair stand; as the bundle has it if None. In that layout arrays have the
                size of the chip's arrays; in another one, that of as many inputs and outputs as a tile may have.

        Raises:
            BundleError: As `conductances`, and if there is no memory for an array of that size.
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
        """For each device that has stuck cells, their rows and columns in the tile, [cells, 2], and conductances in µS.

        Raises:
            BundleError: If they cannot be read.
        """
        bundle, devices = self.layer.bundle, self.layer.record.devices
        return {
            devices[item.device].name: (bundle.read(item.cells), bundle.read(item.conductances))
            for item in self.record.stuck
        }


def _size_in_other_layout(geometry: ArrayGeometry, pair_layout: PairLayout, *, is_paired: bool) -> tuple[int, int]:
    """The size of an array for as many inputs and outputs as a tile may have, in a layout that is not the bundle's."""
    rows, columns = geometry.capacity(is_paired=is_paired)
    if pair_layout == "separate_arrays":
        return rows, columns
    return (rows, 2 * columns) if pair_layout == "adjacent_columns" else (2 * rows, columns)
