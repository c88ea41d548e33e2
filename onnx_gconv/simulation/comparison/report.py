"""The report of a comparison: how good the chips of each candidate are over time, for programs and for people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.files.csv_text import csv_line
from onnx_gconv.files.drawing import legible, new_figure
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.simulation.frames import SpreadRow, chip_columns, spread_columns
from onnx_gconv.simulation.simulation_report import (
    SimulatedTime,
    SimulationReport,
    axis_of_times,
    finite,
    metric_text,
    seconds_text,
)
from onnx_gconv.simulation.times import time_text
from onnx_gconv.terminal_text import ByWidth, counted, plain, titled_table
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group, RenderableType
    from rich.table import Table

__all__ = ["ComparedCandidate", "ComparisonReport"]

_BORDER = 3  # of a column of a table
_SHORTEST_NAMES = 12
_FEW_TIMES = 4

_LONGEST_LEGEND = 32
_LINES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv"
_COLOURS = 10  # of Matplotlib's cycle


@dataclass(frozen=True)
class ComparedCandidate:
    """The figures of one candidate.

    Attributes:
        name: The name of the candidate.
        differences: The keys in which the candidate differs from others, such as ``mapping.levels``, and their values.
        simulation: The report of its simulation.
    """

    name: str
    differences: Mapping[str, Any]
    simulation: SimulationReport

    def at(self, seconds: float) -> SimulatedTime | None:
        """The chips of the candidate at a time; None if it was not simulated at that time."""
        return next((each for each in self.simulation.times if each.seconds == seconds), None)

    def to_json(self) -> dict[str, Any]:
        """The name, the differences, and the report of the simulation, as JSON values."""
        differences = {key: _json_value(value) for key, value in self.differences.items()}
        return {"name": self.name, "differences": differences, **self.simulation.to_json()}


@dataclass(frozen=True, repr=False)
class ComparisonReport(ShownReport):
    """The result of `compare`.

    Attributes:
        model: The model that was simulated.
        file: The file of the comparison; None if a program gave the comparison.
        seed: The seed of all random numbers.
        metric: The name of the metric.
        unit: The unit of the metric; empty for none.
        is_larger_better: Whether larger values of the metric are better. If not, values are better the nearer they are
            to that of the model without a chip.
        output: The output that the metric looks at.
        unmapped: The metric of the plain model; None if the model was given as a mapped one, or the metric compares
            with the outputs of the plain model.
        reference: The model with whose outputs the metric compares, ``unmapped`` or ``ideal``; empty if the metric
            needs only one model.
        samples: How many samples each chip was run on.
        inputs: Where the samples come from.
        candidates: The candidates, in the order of the comparison.
        notes: Remarks, such as what may be wrong, a line each.
    """

    model: Path
    file: Path | None
    seed: int
    metric: str
    unit: str
    is_larger_better: bool
    output: str
    unmapped: float | None
    reference: str
    samples: int
    inputs: str
    candidates: tuple[ComparedCandidate, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, ...]:
        """All times at which at least one candidate was simulated, in seconds after programming."""
        return tuple(sorted({time.seconds for each in self.candidates for time in each.simulation.times}))

    def best(self, seconds: float) -> tuple[str, ...]:
        """The names of the candidates with the best mean at a time; empty if all candidates at that time are equal."""
        goodness = {
            each.name: self._goodness(each, time.spread.mean)
            for each in self.candidates
            if (time := each.at(seconds)) is not None
        }
        if len(set(goodness.values())) < 2:  # noqa: PLR2004 - all are equal, so none is better
            return ()
        return tuple(name for name, value in goodness.items() if value == max(goodness.values()))

    def _goodness(self, candidate: ComparedCandidate, mean: float) -> float:
        if self.is_larger_better:
            return mean
        return -abs(mean - (candidate.simulation.ideal if self.unmapped is None else self.unmapped))

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON values; infinite figures, such as the SQNR of equal outputs, are null."""
        return {
            "model": str(self.model),
            "comparison": None if self.file is None else str(self.file),
            "seed": self.seed,
            "metric": self.metric,
            "unit": self.unit,
            "output": self.output,
            "unmapped": finite(self.unmapped),
            "reference": self.reference,
            "samples": self.samples,
            "inputs": self.inputs,
            "best": [
                {"seconds": each, "time": time_text(each), "names": list(self.best(each))} for each in self.seconds
            ],
            "candidates": [each.to_json() for each in self.candidates],
            "notes": list(self.notes),
        }

    def to_csv(self) -> str:
        """A CSV table with a line for each chip of each candidate at each time: candidate, seconds, chip, metric."""
        lines = [csv_line(("candidate", "seconds", "chip", self.metric))]
        for each in self.candidates:
            for time in each.simulation.times:
                seconds = seconds_text(time.seconds)
                lines += [csv_line((each.name, seconds, chip, value)) for chip, value in enumerate(time.values)]
        return "".join(lines)

    def plot(self) -> Figure:
        """A plot of the mean of each candidate over time with its confidence interval, and of the unmapped model.

        Raises:
            ConfigError: If Matplotlib is not installed.
        """
        figure = new_figure(8, 4.5)
        axes = figure.subplots()
        places = axis_of_times(axes, self.seconds)
        for number, each in enumerate(self.candidates):
            style: dict[str, Any] = {
                "color": f"C{number % _COLOURS}",
                "linestyle": _LINES[number // _COLOURS % len(_LINES)],
            }
            shown = [time for time in each.simulation.times if math.isfinite(time.spread.mean)]
            at = [places[time.seconds] for time in shown]
            means = [time.spread.mean for time in shown]
            axes.plot(at, means, marker=_MARKERS[number % len(_MARKERS)], markersize=4, label="candidate", **style)
            ends = [(time.spread.low, time.spread.high) for time in shown]
            low, high = ([end for pair in ends if (end := pair[side]) is not None] for side in (0, 1))
            if shown and len(low) == len(shown):
                axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if self.unmapped is not None and math.isfinite(self.unmapped):
            axes.axhline(self.unmapped, color="0.3", linestyle=(0, (1, 2)), label="unmapped model")
        axes.set_xlabel("time after programming")
        axes.set_ylabel(f"{self.metric} [{self.unit}]" if self.unit else self.metric)
        axes.set_title(f"Means of {self._chips()} and their 95 % intervals", fontsize="medium")
        legend = figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        for text, each in zip(legend.get_texts(), self.candidates, strict=False):  # the last text is the unmapped model
            text.set(text=textwrap.fill(legible(each.name), _LONGEST_LEGEND), parse_math=False)
        return figure

    def _in_short(self) -> str:
        best = listed(self.best(self.seconds[-1])) if self.seconds else ""
        after = f", best after {time_text(self.seconds[-1])}: {best}" if best else ""
        return f"{self.model}: {self.metric} of {len(self.candidates)} candidates{after}"

    def _frame_tables(self) -> FrameTables:
        rows = [
            SpreadRow({"candidate": each.name}, time.seconds, time.values, time.spread)
            for each in self.candidates
            for time in each.simulation.times
        ]
        return {
            "times": lambda: spread_columns(rows, self.metric, self.unit, ["candidate"]),
            "chips": lambda: chip_columns(rows, self.metric, self.unit, ["candidate"]),
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        samples = "1 sample" if self.samples == 1 else f"{self.samples:,} samples"
        marks = any(map(self.best, self.seconds))
        best = "the best at that time" if self.is_larger_better else "the nearest to the model without a chip"
        return Group(
            plain(f"Model {self.model}; seed {self.seed}"),
            plain(f"Inputs: {self.inputs} ({samples}); output '{self.output}'"),
            self._tables(),
            *([plain(f"* {best}, by the mean", style="dim")] if marks else []),
            *(plain(line) for line in self._said_of_candidates()),
            *(plain(f"Note: {note}") for note in self.notes),
        )

    def _tables(self) -> RenderableType:
        """The widest form that fits: one table with one line a candidate, one with two lines, or several tables."""
        from rich.console import Group

        longest = max(len(each.name) for each in self.candidates)
        cells = [self._cell(each, seconds, "\n") for each in self.candidates for seconds in self.seconds]
        number = max(len(line) for cell in cells for line in cell.split("\n")) + _BORDER
        count, ideal = len(self.seconds), number + _BORDER
        parts = [self.seconds[start : start + _FEW_TIMES] for start in range(0, count, _FEW_TIMES)]
        several = Group(*(self._table(part, "\n") for part in parts))
        two_lines = ByWidth(
            self._table(self.seconds, "\n"), several, min(longest, _SHORTEST_NAMES) + _BORDER + ideal + number * count
        )
        return ByWidth(self._table(self.seconds, " "), two_lines, longest + _BORDER + ideal + (2 * number - 2) * count)

    def _table(self, times: Sequence[float], between: str) -> Table:
        unit = f" in {self.unit}" if self.unit else ""
        beside = f", compared with the {self.reference} model" if self.reference else ""
        unmapped = "" if self.unmapped is None else f"; unmapped model: {self._text(self.unmapped)}"
        table = titled_table(
            f"{self.metric}{unit} of {self._chips()}, mean \u00b1 standard deviation{beside}{unmapped}"
        )
        table.add_column("candidate", min_width=_SHORTEST_NAMES)
        table.add_column("ideal", justify="right", no_wrap=True)
        for seconds in times:
            table.add_column(time_text(seconds), justify="right", no_wrap=True)
        for each in self.candidates:
            cells = [self._cell(each, seconds, between) for seconds in times]
            table.add_row(plain(each.name), self._text(each.simulation.ideal), *cells)
        return table

    def _cell(self, candidate: ComparedCandidate, seconds: float, between: str) -> str:
        if (time := candidate.at(seconds)) is None:
            return "-"
        mark = "*" if candidate.name in self.best(seconds) else ""
        return f"{mark}{self._text(time.spread.mean)}{between}\u00b1{time.spread.std:.4f}"

    def _chips(self) -> str:
        counts = sorted({each.simulation.repeats for each in self.candidates})
        return counted(counts[0], "chip") if len(counts) == 1 else f"{' or '.join(map(str, counts))} chips"

    def _said_of_candidates(self) -> Iterator[str]:
        """The notes of the simulations, each with the names of the candidates that have it."""
        names: dict[str, list[str]] = {}
        for each in self.candidates:
            for note in each.simulation.notes:
                names.setdefault(note, []).append(each.name)
        for note, of in names.items():
            some = listed([f"'{name}'" for name in of])
            yield f"{'All' if len(of) == len(self.candidates) else some}: {note}"

    def _text(self, number: float) -> str:
        return metric_text(self.metric, number)


def _json_value(value: object) -> Any:  # noqa: ANN401 - what JSON has
    """A value of a comparison as a JSON value; an object, such as a converter, becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_value(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    is_plain = value is None or isinstance(value, (str, bool, int))
    return value if is_plain else str(getattr(value, "name", type(value).__name__))
