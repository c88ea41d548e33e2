"""The trials of a simulation: their list, their figures, and the report on these figures."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.chips.chips import scaling_notes
from onnx_gconv.simulation.experiments.executors import TrialExecutor
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial
from onnx_gconv.simulation.experiments.journal import Journal
from onnx_gconv.simulation.simulation_report import SimulatedLayer, SimulatedTime, SimulationReport
from onnx_gconv.simulation.spread import spread_of

__all__ = ["figures_of", "report_of", "trials_of"]

_MOST_TRIALS = 10_000_000


def trials_of(seconds: Sequence[float], repeats: int, layers: int = 0) -> list[Trial]:
    """All trials: each chip at each time, then each layer alone on each chip at the last time.

    The trials of one chip follow each other, so that its weights are programmed once for all times.

    Args:
        seconds: The times after programming, in seconds.
        repeats: How many chips to simulate.
        layers: How many layers to simulate alone; 0 for none.

    Raises:
        ConfigError: If there are too many trials.
    """
    count = repeats * (len(seconds) + layers)
    if count > _MOST_TRIALS:
        raise ConfigError(f"{repeats:,} chips are {count:,} trials, over {_MOST_TRIALS:,}; take fewer chips or times")
    of_times = (Trial(repeat, each) for repeat in range(repeats) for each in seconds)
    return [*of_times, *(Trial(repeat, seconds[-1], layer) for layer in range(layers) for repeat in range(repeats))]


def figures_of(
    experiment: Experiment,
    trials: Sequence[Trial],
    executor: TrialExecutor,
    journal: Journal,
    progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """The metric of each trial, by its key. Trials that the journal holds are not computed again."""
    found = {trial.key: value for trial in trials if (value := journal.known(trial.key)) is not None}
    waiting = [trial for trial in trials if trial.key not in found]
    with contextlib.closing(executor.values(experiment, waiting)) as arriving:
        for trial, value in arriving:
            found[trial.key] = value
            journal.add(trial.key, value)
            if progress is not None:
                progress(len(found), len(trials))
    return found


def report_of(
    experiment: Experiment,
    ideal: float,
    seconds: Sequence[float],
    repeats: int,
    found: Mapping[str, float],
    *,
    notes: Sequence[str] = (),
    with_layers: bool = False,
) -> SimulationReport:
    """The report on the trials of an experiment.

    Args:
        experiment: The experiment.
        ideal: The metric of the ideal model.
        seconds: The times after programming, in seconds.
        repeats: How many chips were simulated.
        found: The metric of each trial, by its key.
        notes: More notes for the report, a line each.
        with_layers: Whether there are trials of single layers.
    """
    chips, samples, metric = experiment.chips, experiment.samples, experiment.metric
    bounds = metric.bounds
    times = []
    for each in seconds:
        values = tuple(found[Trial(k, each).key] for k in range(repeats))
        times.append(SimulatedTime(each, values, spread_of(values, bounds)))
    layers = []
    for number, weight in enumerate(experiment.weights if with_layers else ()):
        values = tuple(found[Trial(k, seconds[-1], number).key] for k in range(repeats))
        record = weight.mapped.record
        spread = spread_of(values, bounds)
        layers.append(SimulatedLayer(record.name, record.graph, seconds[-1], values, spread, record.known_as))
    said = scaling_notes([weight.mapped for weight in experiment.weights], chips)
    return SimulationReport(
        mapped=experiment.source,
        device=chips.device,
        settings=chips.settings,
        seed=chips.seed,
        repeats=repeats,
        drift_compensation=chips.compensation,
        metric=metric.name,
        unit=metric.unit,
        output=experiment.output,
        ideal=ideal,
        times=tuple(times),
        sensitivity=tuple(sorted(layers, key=lambda item: _goodness(item.spread.mean, ideal))),
        samples=samples.count,
        inputs=samples.source,
        notes=(*notes, *said, *_notes(ideal, found.values(), experiment)),
    )


def _goodness(mean: float, ideal: float) -> float:
    """A number that is larger the nearer a mean is to the ideal model; the mean itself if the ideal is infinite.

    The SQNR of the ideal model is infinite: its errors are 0.
    """
    return -abs(mean - ideal) if math.isfinite(ideal) and math.isfinite(mean) else mean


def _notes(ideal: float, found: Iterable[float], experiment: Experiment) -> tuple[str, ...]:
    """A note if all figures equal that of the ideal model, which is often a mistake; else nothing."""
    if any(value != ideal for value in found):
        return ()
    note = (
        "the metric of each chip equals that of the ideal model; if no mapped weight leads to the output "
        f"'{experiment.output}', choose another one with --output-name; if the device '{experiment.chips.device}' has "
        "no noise with these settings, give it some with --device-option"
    )
    return (note,)
