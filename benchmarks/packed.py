"""Mapping packed integer weights to codes of levels, compared with ``cp``: ``python -m benchmarks.packed``.

A synthetic model of MatMulNBits nodes, whose weights are packed codes of four bits, is written to disk. Then, in each
round, every job runs in a fresh process:

- ``map``: `onnx_gconv.map_model` with ``levels="weight"`` and ``storage="codes"``: each code of the weight becomes two
  codes of conductance levels;
- ``copy``: ``cp`` of the files that ``map`` wrote;
- ``inspect``: `onnx_gconv.inspect_model` of the model with the same options;
- ``compare``: the comparison of weights that `onnx_gconv.verify` makes;
- ``restore``: `onnx_gconv.restore_model`.

README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine, versions
from benchmarks.map_jobs import copy_command
from benchmarks.map_report import ModelReport, print_conditions, print_measurements, ratios_of
from benchmarks.measurement import JobFailedError, Measurement, measure
from benchmarks.packed_model import BLOCK, write_packed_model
from benchmarks.page_cache import level_conditions
from benchmarks.synthetic_model import SyntheticModel

__all__ = ["main", "run"]

_GOALS = (
    ("map", "copy", "at most 1.5"),
    ("inspect", "copy", ""),
    ("compare", "copy", ""),
    ("restore", "copy", ""),
)
_REPOSITORY = Path(__file__).resolve().parents[1]
_SMALLEST_WIDTH = 64

# In units of the codes, with scales and zero points: the folder holds the model, the mapped model, its copy and the
# ballast.
_FILES_FACTOR = 9
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Report(ModelReport):
    """The results of one run of the benchmark.

    Attributes:
        has_points: Whether each block has a zero point of its own.
    """

    has_points: bool


def run(size_bytes: int, repeats: int, folder: Path, *, width: int, has_points: bool) -> Report:
    """Measure all jobs.

    Args:
        size_bytes: Bytes of the codes.
        repeats: Number of rounds.
        folder: An empty folder. The model stays in it.
        width: Every weight is [width, width].
        has_points: Whether each block has a zero point of its own.

    Raises:
        JobFailedError: If a job fails.
    """
    load = os.getloadavg()[0]
    model = write_packed_model(folder, size_bytes, width, has_points=has_points)
    found: dict[str, list[Measurement]] = {}
    for number in range(1, repeats + 1):
        print(f"round {number} of {repeats}", file=sys.stderr, flush=True)
        for name, measured in _round(model, folder).items():
            found.setdefault(name, []).append(measured)
    measurements = {name: tuple(times) for name, times in found.items()}
    return Report(
        weight_bytes=model.weight_bytes,
        layers=model.layers,
        width=model.width,
        has_points=has_points,
        measurements=measurements,
        ratios=ratios_of(measurements, _GOALS),
        machine=describe_machine(folder),
        load=load,
        versions=versions(),
    )


def _round(model: SyntheticModel, folder: Path) -> dict[str, Measurement]:
    """Run each job once, and remove the files that the jobs write."""
    mapped, ballast = folder / "map", folder / "ballast"
    both = [model.path, mapped / "output.onnx"]
    sources = {
        "map": [model.path],
        "copy": [mapped],
        "inspect": [model.path],
        "compare": both,
        "restore": both[1:],
    }
    found = {}
    try:
        for name, source in sources.items():
            output = folder / name
            output.mkdir()
            inputs = [model.path, model.data] if source == [model.path] else [*mapped.iterdir()]
            size = 2 * model.weight_bytes if name in {"map", "copy"} else model.weight_bytes
            level_conditions([*inputs, model.data], ballast=ballast, ballast_bytes=size)
            if name == "copy":
                ballast.unlink()
                command: list[str | Path] = [*copy_command(folder), *sorted(mapped.iterdir()), output]
            else:
                python = [sys.executable, "-m", "benchmarks.job", f"{name}_packed"]
                command = [*python, source[0], output / "output.onnx" if len(source) == 1 else source[1], ballast]
            found[name] = measure(command, folder=_REPOSITORY, output=output)
            if output != mapped:
                shutil.rmtree(output)
    finally:
        ballast.unlink(missing_ok=True)
        for name in sources:
            shutil.rmtree(folder / name, ignore_errors=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # leaves the block below, which removes the files
    size_bytes = round(options.size_gib * 2**30)
    with tempfile.TemporaryDirectory(prefix="onnx_gconv-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        needed, free = _FILES_FACTOR * size_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
        if free < needed:
            sys.exit(f"the files need {needed / 1e9:.1f} GB in '{folder.parent}', where {free / 1e9:.1f} GB are free")
        try:
            report = run(size_bytes, options.repeats, folder, width=options.width, has_points=options.zero_points)
        except JobFailedError as error:
            sys.exit(f"a job failed: {error}")
    console = Console(width=None if sys.stdout.isatty() else 100, soft_wrap=False)
    points = "a zero point each" if report.has_points else "one zero point"
    console.print(
        f"{report.weight_bytes / 2**30:.3g} GiB of codes of four bits: {report.layers} layers of {report.width} x "
        f"{report.width}, in blocks of {BLOCK} with {points}"
    )
    print_measurements(report.measurements, report.ratios, console)
    print_conditions(report.machine, report.load, report.versions, console)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gib", type=float, default=1.0, metavar="SIZE", help="size of the codes (default 1)")
    parser.add_argument("--width", type=int, default=8192, help="every weight is WIDTH x WIDTH (default 8192)")
    parser.add_argument("--zero-points", action="store_true", help="give each block a zero point of its own")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of rounds (default 3)")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    if min(options.size_gib, options.repeats) <= 0 or options.width < 1 or options.width % _SMALLEST_WIDTH:
        parser.error(f"--size-gib and --repeats should be positive, --width a multiple of {_SMALLEST_WIDTH}")
    return options


if __name__ == "__main__":
    main()
