"""What commands print: results to stdout, progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["print_report", "progress_bar"]

# Files and pipes have no width of their own; tables need more than the 80 columns that rich would assume.
_WIDTH_WITHOUT_TERMINAL = 120


class Report(Protocol):
    """The result of a command."""

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        ...


def print_report(report: Report, *, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, or for people, or not at all."""
    if as_json:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        sys.stdout.write(json.dumps(report.to_json(), indent=2, ensure_ascii=not is_unicode, allow_nan=False) + "\n")
    elif not quiet:
        print_for_people(report)
    sys.stdout.flush()


def print_for_people(item: RenderableType | Report) -> None:
    """Print to stdout with colours if it is a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    Console(width=width, highlight=False).print(item)


@contextmanager
def progress_bar(labels: dict[str, str], *, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr, none if that is no terminal.

    Args:
        labels: What the bar says for each step; a step without a label is shown by its own name.
        quiet: Show none.

    Yields:
        A function of the step, what is done and how much there is; or None.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[step] = progress.add_task(labels.get(step, step), total=total or None)
            progress.update(tasks[step], completed=done)

        yield show
