"""Lines of CSV files. Names in them come from models; a spreadsheet must not run such a name as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from onnx_gconv.visible_text import visible

__all__ = ["csv_line", "inert"]

# Spreadsheets treat a text that starts with one of these characters as a formula, also with their wide forms. A leading
# tab or carriage return does the same, but is written as an escape already.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def inert(text: str) -> str:
    """Return a text for a cell: control characters as escapes, and ' in front of a text that a spreadsheet would run.

    Numbers stay unchanged.
    """
    shown = visible(text)
    is_formula = _FORMULA.match(shown) is not None and _NUMBER.fullmatch(shown) is None
    return f"'{shown}" if is_formula else shown


def csv_line(cells: Iterable[object], end: str = "\n") -> str:
    """Return a line of numbers and texts; each text goes through `inert` and is quoted if CSV requires it.

    Args:
        cells: The cells.
        end: The line end.
    """
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=end).writerow([inert(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()
