"""The report of `benchmarks.map`, and the tables of times and ratios that other benchmarks print, too."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.measurement import Measurement

__all__ = [
    "ModelReport",
    "Ratio",
    "Report",
    "print_conditions",
    "print_measurements",
    "print_report",
    "ratios_of",
    "spread",
]

# The job of the numerator, the job of the denominator, and the goal for the ratio of their times.
_GOALS = (
    ("map", "copy", "at most 1.3"),
    ("map", "read_write", ""),
    ("program", "map", "at most 4"),
    ("program_day", "map", ""),
    ("naive", "map", "at least 5"),
    ("quantize", "map", ""),
)


@dataclass(frozen=True)
class Ratio:
    """A ratio of the times of two jobs, one value a round.

    Attributes:
        name: ``numerator / denominator``.
        of_processes: The ratios of the times of whole processes.
        of_work: The ratios of the times without the start of Python and its imports.
        goal: The goal for the ratio, in words; empty if there is none.
    """

    name: str
    of_processes: tuple[float, ...]
    of_work: tuple[float, ...]
    goal: str


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """The results of one run of a benchmark with a synthetic model.

    Attributes:
        weight_bytes: Bytes of the weights of the model, or of their codes.
        layers: Number of layers.
        width: Every weight is [width, width].
        measurements: For each job, one measurement a round.
        ratios: The ratios of times.
        machine: The machine that was measured.
        load: The load average of the machine in the minute before.
        versions: The versions of Python and of packages.
    """

    weight_bytes: int
    layers: int
    width: int
    measurements: dict[str, tuple[Measurement, ...]]
    ratios: tuple[Ratio, ...]
    machine: Machine
    load: float
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Report(ModelReport):
    """The results of one run of `benchmarks.map`.

    Attributes:
        skipped: For each job that did not run, the reason.
        copy_command: The command that copied the files.
    """

    skipped: dict[str, str]
    copy_command: str


def ratios_of(
    measurements: Mapping[str, Sequence[Measurement]], goals: Sequence[tuple[str, str, str]] = _GOALS
) -> tuple[Ratio, ...]:
    """The ratios of all jobs that ran. Both times of a ratio come from the same round.

    Args:
        measurements: For each job, one measurement a round.
        goals: The job of the numerator, the job of the denominator, and the goal for their ratio, in words.
    """
    return tuple(
        _ratio(f"{above} / {below}", measurements[above], measurements[below], goal)
        for above, below, goal in goals
        if above in measurements and below in measurements
    )


def _ratio(name: str, above: Sequence[Measurement], below: Sequence[Measurement], goal: str) -> Ratio:
    def of(time: Callable[[Measurement], float]) -> tuple[float, ...]:
        return tuple(time(a) / time(b) for a, b in zip(above, below, strict=True))

    return Ratio(name, of(lambda run: run.seconds), of(lambda run: run.work_seconds), goal)


def print_report(report: Report, console: Console) -> None:
    """Print the tables, and below them the conditions of the measurement."""
    console.print(
        f"{report.weight_bytes / 2**30:.3g} GiB of float32 weights: "
        f"{report.layers} layers of {report.width} x {report.width}"
    )
    print_measurements(report.measurements, report.ratios, console)
    for name, reason in report.skipped.items():
        console.print(f"skipped: {name} ({reason})")
    console.print(f"copied with: {report.copy_command}")
    print_conditions(report.machine, report.load, report.versions, console)


def print_measurements(
    measurements: Mapping[str, Sequence[Measurement]], ratios: Sequence[Ratio], console: Console
) -> None:
    """Print the tables of times and of ratios."""
    console.print(_times(measurements))
    console.print(_ratios(ratios))


def print_conditions(machine: Machine, load: float, versions: Mapping[str, str], console: Console) -> None:
    """Print the machine, its load and the versions of packages."""
    console.print(
        f"machine: {machine.cores} cores, {machine.processor}, {machine.memory_bytes / 2**30:.0f} GiB of memory, "
        f"{machine.kernel}, {machine.file_system}; load before: {load:.1f}"
    )
    console.print("versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()))


def _times(measurements: Mapping[str, Sequence[Measurement]]) -> Table:
    table = Table(title="Median times and largest memory of all rounds")
    table.add_column("job", no_wrap=True)
    for column in ("process s", "work s", "CPU s", "anonymous MB", "resident MB", "output MB"):
        table.add_column(column, justify="right")
    for name, runs in measurements.items():
        table.add_row(
            name,
            f"{statistics.median(run.seconds for run in runs):.2f}",
            f"{statistics.median(run.work_seconds for run in runs):.2f}",
            f"{statistics.median(run.cpu_seconds for run in runs):.2f}",
            f"{max(run.anonymous_bytes for run in runs) / 1e6:.0f}",
            f"{max(run.resident_bytes for run in runs) / 1e6:.0f}",
            f"{runs[0].output_bytes / 1e6:.0f}",
        )
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    table = Table(title="Ratios of times: median of the rounds (smallest to largest)")
    for column in ("ratio", "of processes", "of work alone", "goal"):
        table.add_column(column, no_wrap=True)
    for ratio in ratios:
        table.add_row(ratio.name, spread(ratio.of_processes), spread(ratio.of_work), ratio.goal)
    return table


def spread(values: Sequence[float]) -> str:
    """The median of values, with the smallest and the largest, as text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
