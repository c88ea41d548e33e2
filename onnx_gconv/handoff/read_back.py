"""Reads measured conductances back: compares them with their targets, and writes the model that the chip computes."""

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
from onnx_gconv.handoff.layer_writer import rule_of
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measured.compared_tiles import (
    compared_layers,
    measured_values,
    of_another_model,
    refuse_siemens,
    refuse_targets,
    require_readings,
    tile_errors,
)
from onnx_gconv.handoff.measured.limits import check_limits, check_limits_of_type, tolerance_of
from onnx_gconv.handoff.measured.measured_states import MeasuredStates, measured_states
from onnx_gconv.handoff.measured.measurements import (
    FailedCells,
    Measurements,
    check_choices,
    open_measurements,
)
from onnx_gconv.handoff.measured.units import ReadingUnit
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
    unit: ReadingUnit | None = None,
    as_if_measured: bool = False,
    pictures: str | os.PathLike[str] | None = None,
    mem_states: str | os.PathLike[str] | None = None,
    external_data: bool | None = None,
    dry_run: bool = False,
    accept: Callable[[Path], bool] | None = None,
    progress: Progress | None = None,
) -> ReadbackReport:
    """Replace the target conductances of a mapped model by those measured on a chip.

    Measurements are arrays under the keys of the bundle, such as ``L003/T0007/g_plus``, [inputs, outputs] in µS, for
    any of its tiles and devices. A boolean array ``L003/T0007/g_plus_success`` may mark the cells that could be
    programmed and read. Cells without a measurement keep their target. All measurements are checked before anything is
    written. Memory does not grow with the model.

    Args:
        mapped: The mapped model that was handed off: a file, an `onnx_ir.Model`, an `onnx.ModelProto`, or an object
            that holds such a model. It is not changed.
        measured: A file of measured arrays (HDF5 or npz); or a table of readings (CSV) in the form that `write_targets`
            writes; or the folder of the bundle, which contains ``measured.h5`` or ``measured.npz``, or whose arrays
            file holds measured conductances in place of the targets.
        output: The model to write; ``NAME.measured.onnx`` beside the file of `mapped` if None.
        updates: Files of later rounds in their order, each of one of these kinds. A reading in a later file replaces
            the earlier one of the same cell. Cells that are missing, NaN, or marked as failed keep what they had.
        bundle: The bundle that was handed off; searched beside `measured` and `mapped` if None.
        tolerance_us: How far from its target a device may be, in µS.
        tolerance_relative: How far from its target a device may be, as a fraction of the target. If both tolerances are
            given, the larger one counts; if both are None, those of the bundle's preset count.
        limits: The lowest and highest conductance that is accepted as a measurement, in µS. If None, each layer accepts
            its range g_min to g_max, widened by a quarter of its width on either side.
        failed_cells: What happens to cells that a mask marks as failed: ``target`` keeps their target, ``measured``
            uses their readings where there are any.
        unit: The unit of measured arrays: ``uS``, or ``S`` for siemens, which are converted. If None, they are taken
            for µS, but refused if they look like siemens. Tables are in µS, as their column says.
        as_if_measured: Accept a file that holds the targets of the bundle themselves, which is refused otherwise.
        pictures: A new folder for pictures of measured minus target conductances. Needs Matplotlib.
        mem_states: A new file for the states of a cell in the format of NeuroSim V1.5: mean and standard deviation of
            the conductances measured for each level, in siemens. Needs a mapping with levels.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Compare only; write no model.
        accept: Called with the path of the new model, which is still in a hidden folder; returns whether to move it to
            `output`. If it returns False or raises, nothing is written.
        progress: Called with the step ("compare", "write", "pictures"), the amount done and the total amount.

    Raises:
        ModelError: If the model cannot be read, or is no mapped model with target conductances.
        BundleError: If the bundle or the measurements are missing, damaged, or of another model, or if a value is no
            conductance; the message names tile and cell.
        ConfigError: If an option is wrong or the output cannot be written.
    """
    given_model = GivenModel.of(mapped, "read_back")
    source = given_model.label
    target = given_model.output(output, default_measured_path, is_written=not dry_run)
    check_limits(limits)
    check_choices(failed_cells, unit)
    if pictures is not None:
        check_pictures(Path(pictures))
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
        unit=unit,
        watched=watched,
    )
    with opened as measurements, watched.blamed():
        models = [*given_model.files, *(measurements.bundle / file.path for file in measurements.manifest.files)]
        if not dry_run:
            check_output_path(target, [*models, *measurements.files, measurements.bundle])
        _check_new_file(mem_states, measurements.bundle, [target, *([] if pictures is None else [Path(pictures)])])
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
        refuse_siemens(measurements, unit)
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
    """Remove a folder that this run has made if the body raises."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_new_file(name: str | os.PathLike[str] | None, bundle: Path, outputs: Sequence[Path]) -> None:
    """Check, before any work is done, that the file of the states of a cell can be written.

    Args:
        name: The file; None if none is asked for.
        bundle: The folder of the bundle.
        outputs: The other files and folders that are written.

    Raises:
        ConfigError: If it exists already or is one of the other outputs, or if its folder does not exist, cannot be
            written to, or is that of the bundle.
    """
    if name is None:
        return
    path = Path(name)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"'{path}' exists; choose another name for the states of a cell")
    check_output_path(path, [bundle])
    if path.resolve() in {output.resolve() for output in outputs}:
        raise ConfigError(f"the states of a cell and another output are both '{path}'; give them different names")


def _with_states(
    report: ReadbackReport, path: str | os.PathLike[str] | None, states: tuple[MeasuredStates, ...]
) -> ReadbackReport:
    """Write the file of the states of a cell if it was asked for, and return the report with its path.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path is None:
        return report
    try:
        write_small_file(Path(path), "".join(item.text for item in states).encode(), replace=False)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}") from error
    return replace(report, mem_states=Path(path))


def default_measured_path(mapped: Path) -> Path:
    """The default path of a read-back model: ``model.measured.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}.measured{mapped.suffix}")


def _matched(layers: tuple[Layer, ...], measurements: Measurements) -> list[tuple[LayerRecord, Layer]]:
    """Match each layer of the bundle with the same layer of the model.

    Raises:
        BundleError: If the bundle was made of another model.
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
        if (name := _other_rule(record, layer)) is not None:
            raise of_another_model(measurements, f"the weight {record.quoted} has another '{name}'")
        if layer.grid != record.tile_grid:
            raise of_another_model(measurements, f"the weight {record.quoted} is cut into other tiles")
        pairs.append((record, layer))
    listed = {(record.graph, record.weight) for record, _ in pairs}
    if missing := known.keys() - listed:
        raise of_another_model(measurements, f"it has no layer of the weight '{min(missing)[1]}'")
    return pairs


def _other_rule(record: LayerRecord, layer: Layer) -> str | None:
    """The first entry by which conductances become other weights in the bundle than in the model; None if all agree."""
    expected = rule_of(layer)
    ours, theirs = ([(item.name, item.coefficient) for item in each] for each in (record.devices, expected["devices"]))
    if ours != theirs:  # initializers may have been renamed
        return "devices"
    return next((name for name in expected if name != "devices" and getattr(record, name) != expected[name]), None)


# The model


def _replacements(
    pairs: list[tuple[LayerRecord, Layer]], compared: tuple[LayerReadback, ...], measurements: Measurements
) -> dict[tuple[str, str], MeasuredConductances]:
    """The new conductances, by graph and name, of each weight with at least one measurement."""
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
    """The bias of a layer and its new values, if it stands in rows and any of its cells was measured; else None."""
    found = bias_of_tiles(layer, partial(measured_values, measurements, record))
    if found is None or not found.measured or layer.bias is None:
        return None
    tensor = found.tensor(layer)
    return None if tensor is None else (layer.bias.value, tensor)
