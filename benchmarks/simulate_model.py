"""The cost of a trial for any model: ``python -m benchmarks.simulate_model MODEL --inputs FILE``.

A trial is one chip at one time. Its time is compared with the times of the two parts that it needs in any case: drawing
the random conductances of all weights, and one run of the plain model on one thread. Then `simulate` runs in separate
processes with few and with many chips, whose times and memory are compared. README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import onnx_gconv as gconv
from benchmarks.machine import describe_machine, versions
from benchmarks.map_report import print_conditions, spread
from benchmarks.measurement import Measurement, measure
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.files.models import load_model
from onnx_gconv.runtime.session import ModelSession
from onnx_gconv.simulation.chips.chips import chips_of
from onnx_gconv.simulation.chips.simulated_tensor import in_memory
from onnx_gconv.tensors.streamed import all_elements

__all__ = ["main"]

_REPOSITORY = Path(__file__).resolve().parents[1]
_DAY = 86400.0


def _seconds(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _noise_of(mapped: Path) -> Callable[[int], None]:
    """A function that draws all conductances of the chip of a number, in memory."""
    chips = chips_of("pcm", {}, 0, "none")
    weights = [
        (weight.record, weight.tensors, [all_elements(tensor) for tensor in weight.tensors])
        for weight in target_weights(load_model(mapped), "simulated", "simulate")
    ]

    def draw(number: int) -> None:
        chip = chips.chip(number, _DAY)
        for record, tensors, targets in weights:
            for device, array in enumerate(targets):
                in_memory(array, chip.devices(record, tensors, device), keeps_programmed=False)

    return draw


def _rounds(
    model: Path, mapped: Path, inputs: Path, chips: int, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """The seconds of a trial, of drawing its conductances, and of a run of the plain model, one value a round each."""
    draw = _noise_of(mapped)
    with np.load(inputs) as file:
        feeds: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}

    def simulate(repeats: int) -> Callable[[], Any]:
        return partial(gconv.simulate, mapped, "pcm", times=_DAY, repeats=repeats, inputs=inputs)

    trials, noises, runs = [], [], []
    with ModelSession(model, "all", is_single_threaded=True) as session:
        for number in range(rounds + 1):
            few, many = _seconds(simulate(1)), _seconds(simulate(1 + chips))
            noise = statistics.median(_seconds(partial(draw, chip)) for chip in range(chips))
            run = statistics.median(_seconds(partial(session.run, feeds)) for _ in range(chips))
            if number:  # the first round warms up
                trials.append((many - few) / chips)
                noises.append(noise)
                runs.append(run)
    return trials, noises, runs


def _process(mapped: Path, inputs: Path, chips: int, folder: Path) -> Measurement:
    program: list[str | Path] = [sys.executable, "-m", "onnx_gconv", "simulate", mapped, "--inputs", inputs]
    return measure([*program, "--times", "1d", "--quiet", "--repeats", str(chips)], folder=_REPOSITORY, output=folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a plain model")
    parser.add_argument("--inputs", type=Path, required=True, help="an .npz file with an array for each input")
    parser.add_argument("--chips", type=int, default=4, help="chips whose trials are timed together (default 4)")
    parser.add_argument("--many", type=int, default=40, help="chips of the process with many chips (default 40)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each time is measured (default 5)")
    options = parser.parse_args(arguments)
    options.inputs = options.inputs.resolve()  # the processes of `_process` run in another folder
    for name in ("chips", "many", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} should be positive, but is {getattr(options, name)}")
    load = os.getloadavg()[0]
    console = Console(width=None if sys.stdout.isatty() else 110, soft_wrap=False)
    with tempfile.TemporaryDirectory(prefix="onnx_gconv-benchmark-") as name:
        folder, mapped = Path(name), Path(name) / "mapped.onnx"
        gconv.map_model(options.model, mapped)
        trials, noises, runs = _rounds(options.model, mapped, options.inputs, options.chips, options.rounds)
        ratios = [trial / (noise + run) for trial, noise, run in zip(trials, noises, runs, strict=True)]
        for label, found in (("a trial", trials), ("its noise", noises), ("a run of the plain model", runs)):
            console.print(f"{label}: {1e3 * statistics.median(found):.2f} ms")
        console.print(f"trial / (noise + run): {spread(ratios)}; goal: at most 1.5")
        counts = (max(options.many // 10, 1), options.many)
        one, few, many = (_process(mapped, options.inputs, 1 + count, folder) for count in (0, *counts))
        of_few, of_many = (
            (each.cpu_seconds - one.cpu_seconds) / count for each, count in zip((few, many), counts, strict=True)
        )
        console.print(f"CPU of a chip: {1e3 * of_few:.1f} ms of {counts[0]}, {1e3 * of_many:.1f} ms of {counts[1]}")
        console.print(
            f"anonymous memory: {few.anonymous_bytes / 1e6:.0f} MB for {1 + counts[0]} chips, "
            f"{many.anonymous_bytes / 1e6:.0f} MB for {1 + counts[1]}; goal: equal"
        )
    print_conditions(describe_machine(_REPOSITORY), load, versions(), console)


if __name__ == "__main__":
    main()
