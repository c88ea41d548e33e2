"""Exporting a large torch module and mapping it in one call: ``python -m benchmarks.export_torch``.

In each round, every job runs in a fresh process, which makes the module first:

- ``torch``: ``torch.onnx.export`` alone, which writes no file;
- ``torch_save``: the same, and ``ONNXProgram.save`` with external data;
- ``export``: `onnx_gconv.integrations.torch.export`, which writes the mapped model.

README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.export_torch_job import NAMES
from benchmarks.machine import describe_machine, versions
from benchmarks.map_report import ModelReport, print_conditions, print_measurements, ratios_of
from benchmarks.measurement import JobFailedError, Measurement, measure

__all__ = ["Report", "main", "run"]

# How much more memory exporting and mapping may take than torch's export alone.
_GOAL_BYTES = 300_000_000

_GOALS = (("export", "torch_save", ""),)
_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Report(ModelReport):
    """The results of one run of the benchmark.

    Attributes:
        beyond_torch_bytes: For each round, how much more anonymous memory ``export`` took than ``torch``.
        beyond_output_bytes: For each round, the largest size of temporary files of ``export``, besides its output.
    """

    beyond_torch_bytes: tuple[int, ...]
    beyond_output_bytes: tuple[int, ...]


def run(layers: int, width: int, repeats: int, folder: Path) -> Report:
    """Measure all jobs.

    Args:
        layers: How many weights the module has.
        width: Every weight is [width, width].
        repeats: Number of rounds.
        folder: An empty folder for files, which is empty again at the end.

    Raises:
        JobFailedError: If a job fails.
    """
    load = os.getloadavg()[0]
    found: dict[str, list[Measurement]] = {name: [] for name in NAMES}
    for number in range(1, repeats + 1):
        print(f"round {number} of {repeats}", file=sys.stderr, flush=True)
        for name in NAMES:
            output = folder / name
            output.mkdir()
            job = "benchmarks.export_torch_job"
            command: list[str | Path] = [sys.executable, "-m", job, name, str(layers), str(width), output]
            found[name].append(measure(command, folder=_REPOSITORY, output=output))
            shutil.rmtree(output)
    ours = found["export"]
    pairs = zip(ours, found["torch"], strict=True)
    measurements = {name: tuple(times) for name, times in found.items()}
    return Report(
        weight_bytes=layers * width**2 * 4,
        layers=layers,
        width=width,
        measurements=measurements,
        beyond_torch_bytes=tuple(one.anonymous_bytes - other.anonymous_bytes for one, other in pairs),
        beyond_output_bytes=tuple(item.told["largest_disk_bytes"] - item.output_bytes for item in ours),
        ratios=ratios_of(measurements, _GOALS),
        machine=describe_machine(folder),
        load=load,
        versions=versions("torch", "onnxscript"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="onnx_gconv-benchmark-", dir=options.folder) as name:
        try:
            report = run(options.layers, options.width, options.repeats, Path(name))
        except JobFailedError as error:
            sys.exit(f"a job failed: {error}")
    console = Console(width=None if sys.stdout.isatty() else 100, soft_wrap=False)
    console.print(
        f"{report.layers} linear layers of {report.width} x {report.width}, {report.weight_bytes / 1e6:.0f} MB of "
        f"float32 weights"
    )
    print_measurements(report.measurements, report.ratios, console)
    beyond, files = report.beyond_torch_bytes, report.beyond_output_bytes
    verdict = "holds" if max(beyond) <= _GOAL_BYTES else "MISSED"
    console.print(
        f"Memory of export beyond that of torch's own export: {statistics.median(beyond) / 1e6:.0f} MB "
        f"({min(beyond) / 1e6:.0f} to {max(beyond) / 1e6:.0f}); the goal of {_GOAL_BYTES / 1e6:.0f} MB {verdict}."
    )
    console.print(f"Files besides its output, at most: {max(files) / 1e6:.1f} MB.")
    print_conditions(report.machine, report.load, report.versions, console)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--layers", type=int, default=64, metavar="N", help="number of layers (default 64)")
    parser.add_argument("--width", type=int, default=2048, help="every weight is WIDTH x WIDTH (default 2048)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of rounds (default 3)")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    if min(options.layers, options.width, options.repeats) <= 0:
        parser.error("--layers, --width and --repeats should be positive")
    return options


if __name__ == "__main__":
    main()
