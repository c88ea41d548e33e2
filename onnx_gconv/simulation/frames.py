"""The figures of simulated chips as columns of data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.simulation.spread import Spread

__all__ = ["SpreadRow", "chip_columns", "spread_columns"]


@dataclass(frozen=True)
class SpreadRow:
    """The chips at one time.

    Attributes:
        names: Columns that tell these chips from others, such as the candidate or the weight, with their values.
        seconds: The time after programming, in seconds.
        values: The metric of each chip.
        spread: Mean, standard deviation and confidence interval of these values.
    """

    names: Mapping[str, str]
    seconds: float
    values: tuple[float, ...]
    spread: Spread


def spread_columns(rows: Sequence[SpreadRow], metric: str, unit: str, names: Sequence[str] = ()) -> Columns:
    """Columns with a row for each time: mean, standard deviation and interval of the metric over all chips.

    Args:
        rows: The chips at each time.
        metric: The name of the metric.
        unit: The unit of the metric; empty for none.
        names: The keys of `SpreadRow.names` that become columns.
    """
    figures: dict[str, list[float] | list[float | None]] = {
        "mean": [row.spread.mean for row in rows],
        "std": [row.spread.std for row in rows],
        "interval_low": [row.spread.low for row in rows],
        "interval_high": [row.spread.high for row in rows],
        "lowest": [min(row.values) for row in rows],
        "highest": [max(row.values) for row in rows],
    }
    return {
        **{name: Column("text", [row.names[name] for row in rows]) for name in names},
        "seconds": Column("number", [row.seconds for row in rows]),
        "chips": Column("whole number", [len(row.values) for row in rows]),
        "metric": Column("text", [metric] * len(rows)),
        **{_with_unit(name, unit): Column("number", values) for name, values in figures.items()},
    }


def chip_columns(rows: Sequence[SpreadRow], metric: str, unit: str, names: Sequence[str] = ()) -> Columns:
    """Columns with a row for each chip at each time. Arguments are those of `spread_columns`."""
    each = [(row, chip, value) for row in rows for chip, value in enumerate(row.values)]
    return {
        **{name: Column("text", [row.names[name] for row, _, _ in each]) for name in names},
        "seconds": Column("number", [row.seconds for row, _, _ in each]),
        "chip": Column("whole number", [chip for _, chip, _ in each]),
        _with_unit(metric, unit): Column("number", [value for _, _, value in each]),
    }


def _with_unit(name: str, unit: str) -> str:
    return f"{name}_{unit.lower()}" if unit else name
