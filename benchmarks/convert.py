"""Converting a weight in memory, compared with aihwkit's own conversion: ``python -m benchmarks.convert``.

Every converter converts one float32 weight from N(0, 0.02). It does so chunk by chunk into the same buffers, as
`map_model` does while it writes a file; times include the scan for the largest weights. Where aihwkit has a converter
of the same name, both take turns in one process. Memory is measured in separate processes, one for each converter of
each package, and also for a weight of a quarter of the size.

README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.convert_job import PARAMETERS
from benchmarks.machine import Machine, describe_machine, versions
from benchmarks.measurement import JobFailedError, measure
from onnx_gconv.tensors.streamed import worker_count

__all__ = ["Conversion", "Report", "main", "run"]

_REPOSITORY = Path(__file__).resolve().parents[1]
_SUFFIX = "ConductanceConverter"

# How many times as fast as aihwkit each converter should be
_GOALS = {
    "SinglePairConductanceConverter": 2,
    "NPairConductanceConverter": 4,
    "CustomPairConductanceConverter": 4,
}


@dataclass(frozen=True)
class Conversion:
    """The measurements of one converter.

    Attributes:
        seconds: The time of each of our conversions, with the scan for the largest weights.
        aihwkit_seconds: The time of each of aihwkit's conversions; empty if aihwkit has no such converter.
        extra_bytes: The largest anonymous memory of a conversion of ours, besides the weight.
        extra_bytes_of_quarter: The same for a weight of a quarter of the size.
        aihwkit_extra_bytes: The largest anonymous memory of aihwkit's conversion, besides the weight; None if aihwkit
            has no such converter.
    """

    seconds: tuple[float, ...]
    aihwkit_seconds: tuple[float, ...]
    extra_bytes: int
    extra_bytes_of_quarter: int
    aihwkit_extra_bytes: int | None

    @property
    def ratios(self) -> tuple[float, ...]:
        """aihwkit's time over ours, for each round; empty if aihwkit has no such converter."""
        return tuple(theirs / ours for ours, theirs in zip(self.seconds, self.aihwkit_seconds, strict=False))


@dataclass(frozen=True)
class Report:
    """The results of one run of the benchmark.

    Attributes:
        width: The weight is [width, width].
        threads: How many threads our converters used; torch chooses its own number.
        conversions: The measurements of each converter, by its name.
        machine: The machine that was measured.
        load: The load average of the machine in the minute before.
        versions: The versions of Python and of packages.
    """

    width: int
    threads: int
    conversions: dict[str, Conversion]
    machine: Machine
    load: float
    versions: dict[str, str]


def run(names: Sequence[str], width: int, threads: int, repeats: int) -> Report:
    """Measure converters.

    Args:
        names: The names of the converters.
        width: The weight is [width, width].
        threads: How many threads our converters use.
        repeats: How often each converter converts the weight.

    Raises:
        JobFailedError: If a process that measures a converter fails.
    """
    load = os.getloadavg()[0]
    conversions = {}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        seconds = _seconds(name, width, threads, repeats)
        conversions[name] = Conversion(
            seconds=tuple(seconds["ours"]),
            aihwkit_seconds=tuple(seconds.get("aihwkit", ())),
            extra_bytes=_extra_bytes("ours", name, width, threads),
            extra_bytes_of_quarter=_extra_bytes("ours", name, width // 2, threads),
            aihwkit_extra_bytes=_extra_bytes("aihwkit", name, width, threads) if "aihwkit" in seconds else None,
        )
    return Report(
        width=width,
        threads=threads,
        conversions=conversions,
        machine=describe_machine(_REPOSITORY),
        load=load,
        versions=versions("torch", "aihwkit"),
    )


def _job(*arguments: str | int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.convert_job", *map(str, arguments)]


def _seconds(name: str, width: int, threads: int, repeats: int) -> dict[str, list[float]]:
    found = subprocess.run(
        _job("time", name, width, threads, repeats), cwd=_REPOSITORY, capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise JobFailedError(found.stderr.rstrip().rpartition("\n")[2])
    seconds: dict[str, list[float]] = json.loads(found.stdout)
    return seconds


def _extra_bytes(side: str, name: str, width: int, threads: int) -> int:
    """The largest anonymous memory of a conversion, less the memory that was in use before it started."""
    with tempfile.TemporaryDirectory(prefix="onnx_gconv-benchmark-") as folder:
        measured = measure(_job(side, name, width, threads), folder=_REPOSITORY, output=Path(folder))
    return max(measured.anonymous_bytes - int(measured.told["before_bytes"]), 0)


def _print_report(report: Report, console: Console) -> None:
    machine = report.machine
    console.print(f"a float32 weight of {report.width} x {report.width}; threads that convert it: {report.threads}")
    table = Table(title="Median times of a conversion, and largest memory besides the weight")
    table.add_column("converter", no_wrap=True)
    for column in ("ms", "aihwkit ms", "aihwkit / ours", "goal", "MB", "MB of a quarter", "aihwkit MB"):
        table.add_column(column, justify="right")
    for name, found in report.conversions.items():
        table.add_row(
            name.removesuffix(_SUFFIX),
            f"{1e3 * statistics.median(found.seconds):.0f}",
            f"{1e3 * statistics.median(found.aihwkit_seconds):.0f}" if found.aihwkit_seconds else "",
            _spread(found.ratios),
            f"at least {_GOALS[name]}" if name in _GOALS else "",
            f"{found.extra_bytes / 1e6:.0f}",
            f"{found.extra_bytes_of_quarter / 1e6:.0f}",
            "" if found.aihwkit_extra_bytes is None else f"{found.aihwkit_extra_bytes / 1e6:.0f}",
        )
    console.print(table)
    console.print(
        f"machine: {machine.cores} cores, {machine.processor}, {machine.memory_bytes / 2**30:.0f} GiB of memory, "
        f"{machine.kernel}; load before: {report.load:.1f}"
    )
    console.print("versions: " + ", ".join(f"{name} {number}" for name, number in report.versions.items()))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    options = _options(arguments)
    try:
        report = run(options.converters, options.width, options.threads, options.repeats)
    except JobFailedError as error:
        sys.exit(f"a job failed: {error}")
    _print_report(report, Console(width=None if sys.stdout.isatty() else 130, soft_wrap=False))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [name.removesuffix(_SUFFIX) for name in PARAMETERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=4096, help="the weight is WIDTH x WIDTH (default 4096)")
    parser.add_argument(
        "--threads",
        type=int,
        default=max(worker_count() - 1, 1),
        metavar="N",
        help="threads of our converters (default: one less than processors, as map_model uses)",
    )
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="conversions by each converter (default 9)")
    parser.add_argument("--converters", default=",".join(names), metavar="NAMES", help="e.g. SinglePair,NPair")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    asked = options.converters.split(",")
    if unknown := [name for name in asked if name not in names]:
        parser.error(f"--converters knows {', '.join(names)}, but not {', '.join(unknown)}")
    if min(options.width // 2, options.threads, options.repeats) <= 0:
        parser.error("--width should be at least 2, --threads and --repeats positive")
    options.converters = [name + _SUFFIX for name in asked]
    return options


if __name__ == "__main__":
    main()
