"""Writes a hand-off bundle: the target conductances of every tile, the models, and the manifest."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from onnx_gconv.crossbars.chip import Chip, LayerPlacement, placed
from onnx_gconv.crossbars.defects import read_defects
from onnx_gconv.crossbars.layers import Layer, layers_of
from onnx_gconv.crossbars.tile_arrays import tile_arrays
from onnx_gconv.crossbars.tiles import ArrayGeometry, PairLayout
from onnx_gconv.devices.presets import DevicePreset
from onnx_gconv.devices.presets import preset as preset_of_name
from onnx_gconv.devices.recycled_memory import RecycledMemory
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.arrays import ARRAY_FILES, ArraysKind, Label, read_arrays, write_arrays
from onnx_gconv.files.drawing import require_matplotlib
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.models import collection_suspended, load_model
from onnx_gconv.files.naming import named_in_messages, stem_of_mapped
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.rewrite_check import RewriteCheck
from onnx_gconv.files.staged_folder import bring_back, staged_folder
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.handoff.bundle import Bundle, default_bundle_path
from onnx_gconv.handoff.bundle_readme import README_FILE, bundle_readme
from onnx_gconv.handoff.chip_records import PARTIAL_SUMS, defects_record, geometry_record, preset_record
from onnx_gconv.handoff.drawn_pictures import PicturesReport
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.receiver_settings import ReceiverSettings
from onnx_gconv.handoff.formats.registry import (
    FORMATS,
    check_formats,
    check_options,
    formats_named,
    prepared_formats,
    write_formats,
)
from onnx_gconv.handoff.formats.sample import Bits, GivenInputs
from onnx_gconv.handoff.formats.targets import TargetsCsv
from onnx_gconv.handoff.layer_writer import LayerWriter
from onnx_gconv.handoff.manifest import (
    BUNDLE_FORMAT,
    BUNDLE_VERSION,
    MANIFEST_FILE,
    ArraysFile,
    BundleManifest,
    DefectsRecord,
    FileRecord,
    LayerRecord,
    SourceRecord,
    manifest_json,
    read_bundle_manifest,
)
from onnx_gconv.handoff.model_files import (
    MODEL_FILE,
    PLAIN_FILE,
    Comparison,
    check_copied,
    compared,
    copied,
    files_to_copy,
    hashed,
    write_plain,
)
from onnx_gconv.handoff.pictures import draw_pictures
from onnx_gconv.handoff.report import HandoffReport
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import RestoreWeights
from onnx_gconv.schemes.granularity import Partition
from onnx_gconv.tensors.streamed import worker_count
from onnx_gconv.terminal_text import counted
from onnx_gconv.version import TOOL

__all__ = ["Progress", "write_bundle"]

CSV_FILE = "targets.csv"
PICTURES_FOLDER = "pictures"

_OWN_FILES = {
    *(MANIFEST_FILE, README_FILE, MODEL_FILE, PLAIN_FILE, f"{PLAIN_FILE}.data", CSV_FILE, PICTURES_FOLDER),
    *ARRAY_FILES.values(),
}


def write_bundle(
    mapped: ModelLike,
    output: str | os.PathLike[str] | None = None,
    array: tuple[int, int] | None = None,
    *,
    partition: Partition = "max",
    pair_layout: PairLayout = "separate_arrays",
    whole_kernels: bool = False,
    bias_rows: int = 0,
    defects: str | os.PathLike[str] | None = None,
    spare_rows: int = 0,
    spare_columns: int = 0,
    arrays: ArraysKind = "hdf5",
    csv: bool = False,
    formats: Sequence[str] = (),
    inputs: GivenInputs | None = None,
    bits: tuple[int, int] | None = None,
    dims: Mapping[str, int] | None = None,
    dac_bits: int | None = None,
    adc_bits: int | None = None,
    pictures: bool | Literal["all"] = False,
    preset: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> HandoffReport:
    """Write the target conductances of a mapped model, tile by tile, to a folder that a lab's tools can read.

    The folder appears whole or not at all. Memory does not grow with the model, except for formats that run the model
    on a sample.

    Args:
        mapped: The mapped model: a file, an `onnx_ir.Model`, an `onnx.ModelProto`, or an object that holds such a
            model. It is not changed. A model in memory is first streamed to a temporary file, which is then copied into
            the bundle.
        output: The folder to write; ``NAME.gconv`` beside the file of `mapped` if None.
        array: Rows (inputs) and columns (outputs) of a crossbar array; those of the preset if None.
        partition: How matrices are cut into tiles: ``max`` makes full arrays and a rest, ``equal`` makes as few tiles
            as possible, of nearly equal size.
        pair_layout: Where the devices of a pair stand: ``separate_arrays``, ``adjacent_columns``, ``interleaved_rows``.
        whole_kernels: Never cut a kernel of a convolution.
        bias_rows: Number of rows below the inputs of each matrix that hold the bias, each an equal part of it, where
            that is possible; the report names the layers where it is not. 0 keeps biases digital.
        defects: The defect map of the chip, a JSON file. Tiles avoid unusable arrays, rows and columns, and stuck cells
            are recorded.
        spare_rows: Number of rows of each array that tiles leave free, so that they can replace unusable rows.
        spare_columns: Number of columns of each array that tiles leave free, so that they can replace unusable columns.
        arrays: Kind of the arrays file that holds the conductances: ``hdf5`` or ``npz``.
        csv: Also write the conductances as text, one line per cell and device.
        formats: Names of formats of other tools to write as well, each in its own folder: ``npy``, ``neurosim``, ...
            The notes of the report say what each of them leaves out.
        inputs: A sample for formats that need the activations of layers or their shapes: an .npz file, or arrays by the
            names of the model's inputs; random numbers if None.
        bits: For the same formats: the numbers of bits to which they quantize weights and activations. If None,
            activations have 8 bits and weights as many as fit the format.
        dims: Sizes of symbolic dimensions of random inputs, by name or ``INPUT:AXIS``.
        dac_bits: For formats that estimate costs: number of bits of an activation that are driven at once; 1 if None.
        adc_bits: For formats that estimate costs: bits of an analog-to-digital converter; 8 if None.
        pictures: Also draw each layer, as `write_pictures` does, and with ``all`` also each tile. Needs Matplotlib.
        preset: Name of a device preset. The manifest states its tolerance, and its range has to hold all conductances.
        overwrite: Replace an older bundle at `output`.
        dry_run: Count the arrays, but write nothing; `output` may exist.
        progress: Called with the step ("conductances", "formats", "models", "pictures"), the amount done and the total
            amount.

    Raises:
        ModelError: If the model cannot be read or is not mapped, or another tool has damaged its mapping.
        ConfigError: If an option is wrong, a weight does not fit the arrays or a format, or the output exists or
            cannot be written.
        BundleError: If a weight cannot be handed off.
    """
    given = GivenModel.of(mapped, "write_bundle")
    source, target = given.label, given.output(output, default_bundle_path, is_written=not dry_run)
    device = None if preset is None else preset_of_name(preset)
    geometry = ArrayGeometry(
        *_array_size(array, device),
        partition=partition,
        pair_layout=pair_layout,
        whole_kernels=whole_kernels,
        bias_rows=bias_rows,
        spare_rows=spare_rows,
        spare_columns=spare_columns,
    )
    if arrays not in ARRAY_FILES:
        raise ConfigError(f"arrays is one of {', '.join(ARRAY_FILES)}, but not '{arrays}'")
    if pictures not in {False, True, "all"}:
        raise ConfigError(f"pictures is True, False or 'all', but not '{pictures}'")
    if pictures:
        require_matplotlib()
    wanted = formats_named(formats)
    settings = ReceiverSettings.of(_bits(bits), dac_bits, adc_bits)
    check_options(wanted, inputs, dims or {}, settings)
    others = [Path(item) for item in (defects, inputs) if isinstance(item, (str, os.PathLike))]
    if not dry_run:
        _check_target(target, [*given.files, *others], overwrite=overwrite)
    found, sha256 = (None, "") if defects is None else read_defects(defects, geometry)
    chip = Chip(geometry, found, "" if defects is None else os.fspath(defects))
    watched = WatchedFiles()
    with named_in_messages(source), watched.blamed(), given.on_disk() as file:
        model = load_model(file, watched, may_lack_data=True)
        layers = layers_of(model, geometry, device)
        placements = placed(layers, chip)
        report = HandoffReport.of(
            source,
            geometry,
            layers,
            placements=placements,
            chip=chip,
            skipped_mvm_weights=_skipped_mvm_weights(model),
            preset=preset,
        )
        wanted = prepared_formats(
            wanted,
            file,
            model.graph,
            layers,
            name=stem_of_mapped(source),
            inputs=inputs,
            dims=dims or {},
            settings=settings,
        )
        report = replace(report, notes=check_formats(wanted, layers))
        if dry_run:
            return report
        record = None if found is None else defects_record(Path(chip.source).name, sha256, found, placements)
        job = _Job(
            source=file,
            name=source.name,
            target=target,
            layers=layers,
            placements=placements,
            geometry=geometry,
            defects=record,
            kind=arrays,
            csv=csv,
            formats=wanted,
            pictures=pictures,
            preset=device,
            watched=watched,
            progress=progress,
        )
        try:
            files, drawn = _write(job, model)
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            remedy = "" if isinstance(error, FileExistsError) else "; free some space or choose another disk"
            raise ConfigError(f"cannot write '{target}': {reason}{remedy}") from error
    return replace(report, output=target, files=tuple(files), pictures=drawn)


def _array_size(array: tuple[int, int] | None, preset: DevicePreset | None) -> tuple[int, int]:
    if array is not None:
        is_pair = isinstance(array, (tuple, list)) and len(array) == 2  # noqa: PLR2004 - rows and columns
        if not is_pair or not all(isinstance(size, Integral) for size in array):
            raise ConfigError(
                f"the size of an array is {array!r}, but should be two whole numbers, rows (inputs) and columns "
                "(outputs), such as (256, 256)"
            )
        return array
    if preset is None:
        raise ConfigError(
            "the size of an array is missing; give it as rows (inputs) by columns (outputs), such as --array 256x256 "
            "or array=(256, 256), or a preset that has one"
        )
    if preset.array is None:
        raise ConfigError(
            f"preset '{preset.name}' has no size of an array; give it, such as --array 256x256 or array=(256, 256)"
        )
    return preset.array


def _bits(bits: tuple[int, int] | None) -> Bits | None:
    if bits is None:
        return None
    is_pair = isinstance(bits, (tuple, list)) and len(bits) == 2  # noqa: PLR2004 - of weights and of inputs
    if not is_pair:
        raise ConfigError(f"bits are {bits!r}, but should be two whole numbers, for weights and for inputs")
    return Bits(*bits)


def _check_target(target: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Check, before any work is done, that the bundle can be written.

    Raises:
        ConfigError: If it cannot be written, or something exists at `target` that must not be replaced.
    """
    folder = target.parent
    if not target.name:
        raise ConfigError(f"cannot write '{target}': give the name of a new folder")
    if not folder.is_dir():
        raise ConfigError(f"cannot write '{target}': the folder '{folder}' does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write '{target}': no permission to write to the folder '{folder}'")
    bring_back(target)
    if not (target.exists() or target.is_symlink()):
        return
    if target.is_symlink() or not (target / MANIFEST_FILE).is_file():
        raise ConfigError(f"'{target}' exists and is no bundle; choose another name")
    if not overwrite:
        raise ConfigError(f"'{target}' exists; choose another name, or replace it with --overwrite (overwrite=True)")
    for item in inputs:
        if item.resolve().is_relative_to(target.resolve()):
            raise ConfigError(f"'{target}' holds the input '{item}'; choose another name")
    if others := _files_of_others(target):
        more = f" and {counted(len(others) - 1, 'more file')}" if len(others) > 1 else ""
        raise ConfigError(
            f"'{target}' also holds '{others[0]}'{more}, which no hand-off has written and --overwrite would "
            "remove; move what you need elsewhere, or choose another name"
        )


def _files_of_others(bundle: Path) -> list[str]:
    """The files in an older bundle that are not its own, such as measured conductances: paths in the bundle."""
    found = sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir())
    try:
        manifest = read_bundle_manifest(bundle)
    except BundleError:  # it is damaged, so that the names of the first level are all that is known
        return [path.as_posix() for path in found if path.parts[0] not in _OWN_FILES | FORMATS.keys()]
    own = {MANIFEST_FILE, manifest.arrays.path, *(file.path for file in manifest.files)}
    return [path.as_posix() for path in found if path.as_posix() not in own]


def _skipped_mvm_weights(model: ir.Model) -> int:
    manifest = read_manifest(model)
    return 0 if manifest is None else sum(item.is_mvm for item in manifest.skipped)


@dataclass(frozen=True)
class _Job:
    """A bundle that is to be written.

    Attributes:
        source: The file of the mapped model.
        name: The model's file name for the manifest.
        target: The folder to write.
        layers: The mapped weights.
        placements: Where the tiles of each layer stand.
        geometry: The arrays of the chip.
        defects: The manifest's record of the defect map; None without one.
        kind: Kind of the arrays file.
        csv: Whether to write the conductances as text, too.
        formats: The formats of other tools.
        pictures: Whether to draw the layers; ``all`` draws each tile, too.
        preset: The device preset; None if none was given.
        watched: The files of the mapped model, to detect changes while they are read.
        progress: See `write_bundle`.
    """

    source: Path
    name: str
    target: Path
    layers: tuple[Layer, ...]
    placements: tuple[LayerPlacement, ...]
    geometry: ArrayGeometry
    defects: DefectsRecord | None
    kind: ArraysKind
    csv: bool
    formats: tuple[HandoffFormat, ...]
    pictures: bool | Literal["all"]
    preset: DevicePreset | None
    watched: WatchedFiles
    progress: Progress | None


def _write(job: _Job, model: ir.Model) -> tuple[list[Path], PicturesReport | None]:
    """Write the bundle, and return its files and pictures. `model` is changed: its weights are restored."""
    # One thread writes the arrays file and two threads write the models; more threads would not help, because the
    # kernel serializes writes to a file.
    stopped = threading.Event()
    with (
        staged_folder(job.target) as staged,
        ThreadPoolExecutor(2) as copier,
        ThreadPoolExecutor(worker_count()) as executor,
    ):
        try:
            files = files_to_copy(job.source, model, _OWN_FILES | FORMATS.keys())
            check = RewriteCheck(model)
            # Packed weights that were decoded for mapping stay decoded: plain.onnx has the matrices of the bundle.
            RestoreWeights(packs=False)(model)
            check.require_sound(model)
            plain = copier.submit(write_plain, model, staged.folder, job.source, stopped, executor)
            copies = [copier.submit(copied, file, staged.folder, name, stopped) for name, file in files.items()]
            models = _Models(files, copies, plain)
            manifest, drawn, comparisons = _fill(job, staged.folder, executor, models)
            job.watched.check()
            check_copied(comparisons)
        except BaseException:
            stopped.set()
            raise
        staged.commit()
    written = [MANIFEST_FILE, manifest.arrays.path, *(file.path for file in manifest.files)]
    if drawn is not None:
        drawn = replace(drawn, folder=job.target / PICTURES_FOLDER)
    return [job.target / name for name in written], drawn


@dataclass(frozen=True)
class _Models:
    """The models of the bundle, while other threads write them.

    Attributes:
        sources: The files of the mapped model, by their names in the bundle.
        copies: The manifest's records of their copies, in the same order.
        plain: The manifest's records of the files of the restored model.
    """

    sources: Mapping[str, Path]
    copies: Sequence[Future[FileRecord]]
    plain: Future[list[Future[FileRecord]]]


def _fill(
    job: _Job, folder: Path, executor: Executor, models: _Models
) -> tuple[BundleManifest, PicturesReport | None, list[Comparison]]:
    """Write everything but the models, and the manifest last.

    Returns:
        The manifest, the report of the pictures, and the running comparisons of the mapped model with its copy.
    """
    with collection_suspended():  # the records of many tiles are many objects, which would slow the garbage collector
        records, written = _write_arrays(job, folder, executor)
    hashes = [executor.submit(hashed, folder / CSV_FILE)] if job.csv else []
    report = job.progress
    written += write_formats(job.formats, job.layers, folder, progress_of_step(report, "formats"))
    if report is not None:
        report("models", 0, 1)
    copies = [item.result() for item in models.copies]
    restored = [item.result() for item in models.plain.result()]
    comparisons = compared(models.sources, folder, copies, executor)
    if report is not None:
        report("models", 1, 1)
    manifest = BundleManifest(
        tool=TOOL,
        source=SourceRecord(name=job.name, sha256=copies[0].sha256),
        preset=preset_record(job.preset),
        geometry=geometry_record(job.geometry),
        defects=job.defects,
        partial_sums=PARTIAL_SUMS,
        arrays=ArraysFile(path=ARRAY_FILES[job.kind], kind=job.kind),
        files=(*copies, *restored, *(item.result() for item in hashes), *written),
        total_arrays=sum(layer.arrays for layer in job.layers),
        layers=tuple(records),
    )
    drawn = None
    if job.pictures:
        drawn = _draw(job, folder, manifest)
        files = [hashed(file).model_copy(update={"path": f"{PICTURES_FOLDER}/{file.name}"}) for file in drawn.files]
        manifest = manifest.model_copy(update={"files": (*manifest.files, *files)})
    readme = _write_readme(job, folder, manifest)
    manifest = manifest.model_copy(update={"files": (*manifest.files, readme)})
    with (folder / MANIFEST_FILE).open("xb") as file:
        file.writelines(manifest_json(manifest))
    return manifest, drawn, comparisons


def _write_readme(job: _Job, folder: Path, manifest: BundleManifest) -> FileRecord:
    names = [form.name for form in job.formats]
    text = bundle_readme(manifest, names, csv=job.csv, pictures=bool(job.pictures))
    with HashedFile(folder, README_FILE) as file:
        file.write(text)
    return file.record


def _draw(job: _Job, folder: Path, manifest: BundleManifest) -> PicturesReport:
    """Draw pictures of the conductances in the new arrays file."""
    (folder / PICTURES_FOLDER).mkdir()
    with Bundle(folder, manifest, read_arrays(folder / ARRAY_FILES[job.kind], job.kind)) as bundle:
        pages = None if job.pictures == "all" else 0
        return draw_pictures(bundle, folder / PICTURES_FOLDER, job.progress, pages=pages)


# Arrays


def _write_arrays(job: _Job, folder: Path, executor: Executor) -> tuple[list[LayerRecord], list[FileRecord]]:
    """Write all arrays, and return the manifest's records of the layers and of the formats' files of arrays."""
    total = sum(layer.cells for layer in job.layers)
    done, records, memory = 0, [], RecycledMemory()
    with ExitStack() as stack:
        file = stack.enter_context(write_arrays(folder / ARRAY_FILES[job.kind], job.kind))
        asking = (form.array_folder(folder) for form in job.formats)
        folders = [stack.enter_context(item) for item in asking if item is not None]
        text = stack.enter_context(TargetsCsv(folder / CSV_FILE, job.layers)) if job.csv else None
        file.label("", _labels(job))
        for layer, placement in zip(job.layers, job.placements, strict=True):
            writer = LayerWriter(layer, placement, [file, *folders], file)
            for arrays in tile_arrays(layer, executor, memory):
                writer.write(arrays)
                if text is not None:
                    text.write(layer, arrays)
                done += sum(array.size for array in arrays.conductances)
                del arrays  # its memory may be used again for the next tile
                if job.progress is not None:
                    job.progress("conductances", done, total)
            records.append(writer.record())
    return records, [record for item in folders for record in item.files]


def _labels(job: _Job) -> dict[str, Label]:
    """The labels of the arrays file itself, for readers who have only this file."""
    return {
        "format": BUNDLE_FORMAT,
        "format_version": BUNDLE_VERSION,
        "content": "target conductances of tiles, [inputs, outputs]; README.txt beside this file says how to read them",
        "unit": "uS",
        "tool": TOOL,
        "source": job.name,
        "array": (job.geometry.rows, job.geometry.columns),
    }
