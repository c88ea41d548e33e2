"""Opens files of measured conductances, and gives checked readings tile by tile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.arrays import ArrayReader, ArraysKind, ElsewhereError, read_arrays
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.handoff.bundle import default_bundle_path
from onnx_gconv.handoff.manifest import MANIFEST_FILE, BundleManifest, LayerRecord, TileRecord, read_bundle_manifest
from onnx_gconv.handoff.measured.readings_table import READING, ReadingsTable
from onnx_gconv.handoff.measured.units import ReadingUnit, in_microsiemens, remedy_of_range

__all__ = [
    "MEASURED_FILES",
    "FailedCells",
    "MeasuredArray",
    "Measurements",
    "check_choices",
    "open_measurements",
]

FailedCells: TypeAlias = Literal["target", "measured"]

MEASURED_FILES: dict[ArraysKind, str] = {"hdf5": "measured.h5", "npz": "measured.npz"}

_Kind: TypeAlias = ArraysKind | Literal["csv"]

_SUFFIXES: dict[str, _Kind] = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".csv": "csv"}
_SUCCESS = "_success"

# Measured conductances may leave the range of the device, because of noise. Beyond this fraction of the range's width
# on either side, a value is taken for a mistake. Programming noise of PCM has a standard deviation of about 4 % of the
# range (aihwkit's PCMLikeNoiseModel: 1.06 of 25 µS), so that a quarter is six standard deviations.
_MARGIN = 0.25

# So many cells of a later round at their targets, to all digits, were not measured but copied.
_CELLS_OF_COPIED_ROUND = 10


@dataclass(frozen=True, eq=False)
class MeasuredArray:
    """The measured conductances of one device of a tile.

    Attributes:
        conductances: In µS, [inputs, outputs], with the dtype of the file, or float64 if they were in siemens; NaN for
            cells that keep their target.
        is_failed: Which cells the mask marks as failed (not programmed or not read), [inputs, outputs]; None without a
            mask.
        rounds: For each cell the number of the file that its reading is from, 0 for the first one, [inputs, outputs];
            None if all are from the first one.
    """

    conductances: NDArray[np.floating[Any]]
    is_failed: NDArray[np.bool_] | None = None
    rounds: NDArray[np.uint16] | None = None

    @property
    def failed(self) -> int:
        """Number of cells that the mask marks as failed."""
        return 0 if self.is_failed is None else int(np.count_nonzero(self.is_failed))

    @property
    def parts(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The numbers of the files that readings are from, 0 for the first one, and which cells each has given."""
        is_read = ~np.isnan(self.conductances)
        if self.rounds is None:
            yield 0, is_read
            return
        for number in np.unique(self.rounds[is_read]):
            yield int(number), is_read & (self.rounds == number)

    def updated(self, later: MeasuredArray, number: int) -> MeasuredArray:
        """Replace the readings of cells that a later round has measured again.

        Args:
            later: What the round has measured.
            number: The number of its file, from 1.
        """
        is_new = ~np.isnan(later.conductances)
        rounds = np.zeros(is_new.shape, np.uint16) if self.rounds is None else self.rounds
        return MeasuredArray(
            np.where(is_new, later.conductances, self.conductances),
            None if self.is_failed is None else self.is_failed & ~is_new,
            np.where(is_new, np.uint16(number), rounds),
        )


@dataclass(frozen=True, eq=False)
class _Reading:
    """The values that the file has for one device of a tile, before they are checked.

    Attributes:
        conductances: In µS, [inputs, outputs]; NaN where nothing was written.
        is_wanted: Which values are used, [inputs, outputs]; None if all are.
        written: Which values were ever written to the file, [inputs, outputs]; None if all were.
    """

    conductances: NDArray[np.floating[Any]]
    is_wanted: NDArray[np.bool_] | None
    written: NDArray[np.bool_] | None


def check_choices(failed_cells: FailedCells, unit: ReadingUnit | None) -> None:
    """Raise ConfigError if one of the options has another value than those of its type."""
    if failed_cells not in {"target", "measured"}:
        raise ConfigError(f"failed cells keep their 'target' or count as 'measured', but not '{failed_cells}'")
    if unit not in {None, "uS", "S"}:
        raise ConfigError(f"readings are in 'uS' or in 'S', siemens, but not in '{unit}'")


def open_measurements(
    path: Path,
    *,
    updates: Sequence[Path] = (),
    bundle: Path | None,
    mapped: Path | None,
    limits: tuple[float, float] | None,
    failed_cells: FailedCells,
    unit: ReadingUnit | None,
    watched: WatchedFiles,
) -> Measurements:
    """Open measured conductances and the manifest of their bundle.

    Args:
        path: A file of measured arrays, or a table of readings; or the folder of the bundle, which contains
            ``measured.h5`` or ``measured.npz``, or whose arrays file holds measured conductances in place of targets.
        updates: Files of later rounds in their order. A reading in a later file replaces the earlier one of the cell.
        bundle: The bundle that was handed off; if None, it is searched at `path`, beside it, and beside `mapped`.
        mapped: The file of the model that was handed off; None if the model is not in a file.
        limits: The lowest and highest conductance that is accepted as a measurement, in µS; None for a default.
        failed_cells: Whether cells that a mask marks as failed keep their ``target``, or count as ``measured``.
        unit: The unit of measured arrays; None for µS, unless they look like siemens.
        watched: The files that are read are added to it, to detect changes while they are read.

    Raises:
        BundleError: If there are no measurements, or the bundle is missing or damaged.
        ConfigError: If a unit is given, but all files are tables, which are in µS.
    """
    if not path.exists():
        raise BundleError(f"'{path}' does not exist; give a file of measured arrays, or a bundle that holds one")
    file, kind = _arrays_in(path) if path.is_dir() else (path, _kind(path))
    folder = _bundle_of(path, bundle, mapped)
    watched.add(folder / MANIFEST_FILE, BundleError)
    manifest = read_bundle_manifest(folder)
    for layer in manifest.layers:
        if (problem := layer.problem()) is not None:
            raise BundleError(
                f"'{folder / MANIFEST_FILE}': layer {layer.id} ('{layer.weight}'): {problem}; copy the bundle again"
            )
    if file is None:
        file, kind = folder / manifest.arrays.path, manifest.arrays.kind
    files = [(file, kind), *((update, _kind(update)) for update in updates)]
    if unit == "S" and all(its_kind == "csv" for _, its_kind in files):
        raise ConfigError(
            f"'{file}' is a table, which is in µS, as its column {READING} says, so that the unit S is of no array; "
            "write µS into the table, and leave --unit S (unit='S') out"
        )
    with contextlib.ExitStack() as opened:
        found = []
        for number, (each, its_kind) in enumerate(files):
            watched.add(each, BundleError)
            measurements = Measurements(
                each,
                _reader(each, its_kind, manifest),
                folder,
                manifest,
                limits=limits,
                failed_cells=failed_cells,
                unit="uS" if its_kind == "csv" else unit,
                is_later=number > 0,
            )
            found.append(opened.enter_context(measurements))
        opened.pop_all()
    found[0].updates = tuple(found[1:])
    return found[0]


def _reader(file: Path, kind: _Kind, manifest: BundleManifest) -> ArrayReader:
    if kind == "csv":
        return ReadingsTable(file, manifest)
    return read_arrays(file, kind, "write it again, or copy it again from where it was measured")


class Measurements:
    """Measured conductances under the keys of a bundle. Close it, or use it in a with statement.

    Attributes:
        path: The file of measured arrays.
        bundle: The folder of the bundle.
        manifest: The manifest of the bundle.
        unused_keys: Keys of arrays in the file that no tile of the bundle has.
        is_later: Whether this is a later round.
        updates: The measurements of later rounds in their order; their readings replace those of this file.
        arrays_compared: Number of arrays with readings of this file that were compared with their targets so far.
            Readings that a later round has replaced do not count, neither here nor below.
        equal_to_targets: Keys of those arrays that equal their targets, bit for bit or rounded.
        cells_equal_to_targets: Number of cells of these arrays whose target is not zero.
        targets_are_rounded: Whether one of these arrays holds rounded targets.
        largest_us: The largest reading of this file so far, and the largest target of cells with a reading, in µS.
    """

    def __init__(
        self,
        path: Path,
        reader: ArrayReader,
        bundle: Path,
        manifest: BundleManifest,
        *,
        limits: tuple[float, float] | None,
        failed_cells: FailedCells,
        unit: ReadingUnit | None = None,
        is_later: bool = False,
    ) -> None:
        self.path = path
        self.bundle = bundle
        self.manifest = manifest
        self._reader = reader
        self._limits = limits
        self._uses_failed = failed_cells == "measured"
        self._unit = unit
        self.is_later = is_later
        # Then cells without a reading are left as they are, and are no error.
        self._is_round = is_later or isinstance(reader, ReadingsTable)
        self.updates: tuple[Measurements, ...] = ()
        self.arrays_compared = 0
        self.equal_to_targets: list[str] = []
        self.cells_equal_to_targets = 0
        self.targets_are_rounded = False
        self.largest_us = 0.0, 0.0
        try:
            self.unused_keys: tuple[str, ...] = self._unused()
        except BaseException:
            reader.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._reader.close()
        for update in self.updates:
            update.close()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of measured arrays, and the files of later rounds."""
        return self.path, *(update.path for update in self.updates)

    @property
    def rounds(self) -> tuple[Measurements, ...]:
        """These measurements, and those of later rounds in their order."""
        return self, *self.updates

    @property
    def is_table(self) -> bool:
        """Whether the file is a table of readings, which are in µS."""
        return isinstance(self._reader, ReadingsTable)

    @property
    def holds_targets(self) -> bool:
        """Whether any array compared so far equals its targets.

        What is left of a file besides later rounds, and a later round itself, may be a few cells, which an instrument
        of few digits may well read at their targets: such a file counts only if it has some cells of this kind.
        """
        is_few = self.cells_equal_to_targets < _CELLS_OF_COPIED_ROUND
        return bool(self.equal_to_targets) and not (is_few and (self.is_later or self.updates))

    def array(self, layer: LayerRecord, tile: TileRecord, device: int) -> MeasuredArray | None:
        """The measured conductances of a device of a tile after all rounds; None if nothing was measured.

        Args:
            layer: The layer's entry in the manifest.
            tile: The tile's entry in the manifest.
            device: Index of the device.

        Raises:
            BundleError: If an array cannot be read, or a conductance is no number or out of range; the message names
                the tile and the cell.
        """
        found = self._of_round(layer, tile, device) if self._is_round else self._measured(layer, tile, device)
        for number, update in enumerate(self.updates, 1):
            if (later := update.array(layer, tile, device)) is not None:
                nothing = MeasuredArray(np.full(later.conductances.shape, np.nan, later.conductances.dtype))
                found = (nothing if found is None else found).updated(later, number)
        return found

    def _of_round(self, layer: LayerRecord, tile: TileRecord, device: int) -> MeasuredArray | None:
        """The readings of a round. Cells that are NaN, marked as failed, or never written have no reading."""
        key, shape = tile.conductances[device].key, _shape(tile)
        values, written = self._read(key, tile, shape)
        if values is None:
            return None
        values = self._in_us(values, key)
        success = self._mask(key, tile, shape, is_needed=True)
        is_read = ~np.isnan(values)
        for mask in (written, None if self._uses_failed else success):
            is_read = is_read if mask is None else is_read & mask
        if not is_read.any():
            return None
        self._check(_Reading(values, is_read, None), layer, tile, device)
        return MeasuredArray(np.where(is_read, values, values.dtype.type(np.nan)))

    def _measured(self, layer: LayerRecord, tile: TileRecord, device: int) -> MeasuredArray | None:
        key = tile.conductances[device].key
        shape = _shape(tile)
        values, written = self._read(key, tile, shape)
        success = self._mask(key, tile, shape, is_needed=values is not None)
        if values is None:
            if success is None:
                return None
            if success.any():
                missing = "is missing; add it" if written is None else "was never written; write it"
                raise BundleError(f"'{self.path}': '{key}{_SUCCESS}' is there, but the array '{key}' {missing}")
            return MeasuredArray(np.full(shape, np.nan), ~success)
        values = self._in_us(values, key)
        if written is not None:
            values = np.where(written, values, values.dtype.type(np.nan))
        if success is None:
            self._check(_Reading(values, None, written), layer, tile, device)
            return MeasuredArray(values)
        is_wanted = success | ~np.isnan(values) if self._uses_failed else success
        self._check(_Reading(values, is_wanted, written), layer, tile, device)
        return MeasuredArray(np.where(is_wanted, values, values.dtype.type(np.nan)), ~success)

    def _in_us(self, values: NDArray[Any], key: str) -> NDArray[np.floating[Any]]:
        """The values of an array of the file in µS; siemens are converted to float64."""
        if values.dtype.kind != "f":
            raise BundleError(
                f"'{self.path}': array '{key}' is {values.dtype}, but conductances are floating-point numbers in µS"
            )
        return values if self.is_table else in_microsiemens(values, self._unit)

    def is_created(self, tile: TileRecord, device: int) -> bool:
        """Whether the file has an array for a device of a tile, even if nothing was written to it."""
        return self._reader.form(tile.conductances[device].key) is not None

    def check_targets(self, key: str, targets: NDArray[Any]) -> None:
        """Check that the file was measured for the targets of an array, if it says for which ones, as tables may.

        Args:
            key: The key of the array.
            targets: The targets in µS, [inputs, outputs].

        Raises:
            BundleError: If it was measured for others.
        """
        if isinstance(self._reader, ReadingsTable):
            self._reader.check_targets(key, targets)

    def limits(self, layer: LayerRecord) -> tuple[float, float]:
        """The lowest and highest conductance that is accepted as a measurement of the layer, in µS."""
        if self._limits is not None:
            return self._limits
        margin = _MARGIN * (layer.g_max - layer.g_min)
        return layer.g_min - margin, layer.g_max + margin

    def _check(self, reading: _Reading, layer: LayerRecord, tile: TileRecord, device: int) -> None:
        conductances, is_wanted, written = reading.conductances, reading.is_wanted, reading.written
        low, high = np.asarray(self.limits(layer), np.float64)  # in float16, a limit might become infinite
        is_right = (conductances >= low) & (conductances <= high)  # False for NaN
        is_wrong = ~is_right if is_wanted is None else is_wanted & ~is_right
        if not is_wrong.any():
            return
        row, column = (int(index) for index in np.argwhere(is_wrong)[0])
        found = float(conductances[row, column])
        cell = (
            f"tile {tile.id}, {layer.devices[device].name}, row {row}, column {column} (input {tile.inputs[0] + row}, "
            f"output {tile.outputs[0] + column} of '{layer.weight}')"
        )
        more = int(np.count_nonzero(is_wrong)) - 1
        others = f" (and {more:,} more cells of the array)" if more else ""
        key = tile.conductances[device].key
        if written is not None and not written[row, column]:
            raise BundleError(
                f"'{self.path}': {cell} was never written, as only a part of the array was{others}; write all of it, "
                f"or mark cells that were not measured with false in an array '{key}{_SUCCESS}'"
            )
        if not np.isfinite(found):
            remedy = (
                f"leave {READING} empty where a cell could not be measured"
                if self.is_table
                else f"mark cells that could not be measured with false in an array '{key}{_SUCCESS}'"
            )
            raise BundleError(f"'{self.path}': {cell} is {found:g}, no conductance{others}; {remedy}")
        largest = float(np.nanmax(conductances[is_wrong]))
        remedy = remedy_of_range(largest, self.limits(layer), self._unit, is_table=self.is_table)
        raise BundleError(
            f"'{self.path}': {cell} is {found:g} µS, out of the range {low:g} .. {high:g} µS{others}; {remedy}"
        )

    def _read(
        self, key: str, tile: TileRecord, shape: tuple[int, int]
    ) -> tuple[NDArray[Any] | None, NDArray[np.bool_] | None]:
        """Read an array, and which of its elements were ever written (None if all were).

        The array is None if the file does not have it, or nothing was written to it.
        """
        try:
            if (form := self._reader.form(key)) is None:
                return None, None
            if form[0] != shape:
                turned = "; it seems to be transposed" if form[0] == shape[::-1] else ""
                raise BundleError(
                    f"'{self.path}': array '{key}' has the shape {list(form[0])}, but tile {tile.id} has {shape[0]} "
                    f"inputs and {shape[1]} outputs{turned}; write it as [{shape[0]}, {shape[1]}]"
                )
            written = self._reader.written(key)
            is_there = written is None or written.any()
            return (self._reader.read(key) if is_there else None), written
        except ElsewhereError as error:
            raise self._elsewhere(key, error) from None
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise BundleError(f"'{self.path}': array '{key}' cannot be read: {reason}; write it again") from None

    def _elsewhere(self, key: str, error: ElsewhereError) -> BundleError:
        return BundleError(
            f"'{self.path}': array '{key}' cannot be read: {error}, but only arrays that are stored in this file under "
            "their key are read; copy the array there, e.g. with h5copy"
        )

    def _mask(self, key: str, tile: TileRecord, shape: tuple[int, int], *, is_needed: bool) -> NDArray[np.bool_] | None:
        mask, written = self._read(f"{key}{_SUCCESS}", tile, shape)
        if written is not None and (is_needed or mask is not None):
            part = "only in part" if mask is not None else "never"
            raise BundleError(
                f"'{self.path}': array '{key}{_SUCCESS}' was created, but {part} written; write it, or leave it out if "
                "all cells count"
            )
        if mask is None:
            return None
        if mask.dtype == np.bool_:
            return mask
        if mask.dtype.kind not in "ui" or not np.isin(mask, (0, 1)).all():
            values = f" of values from {mask.min()} to {mask.max()}" if mask.dtype.kind in "uif" else ""
            raise BundleError(
                f"'{self.path}': array '{key}{_SUCCESS}' is {mask.dtype}{values}, but it should hold true and false "
                "(or 1 and 0)"
            )
        return mask.astype(np.bool_)

    def _unused(self) -> tuple[str, ...]:
        known = set(_known_keys(self.manifest))
        targets = {array.key for layer in self.manifest.layers for tile in layer.tiles for array in tile.conductances}
        measured = targets | {f"{key}{_SUCCESS}" for key in targets}
        try:
            found = list(self._reader.keys())
        except (OSError, ValueError) as error:
            raise BundleError(f"'{self.path}' cannot be read: {error}; write it again") from None
        # A table without readings may be that of a round in which no device had to be programmed again.
        is_empty_table = self.is_table and not found
        if not is_empty_table and not any(key in measured for key in found):
            example = min(targets, default="L000/T0000/g_plus")
            for key in sorted(targets):  # links are not among the reader's keys; if there are some, say that instead
                try:
                    self._reader.form(key)
                except ElsewhereError as error:
                    raise self._elsewhere(key, error) from None
            raise BundleError(
                f"'{self.path}' holds no measurement: none of its {len(found)} arrays has a key of the bundle "
                f"'{self.bundle}', such as '{example}'"
            )
        return tuple(key for key in found if key not in measured and key not in known)


def _shape(tile: TileRecord) -> tuple[int, int]:
    return tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0]


def _known_keys(manifest: BundleManifest) -> Iterator[str]:
    """The keys of all arrays of a bundle: those of all objects in the manifest that have a key and a checksum."""
    waiting: list[Any] = [manifest.model_dump(include={"layers"})]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "key" in item and "sha256" in item:
                yield item["key"]
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(part for part in item if isinstance(part, (dict, list, tuple)))


def _arrays_in(folder: Path) -> tuple[Path | None, _Kind]:
    """The file of measurements in a bundle's folder; None if there is none, and the arrays file has to hold them."""
    found: list[tuple[Path, _Kind]] = [
        (folder / name, kind) for kind, name in MEASURED_FILES.items() if (folder / name).exists()
    ]
    if len(found) > 1:
        names = " and ".join(f"'{file}'" for file, _ in found)
        raise BundleError(f"there are both {names}; name the one that is meant")
    return found[0] if found else (None, "hdf5")


def _kind(file: Path) -> _Kind:
    if file.suffix.lower() not in _SUFFIXES:
        raise BundleError(f"'{file}' is no file of arrays; measured arrays come as {', '.join(_SUFFIXES)}")
    return _SUFFIXES[file.suffix.lower()]


def _bundle_of(path: Path, bundle: Path | None, mapped: Path | None) -> Path:
    if bundle is not None:
        return bundle
    if path.is_dir():
        return path
    places = [path.parent, *([] if mapped is None else [mapped.parent, default_bundle_path(mapped)])]
    for place in places:
        if (place / MANIFEST_FILE).is_file():
            return place
    beside = "" if mapped is None else f" or beside '{mapped}'"
    raise BundleError(
        f"the bundle that '{path}' was measured for is not found beside it{beside}; name it with "
        "--bundle FOLDER (bundle=...)"
    )
