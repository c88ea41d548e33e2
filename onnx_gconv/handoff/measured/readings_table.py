"""A table of readings as text, such as a lab fills in and sends back: its readings as the arrays of a bundle."""

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

# Lines that are held at once, and sorted by the array that they belong to: 20 MiB.
_BLOCK_LINES = 1 << 20


class ReadingsTable:
    """Reads a CSV file with the columns ``tile, device, row, column, reading_us``, in any order and among others.

    Lines without a reading count for nothing. The lines may stand in any order: they are put by arrays into a temporary
    file, so that memory does not grow with the table.

    Args:
        file: The file.
        manifest: The bundle whose cells it has.

    Raises:
        BundleError: If it cannot be read, is no such table, or has a line of a cell that the bundle does not have; the
            message names the line.
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
        # Where the readings of an array stand in the temporary file, in records: first and stop.
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
        """The keys of all arrays of which there is a reading."""
        return iter(self._parts)

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Shape and type of an array; None if there is no reading of it."""
        return (self._shapes[key], np.dtype(np.float64)) if key in self._parts else None

    def read(self, key: str) -> NDArray[Any]:
        """An array, NaN where there is no reading.

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
        """None: what has no reading is NaN."""
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
        """Append lines to the temporary file, by arrays."""
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
        """For each line with a reading the number of its array, row, column and the reading."""
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
    """The line that is being read."""

    number = 1


@contextlib.contextmanager
def _named_line(path: Path) -> Iterator[_Line]:
    """Errors of a line name it."""
    line = _Line()
    try:
        yield line
    except (ValueError, IndexError, csv.Error) as error:
        what = "it has too few columns" if isinstance(error, IndexError) else visible(" ".join(str(error).split()))
        raise BundleError(f"'{path}', line {line.number}: {what}; correct it, or write the table again") from None
