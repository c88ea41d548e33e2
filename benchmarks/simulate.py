"""Simulating chips, compared with aihwkit: ``python -m benchmarks.simulate``.

Trials: the digits MLP on phase-change memory runs on its 450 test images, at several times after programming. aihwkit
does the same with its analog tiles: it programs them, lets them drift, compensates drift, and runs them with a perfect
forward pass.

Noise: a weight of WIDTH x WIDTH is programmed as a single pair, drifts and is read, with NumPy alone and, if Numba is
installed, with Numba. This is compared with aihwkit's `apply_noise`.

Our jobs and aihwkit's run in turn, in one process. README.md says how it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

import onnx_gconv as gconv
from benchmarks.machine import Machine, describe_machine, versions
from onnx_gconv.devices import device_model
from onnx_gconv.devices.compilation import ENVIRONMENT_VARIABLE
from onnx_gconv.models import model_path
from onnx_gconv.simulation.chips.simulated_tensor import SimulatedDevices, in_memory
from onnx_gconv.simulation.chips.streams import ChipStreams

__all__ = ["Report", "analog_network", "digits", "main", "run"]

_REPOSITORY = Path(__file__).resolve().parents[1]
_SECONDS = (1.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0)
_DAY = 86400.0
_PAUSE_SECONDS = 0.5  # threads of the job before may still wait in busy loops, which take processors from the next job
_GOALS = {"trial": 50, "noise": 4, "compiled": 10}


@dataclass(frozen=True)
class Report:
    """The results of one run of the benchmark. All times are tuples with one value a round.

    Attributes:
        chips: How many chips a call of `simulate` has; each is read at all times.
        width: The weight of the noise measurement is [width, width].
        trial_seconds: The time of one of our trials: that of a whole call of `simulate` over the number of its trials.
        aihwkit_trial_seconds: The same of aihwkit: that of a loop over all chips and times over the number of trials.
        noise_seconds: The time of the noise of the weight, with NumPy alone.
        compiled_noise_seconds: The same with Numba; empty if Numba is not installed.
        aihwkit_noise_seconds: The time of aihwkit's noise.
        machine: The machine that was measured.
        load: The load average of the machine in the minute before.
        versions: The versions of Python and of packages.
    """

    chips: int
    width: int
    trial_seconds: tuple[float, ...]
    aihwkit_trial_seconds: tuple[float, ...]
    noise_seconds: tuple[float, ...]
    compiled_noise_seconds: tuple[float, ...]
    aihwkit_noise_seconds: tuple[float, ...]
    machine: Machine
    load: float
    versions: dict[str, str]


def run(chips: int, width: int, rounds: int) -> Report:
    """Measure our trials and noise, in turn with aihwkit's.

    Args:
        chips: How many chips each call of `simulate` has.
        width: The weight of the noise measurement is [width, width].
        rounds: How often each job is measured.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="onnx_gconv-benchmark-") as folder:
        trials, theirs = _trials(Path(folder), chips), _aihwkit_trials(chips)
        print("trials", file=sys.stderr, flush=True)
        ours_took, theirs_took = _in_turn(trials, theirs, rounds=rounds)
    print("noise", file=sys.stderr, flush=True)
    noise = _noise(width)
    kernels = ("numpy", "numba") if importlib.util.find_spec("numba") is not None else ("numpy",)
    *noise_took, their_noise_took = _in_turn(
        *(partial(_with_kernels, each, noise) for each in kernels), _aihwkit_noise(width), rounds=rounds
    )
    return Report(
        chips=chips,
        width=width,
        trial_seconds=tuple(each / (chips * len(_SECONDS)) for each in ours_took),
        aihwkit_trial_seconds=tuple(each / (chips * len(_SECONDS)) for each in theirs_took),
        noise_seconds=tuple(noise_took[0]),
        compiled_noise_seconds=tuple(noise_took[1]) if len(noise_took) > 1 else (),
        aihwkit_noise_seconds=tuple(their_noise_took),
        machine=describe_machine(_REPOSITORY),
        load=load,
        versions=versions("torch", "aihwkit", *kernels[1:]),
    )


def _in_turn(*jobs: Callable[[], Any], rounds: int) -> list[list[float]]:
    """The seconds of each job in each round. The jobs of a round run one after the other; a first round warms up."""
    found: list[list[float]] = [[] for _ in jobs]
    for number in range(rounds + 1):
        for job, seconds in zip(jobs, found, strict=True):
            time.sleep(_PAUSE_SECONDS)
            start = time.perf_counter()
            job()
            if number:
                seconds.append(time.perf_counter() - start)
    return found


def _with_kernels(kernels: str, job: Callable[[], Any]) -> None:
    """Do a job with the kernels of a name: ``numpy`` or ``numba``."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = kernels
    try:
        job()
    finally:
        if before is None:
            del os.environ[ENVIRONMENT_VARIABLE]
        else:
            os.environ[ENVIRONMENT_VARIABLE] = before


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The test images, [450, 64], and their labels, [450]."""
    with np.load(model_path("digits_test.npz")) as data:
        return data["images"].reshape(-1, 64).astype(np.float32), data["labels"]


def _trials(folder: Path, chips: int) -> Callable[[], Any]:
    pixels, labels = digits()
    np.savez(folder / "data.npz", pixels=pixels, labels=labels)
    gconv.map_model(model_path("digits_mlp.onnx"), folder / "mapped.onnx")
    return partial(
        gconv.simulate,
        folder / "mapped.onnx",
        "pcm",
        times=_SECONDS,
        repeats=chips,
        inputs=folder / "data.npz",
        labels="labels",
        drift_compensation="global",
    )


def analog_network() -> Any:  # noqa: ANN401 - a module of torch
    """The digits MLP on aihwkit's tiles of phase-change memory: global drift compensation, perfect forward pass."""
    import torch

    configs = importlib.import_module("aihwkit.simulator.configs")
    inference = importlib.import_module("aihwkit.inference")
    conversion = importlib.import_module("aihwkit.nn.conversion")
    model = onnx.load(model_path("digits_mlp.onnx"))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    layers: list[torch.nn.Module] = []
    for name in ("hidden1", "hidden2", "classifier"):
        weight = torch.from_numpy(stored[f"{name}.weight"].copy())
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data = weight
        layer.bias.data = torch.from_numpy(stored[f"{name}.bias"].copy())
        layers += [layer, torch.nn.ReLU()]
    config = configs.TorchInferenceRPUConfig(forward=configs.IOParameters(is_perfect=True))
    config.noise_model = inference.PCMLikeNoiseModel(g_max=25.0)
    config.drift_compensation = inference.GlobalDriftCompensation()
    return conversion.convert_to_analog(torch.nn.Sequential(*layers[:-1]), config).eval()


def _aihwkit_trials(chips: int) -> Callable[[], Any]:
    """A function that does the same trials with aihwkit.

    For each chip it programs the network; for each time it lets the network drift and runs all test images.
    """
    import torch

    analog = analog_network()
    pixels, labels = digits()
    images = torch.from_numpy(pixels)

    def trials() -> list[float]:
        values = []
        with torch.no_grad():
            for _ in range(chips):
                analog.program_analog_weights()
                for seconds in _SECONDS:
                    analog.drift_analog_weights(seconds)
                    values.append(float((analog(images).argmax(dim=1).numpy() == labels).mean()))
        return values

    return trials


def _noise(width: int) -> Callable[[], Any]:
    """A function that programs the conductance pair of a weight and reads it after a day."""
    weight = np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32)
    pair, _ = gconv.SinglePairConductanceConverter().convert_to_conductances(weight)
    model, streams = device_model("pcm"), ChipStreams(0)
    devices = [SimulatedDevices(model, _DAY, partial(streams.generator, ("", "W"), number)) for number in range(2)]

    def noise() -> None:
        for targets, each in zip(pair, devices, strict=True):
            in_memory(targets, each, keeps_programmed=False)

    return noise


def _aihwkit_noise(width: int) -> Callable[[], Any]:
    import torch

    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32))
    model = importlib.import_module("aihwkit.inference").PCMLikeNoiseModel(g_max=25.0)
    return partial(model.apply_noise, weight, _DAY)


def _print_report(report: Report, console: Console) -> None:
    table = Table(title="Median times, and how many times as long aihwkit takes")
    for column in ("", "ms", "aihwkit ms", "aihwkit / ours", "goal"):
        table.add_column(column, justify="right" if column else "left")
    rows = [
        (
            f"a trial, {report.chips} chips x {len(_SECONDS)} times",
            "trial",
            report.trial_seconds,
            report.aihwkit_trial_seconds,
        ),
        (f"noise, {report.width} x {report.width}", "noise", report.noise_seconds, report.aihwkit_noise_seconds),
        ("the same with Numba", "compiled", report.compiled_noise_seconds, report.aihwkit_noise_seconds),
    ]
    for label, key, ours, theirs in rows:
        if not ours:
            continue
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        table.add_row(
            label,
            f"{1e3 * statistics.median(ours):.2f}",
            f"{1e3 * statistics.median(theirs):.2f}",
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
            f"at least {_GOALS[key]}",
        )
    console.print(table)
    machine = report.machine
    console.print(
        f"machine: {machine.cores} cores, {machine.processor}, {machine.memory_bytes / 2**30:.0f} GiB of memory, "
        f"{machine.kernel}; load before: {report.load:.1f}"
    )
    console.print("versions: " + ", ".join(f"{name} {number}" for name, number in report.versions.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chips", type=int, default=25, help="chips of each call of simulate (default 25)")
    parser.add_argument(
        "--width", type=int, default=4096, help="noise is measured for a weight of WIDTH x WIDTH (default 4096)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each job is measured (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    for name in ("chips", "width", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} should be positive, but is {getattr(options, name)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and aihwkit warn
        report = run(options.chips, options.width, options.rounds)
    _print_report(report, Console(width=None if sys.stdout.isatty() else 130, soft_wrap=False))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
