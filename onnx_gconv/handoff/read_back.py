"""Brings measured conductances back: compares them with their targets, and writes the model of the real chip."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.error_figures import ProgrammingErrors, Tolerance, WeightErrors
from onnx_gconv.crossbars.layers import Layer, layers_of
from onnx_gconv.crossbars.tile_arrays import TileArrays, as_stored, block_with_bias, tile_arrays
from onnx_gconv.crossbars.tile_bias import bias_of_tiles
from onnx_gconv.crossbars.tiled_tensor import TiledTensor
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import check_model_path, check_output_path, load_model, save_model
from onnx_gconv.files.naming import named_in_messages, stem_of_mapped
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.handoff.bundle import open_bundle
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measurements import FailedCells, Measurements, check_limits, open_measurements
from onnx_gconv.handoff.pictures import check_pictures, write_error_pictures
from onnx_gconv.handoff.readback_report import LayerReadback, ReadbackReport, TileReadback
from onnx_gconv.mapping.preconditions import require_mapped
from onnx_gconv.passes import MeasuredConductances, ReplaceConductances
from onnx_gconv.tensors.matrix_reader import MatrixReader
from onnx_gconv.tensors.streamed import worker_count

__all__ = ["Progress", "default_measured_path", "read_back"]

# The largest measured conductance is that much smaller than the largest target: µS is 1e6 times S.
_LOOKS_LIKE_SIEMENS = 1e-3


def read_back(
    mapped: str | os.PathLike[str],
    measured: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    bundle: str | os.PathLike[str] | None = None,
    tolerance_us: float | None = None,
    tolerance_relative: float | None = None,
    limits: tuple[float, float] | None = None,
    failed_cells: FailedCells = "target",
    pictures: str | os.PathLike[str] | None = None,
    external_data: bool | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ReadbackReport:
    """Replace the target conductances of a mapped model by those measured on a chip.

    Measured are arrays under the keys of the bundle, e.g. ``L003/T0007/g_plus``, [inputs, outputs] in µS, of any of its
    tiles and devices. A mask ``L003/T0007/g_plus_success`` may say which cells could be programmed and read. Cells
    without a measurement keep their target. All measurements are checked before anything is written. Memory does not
    grow with the model.

    Args:
        mapped: The mapped model that was handed off. It is not changed.
        measured: The file of measured arrays (HDF5 or npz); or the folder of the bundle, with ``measured.h5`` or
            ``measured.npz`` in it, or with measured conductances in place of the targets.
        output: The model to write; beside `mapped`, named ``NAME.measured.onnx``, if None.
        bundle: The bundle that was handed off; looked for beside `measured` and `mapped` if None.
        tolerance_us: How far from its target a device may be, in µS.
        tolerance_relative: The same as a part of the target; the larger of both counts. If both are None, those of the
            preset of the bundle.
        limits: The lowest and the highest conductance that is taken for a measurement, in µS; a quarter of the range
            beyond g_min and g_max of each layer if None.
        failed_cells: What becomes of cells that a mask calls failed: they keep their ``target``, or their readings
            count as ``measured``, as far as there are any.
        pictures: A folder to draw measured minus target into; there must be none. Needs Matplotlib.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Only compare.
        progress: Called with the step ("compare", "write", "pictures"), what is done and how much there is.

    Raises:
        ModelError: If the model cannot be read, or is no mapped model with targets.
        BundleError: If the bundle or the measurements are missing, damaged, of another model, or hold what is no
            conductance; the message names tile and cell.
        ConfigError: If an option is wrong or the output cannot be written.
    """
    source = check_model_path(mapped)
    target = default_measured_path(source) if output is None else Path(output)
    check_limits(limits)
    if failed_cells not in {"target", "measured"}:
        raise ConfigError(f"failed cells keep their 'target' or count as 'measured', but not '{failed_cells}'")
    if pictures is not None:
        check_pictures(Path(pictures))
    given = _tolerance(tolerance_us, tolerance_relative)
    model = load_model(source)
    with named_in_messages(source):
        require_mapped(model)
    opened = open_measurements(
        Path(measured),
        bundle=None if bundle is None else Path(bundle),
        mapped=source,
        limits=limits,
        failed_cells=failed_cells,
    )
    with opened as measurements:
        models = [source, *(measurements.bundle / file.path for file in measurements.manifest.files)]
        if not dry_run:
            check_output_path(target, [*models, measurements.path, measurements.bundle])
        with named_in_messages(source):
            layers = layers_of(model, measurements.manifest.geometry.geometry, None)
            pairs = _matched(layers, measurements)
        preset = measurements.manifest.preset
        if given is None and preset is not None:
            given = _tolerance(preset.tolerance_us, preset.tolerance_relative)
        compared = _compared(pairs, measurements, given, progress)
        report = ReadbackReport(
            mapped=source,
            measured=measurements.path,
            bundle=measurements.bundle,
            tolerance=given,
            layers=compared,
            unused_keys=measurements.unused_keys,
            notes=tuple(_notes(measurements, compared)),
        )
        if pictures is not None:
            errors = partial(_errors, measurements, {record.id: layer for record, layer in pairs})
            with open_bundle(measurements.bundle) as handed_off:
                drawn = write_error_pictures(handed_off, pictures, errors, progress=progress)
            report = replace(report, pictures=drawn)
        if dry_run:
            return report
        with named_in_messages(source):
            ReplaceConductances(_replacements(pairs, compared, measurements))(model)
        step = progress_of_step(progress, "write")
        files = save_model(model, target, external_data=external_data, inputs=models, progress=step)
    return replace(report, output=target, files=tuple(files))


def default_measured_path(mapped: Path) -> Path:
    """``model.measured.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}.measured{mapped.suffix}")


def _tolerance(absolute_us: float | None, relative: float | None) -> Tolerance | None:
    for what, value in (("tolerance_us", absolute_us), ("tolerance_relative", relative)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{what} is positive and finite, but it is {value}")
    return None if absolute_us is None and relative is None else Tolerance(absolute_us, relative)


def _matched(layers: tuple[Layer, ...], measurements: Measurements) -> list[tuple[LayerRecord, Layer]]:
    """Each layer of the bundle with that of the model.

    Raises:
        BundleError: If the bundle is one of another model.
    """
    known = {(layer.record.graph, layer.record.name): layer for layer in layers}
    pairs = []
    for record in measurements.manifest.layers:
        layer = known.get((record.graph, record.weight))
        if layer is None:
            raise _of_another_model(measurements, f"there is no mapped weight '{record.weight}'")
        devices = [item.name for item in record.devices], record.shape
        if devices != ([item.device for item in layer.record.conductances], layer.record.shape):
            raise _of_another_model(measurements, f"the weight '{record.weight}' has another shape or other devices")
        if layer.grid != record.tile_grid:
            raise _of_another_model(measurements, f"the weight '{record.weight}' is cut into other tiles")
        pairs.append((record, layer))
    listed = {(record.graph, record.weight) for record, _ in pairs}
    if missing := known.keys() - listed:
        raise _of_another_model(measurements, f"it has no layer of the weight '{min(missing)[1]}'")
    return pairs


def _of_another_model(measurements: Measurements, problem: str) -> BundleError:
    return BundleError(
        f"the bundle '{measurements.bundle}' was made of another model ('{measurements.manifest.source.name}'): "
        f"{problem}; read back into the model that was handed off, such as model.onnx of the bundle"
    )


# Comparison


def _compared(
    pairs: list[tuple[LayerRecord, Layer]],
    measurements: Measurements,
    tolerance: Tolerance | None,
    progress: Progress | None,
) -> tuple[LayerReadback, ...]:
    """The figures of every tile. Some tiles are compared side by side."""
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
            bias = bias_of_tiles(layer, partial(_values, measurements, record))
            error = None if bias is None else bias.largest_error
            found.append(LayerReadback.of(record, layer.record.max_abs, tiles, bias_error=error))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The comparison of a layer.

    Attributes:
        record: What the bundle says of it.
        layer: The layer in the model.
        scale: Its scales, [matrices, pieces of rows, pieces of columns].
        measurements: What was measured.
        tolerance: How far a device may be from its target.
    """

    record: LayerRecord
    layer: Layer
    scale: NDArray[np.float64]
    measurements: Measurements
    tolerance: Tolerance | None

    def tiles(self, executor: Executor) -> Iterator[TileReadback]:
        """The figures of all tiles.

        Targets are read and hashed by other threads meanwhile. The comparison is no job for several: steps of some
        microseconds in a row make threads wait for the interpreter longer than they work.
        """
        return map(self._tile, tile_arrays(self.layer, executor))

    def _tile(self, arrays: TileArrays) -> TileReadback:
        record, tile = self.record, self.record.tiles[arrays.tile.number]
        if arrays.digests[: len(record.devices)] != tuple(item.sha256 for item in tile.conductances):
            raise _of_another_model(
                self.measurements,
                f"tile {tile.id} of '{record.weight}' has other targets than those that were handed off",
            )
        difference, devices = np.zeros(arrays.tile.shape), {}
        largest = 0.0
        for number, (device, targets) in enumerate(zip(record.devices, arrays.conductances, strict=True)):
            found = self.measurements.array(record, tile, number)
            errors = None if found is None else found.conductances.astype(np.float64) - targets
            failed = 0 if found is None else found.failed
            figures = devices[device.name] = ProgrammingErrors.of(targets, errors, failed, self.tolerance)
            if found is not None and errors is not None and figures.measured:
                largest = max(largest, float(np.fmax.reduce(found.conductances, axis=None)))
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
            largest_target_us=max(float(targets.max()) for targets in arrays.conductances),
            largest_measured_us=largest,
        )


def _errors(measurements: Measurements, layers: Mapping[str, Layer], tile: BundleTile) -> dict[str, FloatArray]:
    """Measured minus target of a tile in µS, by the names of devices; targets are those of the layers of the model."""
    record, layer, found = tile.layer.record, layers[tile.layer.record.id], {}
    place = tile.record.matrix, tile.record.inputs, tile.record.outputs
    for number, device in enumerate(record.devices):
        measured = measurements.array(record, tile.record, number)
        if measured is not None:
            with MatrixReader(layer.mapped.stored_tensors[number], layer.layout) as reader:
                targets = as_stored(layer)(block_with_bias(layer, number, reader, place))
            found[device.name] = measured.conductances.astype(np.float64) - targets
    return found


def _notes(measurements: Measurements, layers: tuple[LayerReadback, ...]) -> Iterator[str]:
    measured = sum(layer.errors.measured for layer in layers)
    largest_error = max((layer.errors.largest_us for layer in layers), default=0.0)
    if measurements.holds_targets and not largest_error:
        yield (
            f"'{measurements.path}' holds the targets themselves; measured conductances belong in measured.h5 or "
            "measured.npz beside it, or in its place"
        )
    targets = max((layer.largest_target_us for layer in layers), default=0.0)
    highest = max((layer.largest_measured_us for layer in layers), default=0.0)
    if measured and 0 < highest < _LOOKS_LIKE_SIEMENS * targets:
        yield (
            f"the largest measured conductance is {highest:.3g} µS, but the largest target {targets:.3g} µS; were they "
            "measured in siemens? They are taken for µS"
        )


# The model


def _replacements(
    pairs: list[tuple[LayerRecord, Layer]], compared: tuple[LayerReadback, ...], measurements: Measurements
) -> dict[tuple[str, str], MeasuredConductances]:
    """What replaces the conductances of the weights of which anything was measured."""
    found = {}
    for (record, layer), figures in zip(pairs, compared, strict=True):
        if not figures.errors.measured:
            continue
        tensors = tuple(
            TiledTensor(targets, layer.layout, layer.grid, partial(_values, measurements, record, device=number))
            for number, targets in enumerate(layer.mapped.tensors)
        )
        found[record.graph, record.weight] = MeasuredConductances(
            tensors,
            source=measurements.path.name,
            cells=figures.errors.cells,
            measured=figures.errors.measured,
            max_abs_error=figures.weights.largest,
            rms_error=figures.weights.rms,
            bias=_new_bias(record, layer, measurements),
        )
    return found


def _new_bias(
    record: LayerRecord, layer: Layer, measurements: Measurements
) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """The bias of a layer and what takes its place; None if nothing does."""
    found = bias_of_tiles(layer, partial(_values, measurements, record))
    if found is None or not found.measured or layer.bias is None:
        return None
    tensor = found.tensor(layer)
    return None if tensor is None else (layer.bias.value, tensor)


def _values(
    measurements: Measurements, record: LayerRecord, tile: int, device: int
) -> NDArray[np.floating[Any]] | None:
    """What was measured of a device of a tile, NaN where nothing was; None if nothing was at all."""
    found = measurements.array(record, record.tiles[tile], device)
    return None if found is None else found.conductances
