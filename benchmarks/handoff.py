"""Handing off a mapped model, compared with copying the bundle: ``python -m benchmarks.handoff``.

A synthetic float32 model is mapped. Then, in each round, every job runs in a fresh process:

- ``handoff``: `onnx_gconv.write_bundle` for arrays of 256 x 256, checksums included;
- ``copy``: ``cp -r`` of the bundle;
- ``hashed_copy``: a copy of the bundle's files in Python, which computes the SHA-256 of each file, with a thread for
  each processor;
- ``read``: opening the bundle, and reading single tiles.

README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.job import ARRAY
from benchmarks.machine import describe_machine, versions
from benchmarks.map_jobs import OUTPUT_FACTOR, copy_command
from benchmarks.map_report import ModelReport, print_conditions, print_measurements, ratios_of, spread
from benchmarks.measurement import JobFailedError, Measurement, measure
from benchmarks.page_cache import level_conditions
from benchmarks.synthetic_model import write_synthetic_model
from onnx_gconv import map_model

__all__ = ["main", "run"]

# Sizes are in units of the weights of the plain model. A bundle holds the mapped model, the conductances and the plain
# model.
_BUNDLE_FACTOR = OUTPUT_FACTOR + OUTPUT_FACTOR + 1
# The folder holds the mapped model, a bundle, and its copy or the ballast.
_FILES_FACTOR = OUTPUT_FACTOR + 2 * _BUNDLE_FACTOR
_SPARE_BYTES = 256 << 20

_GOALS = (("handoff", "copy", "at most 1.3"), ("handoff", "hashed_copy", ""))

_READ = {
    "open": "open the bundle",
    "tile": "open the file, read a tile",
    "tile_of_open_bundle": "read a tile of the open bundle",
}

_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Report(ModelReport):
    """The results of one run of the benchmark.

    Attributes:
        arrays: The kind of the file of conductances.
        reads: Seconds of all rounds, by what was read.
        copy_command: The command that copied the bundle.
    """

    arrays: str
    reads: dict[str, tuple[float, ...]]
    copy_command: str


class _Rounds:
    """Hands a mapped model off, copies the bundle and reads it, each in a process of its own.

    Args:
        mapped: The mapped model.
        weight_bytes: Bytes of the weights of the plain model.
        arrays: The format of the file of conductances, ``hdf5`` or ``npz``.
        level_memory: Whether to free memory for the output just before each job; see `benchmarks.page_cache`.
    """

    def __init__(self, mapped: Path, weight_bytes: int, arrays: str, *, level_memory: bool) -> None:
        self._mapped, self._arrays, self._folder = mapped, arrays, mapped.parent.parent
        self._ballast = self._folder / "ballast"
        self._ballast_bytes = _BUNDLE_FACTOR * weight_bytes if level_memory else 0
        self.copy_command = (*copy_command(self._folder), "-r")

    def run(self, tiles: int) -> tuple[dict[str, Measurement], dict[str, list[float]]]:
        """Run one round.

        Returns:
            The measurements of the jobs that write, and the seconds of each read.
        """
        bundle = self._folder / "handoff" / "model.gconv"
        python = [sys.executable, "-m", "benchmarks.job"]
        try:
            written = self._measured(
                "handoff",
                self._mapped.parent,
                [*python, f"handoff_{self._arrays}", self._mapped, bundle, self._ballast],
            )
            copy = self._folder / "copy"
            copied = self._measured("copy", bundle, [*self.copy_command, bundle, copy])
            shutil.rmtree(copy)
            hashed = self._folder / "hashed_copy"
            hashing = self._measured("hashed_copy", bundle, [*python, "hashed_copy", bundle, hashed, self._ballast])
            shutil.rmtree(hashed)
            return {"handoff": written, "copy": copied, "hashed_copy": hashing}, _read(bundle, tiles)
        finally:
            self._ballast.unlink(missing_ok=True)
            for name in ("handoff", "copy", "hashed_copy"):
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _measured(self, name: str, source: Path, command: Sequence[str | Path]) -> Measurement:
        output = self._folder / name
        output.mkdir()
        level_conditions(source.iterdir(), ballast=self._ballast, ballast_bytes=self._ballast_bytes)
        if name == "copy":  # the other jobs remove the ballast themselves, after their imports
            self._ballast.unlink()
        return measure(command, folder=_REPOSITORY, output=output)


def _read(bundle: Path, tiles: int) -> dict[str, list[float]]:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.handoff_job", bundle, str(tiles)],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise JobFailedError(found.stderr.rstrip().rpartition("\n")[2])
    seconds: dict[str, list[float]] = json.loads(found.stdout)
    return seconds


def run(
    size_bytes: int,
    repeats: int,
    folder: Path,
    *,
    width: int | None = None,
    arrays: str = "hdf5",
    tiles: int = 50,
    level_memory: bool = True,
) -> Report:
    """Measure all jobs.

    Args:
        size_bytes: Bytes of the weights of the plain model; the mapped model has twice as many.
        repeats: Number of rounds.
        folder: An empty folder. The mapped model stays in it.
        width: Every weight is [width, width]; chosen by the size if None.
        arrays: The format of the file of conductances, ``hdf5`` or ``npz``.
        tiles: How many tiles are read in a round.
        level_memory: Whether to free memory for the output just before each job; see `benchmarks.page_cache`.

    Raises:
        JobFailedError: If a job fails.
    """
    load = os.getloadavg()[0]
    _log(f"mapping a model of {size_bytes / 2**30:.3g} GiB")
    original, mapped = folder / "original", folder / "mapped" / "model.gconv.onnx"
    original.mkdir()
    mapped.parent.mkdir()
    model = write_synthetic_model(original, size_bytes, width=width)
    map_model(model.path, mapped)
    shutil.rmtree(original)
    rounds = _Rounds(mapped, model.weight_bytes, arrays, level_memory=level_memory)
    found = []
    for number in range(1, repeats + 1):
        _log(f"round {number} of {repeats}")
        found.append(rounds.run(tiles))
    written, reads = zip(*found, strict=True)
    measurements = {name: tuple(jobs[name] for jobs in written) for name in written[0]}
    return Report(
        weight_bytes=model.weight_bytes,
        layers=model.layers,
        width=model.width,
        arrays=arrays,
        measurements=measurements,
        ratios=ratios_of(measurements, _GOALS),
        reads={name: tuple(seconds for times in reads for seconds in times[name]) for name in _READ},
        copy_command=" ".join(rounds.copy_command),
        machine=describe_machine(folder),
        load=load,
        versions=versions("h5py"),
    )


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
            report = run(
                size_bytes,
                options.repeats,
                folder,
                width=options.width,
                arrays=options.arrays,
                tiles=options.tiles,
                level_memory=not options.memory_as_found,
            )
        except JobFailedError as error:
            sys.exit(f"a job failed: {error}")
    _print_report(report, Console(width=None if sys.stdout.isatty() else 100, soft_wrap=False))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _print_report(report: Report, console: Console) -> None:
    console.print(
        f"{report.weight_bytes / 2**30:.3g} GiB of float32 weights, mapped: "
        f"{report.layers} layers of {report.width} x {report.width}; arrays of {ARRAY[0]} x {ARRAY[1]}, {report.arrays}"
    )
    print_measurements(report.measurements, report.ratios, console)
    table = Table(title="Times of reading: median (smallest to largest)")
    table.add_column("what", no_wrap=True)
    table.add_column("ms", no_wrap=True)
    for name, title in _READ.items():
        table.add_row(title, spread([1e3 * seconds for seconds in report.reads[name]]))
    console.print(table)
    console.print(f"copied with: {report.copy_command}")
    print_conditions(report.machine, report.load, report.versions, console)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.handoff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gib", type=float, default=1.0, metavar="SIZE", help="size of the weights (default 1)")
    parser.add_argument("--width", type=int, help="every weight is WIDTH x WIDTH (default: up to 4096 x 4096)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of rounds (default 3)")
    parser.add_argument("--arrays", choices=["hdf5", "npz"], default="hdf5", help="the file of conductances")
    parser.add_argument("--tiles", type=int, default=50, metavar="N", help="tiles read in each round (default 50)")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made and removed")
    parser.add_argument(
        "--memory-as-found",
        action="store_true",
        help="do not free memory for the output just before each job",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    if min(options.size_gib, options.repeats, options.tiles, 1 if options.width is None else options.width) <= 0:
        parser.error("--size-gib, --repeats, --tiles and --width should be positive")
    return options


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
