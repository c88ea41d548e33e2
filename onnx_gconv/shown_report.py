"""What all reports have in common: the forms in which people see them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from onnx_gconv.data_frame import Columns, data_frame
from onnx_gconv.errors import ConfigError
from onnx_gconv.terminal_text import html, rendered
from onnx_gconv.visible_text import one_line

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

__all__ = ["FrameTables", "ShownReport"]

_LONGEST_REPR = 200

FrameTables: TypeAlias = Mapping[str, Callable[[], Columns]]
"""What makes the columns of each table of a report, by its name; the first one is the table by default."""


class ShownReport(abc.ABC):
    """A report: tables for `print` and for notebooks, one line for `repr`, and data frames.

    Its subclasses are dataclasses with ``repr=False``, as the line would be replaced otherwise.
    """

    @abc.abstractmethod
    def __rich__(self) -> RenderableType:
        """What the terminal shows."""

    @abc.abstractmethod
    def _in_short(self) -> str:
        """The report in a few words."""

    @abc.abstractmethod
    def _frame_tables(self) -> FrameTables:
        """Its tables for programs."""

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A table as a data frame of pandas, with a row for each of its objects; units end the names of columns.

        Args:
            table: Which table, if there are several; the first one by default.

        Raises:
            ConfigError: If pandas is not installed, or there is no such table.
        """
        tables = self._frame_tables()
        if table is not None and table not in tables:
            raise ConfigError(f"{type(self).__name__} has no table '{table}'; there is {', '.join(tables)}")
        return data_frame(tables[next(iter(tables)) if table is None else table]())

    def __str__(self) -> str:
        return rendered(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {one_line(self._in_short(), _LONGEST_REPR)}>"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return html(self)
