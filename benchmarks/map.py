"""Mapping a model, compared with copying the result and with other programs: ``python -m benchmarks.map``.

A synthetic float32 model is written to disk. Then, in each round, every job runs in a fresh process:

- ``map``: `onnx_gconv.map_model`;
- ``copy``: ``cp`` of the files that ``map`` wrote;
- ``read_write``: a copy of these files in Python, with reads and writes of 256 KiB;
- ``program``: `onnx_gconv.program_model` of the model that ``map`` wrote, for phase-change memory;
- ``program_day``: the same after a day, with drift compensation;
- ``naive``: the same rewrite in a few lines with onnx alone, in memory;
- ``quantize``: ONNX Runtime's ``quantize_dynamic`` to int8.

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
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine, versions
from benchmarks.map_jobs import JOBS, OUTPUT_FACTOR, Rounds, too_large
from benchmarks.map_report import Report, print_report, ratios_of
from benchmarks.measurement import JobFailedError
from benchmarks.synthetic_model import write_synthetic_model

__all__ = ["main", "run"]

# In units of the weights: the folder holds the model, the mapped model, its copy and the ballast.
_FILES_FACTOR = 1 + 3 * OUTPUT_FACTOR
_SPARE_BYTES = 64 << 20


def run(
    size_bytes: int,
    repeats: int,
    folder: Path,
    *,
    width: int | None = None,
    skip: Sequence[str] = (),
    level_memory: bool = True,
) -> Report:
    """Measure all jobs.

    Args:
        size_bytes: Bytes of the weights.
        repeats: Number of rounds.
        folder: An empty folder. The model stays in it.
        width: Every weight is [width, width]; chosen by the size if None.
        skip: Names of jobs to leave out.
        level_memory: Whether to free memory for the output just before each job; see `benchmarks.page_cache`.

    Raises:
        JobFailedError: If ``map`` or ``copy`` fails.
    """
    load = os.getloadavg()[0]
    skipped = dict.fromkeys(skip, "not asked for")
    for job in JOBS:
        if (reason := too_large(job, size_bytes)) is not None:
            skipped.setdefault(job.name, reason)
    _log(f"writing a model of {size_bytes / 2**30:.3g} GiB")
    model = write_synthetic_model(folder, size_bytes, width=width)
    rounds = Rounds(model, folder, level_memory=level_memory)
    measured = []
    for number in range(1, repeats + 1):
        _log(f"round {number} of {repeats}")
        measured.append(rounds.run(skipped))
    measurements = {
        job.name: tuple(results[job.name] for results in measured) for job in JOBS if job.name not in skipped
    }
    return Report(
        weight_bytes=model.weight_bytes,
        layers=model.layers,
        width=model.width,
        measurements=measurements,
        skipped=skipped,
        ratios=ratios_of(measurements),
        copy_command=" ".join(rounds.copy_command),
        machine=describe_machine(folder),
        load=load,
        versions=versions(),
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
                skip=options.skip,
                level_memory=not options.memory_as_found,
            )
        except JobFailedError as error:
            sys.exit(f"a job failed: {error}")
    print_report(report, Console(width=None if sys.stdout.isatty() else 100, soft_wrap=False))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    optional = [job.name for job in JOBS if job.optional]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.map", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gib", type=float, default=1.0, metavar="SIZE", help="size of the weights (default 1)")
    parser.add_argument("--width", type=int, help="every weight is WIDTH x WIDTH (default: up to 4096 x 4096)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of rounds (default 3)")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made and removed")
    parser.add_argument("--skip", default="", metavar="JOBS", help=f"jobs to leave out, e.g. {','.join(optional)}")
    parser.add_argument(
        "--memory-as-found",
        action="store_true",
        help="do not free memory for the output just before each job",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    options.skip = [name for name in options.skip.split(",") if name]
    if unknown := sorted(set(options.skip) - set(optional)):
        parser.error(f"--skip knows {', '.join(optional)}, but not {', '.join(unknown)}")
    if min(options.size_gib, options.repeats, 1 if options.width is None else options.width) <= 0:
        parser.error("--size-gib, --repeats and --width should be positive")
    return options


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
