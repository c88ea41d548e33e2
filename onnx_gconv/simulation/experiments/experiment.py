"""An experiment: the common data of all trials of a simulation. A trial is one chip at one time."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.runtime.stored_arrays import StoredArray
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chips.chips import Chips
from onnx_gconv.simulation.chips.side_by_side import WeightsOnChips
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.mapped_in_memory import Mapped
from onnx_gconv.simulation.metrics import Metric
from onnx_gconv.simulation.outputs import KeptOutput
from onnx_gconv.simulation.samples import SampleArray, Samples

__all__ = ["Experiment", "Trial", "identity_of_chips", "identity_of_data"]

_HASHED_AT_ONCE = 1 << 24  # bytes

# From Python 3.12 on, each thread that asks for a cached property at the same time computes it.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Trial:
    """One chip at one time.

    Attributes:
        repeat: The number of the chip.
        seconds: The time after programming, in seconds.
        layer: The index of the only weight that is on the chip; None if all weights are.
    """

    repeat: int
    seconds: float
    layer: int | None = None

    @property
    def key(self) -> str:
        """A text that identifies the trial within its experiment."""
        return f"{self.repeat} {self.seconds!r} {'all' if self.layer is None else self.layer}"


@dataclass(frozen=True)
class Experiment:
    """The common data of all trials.

    Attributes:
        bench: The session that runs the model with the weights of a chip.
        weights: The weights of the model.
        chips: The simulated chips.
        samples: The samples on which the model runs.
        metric: The metric.
        output: The output that the metric looks at.
        ideal: That output of the ideal model.
        source: The model of the user.
        mapped: A file with the mapped model, from which other processes make their bench; None if not asked for.
        reference: The output with which the metric compares; None for that of the ideal model.
        plain: A file with the plain model, from which other processes compute the reference; None if not asked for.
    """

    bench: Bench
    weights: Sequence[WeightOnChips]
    chips: Chips
    samples: Samples
    metric: Metric
    output: str
    ideal: KeptOutput
    source: Path
    mapped: Path | None = None
    reference: KeptOutput | None = None
    plain: Path | None = None

    def value(self, trial: Trial) -> float:
        """The metric of a trial. It depends on the trial alone, so trials can be computed anywhere and in any order.

        Raises:
            ConfigError: If the device model or the metric fails, or the model does not run.
        """
        [(_, value)] = self.values([trial])
        return value

    def values(self, lot: Sequence[Trial]) -> Iterator[tuple[Trial, float]]:
        """The metric of each trial of a lot of `lots`, as soon as it is known. The values are those of `value`.

        Raises:
            ConfigError: See `value`.
        """
        if lot[0].layer is not None:
            for trial in lot:
                yield trial, self._metric(self._with_one_layer(trial))
            return
        by_time: dict[float, list[Trial]] = {}
        for trial in lot:
            by_time.setdefault(trial.seconds, []).append(trial)
        for trials in by_time.values():
            chips = [self.chips.chip(trial.repeat, trial.seconds) for trial in trials]
            for trial, weights in zip(trials, self._together.on_each(chips), strict=True):
                yield trial, self._metric(weights)

    def lots(self, trials: Sequence[Trial], workers: int) -> Sequence[Sequence[Trial]]:
        """Cut trials into lots that take less time together. A lot has the trials of a few chips at all their times.

        Args:
            trials: The trials; those of one chip follow each other.
            workers: How many lots are computed at once. Lots are so small that there is one for each worker.
        """
        chips = len({trial.repeat for trial in trials if trial.layer is None})
        most = max(min(self._together.most_chips, -(-chips // workers)), 1)
        lots: list[list[Trial]] = []
        repeats: set[int] = set()
        for trial in trials:
            if trial.layer is not None or not repeats or (trial.repeat not in repeats and len(repeats) == most):
                lots.append([])
                repeats = set()
            lots[-1].append(trial)
            if trial.layer is None:
                repeats.add(trial.repeat)
        return lots

    def _with_one_layer(self, trial: Trial) -> list[NDArray[Any]]:
        """The weights of a model of which only one weight is on the chip."""
        chip = self.chips.chip(trial.repeat, trial.seconds)
        return [
            weight.on(chip) if trial.layer == number else weight.ideal() for number, weight in enumerate(self.weights)
        ]

    def _metric(self, weights: Sequence[NDArray[Any]]) -> float:
        """The metric of the model with some weights."""
        reference = self.ideal if self.reference is None else self.reference
        return self.metric.of(self.bench.run(weights, self.samples), self.samples, reference)

    @property
    def _together(self) -> WeightsOnChips:
        with _ONE_AT_A_TIME:
            return self._made_together

    @cached_property
    def _made_together(self) -> WeightsOnChips:
        return WeightsOnChips(self.weights, self.chips.model)

    def fingerprint(self, trial: Trial) -> str:
        """A hash of some results: the smallest weight on the chip of a trial, and the outputs of the reference models.

        Processes with equal fingerprints compute the same bits. Another processor may add in another order or have
        another logarithm, and then gives another fingerprint.
        """
        chip = self.chips.chip(trial.repeat, trial.seconds)
        smallest = min(self.weights, key=lambda weight: math.prod(weight.mapped.record.shape))
        weight = smallest.on(chip)
        hashed = hashlib.sha256(f"{weight.dtype} {weight.shape}".encode() + weight.tobytes())
        for output in (self.ideal, self.reference):
            hashed.update(b"" if output is None else output.digest().encode())
        return hashed.hexdigest()

    def identity(self, of_model: Mapping[str, Any], mapping: Mapped | None) -> dict[str, Any]:
        """JSON values that identify this simulation, for its journal.

        Args:
            of_model: JSON values that identify the model of the user.
            mapping: How the model was mapped; None if it was given as a mapped model.
        """
        return {
            **identity_of_data(of_model, self.samples, self.metric, self.output),
            **identity_of_chips(self.chips, mapping),
        }


def identity_of_data(of_model: Mapping[str, Any], samples: Samples, metric: Metric, output: str) -> dict[str, Any]:
    """JSON values that identify the model, the samples and the metric of a simulation."""
    hashed = hashlib.sha256()
    for name, array in sorted({**samples.arrays, **samples.completed}.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        for part in _parts(array):
            is_text = part.dtype == object
            hashed.update(repr(part.tolist()).encode() if is_text else np.ascontiguousarray(part).tobytes())
    if samples.labels is not None:
        hashed.update(samples.labels.tobytes())
    return {
        **of_model,
        "inputs": hashed.hexdigest(),
        "metric": metric.name,
        "metric_function": metric.digest,
        "output": output,
    }


def _parts(array: SampleArray) -> Iterator[NDArray[Any]]:
    """An array in memory as one piece, or an array in a file in several pieces of rows."""
    if not isinstance(array, StoredArray):
        yield array
        return
    rows = max(1, _HASHED_AT_ONCE // max(1, array.row_bytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def identity_of_chips(chips: Chips, mapping: Mapped | None) -> dict[str, Any]:
    """JSON values that identify the mapping, the device model, its settings and the seed of chips."""
    return {
        "mapping": None if mapping is None else mapping.digest,
        "device_model": chips.digest,
        **chips.record(0, 0.0).model_dump(mode="json", exclude={"chip", "seconds"}),
    }
