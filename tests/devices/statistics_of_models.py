"""Compares what device models draw with what aihwkit's noise models, or a formula, draw::

python -m tests.devices.statistics_of_models --samples 1000000

For each model, each target and each time: mean and standard deviation may differ by 4 standard errors, and a two-sample
Kolmogorov-Smirnov test, corrected for the number of tests, may not say that they are of two distributions. What is not
random, such as the mean of drift and limits, is compared with the same numbers on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import scipy.stats
import torch
from aihwkit.inference.compensation.drift import GlobalDriftCompensation, PerColumnDriftCompensation
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

from onnx_gconv.devices import normal_numbers
from onnx_gconv.devices.base_device import is_pair_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances
from onnx_gconv.simulation.chips.chip_weight import absolute_sums, array_parts, drift_factor
from tests.devices.references import Aihwkit, Case, Numbers, cases_of_aihwkit, other_cases
from tests.graphs import chain_model, tensors

MOST_STANDARD_ERRORS = 4.0
LEAST_P = 0.01  # of all tests of a run together
MOST_DIFFERENCE = 1e-6  # of g_max, or of the conductance if that is larger

_GIVEN = (-4.0, -1.0, 0.0, 1.0, 4.0)
_STEPS = 101


@dataclass(frozen=True)
class Point:
    """One target at one time.

    Attributes:
        target: In µS.
        seconds: The time of the reading; None for the end of programming, without a reading.
        mean: How many standard errors apart the means are.
        std: The same of standard deviations.
        p: Of the Kolmogorov-Smirnov test, not corrected.
    """

    target: float
    seconds: float | None
    mean: float
    std: float
    p: float

    def __str__(self) -> str:
        return f"{self.target:g} \u00b5S {moment(self.seconds)}"


def moment(seconds: float | None) -> str:
    """How messages call a time."""
    return "programmed" if seconds is None else f"read at {seconds:g} s"


@dataclass
class Comparison:
    """A model beside its reference.

    Attributes:
        name: The model.
        source: What it is compared with.
        points: All that was compared.
        left_out: Why the reference gives nothing for some targets, in µS, at a time.
        difference: The largest one with the same numbers on both sides, as a part of g_max, or of the conductance if
            that is larger, where the model computes in double precision.
        single_difference: The same in single precision.
    """

    name: str
    source: str
    points: list[Point] = field(default_factory=list)
    left_out: dict[tuple[float | None, str], list[float]] = field(default_factory=dict)
    difference: float = 0.0
    single_difference: float = 0.0

    def problems(self, tests: int) -> list[str]:
        """What exceeds a limit, if there are so many tests in all."""
        found = [
            f"{self.name}, {point}: the {what} are {value:.1f} standard errors apart"
            for point in self.points
            for what, value in (("means", point.mean), ("standard deviations", point.std))
            if not abs(value) <= MOST_STANDARD_ERRORS
        ]
        found += [
            f"{self.name}, {point}: of two distributions, p = {corrected(point, tests):.2g}"
            for point in self.points
            if not corrected(point, tests) >= LEAST_P
        ]
        largest = max(self.difference, self.single_difference)
        if not largest <= MOST_DIFFERENCE:
            found.append(f"{self.name}: with the same numbers they differ by {largest:.2g}")
        return found


def corrected(point: Point, tests: int) -> float:
    """The p of a point, by Bonferroni for so many tests."""
    return min(1.0, point.p * tests)


def compared(case: Case, samples: int, seed: int) -> Comparison:
    """A model beside its reference, with so many samples on each side at each point."""
    found = Comparison(case.name, case.reference.source)
    own = zlib.crc32(case.name.encode())
    for number, (part, seconds) in enumerate(itertools.product(case.parts, (None, *case.seconds))):
        target = case.target(part)
        targets = np.full(samples, target, np.float32)
        case.reference.seed(own + 1000 * seed + number)
        try:
            theirs = _of_reference(case, targets, seconds)
            reason = None if np.isfinite(theirs).all() else "what it gives is not finite"
        except Exception as error:  # noqa: BLE001 - of aihwkit, whatever it is
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if reason is not None:
            found.left_out.setdefault((seconds, reason), []).append(target)
            continue
        generators = [np.random.default_rng([own, seed, number, step]) for step in range(1, 4)]
        ours = _of_model(case, targets, seconds, generators)
        found.points.append(Point(target, seconds, *_distances(ours, theirs, case.device.g_max)))
    found.difference, found.single_difference = (_largest_difference(case, dtype) for dtype in ("f8", "f4"))
    return found


def _of_reference(case: Case, targets: np.ndarray, seconds: float | None, numbers: Numbers | None = None) -> np.ndarray:
    if seconds is None:
        return case.reference.programmed(targets, numbers)
    return case.reference.read(targets, seconds, numbers)


def _of_model(case: Case, targets: np.ndarray, seconds: float | None, generators: Sequence) -> np.ndarray:
    """What the model gives; for a model of pairs G+ - G- of signed targets."""
    device, (program, drift, read) = case.device, generators
    if is_pair_model(device):
        all_devices = device.program_pair(np.maximum(targets, 0), np.maximum(-targets, 0), program)
    else:
        all_devices = (device.program(targets, program),)
    if seconds is None:
        conductances = [devices.programmed_us for devices in all_devices]
    else:
        later = [device.drift(devices, seconds, drift) for devices in all_devices]
        conductances = [device.read(devices, seconds, read) for devices in later]
    return conductances[0] if len(conductances) == 1 else conductances[0] - conductances[1]


def _distances(ours: np.ndarray, theirs: np.ndarray, g_max: float) -> tuple[float, float, float]:
    """How many standard errors means and standard deviations are apart, and p of the Kolmogorov-Smirnov test."""
    both = [each.astype(np.float64) for each in (ours, theirs)]
    means, stds = [each.mean() for each in both], [each.std() for each in both]
    if max(stds) <= MOST_DIFFERENCE * g_max:  # no random numbers
        is_equal = abs(means[0] - means[1]) <= MOST_DIFFERENCE * g_max
        return (0.0, 0.0, 1.0) if is_equal else (math.inf, 0.0, 0.0)
    error_of_means = math.hypot(*(std / math.sqrt(len(each)) for std, each in zip(stds, both, strict=True)))
    error_of_stds = math.hypot(*map(_error_of_std, both))
    return (
        float((means[0] - means[1]) / error_of_means),
        float((stds[0] - stds[1]) / error_of_stds),
        float(scipy.stats.ks_2samp(ours, theirs).pvalue),
    )


def _error_of_std(samples: np.ndarray) -> float:
    """The standard error of a standard deviation, from the fourth moment: distributions are cut at 0."""
    squares = np.square(samples - samples.mean())
    variance = squares.mean()
    return 0.0 if variance == 0 else float(np.sqrt(squares.var() / len(samples) / (4 * variance)))


class _Given:
    """A generator that gives the numbers that it has."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        assert shape == self._numbers.shape
        return self._numbers.astype(dtype)

    def fill(self, piece: np.ndarray, _: np.ndarray, first: int) -> None:
        piece[:] = self._numbers[first : first + piece.size]


def _largest_difference(case: Case, dtype: str) -> float:
    """How far a model is from its reference with the same numbers on both sides; see `Comparison`."""
    steps = np.linspace(case.target(min(case.parts)), case.device.g_max, _STEPS)
    cells = [each.ravel() for each in np.meshgrid(steps, *[_GIVEN] * 3, indexing="ij")]
    targets, numbers = cells[0].astype(dtype), tuple(cells[1:])
    largest = 0.0
    with patch.object(normal_numbers, "_filling", lambda given: given.fill):
        for seconds in (None, *case.seconds):
            try:
                theirs = _of_reference(case, targets.astype(np.float64), seconds, numbers)
            except Exception:  # noqa: BLE001, S112 - as for random numbers, where it is said
                continue
            ours = _of_model(case, targets, seconds, [_Given(each) for each in numbers])
            known = np.isfinite(theirs)  # aihwkit has no number for the logarithm of a negative conductance
            size = np.maximum(np.abs(theirs), case.device.g_max)
            largest = max(largest, float((np.abs(ours - theirs) / size)[known].max()))
    return largest


def largest_factor_difference(compensation: str, seed: int) -> float:
    """How far factors that compensate drift are from aihwkit's, for the same conductances, as a part of them."""
    weight = np.random.default_rng(seed).normal(size=(64, 48)).astype(np.float32)
    model = ir.from_proto(chain_model(*tensors({"W": weight})))
    MapConductances(granularity="channel")(model)
    [record] = read_manifest(model).weights
    torch.manual_seed(seed)
    noise = Aihwkit(PCMLikeNoiseModel(g_max=25.0))
    targets = [model.graph.initializers[item.name].const_value.numpy() for item in record.conductances]
    pairs = [[of(each) for each in targets] for of in (noise.programmed, lambda each: noise.read(each, 86400.0))]
    sums = [absolute_sums(record, array_parts(pair), compensation) for pair in pairs]
    ours = drift_factor(record, *sums, compensation)
    theirs = {"global": GlobalDriftCompensation, "column": PerColumnDriftCompensation}[compensation]()
    before, after = (theirs.readout(torch.from_numpy(plus - minus)) for plus, minus in pairs)
    return float(np.abs(np.ravel(ours) / (before / after).numpy() - 1).max())


def table(all_compared: Sequence[Comparison]) -> Iterator[str]:
    """A line for each model: how far it is from its reference at most."""
    tests = sum(len(each.points) for each in all_compared)
    yield (
        f"{'model':<25}{'beside':<9}{'points':>7}{'mean [SE]':>11}{'std [SE]':>10}{'smallest p':>12}"
        f"{'same numbers':>14}{'float32':>10}"
    )
    for each in all_compared:
        mean = max((abs(point.mean) for point in each.points), default=0.0)
        std = max((abs(point.std) for point in each.points), default=0.0)
        p = min((corrected(point, tests) for point in each.points), default=1.0)
        yield (
            f"{each.name:<25}{each.source:<9}{len(each.points):>7}{mean:>11.2f}{std:>10.2f}{p:>12.3g}"
            f"{each.difference:>14.1e}{each.single_difference:>10.1e}"
        )


def left_out(cases: Sequence[Case], all_compared: Sequence[Comparison]) -> Iterator[str]:
    """A line for each time for which a reference gives nothing, and for all that was not asked for."""
    for each in all_compared:
        for (seconds, reason), targets in each.left_out.items():
            where = f"{', '.join(f'{target:g}' for target in targets)} \u00b5S {moment(seconds)}"
            yield f"{each.name}, {where}: {each.source} gives nothing ({reason})"
    for case in cases:
        if case.not_asked:
            yield f"{case.name}, {case.not_asked}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all models, or some, and print how far they are from their references."""
    cases = (*cases_of_aihwkit(), *other_cases())
    parser = argparse.ArgumentParser(prog="python -m tests.devices.statistics_of_models")
    parser.add_argument("--samples", type=int, default=1_000_000, help="on each side at each point (1000000)")
    parser.add_argument("--seed", type=int, default=0, help="of both sides (0)")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="beginnings of names; all models if none is given")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases if not options.models or case.name.startswith(tuple(options.models))]
    if not chosen or options.samples < 2:
        parser.error("there is nothing to compare; models are " + ", ".join(case.name for case in cases))
    start, done = time.perf_counter(), []
    for case in chosen:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and aihwkit
            done.append(compared(case, options.samples, options.seed))
    factors = {each: largest_factor_difference(each, options.seed) for each in ("global", "column")}
    print(*table(done), sep="\n")
    print(*(f"drift compensation, {name}: factors differ by {value:.1e}" for name, value in factors.items()), sep="\n")
    tests = sum(len(each.points) for each in done)
    print(f"{options.samples} samples a side, {tests} points, {time.perf_counter() - start:.0f} s")
    print(f"limits: {MOST_STANDARD_ERRORS:g} SE, p (times {tests}) {LEAST_P:g}, same numbers {MOST_DIFFERENCE:g}")
    for line in left_out(chosen, done):
        print(f"left out: {line}")
    problems = [line for each in done for line in each.problems(tests)]
    problems += [
        f"factors of {name} differ by {value:.2g}" for name, value in factors.items() if value > MOST_DIFFERENCE
    ]
    for line in problems:
        print(f"exceeded: {line}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
