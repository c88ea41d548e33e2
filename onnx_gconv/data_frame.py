"""Converts tables of reports to pandas data frames; pandas is imported only for this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Columns", "data_frame", "shape_text"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        kind: The kind of its values.
        values: A value for each row; None for a missing one.
    """

    kind: Literal["text", "whole number", "number", "yes or no"]
    values: Sequence[object]


Columns: TypeAlias = Mapping[str, Column]
"""Columns by name; the name of a column with a unit ends in the unit."""

# Types of pandas that can hold a missing value; a missing number is NaN, as numerical programs expect.
_DTYPES = {"text": "string", "whole number": "Int64", "number": "float64", "yes or no": "boolean"}


def data_frame(columns: Columns) -> pd.DataFrame:
    """Make a pandas data frame of columns.

    Raises:
        ConfigError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError("data frames need pandas, which is missing; pip install pandas") from None
    return pd.DataFrame({name: _series(pd, column) for name, column in columns.items()})


def shape_text(shape: Sequence[int] | None) -> str | None:
    """A shape as text for a column, such as ``16x1x3x3``; None for an unknown shape."""
    return None if shape is None else ("x".join(map(str, shape)) or "scalar")


def _series(pd: Any, column: Column) -> Any:  # noqa: ANN401 - pandas, which has no types here
    return pd.Series(list(column.values), dtype=_DTYPES[column.kind])
