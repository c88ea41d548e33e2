"""Text for terminals: names are shown as they are, never read as markup, and control characters as escapes.

All that is printed goes through `terminal`, and rich's texts are made here only. Notebooks show the same as HTML.
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

_BORDER = 3  # of a column of a table, with the spaces beside it
_SHORTEST_NAMES = 12

# As rich shows things in notebooks: lines are not broken, but scrolled, and have the font of code.
_HTML = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


def terminal(**options: Any) -> Console:  # noqa: ANN401 - the options of rich's Console
    """A console in which no text is markup, and all that is not printable is shown as an escape."""
    from rich.console import Console

    class Terminal(Console):
        def render_str(self, text: str, **style: Any) -> Text:  # noqa: ANN401 - as rich has it
            return super().render_str(visible_lines(text), **style)

    # In a notebook, rich would hand all that is printed to the notebook instead of its file.
    return Terminal(markup=False, emoji=False, highlight=False, **{"force_jupyter": False, **options})


def rendered(item: RenderableType, width: int = _WIDTH) -> str:
    """What rich shows of an object, without colours."""
    text = io.StringIO()
    terminal(file=text, width=width).print(item)
    return text.getvalue().rstrip("\n")


def html(item: RenderableType, width: int = _WIDTH) -> str:
    """What rich shows of an object as HTML, in which no text of the object is markup."""
    console = terminal(file=io.StringIO(), width=width, record=True)
    console.print(item)
    return console.export_html(inline_styles=True, code_format=_HTML)


def plain(*lines: str, style: str = "") -> Text:
    """Lines in which nothing is markup."""
    from rich.text import Text

    return Text("\n".join(map(visible, lines)), style)


def assembled(*parts: tuple[str, str]) -> Text:
    """A line of texts, each with its style."""
    from rich.text import Text

    return Text.assemble(*((visible(text), style) for text, style in parts))


def below_each_other(texts: Iterable[Text]) -> Text:
    """Texts as the lines of one."""
    return plain("", "").join(texts)


def with_remark(text: str, *remarks: str, separator: str = "\n") -> Text:
    """A text and, less conspicuous, remarks behind it, as far as they are not empty."""
    from rich.text import Text

    found = separator.join(visible(remark) for remark in remarks if remark)
    return Text.assemble(visible(text), separator, (found, "dim")) if found else plain(text)


def with_name(known: str, name: str, *remarks: str) -> Text:
    """What people know a weight by, then its name in the model if that is another one, and remarks."""
    return with_remark(known or name, *([] if known in {"", name} else [name]), *remarks)


def titled_table(title: str) -> Table:
    """A table in which nothing is cut off: what is too long for a column goes on in the next line of its cell.

    Numbers, which stand on the right of their columns, stay in one line. If there is no room for all columns, those
    that are left follow in tables of their own, below, with the first column in front of them again.
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
    """The width of a column with its border. Names may go on in further lines."""
    from rich.measure import Measurement

    widths = (Measurement.get(console, options, each).maximum for each in (column.header, *column.cells))
    widest = max(widths, default=0)
    return _BORDER + (widest if column.no_wrap else min(widest, _SHORTEST_NAMES))


def _parts(needed: list[int], room: int) -> list[list[int]]:
    """Which columns stand beside each other, the first one in front of each part of the others."""
    parts = [[0]]
    for number in range(1, len(needed)):
        if len(parts[-1]) > 1 and sum(needed[each] for each in (*parts[-1], number)) > room:
            parts.append([0])
        parts[-1].append(number)
    return parts


@dataclass(frozen=True)
class ByWidth:
    """What is shown in one way if there is room for it, and else in another one.

    Attributes:
        wide: For lines of at least `width` characters.
        narrow: For shorter ones.
        width: How many the first needs.
    """

    wide: RenderableType
    narrow: RenderableType
    width: int

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.wide if options.max_width >= self.width else self.narrow


def counted(weights: int) -> str:
    """E.g. ``1 weight`` or ``3 weights``."""
    return f"{weights} weight{'' if weights == 1 else 's'}"


def file_list(files: Iterable[Path]) -> str:
    """Files with their sizes, as far as they still exist."""
    return ", ".join(f"{file} ({_size(file.stat().st_size)})" if file.exists() else str(file) for file in files)


def _size(count: float) -> str:
    if count < _BINARY_STEP:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB"):
        count /= _BINARY_STEP
        if count < _BINARY_STEP:
            return f"{count:.1f} {unit}"
    return f"{count / _BINARY_STEP:.2f} GiB"
