"""The report of a simulation: how good chips are over time, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.files.csv_text import csv_line
from onnx_gconv.files.drawing import new_figure
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.simulation.frames import SpreadRow, chip_columns, spread_columns
from onnx_gconv.simulation.spread import Spread
from onnx_gconv.simulation.times import time_text
from onnx_gconv.terminal_text import counted, plain, titled_table, with_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group
    from rich.table import Table

__all__ = [
    "SimulatedLayer",
    "SimulatedTime",
    "SimulationReport",
    "axis_of_times",
    "finite",
    "metric_text",
    "seconds_text",
]


@dataclass(frozen=True)
class SimulatedTime:
    """The chips at one time.

    Attributes:
        seconds: The time after programming, in seconds.
        values: The metric of each chip.
        spread: Mean, standard deviation and confidence interval of these values.
    """

    seconds: float
    values: tuple[float, ...]
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values; infinite ones are null."""
        return {
            "seconds": self.seconds,
            "time": time_text(self.seconds),
            **_spread_json(self.spread),
            "values": [finite(value) for value in self.values],
        }


@dataclass(frozen=True)
class SimulatedLayer:
    """The sensitivity of one layer: only its weight is on the chips, while all other weights are ideal.

    Attributes:
        name: The name of the weight.
        graph: Path of the graph that owns the weight; empty for the main graph.
        seconds: The time after programming, in seconds.
        values: The metric of each chip.
        spread: Mean, standard deviation and confidence interval of these values.
        known_as: What people call the weight: its parameter in the exported program, its module, or its name.
    """

    name: str
    graph: str
    seconds: float
    values: tuple[float, ...]
    spread: Spread
    known_as: str = ""

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values; infinite ones are null."""
        return {
            "name": self.name,
            "known_as": self.known_as or self.name,
            "graph": self.graph,
            "seconds": self.seconds,
            **_spread_json(self.spread),
            "values": [finite(value) for value in self.values],
        }


@dataclass(frozen=True, repr=False)
class SimulationReport(ShownReport):
    """The result of `simulate`.

    Attributes:
        mapped: The model that was simulated.
        device: The name of the device model.
        settings: The settings of the device model; empty if a program gave the model as an object.
        seed: The seed of all random numbers.
        repeats: How many chips were simulated.
        drift_compensation: How drift was compensated.
        metric: The name of the metric.
        unit: The unit of the metric; empty for none.
        output: The output that the metric looks at.
        ideal: The metric of the ideal model, whose weights are those of the targets.
        times: The chips at each time.
        sensitivity: Each layer alone, the one that does most harm first; empty if it was not asked for.
        samples: How many samples each chip was run on.
        inputs: Where the samples come from.
        notes: Remarks, such as what may be wrong, a line each.
    """

    mapped: Path
    device: str
    settings: Mapping[str, Any]
    seed: int
    repeats: int
    drift_compensation: str
    metric: str
    unit: str
    output: str
    ideal: float
    times: tuple[SimulatedTime, ...]
    sensitivity: tuple[SimulatedLayer, ...]
    samples: int
    inputs: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON values; infinite figures, such as the SQNR of equal outputs, are null."""
        return {
            "mapped": str(self.mapped),
            "device": self.device,
            "settings": dict(self.settings),
            "repeats": self.repeats,
            "seed": self.seed,
            "drift_compensation": self.drift_compensation,
            "metric": self.metric,
            "unit": self.unit,
            "output": self.output,
            "ideal": finite(self.ideal),
            "samples": self.samples,
            "inputs": self.inputs,
            "times": [each.to_json() for each in self.times],
            "sensitivity": [each.to_json() for each in self.sensitivity],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """A CSV table with a line for each chip at each time: seconds, chip, metric."""
        lines = [csv_line(("seconds", "chip", self.metric))]
        for time in self.times:
            seconds = seconds_text(time.seconds)
            lines += [csv_line((seconds, chip, value)) for chip, value in enumerate(time.values)]
        return "".join(lines)

    def plot(self) -> Figure:
        """A plot of the mean over time with its confidence interval, all chips, and the ideal model.

        Raises:
            ConfigError: If Matplotlib is not installed.
        """
        figure = new_figure(6.4, 4)
        axes = figure.subplots()
        shown = [each for each in self.times if math.isfinite(each.spread.mean)]
        seconds = list(axis_of_times(axes, [each.seconds for each in shown]).values())
        for time, place in zip(shown, seconds, strict=True):
            axes.plot([place] * len(time.values), time.values, ".", color="0.75", markersize=3, zorder=1)
        means = [each.spread.mean for each in shown]
        axes.plot(seconds, means, "o-", color="C0", label=f"mean of {counted(self.repeats, 'chip')}, 95 % interval")
        low, high = (
            [end for each in shown if (end := getattr(each.spread, name)) is not None] for name in ("low", "high")
        )
        if len(low) == len(shown):
            axes.fill_between(seconds, low, high, color="C0", alpha=0.2)
        if math.isfinite(self.ideal):
            axes.axhline(self.ideal, color="0.3", linestyle="--", label="ideal")
        axes.set_xlabel("time after programming")
        axes.set_ylabel(f"{self.metric} [{self.unit}]" if self.unit else self.metric)
        axes.set_title(f"{self.device}, drift compensation: {self.drift_compensation}", fontsize="medium")
        axes.legend(frameon=False, fontsize="small")
        return figure

    def _in_short(self) -> str:
        last = self.times[-1] if self.times else None
        after = "" if last is None else f", {self._text(last.spread.mean)} after {time_text(last.seconds)}"
        unit = f" in {self.unit}" if self.unit else ""
        chips = f"{counted(self.repeats, 'chip')} of {self.device}"
        return f"{self.mapped}, {chips}: {self.metric}{unit} {self._text(self.ideal)} ideal{after}"

    def _frame_tables(self) -> FrameTables:
        times = [SpreadRow({}, each.seconds, each.values, each.spread) for each in self.times]
        layers = [
            SpreadRow({"weight": each.name, "graph": each.graph}, each.seconds, each.values, each.spread)
            for each in self.sensitivity
        ]
        return {
            "times": lambda: spread_columns(times, self.metric, self.unit),
            "chips": lambda: chip_columns(times, self.metric, self.unit),
            "sensitivity": lambda: spread_columns(layers, self.metric, self.unit, ("weight", "graph")),
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        settings = "".join(f", {name} = {value}" for name, value in self.settings.items())
        unit = f" in {self.unit}" if self.unit else ""
        return Group(
            plain(f"Device {self.device}{settings}; drift compensation: {self.drift_compensation}; seed {self.seed}"),
            plain(f"Inputs: {self.inputs} ({counted(self.samples, 'sample')}); output '{self.output}'"),
            self._table(f"{self.metric}{unit} of {counted(self.repeats, 'chip')}; ideal: {self._text(self.ideal)}"),
            *([self._layers()] if self.sensitivity else []),
            *(plain(f"Note: {note}") for note in self.notes),
        )

    def _table(self, title: str) -> Table:
        table = titled_table(title)
        table.add_column("after", no_wrap=True)
        for column in ("mean", "std", "95 % interval of the mean", "lowest", "highest"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in self.times:
            table.add_row(time_text(each.seconds), *self._cells(each.values, each.spread))
        return table

    def _layers(self) -> Table:
        table = titled_table(f"One layer on the chip, all others ideal, {time_text(self.sensitivity[0].seconds)} after")
        table.add_column("weight")
        for column in ("mean", "std", "95 % interval of the mean", "lowest", "highest"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in self.sensitivity:
            place = f"in {each.graph}" if each.graph else ""
            table.add_row(with_name(each.known_as, each.name, place), *self._cells(each.values, each.spread))
        return table

    def _cells(self, values: tuple[float, ...], spread: Spread) -> tuple[str, ...]:
        text, (low, high) = self._text, (spread.low, spread.high)
        interval = "-" if low is None or high is None else f"{text(low)} to {text(high)}"
        return text(spread.mean), text(spread.std), interval, text(min(values)), text(max(values))

    def _text(self, number: float) -> str:
        return metric_text(self.metric, number)


def axis_of_times(axes: Axes, seconds: Sequence[float]) -> dict[float, float]:
    """Make the x axis of a plot a logarithmic one of times.

    Returns:
        The place on the axis of each time in seconds.
    """
    first = min([each for each in seconds if each > 0], default=1.0)
    places = {each: each or first / 10 for each in seconds}  # a logarithmic axis has no place for 0
    axes.set_xscale("log")
    axes.set_xticks(list(places.values()), [time_text(each) for each in places])
    axes.minorticks_off()
    return places


def metric_text(metric: str, number: float) -> str:
    """The value of a metric as text, for tables."""
    return "no error" if number == math.inf and metric.partition("@")[0] == "sqnr" else f"{number:.4f}"


def seconds_text(seconds: float) -> str:
    """Seconds as text for CSV tables, without a loss of digits."""
    return f"{seconds:.0f}" if seconds.is_integer() else repr(seconds)


def finite(value: float | None) -> float | None:
    """The value, or None if it is infinite, which JSON cannot express."""
    return value if value is not None and math.isfinite(value) else None


def _spread_json(spread: Spread) -> dict[str, Any]:
    return {
        "mean": finite(spread.mean),
        "std": spread.std,
        "low": spread.low,
        "high": spread.high,
    }
