"""Brings measured conductances back: compares them with their targets, and writes the model of the real chip."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnx_gconv.crossbars.layers import Layer, layers_of
from onnx_gconv.crossbars.tile_bias import bias_of_tiles
from onnx_gconv.crossbars.tiled_tensor import TiledTensor
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.models import check_output_path, save_model
from onnx_gconv.files.naming import named_in_messages, stem_of_mapped
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.rewrite_check import RewriteCheck
from onnx_gconv.files.staging import write_small_file
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.handoff.bundle import open_bundle
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measured.compared_tiles import (
    compared_layers,
    measured_values,
    of_another_model,
    refuse_targets,
    require_readings,
    tile_errors,
)
from onnx_gconv.handoff.measured.limits import check_limits, check_limits_of_type, tolerance_of
from onnx_gconv.handoff.measured.measured_states import MeasuredStates, measured_states
from onnx_gconv.handoff.measured.measurements import FailedCells, Measurements, open_measurements
from onnx_gconv.handoff.pictures import check_pictures, write_error_pictures
from onnx_gconv.handoff.readback_notes import readback_notes
from onnx_gconv.handoff.readback_report import LayerReadback, ReadbackReport
from onnx_gconv.mapping.preconditions import require_mapped
from onnx_gconv.passes import MeasuredConductances, ReplaceConductances

__all__ = ["Progress", "default_measured_path", "read_back"]


def read_back(
    mapped: ModelLike,
    measured: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    updates: Sequence[str | os.PathLike[str]] = (),
    bundle: str | os.PathLike[str] | None = None,
    tolerance_us: float | None = None,
    tolerance_relative: float | None = None,
    limits: tuple[float, float] | None = None,
    failed_cells: FailedCells = "target",
    as_if_measured: bool = False,
    pictures: str | os.PathLike[str] | None = None,
    mem_states: str | os.PathLike[str] | None = None,
    external_data: bool | None = None,
    dry_run: bool = False,
    accept: Callable[[Path], bool] | None = None,
    progress: Progress | None = None,
) -> ReadbackReport:
    """Replace the target conductances of a mapped model by those measured on a chip.

    Measured are arrays under the keys of the bundle, e.g. ``L003/T0007/g_plus``, [inputs, outputs] in µS, of any of its
    tiles and devices. A mask ``L003/T0007/g_plus_success`` may say which cells could be programmed and read. Cells
    without a measurement keep their target. All measurements are checked before anything is written. Memory does not
    grow with the model.

    Args:
        mapped: The mapped model that was handed off, as a file, as an `onnx_ir.Model`, as an `onnx.ModelProto`, or as
            what holds such a model. It is not changed.
        measured: The file of measured arrays (HDF5 or npz); or a table of readings (CSV), as `write_targets` writes it;
            or the folder of the bundle, with ``measured.h5`` or ``measured.npz`` in it, or with measured conductances
            in place of the targets.
        output: The model to write; beside the file of `mapped`, named ``NAME.measured.onnx``, if None.
        updates: Files of later rounds, in their order, of the same kinds. Each has readings of some cells, which take
            the place of those before; cells that are missing, NaN, or that a mask leaves out, keep what they had.
        bundle: The bundle that was handed off; looked for beside `measured` and `mapped` if None.
        tolerance_us: How far from its target a device may be, in µS.
        tolerance_relative: The same as a part of the target; the larger of both counts. If both are None, those of the
            preset of the bundle.
        limits: The lowest and the highest conductance that is taken for a measurement, in µS; a quarter of the range
            beyond g_min and g_max of each layer if None.
        failed_cells: What becomes of cells that a mask calls failed: they keep their ``target``, or their readings
            count as ``measured``, as far as there are any.
        as_if_measured: Take the targets of the bundle for measurements, which is refused otherwise.
        pictures: A folder to draw measured minus target into; there must be none. Needs Matplotlib.
        mem_states: A file to write the states of a cell to, as NeuroSim V1.5 reads them: mean and standard deviation
            of what each level of conductance became on the chip, in siemens; there must be none. Needs a mapping with
            levels.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Only compare.
        accept: Is called with the new model in a hidden folder, and says whether to put it in its place. If not, or if
            it raises anything, nothing is written.
        progress: Called with the step ("compare", "write", "pictures"), what is done and how much there is.

    Raises:
        ModelError: If the model cannot be read, or is no mapped model with targets.
        BundleError: If the bundle or the measurements are missing, damaged, of another model, or hold what is no
            conductance; the message names tile and cell.
        ConfigError: If an option is wrong or the output cannot be written.
    """
    given_model = GivenModel.of(mapped, "read_back")
    source = given_model.label
    target = given_model.output(output, default_measured_path, is_written=not dry_run)
    check_limits(limits)
    if failed_cells not in {"target", "measured"}:
        raise ConfigError(f"failed cells keep their 'target' or count as 'measured', but not '{failed_cells}'")
    if pictures is not None:
        check_pictures(Path(pictures))
    _check_new_file(mem_states)
    given = tolerance_of(tolerance_us, tolerance_relative)
    watched = WatchedFiles()
    model = given_model.load(watched, may_lack_data=True)
    with named_in_messages(source):
        require_mapped(model)
    opened = open_measurements(
        Path(measured),
        updates=[Path(update) for update in updates],
        bundle=None if bundle is None else Path(bundle),
        mapped=given_model.file,
        limits=limits,
        failed_cells=failed_cells,
        watched=watched,
    )
    with opened as measurements, watched.blamed():
        models = [*given_model.files, *(measurements.bundle / file.path for file in measurements.manifest.files)]
        if not dry_run:
            check_output_path(target, [*models, *measurements.files, measurements.bundle])
        with named_in_messages(source):
            layers = layers_of(model, measurements.manifest.geometry.geometry, None)
            pairs = _matched(layers, measurements)
            for record, layer in pairs:
                check_limits_of_type(limits, np.dtype(layer.mapped.tensors[0].dtype.numpy()), record.weight)
        preset = measurements.manifest.preset
        if given is None and preset is not None:
            given = tolerance_of(preset.tolerance_us, preset.tolerance_relative)
        compared = compared_layers(pairs, measurements, given, progress)
        require_readings(measurements, compared)
        states = () if mem_states is None else (measured_states(pairs, measurements),)
        report = ReadbackReport(
            mapped=source,
            measured=measurements.path,
            bundle=measurements.bundle,
            tolerance=given,
            layers=compared,
            unused_keys=measurements.unused_keys,
            notes=(*readback_notes(measurements, compared), *(note for item in states for note in item.notes)),
            updates=measurements.files[1:],
        )
        watched.check()
        refuse_targets(measurements, is_accepted=as_if_measured)
        if pictures is not None:
            errors = partial(tile_errors, measurements, {record.id: layer for record, layer in pairs})
            with open_bundle(measurements.bundle) as handed_off:
                drawn = write_error_pictures(handed_off, pictures, errors, progress=progress)
            report = replace(report, pictures=drawn)
        with contextlib.nullcontext() if pictures is None else _removed_on_error(Path(pictures)):
            watched.check()
            if dry_run:
                return _with_states(report, mem_states, states)
            with named_in_messages(source):
                check = RewriteCheck(model)
                ReplaceConductances(_replacements(pairs, compared, measurements))(model)
                check.require_sound(model)
            step = progress_of_step(progress, "write")
            files = save_model(
                model,
                target,
                external_data=external_data,
                inputs=models,
                watched=watched,
                accept=accept,
                progress=step,
            )
    if files:
        return _with_states(replace(report, output=target, files=tuple(files)), mem_states, states)
    if pictures is not None:
        shutil.rmtree(pictures, ignore_errors=True)
    return replace(report, pictures=None)


@contextlib.contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    """Take back a folder that this run has made, if what follows goes wrong."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_new_file(name: str | os.PathLike[str] | None) -> None:
    """Refuse, before anything is done, a file that cannot be written."""
    if name is None:
        return
    path = Path(name)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"'{path}' exists; choose another name for the states of a cell")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write '{path}': the folder '{path.parent}' does not exist; create it first")


def _with_states(
    report: ReadbackReport, path: str | os.PathLike[str] | None, states: tuple[MeasuredStates, ...]
) -> ReadbackReport:
    """The report, and the file of the states of a cell, if it was asked for."""
    if path is None:
        return report
    try:
        write_small_file(Path(path), "".join(item.text for item in states).encode(), replace=False)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}") from error
    return replace(report, mem_states=Path(path))


def default_measured_path(mapped: Path) -> Path:
    """``model.measured.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}.measured{mapped.suffix}")


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
            raise of_another_model(measurements, f"there is no mapped weight {record.quoted}")
        devices = [item.name for item in record.devices], record.shape
        if devices != ([item.device for item in layer.record.conductances], layer.record.shape):
            raise of_another_model(measurements, f"the weight {record.quoted} has another shape or other devices")
        if layer.grid != record.tile_grid:
            raise of_another_model(measurements, f"the weight {record.quoted} is cut into other tiles")
        pairs.append((record, layer))
    listed = {(record.graph, record.weight) for record, _ in pairs}
    if missing := known.keys() - listed:
        raise of_another_model(measurements, f"it has no layer of the weight '{min(missing)[1]}'")
    return pairs


# The model


def _replacements(
    pairs: list[tuple[LayerRecord, Layer]], compared: tuple[LayerReadback, ...], measurements: Measurements
) -> dict[tuple[str, str], MeasuredConductances]:
    """What replaces the conductances of the weights of which anything was measured."""
    found = {}
    for (record, layer), figures in zip(pairs, compared, strict=True):
        if not figures.errors.measured:
            continue
        values = partial(measured_values, measurements, record)
        tensors = tuple(
            TiledTensor(targets, layer.layout, layer.grid, partial(values, device=number))
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
    found = bias_of_tiles(layer, partial(measured_values, measurements, record))
    if found is None or not found.measured or layer.bias is None:
        return None
    tensor = found.tensor(layer)
    return None if tensor is None else (layer.bias.value, tensor)
