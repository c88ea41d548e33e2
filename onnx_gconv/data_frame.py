"""Tables as data frames of pandas, which is not needed for anything else."""

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
        kind: What its values are.
        values: One for each row; None where there is none.
    """

    kind: Literal["text", "whole number", "number", "yes or no"]
    values: Sequence[object]


Columns: TypeAlias = Mapping[str, Column]
"""Columns by their names, which end in the unit."""

# Those of pandas that hold a missing value; a missing number is NaN, as programs for numbers expect it.
_DTYPES = {"text": "string", "whole number": "Int64", "number": "float64", "yes or no": "boolean"}


def data_frame(columns: Columns) -> pd.DataFrame:
    """A frame of pandas.

    Raises:
        ConfigError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError("data frames need pandas, which is missing; pip install pandas") from None
    return pd.DataFrame({name: _series(pd, column) for name, column in columns.items()})


def shape_text(shape: Sequence[int] | None) -> str | None:
    """A shape in a column of text, such as 16x1x3x3; None if it is not known."""
    return None if shape is None else ("x".join(map(str, shape)) or "scalar")


def _series(pd: Any, column: Column) -> Any:  # noqa: ANN401 - pandas, which has no types here
    return pd.Series(list(column.values), dtype=_DTYPES[column.kind])
