"""Writes a table of targets for a pulse programmer, cell by cell, in the order of the arrays of the chip."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.error_figures import Tolerance
from onnx_gconv.crossbars.placement import ArrayPlacement, lines_of_devices
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.csv_text import csv_line
from onnx_gconv.files.models import check_output_path
from onnx_gconv.files.naming import MAPPED_SUFFIX
from onnx_gconv.files.progress import Progress
from onnx_gconv.files.staging import staged_text
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.handoff.bundle import Bundle, open_bundle
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import PlacementRecord
from onnx_gconv.handoff.measured.compared_tiles import note_readings, refuse_siemens, refuse_targets
from onnx_gconv.handoff.measured.limits import check_limits, tolerance_of
from onnx_gconv.handoff.measured.measurements import (
    FailedCells,
    Measurements,
    check_choices,
    open_measurements,
)
from onnx_gconv.handoff.measured.readings_table import READING
from onnx_gconv.handoff.measured.units import ReadingUnit
from onnx_gconv.handoff.rounds.targets_report import ListedLayer, TargetsReport

__all__ = ["TABLE_HEADER", "default_table_path", "write_targets"]

TABLE_HEADER = f"array,tile,device,row,column,array_row,array_column,target_us,tolerance_us,{READING}"

_SUFFIX = ".csv"

# So many cells are formatted at once, because Python's numbers and texts need many times the memory of an array.
_TEXT_CELLS = 1 << 16


def default_table_path(bundle: Path) -> Path:
    """The default path of a table of targets: ``model.targets.csv`` beside ``model.gconv``."""
    return bundle.with_name(f"{bundle.name.removesuffix(MAPPED_SUFFIX)}.targets.csv")


def write_targets(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    measured: str | os.PathLike[str] | None = None,
    only_off_target: str | os.PathLike[str] | None = None,
    updates: Sequence[str | os.PathLike[str]] = (),
    tolerance_us: float | None = None,
    tolerance_relative: float | None = None,
    limits: tuple[float, float] | None = None,
    failed_cells: FailedCells = "target",
    unit: ReadingUnit | None = None,
    as_if_measured: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TargetsReport:
    """Write the targets of a bundle as a table for a pulse programmer, a line for each device of each cell.

    The columns are ``array,tile,device,row,column,array_row,array_column,target_us,tolerance_us,reading_us``: the
    number of the array on the chip; the tile and the device; row and column in the tile, and on the array; the target,
    how far from it the device may be (empty if no tolerance is known), and the present reading (empty if there is
    none), all in µS. Lines are sorted by array, device, row and column. Cells of arrays that hold no weight are left
    out. Memory does not grow with the bundle. The targets are compared with their checksums.

    A lab fills in new readings; the table can then be read back, as `measured` or as one of `updates`.

    Args:
        bundle: The folder of the bundle.
        output: The file to write; ``NAME.targets.csv`` beside the bundle if None.
        measured: The measurements so far, for the column of readings, in any form that `read_back` takes.
        only_off_target: The measurements so far, like `measured`, but the table leaves out devices that are within the
            tolerance: it lists what a loop of write and verify programs next. Devices without a reading are listed.
        updates: Files of later rounds in their order. A reading in a later file replaces the earlier one of the cell.
        tolerance_us: How far from its target a device may be, in µS.
        tolerance_relative: How far from its target a device may be, as a fraction of the target. If both tolerances are
            given, the larger one counts; if both are None, those of the bundle's preset count.
        limits: The lowest and highest conductance that is accepted as a reading, in µS. If None, each layer accepts its
            range g_min to g_max, widened by a quarter of its width on either side.
        failed_cells: What happens to cells that a mask marks as failed: ``target`` ignores their readings, ``measured``
            uses them.
        unit: The unit of measured arrays: ``uS``, or ``S`` for siemens, which are converted. If None, they are taken
            for µS, but refused if they look like siemens. Tables are in µS, as their column says.
        as_if_measured: Accept a file that holds the targets of the bundle themselves, which is refused otherwise.
        overwrite: Replace an older table.
        progress: Called with the step ("targets"), the amount done and the total amount.

    Raises:
        BundleError: If the bundle or the measurements are missing or damaged, or a value is no conductance.
        ConfigError: If an option is wrong, a tolerance is needed but not known, or the output exists or cannot be
            written.
    """
    if measured is not None and only_off_target is not None:
        raise ConfigError("measured and only_off_target are the same measurements; give one of both")
    readings = measured if only_off_target is None else only_off_target
    if readings is None:
        _refuse_without_readings(updates, limits, failed_cells, unit, as_if_measured)
    check_limits(limits)
    check_choices(failed_cells, unit)
    folder, given = Path(bundle), tolerance_of(tolerance_us, tolerance_relative)
    target = default_table_path(folder) if output is None else Path(output)
    watched = WatchedFiles()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_bundle(folder))
        found = None
        if readings is not None:
            found = stack.enter_context(
                open_measurements(
                    Path(readings),
                    updates=[Path(update) for update in updates],
                    bundle=folder,
                    mapped=None,
                    limits=limits,
                    failed_cells=failed_cells,
                    unit=unit,
                    watched=watched,
                )
            )
        files = () if found is None else found.files
        _check_output(target, [*files, folder])
        preset = opened.manifest.preset
        if given is None and preset is not None:
            given = tolerance_of(preset.tolerance_us, preset.tolerance_relative)
        if only_off_target is not None and given is None:
            raise ConfigError(
                "which devices are off target depends on the tolerance, and the bundle has no preset with one; give it "
                "with --tolerance (tolerance_us=...) or --tolerance-relative (tolerance_relative=...)"
            )
        table = _Table(opened, found, given, is_partial=only_off_target is not None, progress=progress)
        try:
            with staged_text(target, replace=overwrite) as text, watched.blamed():
                layers = table.write(text)
                watched.check()
                if found is not None:
                    refuse_targets(found, is_accepted=as_if_measured)
                    refuse_siemens(found, unit)
        except FileExistsError:
            raise ConfigError(
                f"'{target}' exists; choose another name, or replace it with --overwrite (overwrite=True)"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"cannot write '{target}': {error.strerror}; free some space or choose another disk"
            ) from error
    return TargetsReport(
        bundle=folder,
        output=target,
        measured=None if readings is None else files[0],
        updates=files[1:],
        tolerance=given,
        is_partial=only_off_target is not None,
        arrays=table.arrays,
        layers=layers,
    )


def _refuse_without_readings(
    updates: Sequence[object],
    limits: object,
    failed_cells: FailedCells,
    unit: object,
    as_if_measured: bool,  # noqa: FBT001 - as in `write_targets`
) -> None:
    """Refuse options that say how readings are taken if there are none.

    Raises:
        ConfigError: If one of them is given.
    """
    if updates:
        raise ConfigError("updates are later rounds of measurements; give those, too")
    given = {
        "--limits (limits)": limits is not None,
        "--failed-cells (failed_cells)": failed_cells != "target",
        "--unit (unit)": unit is not None,
        "--as-if-measured (as_if_measured)": as_if_measured,
    }
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"{name} is for readings, but none are given; leave it out, or give some with --measured or "
                "--only-off-target"
            )


def _check_output(path: Path, inputs: Sequence[Path]) -> None:
    """Check that a table can be written, and has a name by which it is known when it comes back.

    Raises:
        ConfigError: If it cannot, or has another name.
    """
    check_output_path(path, inputs)
    if path.suffix.lower() != _SUFFIX:
        raise ConfigError(
            f"cannot write '{path}': it is a CSV file; give a name that ends in {_SUFFIX}, by which `readback` knows a "
            "table of readings"
        )


@dataclass(frozen=True)
class _Device:
    """A device of a tile, and the array that it stands on.

    Attributes:
        layer: Number of the layer in the bundle.
        tile: Number of the tile in the layer.
        place: Index of the device among the devices of the placement.
        placement: The array that the device stands on.
    """

    layer: int
    tile: int
    place: int
    placement: PlacementRecord

    @property
    def device(self) -> int:
        """Index of the device among all devices of the layer."""
        return self.placement.devices[self.place]


class _Table:
    """Writes the lines of a table.

    Args:
        bundle: The open bundle.
        measurements: The measurements; None if there are none.
        tolerance: How far a device may be from its target; None if no tolerance is known.
        is_partial: Whether to list only devices that are not known to be within the tolerance.
        progress: See `write_targets`.

    Attributes:
        arrays: Number of arrays of the chip that have a line so far.
    """

    def __init__(
        self,
        bundle: Bundle,
        measurements: Measurements | None,
        tolerance: Tolerance | None,
        *,
        is_partial: bool,
        progress: Progress | None,
    ) -> None:
        self._bundle = bundle
        self._measurements = measurements
        self._tolerance = tolerance
        self._is_partial = is_partial
        self._progress = progress
        self._last: tuple[str, dict[str, NDArray[Any]]] = "", {}
        self.arrays = 0

    def write(self, text: TextIO) -> tuple[ListedLayer, ...]:
        """Write all lines, and return the counts of each layer."""
        text.write(f"{TABLE_HEADER}\n")
        layers = self._bundle.layers
        found = [ListedLayer.none(layer.record) for layer in layers]
        total, done, last_array = sum(layer.cells for layer in found), 0, -1
        for item in self._devices():
            tile = BundleTile(layers[item.layer], layers[item.layer].record.tiles[item.tile])
            listed = self._write_device(text, tile, item)
            found[item.layer] |= listed
            if listed.listed and item.placement.array != last_array:
                self.arrays, last_array = self.arrays + 1, item.placement.array
            done += tile.shape[0] * tile.shape[1]
            if self._progress is not None:
                self._progress("targets", done, total)
        return tuple(found)

    def _devices(self) -> list[_Device]:
        """All devices of all tiles, in the order of the arrays that they stand on."""
        found = [
            _Device(number, index, place, placement)
            for number, layer in enumerate(self._bundle.layers)
            for index, tile in enumerate(layer.record.tiles)
            for placement in tile.placements
            for place in range(len(placement.devices))
        ]
        return sorted(found, key=lambda item: (item.placement.array, item.layer, item.tile, item.place))

    def _write_device(self, text: TextIO, tile: BundleTile, item: _Device) -> ListedLayer:
        """Write the lines of a device of a tile, and return their counts as a part of the layer."""
        layer, geometry = tile.layer.record, self._bundle.geometry
        name = layer.devices[item.device].name
        targets = self._targets(tile)[name]
        readings = self._readings(tile, item.device, targets)
        allowed = None if self._tolerance is None else self._tolerance.allowed(targets)
        is_listed, is_off = np.ones(targets.shape, np.bool_), np.zeros(targets.shape, np.bool_)
        if allowed is not None:
            is_off = np.abs(readings - targets) > allowed
        if self._is_partial:
            is_listed = is_off | np.isnan(readings)
        record = item.placement
        placement = ArrayPlacement(record.array, record.devices, record.avoided_rows, record.avoided_columns)
        size = geometry.rows, geometry.columns
        lines = lines_of_devices(size, tile.shape, placement, geometry.pair_layout)[item.place]
        head = f"{record.array},{csv_line((tile.id, name), end='')}"
        for rows, columns in _cells(is_listed):
            tolerances = [""] * rows.size if allowed is None else map("{:.6g}".format, allowed[rows, columns])
            known = ["" if np.isnan(each) else str(each) for each in readings[rows, columns]]
            text.writelines(
                f"{head},{row},{column},{array_row},{array_column},{target},{tolerance},{reading}\n"
                for row, column, array_row, array_column, target, tolerance, reading in zip(
                    rows.tolist(),
                    columns.tolist(),
                    lines[0][rows].tolist(),
                    lines[1][columns].tolist(),
                    targets[rows, columns].astype(str),  # the shortest text that comes back exactly
                    tolerances,
                    known,
                    strict=True,
                )
            )
        stuck = tile.stuck_cells().get(name)
        return ListedLayer(
            id=layer.id,
            weight=layer.weight,
            known_as=layer.known_as,
            cells=targets.size,
            listed=int(np.count_nonzero(is_listed)),
            off_target=int(np.count_nonzero(is_off)),
            without_reading=int(np.count_nonzero(np.isnan(readings))),
            stuck=0 if stuck is None else int(np.count_nonzero(is_listed[tuple(stuck[0].T)])),
        )

    def _targets(self, tile: BundleTile) -> dict[str, NDArray[Any]]:
        """The targets of all devices of a tile, kept until another tile is asked for.

        The devices of a tile are mostly written one after the other, so that each tile is read once.
        """
        if self._last[0] != tile.id:
            found = tile.conductances()
            for record, targets in zip(tile.record.conductances, found.values(), strict=True):
                self._bundle.check_hash(record, targets)  # a chip is programmed with them
            self._last = tile.id, found
        return self._last[1]

    def _readings(self, tile: BundleTile, device: int, targets: NDArray[Any]) -> NDArray[np.float64]:
        """The present readings of a device in µS, float64 [inputs, outputs]; NaN where there is none."""
        measurements = self._measurements
        found = None if measurements is None else measurements.array(tile.layer.record, tile.record, device)
        if measurements is None or found is None:
            return np.full(targets.shape, np.nan)
        note_readings(measurements, tile.record.conductances[device].key, found, targets)
        return found.conductances.astype(np.float64)


def _cells(is_listed: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows and columns of the listed cells, in blocks of limited size."""
    step = max(_TEXT_CELLS // is_listed.shape[1], 1)
    for first in range(0, is_listed.shape[0], step):
        rows, columns = np.nonzero(is_listed[first : first + step])
        yield rows + first, columns
