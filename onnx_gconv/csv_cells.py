"""What tables in CSV have to look like to be read right: spreadsheets of many countries write them otherwise.

Their numbers have decimal commas, and semicolons separate their cells. With commas in both places, 1,5 is two cells: 1
would be read without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx_gconv.visible_text import one_line

__all__ = ["check_header", "check_width", "decimal_number", "shown_cell"]

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}

# A wrong cell is shown in a message, but no more than this of it.
_LONGEST_CELL = 80


def check_header(header: Sequence[str], names: Collection[str]) -> None:
    """Check that commas separate the columns of a table, and that none of those that are needed is there twice.

    Columns may be missing.

    Args:
        header: The names of the columns of the table.
        names: The names of those that are needed.

    Raises:
        ValueError: If there is another separator, or a column is there twice; the message says what to do.
    """
    text = ",".join(header)
    for separator, name in _OTHER_SEPARATORS.items():
        if separator in text and {part.strip() for part in text.split(separator)}.issuperset(names):
            raise ValueError(
                f"{name} separate its cells; write it again with commas between them, and with decimal points in "
                "numbers"
            )
    for name in names:
        if (count := header.count(name)) > 1:
            raise ValueError(f"{count} columns are called {name}; leave one of them, or give the others another name")


def check_width(cells: Sequence[str], columns: int) -> None:
    """Check that a line has no more cells with content than the table has columns.

    Raises:
        ValueError: If it has.
    """
    if any(cells[columns:]):
        raise ValueError(
            f"it has {len(cells)} cells, but there are {columns} columns; numbers have a decimal point, because commas "
            "separate cells"
        )


def decimal_number(column: str, text: str) -> float:
    """A number of a table. Python's own notations, such as 1_000 and digits of other scripts, are none there.

    Args:
        column: The name of its column.
        text: The cell.

    Raises:
        ValueError: If it is no number; the message names the column.
    """
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    hint = "; numbers have a decimal point" if "," in text else ""
    raise ValueError(f"{column} is no number: {shown_cell(text)}{hint}")


def shown_cell(text: str) -> str:
    """A cell in quotes as messages show it: on one line, and not longer than a person reads."""
    return f"'{one_line(text, _LONGEST_CELL)}'"
