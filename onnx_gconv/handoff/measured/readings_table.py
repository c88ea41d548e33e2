"""Reads a table of readings (CSV), as a lab fills it in and sends it back, as arrays with the keys of a bundle."""

from __future__ import annotations

import contextlib
import csv
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.csv_cells import check_header, check_width, decimal_number, shown_cell
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.csv_text import inert
from onnx_gconv.handoff.manifest import BundleManifest
from onnx_gconv.visible_text import visible

__all__ = ["READING", "ReadingsTable"]

READING = "reading_us"

_PLACE = ("tile", "device", "row", "column")
_COLUMNS = (*_PLACE, READING)

# A table that `onnx_gconv targets` has written also says what each device was to be programmed to.
_TARGET = "target_us"

_RECORD = np.dtype([("array", "<u4"), ("row", "<u4"), ("column", "<u4"), ("reading", "<f8"), ("target", "<f4")])

# Targets of a table that are further from those of the bundle, as a part of the largest one, are those of another
# bundle. Spreadsheets write as many digits as they show, which may be few.
_SAME_TARGETS = 0.05

# Number of lines that are held in memory and sorted by array at once: 20 MiB.
_BLOCK_LINES = 1 << 20

_LONGEST_INDEX = 10  # digits of a row or column that fit 32 bits


class ReadingsTable:
    """Reads a CSV file with the columns ``tile, device, row, column, reading_us`` (µS), in any order and among others.

    Lines without a reading are ignored. The lines may be in any order: a temporary file collects them array by array,
    so that memory does not grow with the table. If there is a column ``target_us``, too, `check_targets` compares it
    with the bundle.

    Args:
        file: The table.
        manifest: The manifest of the bundle.

    Raises:
        BundleError: If the file cannot be read, is no such table, or has a line for a cell that the bundle does not
            have; the message names the line.
        ConfigError: If the disk of temporary files is full.
    """

    def __init__(self, file: Path, manifest: BundleManifest) -> None:
        self._path = file
        tiles = [(layer, tile) for layer in manifest.layers for tile in layer.tiles]
        named = [
            (tile.id, device.name, array.key, (tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0]))
            for layer, tile in tiles
            for device, array in zip(layer.devices, tile.conductances, strict=True)
        ]
        self._keys = [key for _, _, key, _ in named]
        self._shapes = {key: shape for _, _, key, shape in named}
        self._numbers = {(tile, inert(device)): number for number, (tile, device, _, _) in enumerate(named)}
        # For each array, where its readings are in the temporary file: first record, and the one after the last.
        self._parts: dict[str, list[tuple[int, int]]] = {}
        self._records = 0
        with self._no_room():
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        try:
            self._sort_lines()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close and remove the temporary file."""
        with contextlib.suppress(OSError):  # on a full disk, what it still had to write is lost with it
            self._spool.close()

    def keys(self) -> Iterator[str]:
        """The keys of all arrays with at least one reading."""
        return iter(self._parts)

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Shape and dtype of an array; None if it has no reading."""
        return (self._shapes[key], np.dtype(np.float64)) if key in self._parts else None

    def read(self, key: str) -> NDArray[Any]:
        """Read an array, float64 in µS; NaN where there is no reading.

        Raises:
            ValueError: If a cell has two readings.
        """
        found = np.concatenate([self._part(*part) for part in self._parts[key]])
        array = np.full(self._shapes[key], np.nan)
        array[found["row"], found["column"]] = found["reading"]
        if np.count_nonzero(~np.isnan(array)) < found.size:
            cells = np.stack([found["row"], found["column"]], axis=1)
            each, counts = np.unique(cells, axis=0, return_counts=True)
            row, column = each[counts > 1][0]
            raise ValueError(f"row {row}, column {column} has more than one reading")
        return array

    def check_targets(self, key: str, targets: NDArray[Any]) -> None:
        """Check that the table was written for these targets, if it says for which ones.

        Args:
            key: The key of an array.
            targets: Its targets in µS, [inputs, outputs].

        Raises:
            BundleError: If the column ``target_us`` has others.
        """
        if key not in self._parts:
            return
        for part in self._parts[key]:
            found = self._part(*part)
            distance = np.abs(found["target"] - targets[found["row"], found["column"]].astype(np.float64))
            is_other = distance > _SAME_TARGETS * float(np.abs(targets).max())  # False for NaN: no target is given
            if is_other.any():
                wrong = found[is_other][0]
                row, column, target = int(wrong["row"]), int(wrong["column"]), float(wrong["target"])
                raise BundleError(
                    f"'{self._path}': array '{key}', row {row}, column {column}: {_TARGET} is {target:.6g} µS, but the "
                    f"target of the bundle is {float(targets[row, column]):.6g} µS, so that the table seems to be of "
                    f"another bundle; give the table of this one, or leave out the column {_TARGET}"
                )

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Return None (all elements are written): cells without a reading are NaN."""
        del key
        return None

    def _part(self, first: int, stop: int) -> NDArray[Any]:
        self._spool.seek(first * _RECORD.itemsize)
        return np.frombuffer(self._spool.read((stop - first) * _RECORD.itemsize), _RECORD)

    def _sort_lines(self) -> None:
        records: list[tuple[int, int, int, float, float]] = []
        for record in self._lines():
            records.append(record)
            if len(records) == _BLOCK_LINES:
                self._put(records)
        self._put(records)

    def _put(self, records: list[tuple[int, int, int, float, float]]) -> None:
        """Append records to the temporary file, sorted by array."""
        if not records:
            return
        block = np.array(records, _RECORD)
        records.clear()
        block = block[np.argsort(block["array"], kind="stable")]
        numbers, starts = np.unique(block["array"], return_index=True)
        for number, start, stop in zip(numbers, starts, (*starts[1:], block.size), strict=True):
            place = self._records + int(start), self._records + int(stop)
            self._parts.setdefault(self._keys[number], []).append(place)
        with self._no_room():
            self._spool.seek(self._records * _RECORD.itemsize)
            self._spool.write(block.tobytes())
            self._spool.flush()
        self._records += block.size

    @contextlib.contextmanager
    def _no_room(self) -> Iterator[None]:
        """Name the folder of temporary files if the body cannot write there."""
        try:
            yield
        except OSError as error:
            where = "" if tempfile.tempdir is None else f" in '{tempfile.tempdir}'"
            raise ConfigError(
                f"'{self._path}': its readings cannot be sorted in a temporary file: {error.strerror}; make "
                f"room{where}, or let TMPDIR name a folder on a larger disk"
            ) from error

    def _lines(self) -> Iterator[tuple[int, int, int, float, float]]:
        """For each line with a reading: number of the array, row, column, the reading and the target in µS.

        The target is NaN if the table has none.
        """
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as text, _named_line(self._path) as line:
                line.reader = reader = csv.reader(text, strict=True)  # else a stray quote would hide the lines below it
                header = [name.strip() for name in next(reader, [])]
                columns = self._columns(header)
                for cells in reader:
                    if not any(cells):
                        continue
                    check_width(cells, len(header))
                    if (found := self._record([cells[column] for column in columns])) is not None:
                        yield found
        except FileNotFoundError:
            raise BundleError(f"'{self._path}' does not exist; give the table that has the readings") from None
        except OSError as error:
            raise BundleError(f"'{self._path}' cannot be read: {error.strerror}; copy it again") from None

    def _columns(self, header: list[str]) -> list[int]:
        try:
            check_header(header, [*_COLUMNS, *([_TARGET] if _TARGET in header else [])])
        except ValueError as error:
            raise BundleError(f"'{self._path}': {error}") from None
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise BundleError(
                f"'{self._path}' is no file of arrays; measured arrays come as .h5, .hdf5, .npz, or as a table with "
                f"the columns {', '.join(_COLUMNS)}, separated by commas, but this one has no column '{missing[0]}'"
            )
        return [header.index(name) for name in (*_COLUMNS, *([_TARGET] if _TARGET in header else []))]

    def _record(self, cells: list[str]) -> tuple[int, int, int, float, float] | None:
        tile, device, row, column, text, *targets = (cell.strip() for cell in cells)
        if not text:
            return None
        number = self._numbers.get((tile, device))
        if number is None:
            raise ValueError(f"the bundle has no tile '{tile}' with a device '{device}'")
        reading = decimal_number(READING, text)
        if math.isnan(reading):
            return None
        place = _index("row", row), _index("column", column)
        shape = self._shapes[self._keys[number]]
        if not all(0 <= index < size for index, size in zip(place, shape, strict=True)):
            raise ValueError(f"tile '{tile}' of {shape[0]}x{shape[1]} has no row {row}, column {column}")
        target = decimal_number(_TARGET, targets[0]) if targets and targets[0] else math.nan
        return number, *place, reading, target


def _index(column: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < _LONGEST_INDEX):
        raise ValueError(f"{column} is no whole number from 0: {shown_cell(text)}")
    return int(text)


class _Line:
    """The line that is being read."""

    reader: Any = None

    @property
    def number(self) -> int:
        """Its number in the file, from 1."""
        return 1 if self.reader is None else self.reader.line_num


@contextlib.contextmanager
def _named_line(path: Path) -> Iterator[_Line]:
    """Turn errors of the body into a `BundleError` that names the file and the line."""
    line = _Line()
    try:
        yield line
    except UnicodeDecodeError:
        raise BundleError(f"'{path}' is no text in UTF-8; write the table again as CSV in UTF-8") from None
    except (ValueError, IndexError, csv.Error) as error:
        what = "it has too few columns" if isinstance(error, IndexError) else visible(" ".join(str(error).split()))
        raise BundleError(f"'{path}', line {line.number}: {what}; correct it, or write the table again") from None
