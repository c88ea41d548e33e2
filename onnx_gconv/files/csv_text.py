"""Lines of CSV files. Names in them come from models; a spreadsheet that opens the file must not run them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from onnx_gconv.visible_text import visible

__all__ = ["csv_line", "inert"]

# What spreadsheets take for the beginning of a formula, in wide forms of the characters, too. A tab and a carriage
# return at the beginning are not printable, and so escapes stand for them.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def inert(text: str) -> str:
    """A text as it stands in a cell: escapes for control characters, and ' before what a spreadsheet would run.

    Numbers stay as they are.
    """
    shown = visible(text)
    is_formula = _FORMULA.match(shown) is not None and _NUMBER.fullmatch(shown) is None
    return f"'{shown}" if is_formula else shown


def csv_line(cells: Iterable[object], end: str = "\n") -> str:
    """A line of numbers and texts, each text as `inert` has it, quoted where CSV needs that.

    Args:
        cells: The cells.
        end: How the line ends.
    """
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=end).writerow([inert(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()
