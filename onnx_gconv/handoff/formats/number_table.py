"""Matrices as CSV files of numbers with five decimals."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from onnx_gconv.handoff.formats.hashed_file import HashedFile

__all__ = ["NumberTable"]

_NUMBER = "%10.5f"

# So many numbers are formatted at once, because Python's floats and texts need many times the memory of an array.
_TEXT_CELLS = 1 << 16


class NumberTable:
    """Writes rows of numbers as `numpy.savetxt` writes them; a row may come in several parts.

    Args:
        file: The file to write to.
        columns: Number of numbers in a row.
    """

    def __init__(self, file: HashedFile, columns: int) -> None:
        self._file = file
        self._columns = columns
        self._column = 0

    def add(self, block: NDArray[Any]) -> None:
        """Write whole rows, or the next part of a row.

        Args:
            block: The numbers, [rows, numbers].
        """
        for row in block:
            for start in range(0, row.size, _TEXT_CELLS):
                part = row[start : start + _TEXT_CELLS]
                self._file.write(",".join([_NUMBER] * part.size) % tuple(part.tolist()))
                self._column = (self._column + part.size) % self._columns
                self._file.write("," if self._column else "\n")
