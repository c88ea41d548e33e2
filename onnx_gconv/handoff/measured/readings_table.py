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

from onnx_gconv.errors import BundleError
from onnx_gconv.files.csv_text import inert
from onnx_gconv.handoff.manifest import BundleManifest
from onnx_gconv.visible_text import visible

__all__ = ["READING", "ReadingsTable"]

READING = "reading_us"

_PLACE = ("tile", "device", "row", "column")
_COLUMNS = (*_PLACE, READING)

_RECORD = np.dtype([("array", "<u4"), ("row", "<u4"), ("column", "<u4"), ("reading", "<f8")])

# Number of lines that are held in memory and sorted by array at once: 20 MiB.
_BLOCK_LINES = 1 << 20


class ReadingsTable:
    """Reads a CSV file with the columns ``tile, device, row, column, reading_us`` (µS), in any order and among others.

    Lines without a reading are ignored. The lines may be in any order: a temporary file collects them array by array,
    so that memory does not grow with the table.

    Args:
        file: The table.
        manifest: The manifest of the bundle.

    Raises:
        BundleError: If the file cannot be read, is no such table, or has a line for a cell that the bundle does not
            have; the message names the line.
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
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        try:
            self._sort_lines()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close and remove the temporary file."""
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

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Return None (all elements are written): cells without a reading are NaN."""
        del key
        return None

    def _part(self, first: int, stop: int) -> NDArray[Any]:
        self._spool.seek(first * _RECORD.itemsize)
        return np.frombuffer(self._spool.read((stop - first) * _RECORD.itemsize), _RECORD)

    def _sort_lines(self) -> None:
        records: list[tuple[int, int, int, float]] = []
        for record in self._lines():
            records.append(record)
            if len(records) == _BLOCK_LINES:
                self._put(records)
        self._put(records)

    def _put(self, records: list[tuple[int, int, int, float]]) -> None:
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
        self._spool.seek(self._records * _RECORD.itemsize)
        self._spool.write(block.tobytes())
        self._records += block.size

    def _lines(self) -> Iterator[tuple[int, int, int, float]]:
        """For each line with a reading: number of the array, row, column, and the reading in µS."""
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as text, _named_line(self._path) as line:
                reader = csv.reader(text)
                columns = self._columns(next(reader, []))
                for cells in reader:
                    line.number = reader.line_num
                    if cells and (found := self._record([cells[column] for column in columns])) is not None:
                        yield found
        except FileNotFoundError:
            raise BundleError(f"'{self._path}' does not exist; give the table that has the readings") from None
        except OSError as error:
            raise BundleError(f"'{self._path}' cannot be read: {error.strerror}; copy it again") from None

    def _columns(self, header: list[str]) -> list[int]:
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise BundleError(
                f"'{self._path}' is no file of arrays; measured arrays come as .h5, .hdf5, .npz, or as a table with "
                f"the columns {', '.join(_COLUMNS)}, separated by commas, but this one has no column '{missing[0]}'"
            )
        return [header.index(name) for name in _COLUMNS]

    def _record(self, cells: list[str]) -> tuple[int, int, int, float] | None:
        tile, device, row, column, text = (cell.strip() for cell in cells)
        if not text:
            return None
        number = self._numbers.get((tile, device))
        if number is None:
            raise ValueError(f"the bundle has no tile '{tile}' with a device '{device}'")
        reading = float(text)
        if math.isnan(reading):
            return None
        place = int(row), int(column)
        shape = self._shapes[self._keys[number]]
        if not all(0 <= index < size for index, size in zip(place, shape, strict=True)):
            raise ValueError(f"tile '{tile}' of {shape[0]}x{shape[1]} has no row {row}, column {column}")
        return number, *place, reading


class _Line:
    """Number of the line that is being read."""

    number = 1


@contextlib.contextmanager
def _named_line(path: Path) -> Iterator[_Line]:
    """Turn errors of the body into a `BundleError` that names the file and the line."""
    line = _Line()
    try:
        yield line
    except (ValueError, IndexError, csv.Error) as error:
        what = "it has too few columns" if isinstance(error, IndexError) else visible(" ".join(str(error).split()))
        raise BundleError(f"'{path}', line {line.number}: {what}; correct it, or write the table again") from None
