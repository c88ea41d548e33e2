"""The base class of reports, with the forms in which users see them: terminal, notebook, `repr`, data frames."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from onnx_gconv.data_frame import Columns, data_frame
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion
from onnx_gconv.terminal_text import html, rendered
from onnx_gconv.visible_text import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

__all__ = ["FrameTables", "ShownReport"]

_LONGEST_REPR = 200

FrameTables: TypeAlias = Mapping[str, Callable[[], Columns]]
"""For each table of a report, by its name, a function that makes its columns; the first table is the default."""


class ShownReport(abc.ABC):
    """A report: tables for `print` and for notebooks, one line for `repr`, and data frames.

    Subclasses are dataclasses with ``repr=False``; otherwise the dataclass would replace the one-line `repr`.
    """

    @abc.abstractmethod
    def __rich__(self) -> RenderableType:
        """The report as the terminal shows it."""

    @abc.abstractmethod
    def _in_short(self) -> str:
        """The report in a few words."""

    @abc.abstractmethod
    def _frame_tables(self) -> FrameTables:
        """The tables of the report that `to_frame` offers."""

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A table of the report as a pandas data frame; names of columns end in their units.

        Args:
            table: The name of the table; None for the first one.

        Raises:
            ConfigError: If pandas is not installed, or there is no such table.
        """
        tables = self._frame_tables()
        if table is not None and table not in tables:
            raise ConfigError(f"{type(self).__name__} has no table '{table}'; {suggestion(table, tables)}")
        return data_frame(tables[next(iter(tables)) if table is None else table]())

    def __str__(self) -> str:
        return rendered(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {one_line(self._in_short(), _LONGEST_REPR)}>"

    def _repr_html_(self) -> str:
        """The report as notebooks show it."""
        return html(self)
