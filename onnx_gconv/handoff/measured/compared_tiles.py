"""Compares measured conductances with their targets, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.arrangement import Arrangement, Evidence, evidence_of_rearrangement
from onnx_gconv.crossbars.error_figures import ProgrammingErrors, Tolerance, WeightErrors
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import TileArrays, as_stored, block_with_bias, tile_arrays
from onnx_gconv.crossbars.tile_bias import bias_of_tiles
from onnx_gconv.errors import BundleError
from onnx_gconv.files.progress import Progress
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measured.measurements import MeasuredArray, Measurements
from onnx_gconv.handoff.measured.units import ReadingUnit, looks_like_siemens, remedy_of_small_readings
from onnx_gconv.handoff.readback_report import LayerReadback, TileReadback
from onnx_gconv.tensors.matrix_reader import MatrixReader
from onnx_gconv.tensors.streamed import worker_count

# Readings this close to their targets, as a part of the largest target, were not measured but copied.
_WRITTEN_DIGITS = 1e-6

__all__ = [
    "compared_layers",
    "measured_values",
    "note_readings",
    "of_another_model",
    "refuse_siemens",
    "refuse_targets",
    "require_readings",
    "tile_errors",
]


def compared_layers(
    pairs: list[tuple[LayerRecord, Layer]],
    measurements: Measurements,
    tolerance: Tolerance | None,
    progress: Progress | None,
) -> tuple[LayerReadback, ...]:
    """Compare all tiles of all layers with their targets.

    Args:
        pairs: Each layer of the bundle with the same layer of the model.
        measurements: The measurements.
        tolerance: How far a device may be from its target; None if no tolerance is known.
        progress: Called with the step "compare", the number of conductances compared so far, and their total.

    Raises:
        BundleError: If a measurement is wrong, or the model has other targets than the bundle.
    """
    total, done = sum(layer.cells for _, layer in pairs), 0
    found = []
    with ThreadPoolExecutor(worker_count()) as executor:
        for record, layer in pairs:
            tiles = []
            scale = layer.scale_and_zero()[0].astype(np.float64)
            for tile in _Comparison(record, layer, scale, measurements, tolerance).tiles(executor):
                tiles.append(tile)
                done += tile.errors.cells
                if progress is not None:
                    progress("compare", done, total)
            bias = bias_of_tiles(layer, partial(measured_values, measurements, record))
            error = None if bias is None else bias.largest_error
            found.append(LayerReadback.of(record, layer.record.max_abs, tiles, bias_error=error))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The comparison of a layer.

    Attributes:
        record: The layer's entry in the manifest of the bundle.
        layer: The layer in the model.
        scale: The scales of the layer in µS per unit of weight, [matrices, pieces of rows, pieces of columns].
        measurements: The measurements.
        tolerance: How far a device may be from its target; None if no tolerance is known.
    """

    record: LayerRecord
    layer: Layer
    scale: NDArray[np.float64]
    measurements: Measurements
    tolerance: Tolerance | None

    def tiles(self, executor: Executor) -> Iterator[TileReadback]:
        """Compare the tiles of the layer one after the other.

        Other threads read and hash the targets meanwhile. The comparison itself runs in one thread: it consists of many
        steps of a few microseconds, for which several threads would mostly wait for the interpreter lock.
        """
        return map(self._tile, tile_arrays(self.layer, executor))

    def _tile(self, arrays: TileArrays) -> TileReadback:
        record, tile = self.record, self.record.tiles[arrays.tile.number]
        if arrays.digests[: len(record.devices)] != tuple(item.sha256 for item in tile.conductances):
            raise of_another_model(
                self.measurements,
                f"tile {tile.id} of {record.quoted} has other targets than those that were handed off",
            )
        difference, devices = np.zeros(arrays.tile.shape), {}
        never_written, only_zeros, too_small = [], [], []
        rearranged: dict[Arrangement, Evidence] = {}
        for number, (device, targets) in enumerate(zip(record.devices, arrays.conductances, strict=True)):
            found = self.measurements.array(record, tile, number)
            errors = None if found is None else found.conductances.astype(np.float64) - targets
            failed = 0 if found is None else found.failed
            figures = devices[device.name] = ProgrammingErrors.of(targets, errors, failed, self.tolerance)
            if found is None and self.measurements.is_created(tile, number):
                never_written.append(tile.conductances[number].key)
            if found is not None:
                note_readings(self.measurements, tile.conductances[number].key, found, targets)
            if found is not None and errors is not None and figures.measured:
                highest = float(np.fmax.reduce(found.conductances, axis=None))
                partner = next((other for pair in record.pairs for other in _partners(pair, number)), None)
                swapped = None if partner is None else arrays.conductances[partner]
                for name, evidence in evidence_of_rearrangement(targets, errors, swapped).items():
                    rearranged[name] = rearranged.get(name, Evidence()) | evidence
                if highest == 0 and targets.any() and not np.nan_to_num(found.conductances).any():
                    only_zeros.append(tile.conductances[number].key)
                if highest > 0 and looks_like_siemens(highest, float(targets[~np.isnan(errors)].max())):
                    too_small.append(tile.conductances[number].key)
                if figures.measured < figures.cells:
                    np.nan_to_num(errors, copy=False, nan=0.0)
                difference += device.coefficient * errors
        difference = (difference / self.layer.scale_of_cells(arrays.tile, self.scale))[
            : max(self.layer.layout.rows - tile.inputs[0], 0)
        ]
        return TileReadback(
            id=tile.id,
            matrix=tile.matrix,
            grid=tile.grid,
            devices=devices,
            weights=WeightErrors.of(difference),
            never_written=tuple(never_written),
            only_zeros=tuple(only_zeros),
            too_small=tuple(too_small),
            rearranged=rearranged,
        )


def note_readings(measurements: Measurements, key: str, found: MeasuredArray, targets: NDArray[Any]) -> None:
    """Record in `measurements` how large readings are, and whether they equal their targets as files write them.

    No chip is that exact: readings and targets may differ by 1e-6 of the largest target, as in a table of decimals.

    Each reading counts for the file that it is from; readings that were replaced by a later round do not count.

    Args:
        measurements: The measurements; the `largest_us`, `arrays_compared` and `equal_to_targets` of the first file and
            of later rounds are updated.
        key: The key of the array.
        found: The readings, after all rounds.
        targets: The targets in µS, [inputs, outputs].

    Raises:
        BundleError: If a file says that it was measured for other targets.
    """
    for number, cells in found.parts:
        file = measurements.rounds[number]
        file.check_targets(key, targets)
        readings, wanted = found.conductances[cells].astype(np.float64), targets[cells]
        if not readings.size:
            continue
        reading, target = file.largest_us
        file.largest_us = max(reading, float(readings.max())), max(target, float(wanted.max()))
        file.arrays_compared += 1
        distance = float(np.abs(readings - wanted).max())
        if distance <= _WRITTEN_DIGITS * float(targets.max()):
            file.equal_to_targets.append(key)
            file.cells_equal_to_targets += int(np.count_nonzero(wanted))
            file.targets_are_rounded |= distance > 0


def require_readings(measurements: Measurements, layers: Sequence[LayerReadback]) -> None:
    """Refuse files without any reading, such as a table of targets that nobody has filled in.

    Args:
        measurements: The measurements, after all arrays were compared.
        layers: The errors of all layers.

    Raises:
        BundleError: If no device has a reading, and none is marked as failed.
    """
    if any(layer.errors.measured or layer.errors.failed for layer in layers):
        return
    cells = sum(layer.errors.cells for layer in layers)
    raise BundleError(
        f"'{measurements.path}' has no reading of any device, of {cells:,} that the bundle asks for; give the "
        "file with what was measured on the chip (in a table, the column reading_us)"
    )


def refuse_targets(measurements: Measurements, *, is_accepted: bool) -> None:
    """Refuse a file of measurements that holds the targets themselves.

    Args:
        measurements: The measurements, after all arrays were compared.
        is_accepted: Whether to accept such a file nevertheless.

    Raises:
        BundleError: If all arrays that were read from one of the files equal their targets.
    """
    for file in measurements.rounds:
        arrays = file.arrays_compared
        if is_accepted or not file.holds_targets or arrays > len(file.equal_to_targets):
            continue
        what = "its only array is that" if arrays == 1 else f"all its {arrays:,} arrays are those"
        how = "rounded" if file.targets_are_rounded else "bit for bit"
        raise BundleError(
            f"'{file.path}' holds the targets themselves: {what} of the bundle '{measurements.bundle}', {how}; "
            "give what was measured on the chip, or accept the targets as measurements with --as-if-measured "
            "(as_if_measured=True)"
        )


def refuse_siemens(measurements: Measurements, unit: ReadingUnit | None) -> None:
    """Refuse readings that are far too small for µS: in siemens, they would give a chip that conducts nothing.

    Args:
        measurements: The measurements, after all arrays were compared.
        unit: The unit that was given; with ``uS``, readings are taken as they are.

    Raises:
        BundleError: If the largest reading of a file is below three thousandths of the largest target of the cells that
            were read, or of a later round below a ten-thousandth.
    """
    for file in measurements.rounds:
        reading, target = file.largest_us
        if unit == "uS" or reading <= 0 or not looks_like_siemens(reading, target, is_later=file.is_later):
            continue
        raise BundleError(
            f"'{file.path}': the largest reading is {reading:.3g} µS, but targets of the cells that were read go up to "
            f"{target:.3g} µS. {remedy_of_small_readings(unit, is_table=file.is_table)}"
        )


def _partners(pair: tuple[int, int], device: int) -> tuple[int, ...]:
    """The other device of a pair; empty if the device is not in the pair."""
    return tuple(other for other in pair if other != device) if device in pair else ()


def tile_errors(measurements: Measurements, layers: Mapping[str, Layer], tile: BundleTile) -> dict[str, FloatArray]:
    """Measured minus target conductances of a tile in µS by the name of the device, each [inputs, outputs].

    Devices without a measurement are missing; cells without one are NaN.

    Args:
        measurements: The measurements.
        layers: The layers of the model by their ids, which have the targets.
        tile: The tile.
    """
    record, layer, found = tile.layer.record, layers[tile.layer.record.id], {}
    place = tile.record.matrix, tile.record.inputs, tile.record.outputs
    for number, device in enumerate(record.devices):
        measured = measurements.array(record, tile.record, number)
        if measured is not None:
            with MatrixReader(layer.mapped.stored_tensors[number], layer.layout) as reader:
                targets = as_stored(layer)(block_with_bias(layer, number, reader, place))
            found[device.name] = measured.conductances.astype(np.float64) - targets
    return found


def measured_values(
    measurements: Measurements, record: LayerRecord, tile: int, device: int
) -> NDArray[np.floating[Any]] | None:
    """The measured conductances of a device of a tile in µS, [inputs, outputs].

    Cells without a measurement are NaN; the result is None if the device has no measurement at all.

    Args:
        measurements: The measurements.
        record: The layer's entry in the manifest.
        tile: Number of the tile in the layer.
        device: Index of the device.
    """
    found = measurements.array(record, record.tiles[tile], device)
    return None if found is None else found.conductances


def of_another_model(measurements: Measurements, problem: str) -> BundleError:
    """The error to raise if the bundle was made of another model than the one to read back into."""
    return BundleError(
        f"the bundle '{measurements.bundle}' was made of another model ('{measurements.manifest.source.name}'): "
        f"{problem}; read back into the model that was handed off, such as model.onnx of the bundle"
    )
