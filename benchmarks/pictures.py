"""Drawing the pictures of a bundle, compared with writing it: ``python -m benchmarks.pictures``.

A synthetic float32 model is mapped. Then, in each round, every job runs in a fresh process:

- ``handoff``: `onnx_gconv.write_bundle` for arrays of 256 x 256, with checksums and without pictures;
- ``pictures``: `onnx_gconv.handoff.write_pictures` of that bundle, one picture for each layer.

README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.job import ARRAY
from benchmarks.machine import describe_machine, versions
from benchmarks.map_report import ModelReport, print_conditions, print_measurements, ratios_of
from benchmarks.measurement import JobFailedError, Measurement, measure
from benchmarks.synthetic_model import write_synthetic_model
from onnx_gconv import map_model

__all__ = ["main", "run"]

_GOALS = (("pictures", "handoff", ""),)
_REPOSITORY = Path(__file__).resolve().parents[1]


def run(layers: int, width: int, repeats: int, folder: Path) -> ModelReport:
    """Measure both jobs.

    Args:
        layers: Number of layers; there are as many pictures.
        width: Every weight is [width, width].
        repeats: Number of rounds.
        folder: An empty folder. The mapped model stays in it.

    Raises:
        JobFailedError: If a job fails.
    """
    load = os.getloadavg()[0]
    model = write_synthetic_model(folder, layers * width**2 * 4, width=width)
    mapped = folder / "model.gconv.onnx"
    map_model(model.path, mapped)
    found: dict[str, list[Measurement]] = {"handoff": [], "pictures": []}
    for number in range(1, repeats + 1):
        print(f"round {number} of {repeats}", file=sys.stderr, flush=True)
        bundle, pictures = folder / "handoff" / "model.gconv", folder / "pictures" / "pictures"
        for name, job, source, target in (
            ("handoff", "handoff_hdf5", mapped, bundle),
            ("pictures", "pictures", bundle, pictures),
        ):
            target.parent.mkdir()
            command: list[str | Path] = [sys.executable, "-m", "benchmarks.job", job, source, target]
            found[name].append(measure(command, folder=_REPOSITORY, output=target.parent))
        shutil.rmtree(bundle.parent)
        shutil.rmtree(pictures.parent)
    measurements = {name: tuple(times) for name, times in found.items()}
    return ModelReport(
        weight_bytes=model.weight_bytes,
        layers=model.layers,
        width=model.width,
        measurements=measurements,
        ratios=ratios_of(measurements, _GOALS),
        machine=describe_machine(folder),
        load=load,
        versions=versions("matplotlib"),
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
        f"{report.layers} layers of {report.width} x {report.width}, {report.weight_bytes / 1e6:.0f} MB of float32 "
        f"weights, mapped; arrays of {ARRAY[0]} x {ARRAY[1]}"
    )
    print_measurements(report.measurements, report.ratios, console)
    print_conditions(report.machine, report.load, report.versions, console)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=60, metavar="N", help="number of layers (default 60)")
    parser.add_argument("--width", type=int, default=914, help="every weight is WIDTH x WIDTH (default 914)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="number of rounds (default 3)")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    if min(options.layers, options.width, options.repeats) <= 0:
        parser.error("--layers, --width and --repeats should be positive")
    return options


if __name__ == "__main__":
    main()
