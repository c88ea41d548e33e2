"""Prints the results of commands to stdout, and their progress to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.progress import Progress
from onnx_gconv.terminal_text import terminal
from onnx_gconv.visible_text import visible, visible_json, visible_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "KeptJournalError",
    "VisibleFormatter",
    "print_for_people",
    "print_report",
    "progress_bar",
    "tolerated_loss_of_reader",
]

# Files and pipes have no width of their own; tables need more than the 80 columns that rich would assume.
_WIDTH_WITHOUT_TERMINAL = 120


class KeptJournalError(Exception):
    """An interrupt after which a journal of finished work is left; the message names it."""


class VisibleFormatter(logging.Formatter):
    """Makes log messages printable: they may contain names from models, which may contain control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The message and its traceback, if any, in printable lines."""
        return visible_lines(super().format(record))


class Report(Protocol):
    """The result of a command."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        ...


def print_report(report: Report, *, as_json: bool, quiet: bool) -> None:
    """Print a result to stdout, as JSON or as tables; `quiet` prints no tables, but JSON is printed nevertheless."""
    if as_json:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        document = json.dumps(report.to_json(), indent=2, ensure_ascii=not is_unicode, allow_nan=False)
        with tolerated_loss_of_reader():
            sys.stdout.write(f"{visible_json(document)}\n")
    elif not quiet:
        print_for_people(report)


def print_for_people(item: RenderableType | Report) -> None:
    """Print a result to stdout as text, with colours if stdout is a terminal."""
    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    with tolerated_loss_of_reader():
        terminal(width=width).print(item)


@contextmanager
def tolerated_loss_of_reader() -> Iterator[None]:
    """Continue without output if the reader of stdout has gone away, as `head` does.

    Raises:
        ConfigError: If stdout cannot be written for another reason, such as a full disk.
    """
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # rich and typer turn a broken pipe into an exit
        if not _is_broken_pipe(error):
            raise
        _leave_stdout()
    except OSError as error:
        _leave_stdout()
        raise ConfigError(
            f"cannot print the result: {error.strerror}; free some space, or print to another place"
        ) from error


def _leave_stdout() -> None:
    """Redirect stdout to nowhere, else Python would report the error again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_broken_pipe(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__context__
    return False


@contextmanager
def progress_bar(labels: dict[str, str], *, quiet: bool) -> Iterator[Progress | None]:
    """Show a progress bar on stderr if stderr is a terminal.

    Args:
        labels: The text of the bar for each step; a step without a label is shown by its own name.
        quiet: Show no bar.

    Yields:
        A function of the step, the amount done and the total amount; None if no bar is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.percentage:>3.0f} %"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=terminal(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[step] = progress.add_task(visible(labels.get(step, step)), total=total or None)
            progress.update(tasks[step], completed=done)

        yield show
