"""Text for terminals: names are never interpreted as markup, and control characters are shown as escapes.

All output goes through a console of `terminal`, and only this module makes texts of rich. Notebooks show the same as
HTML.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.visible_text import visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Column, Table
    from rich.text import Text

__all__ = [
    "ByWidth",
    "assembled",
    "below_each_other",
    "counted",
    "file_list",
    "file_size",
    "html",
    "plain",
    "rendered",
    "terminal",
    "titled_table",
    "with_name",
    "with_remark",
]

_WIDTH = 120
_BINARY_STEP = 1024

_BORDER = 3  # width of a column's border, including the spaces beside it
_SHORTEST_NAMES = 12

# The style that rich uses in notebooks: long lines scroll instead of being wrapped, in a monospaced font.
_HTML = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


def terminal(**options: Any) -> Console:  # noqa: ANN401 - the options of rich's Console
    """A console that interprets no text as markup and shows non-printable characters as escapes."""
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **style: Any) -> Text:  # noqa: ANN401 - the signature of rich
            return super().render_str(visible_lines(text), **style)

    # Without force_jupyter=False, rich would send output to the notebook instead of the file of the console.
    return Terminal(markup=False, emoji=False, highlight=False, **{"force_jupyter": False, **options})


def rendered(item: RenderableType, width: int = _WIDTH) -> str:
    """An object as rich prints it, as text without colours."""
    text = io.StringIO()
    terminal(file=text, width=width).print(item)
    return text.getvalue().rstrip("\n")


def html(item: RenderableType, width: int = _WIDTH) -> str:
    """An object as rich prints it, as HTML in which no text of the object is interpreted as markup."""
    console = terminal(file=io.StringIO(), width=width, record=True)
    console.print(item)
    return console.export_html(inline_styles=True, code_format=_HTML)


def plain(*lines: str, style: str = "") -> Text:
    """A rich text of lines that are not interpreted as markup."""
    from rich.text import Text

    return Text("\n".join(map(visible, lines)), style)


def assembled(*parts: tuple[str, str]) -> Text:
    """One line of several parts, each a text and its style."""
    from rich.text import Text

    return Text.assemble(*((visible(text), style) for text, style in parts))


def below_each_other(texts: Iterable[Text]) -> Text:
    """Join texts to one text with a line for each."""
    return plain("", "").join(texts)


def with_remark(text: str, *remarks: str, separator: str = "\n") -> Text:
    """A text followed by remarks in a dim style; empty remarks are left out."""
    from rich.text import Text

    found = separator.join(visible(remark) for remark in remarks if remark)
    return Text.assemble(visible(text), separator, (found, "dim")) if found else plain(text)


def with_name(known: str, name: str, *remarks: str) -> Text:
    """The name by which users know a weight, then its name in the model if that differs, and remarks."""
    return with_remark(known or name, *([] if known in {"", name} else [name]), *remarks)


def titled_table(title: str) -> Table:
    """A table in which nothing is cut off: text that is too long for a column continues in the next line of its cell.

    Numbers (right-justified columns) are never wrapped. If the terminal is too narrow for all columns, the table is
    split into several tables below each other, each of which repeats the first column.
    """
    from rich.table import Table

    class Folding(Table):
        def __init__(self, **options: Any) -> None:  # noqa: ANN401 - as rich
            super().__init__(title_justify="left", title_style="bold", **options)
            self._options: list[dict[str, Any]] = []

        def add_column(self, header: str = "", **options: Any) -> None:  # type: ignore[override] # noqa: ANN401 - as rich
            options = {"overflow": "fold", "no_wrap": options.get("justify") == "right", **options}
            self._options.append({"header": header, **options})
            super().add_column(**self._options[-1])

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
            needed = [_needed(column, console, options) for column in self.columns]
            parts = _parts(needed, options.max_width - 1)
            if len(parts) == 1:
                yield from super().__rich_console__(console, options)
                return
            for place, part in enumerate(parts):
                yield from self._of(part, title=None if place else self.title).__rich_console__(console, options)

        def _of(self, columns: list[int], **options: Any) -> Folding:  # noqa: ANN401 - as rich
            table = Folding(**options)
            for number in columns:
                table.add_column(**self._options[number])
            cells = [list(self.columns[number].cells) for number in columns]
            for place, row in enumerate(self.rows):
                table.add_row(*(each[place] for each in cells), style=row.style, end_section=row.end_section)
            return table

    return Folding(title=title)


def _needed(column: Column, console: Console, options: ConsoleOptions) -> int:
    """The width that a column needs, with its border; columns that may wrap need at most `_SHORTEST_NAMES`."""
    from rich.measure import Measurement

    widths = (Measurement.get(console, options, each).maximum for each in (column.header, *column.cells))
    widest = max(widths, default=0)
    return _BORDER + (widest if column.no_wrap else min(widest, _SHORTEST_NAMES))


def _parts(needed: list[int], room: int) -> list[list[int]]:
    """Distribute columns over tables of at most `room` characters; each table begins with column 0."""
    parts = [[0]]
    for number in range(1, len(needed)):
        if len(parts[-1]) > 1 and sum(needed[each] for each in (*parts[-1], number)) > room:
            parts.append([0])
        parts[-1].append(number)
    return parts


@dataclass(frozen=True)
class ByWidth:
    """An object that is shown in one of two forms, by the width of the terminal.

    Attributes:
        wide: The form for lines of at least `width` characters.
        narrow: The form for shorter lines.
        width: How many characters the wide form needs.
    """

    wide: RenderableType
    narrow: RenderableType
    width: int

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.wide if options.max_width >= self.width else self.narrow


def counted(number: int, what: str = "weight", several: str | None = None) -> str:
    """E.g. ``1 weight`` or ``3,000 tiles``; `several` is the plural of a word that takes more than an s."""
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


def file_list(files: Iterable[Path]) -> str:
    """The names of files as a list in text, each with its size if it still exists."""
    return ", ".join(f"{file} ({file_size(file.stat().st_size)})" if file.exists() else str(file) for file in files)


def file_size(count: float) -> str:
    """E.g. ``512 B`` or ``1.5 MiB``."""
    if count < _BINARY_STEP:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= _BINARY_STEP
        if count < _BINARY_STEP:
            return f"{count:.1f} {unit}"
    return f"{count / _BINARY_STEP:.2f} GiB"
