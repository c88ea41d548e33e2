"""Figures of simulated chips as tables for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_gconv.data_frame import Column, Columns
from onnx_gconv.simulation.spread import Spread

__all__ = ["SpreadRow", "chip_columns", "spread_columns"]


@dataclass(frozen=True)
class SpreadRow:
    """Chips at one time.

    Attributes:
        names: What they are chips of, by the column that says so.
        seconds: How long after programming.
        values: The metric, one of each chip.
        spread: Their mean, standard deviation and confidence interval.
    """

    names: Mapping[str, str]
    seconds: float
    values: tuple[float, ...]
    spread: Spread


def spread_columns(rows: Sequence[SpreadRow], metric: str, unit: str, names: Sequence[str] = ()) -> Columns:
    """A row for the chips of a time together; figures are of the metric, in its unit.

    Args:
        rows: What there is.
        metric: The name of the metric.
        unit: Its unit, or nothing.
        names: The columns that say what they are chips of.
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
    """A row for each chip at each time; arguments as those of `spread_columns`."""
    each = [(row, chip, value) for row in rows for chip, value in enumerate(row.values)]
    return {
        **{name: Column("text", [row.names[name] for row, _, _ in each]) for name in names},
        "seconds": Column("number", [row.seconds for row, _, _ in each]),
        "chip": Column("whole number", [chip for _, chip, _ in each]),
        _with_unit(metric, unit): Column("number", [value for _, _, value in each]),
    }


def _with_unit(name: str, unit: str) -> str:
    return f"{name}_{unit.lower()}" if unit else name
