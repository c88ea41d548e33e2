"""Simulates many chips at several times, and says how good their outputs are."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions
from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import check_model_path, load_model, save_model
from onnx_gconv.files.naming import named_in_messages
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chip_weight import DriftCompensation
from onnx_gconv.simulation.chips import check_range, chips_of, seconds_of, whole_number
from onnx_gconv.simulation.executors import DaskCluster, TrialExecutor, trial_executor
from onnx_gconv.simulation.experiment import Experiment, Trial
from onnx_gconv.simulation.journal import Journal, opened_journal
from onnx_gconv.simulation.mapped_in_memory import mapped_in_memory
from onnx_gconv.simulation.metrics import Outputs, metric_of
from onnx_gconv.simulation.run_time_weights import weights_as_inputs
from onnx_gconv.simulation.simulation_report import SimulatedLayer, SimulatedTime, SimulationReport
from onnx_gconv.simulation.spread import spread_of
from onnx_gconv.simulation.trial import WeightOnChips
from onnx_gconv.tensors.external import external_files

__all__ = ["DEFAULT_TIMES", "simulate"]

_MOST_TRIALS = 10_000_000

DEFAULT_TIMES = ("1s", "1h", "1d", "1mo", "1y")


def simulate(
    model: str | os.PathLike[str],
    device: str | DeviceModel = "pcm",
    converter: ConverterLike | None = None,
    *,
    config: ConfigurationLike | None = None,
    mapping: MappingOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    times: str | float | Sequence[str | float] = DEFAULT_TIMES,
    repeats: int = 25,
    inputs: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    metric: str | None = None,
    output: str | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, ValueRange] | None = None,
    seed: int = 0,
    drift_compensation: DriftCompensation = "none",
    sensitivity: bool = False,
    workers: int = 1,
    dask: DaskCluster | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> SimulationReport:
    """Say how good the outputs of a model are on chips of a device, some time after programming.

    Each repeat is a chip of its own; at each time it is the same chip later, read anew. Repeat `k` at a time is the
    chip that `program_model` writes for the same seed and ``chip=k``: both give the same outputs. Results do not depend
    on the number of workers.

    Args:
        model: The mapped model; or a plain one, which is mapped in memory, to the range of the device if nothing else
            is said of the range.
        device: As for `program_model`.
        converter: The rule weight ⇄ conductances by which a plain model is mapped, as for `map_model`.
        config: A configuration of that mapping, or the TOML file that holds one.
        mapping: How a plain model is mapped besides, and what of it, such as ``{"granularity": "channel"}``; it wins
            over `config`.
        settings: Of the device model.
        times: How long after programming: seconds, or texts such as ``1d``; several, or one.
        repeats: How many chips.
        inputs: An .npz file with an array for each input, samples along the first axis, and the labels. Generated
            inputs if None.
        labels: The name of the array of labels in that file, which are numbers of classes.
        metric: ``accuracy`` or ``topK``, such as ``top5``, which need labels; ``sqnr`` in dB, ``cosine`` or
            ``agreement`` of the largest element, with the outputs of the ideal model, which has the targets as its
            weights; or ``module:function``, which is called with the outputs by name and the labels. If None, accuracy
            with labels, else SQNR.
        output: The output that the metric is about; the first one of floats if None.
        batch: How many samples go into one run; all, or what the model takes, if None.
        dims: Sizes of symbolic dimensions of generated inputs.
        values: Values of generated inputs.
        seed: Of all random numbers.
        drift_compensation: As for `program_model`.
        sensitivity: Whether to measure each layer alone, too: one weight is on the chip, all others are ideal, at the
            last time.
        workers: How many trials are computed at once.
        dask: The Dask cluster that computes the trials, if it is not this machine: the address of its scheduler, such
            as ``tcp://127.0.0.1:8786``, or a `distributed.Client`.
        journal: A file in which finished trials are noted; one that was stopped goes on from there.
        progress: Called with the step ("simulate"), the trials that are done, and how many there are.

    Raises:
        ModelError: If the model cannot be read or mapped, or has no targets any more.
        UnmappableWeightError: If a weight of a plain model has values that no conductance can hold.
        ConfigError: If an option is wrong, inputs or labels do not fit the model, the metric fails, ONNX Runtime does
            not run the model, conductances are outside of the range of the device model, or the Dask cluster cannot be
            used.
    """
    source = check_model_path(model)
    chips = chips_of(device, settings or {}, seed, drift_compensation)
    seconds = _times(times)
    repeats, workers = whole_number("number of chips", repeats, 1), whole_number("number of workers", workers, 1)
    batch = None if batch is None else whole_number("batch", batch, 1)
    if inputs is None and (labels is not None or batch is not None):
        raise ConfigError("labels and batches are for inputs of your own; give a file with inputs, too")
    if inputs is not None and (dims or values):
        raise ConfigError("sizes and values are for generated inputs; give either them or the inputs themselves")
    watched = WatchedFiles()
    graph = load_model(source, watched)
    data = [(file.name, file.stat()) for file in sorted(external_files(graph))]
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        done = mapped_in_memory(graph, chips.model, converter, config, mapping or {})
        weights = target_weights(graph, "simulated", "simulate")
        with named_in_messages(source):
            for weight in weights:
                check_range(weight, chips)
    trials = _trials(seconds, repeats, len(weights) if sensitivity else 0)
    with (
        trial_executor(workers, dask) as executor,
        tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder,
    ):
        file = Path(folder) / "model.onnx"
        mapped = Path(folder) / "mapped.onnx" if executor.takes_a_file else None
        with named_in_messages(source, options_concern_it=False), watched.blamed():
            if mapped is not None:
                save_model(graph, mapped, watched=watched)
            names = weights_as_inputs(graph, weights)
            save_model(graph, file, watched=watched)
        with Bench(file, names, source) as bench:
            on_chips = [WeightOnChips(weight) for weight in weights]
            targets = [weight.ideal() for weight in on_chips]
            if inputs is None:
                samples = bench.generated_inputs(targets, dims or {}, values or {}, seed)
            else:
                samples = bench.inputs_of_file(Path(inputs), labels, batch)
            ideal = bench.run(targets, samples)
            del targets
            chosen = _chosen(output, ideal)
            figure = metric_of(metric, chosen, has_labels=samples.labels is not None)
            of_ideal = figure.of(ideal, samples.labels, ideal)
            experiment = Experiment(bench, on_chips, chips, samples, figure, chosen, ideal, source, mapped)
            with opened_journal(None if journal is None else Path(journal), experiment.identity(data, done)) as notes:
                found = _values(executor, experiment, trials, notes, progress_of_step(progress, "simulate"))
            with watched.blamed():
                watched.check()  # conductances in external data are read again for each chip
    by_time = {each: [found[Trial(k, each).key] for k in range(repeats)] for each in seconds}
    layers = []
    for number, weight in enumerate(weights if sensitivity else ()):
        of_layer = tuple(found[Trial(k, seconds[-1], number).key] for k in range(repeats))
        record = weight.record
        layers.append(SimulatedLayer(record.name, record.graph, seconds[-1], of_layer, spread_of(of_layer)))
    return SimulationReport(
        mapped=source,
        device=chips.device,
        settings=chips.settings,
        seed=chips.seed,
        repeats=repeats,
        drift_compensation=drift_compensation,
        metric=figure.name,
        unit=figure.unit,
        output=chosen,
        ideal=of_ideal,
        times=tuple(SimulatedTime(each, tuple(values), spread_of(values)) for each, values in by_time.items()),
        sensitivity=tuple(sorted(layers, key=lambda item: _goodness(item.spread.mean, of_ideal))),
        samples=samples.count,
        inputs=samples.source,
        notes=(*(() if done is None else done.notes), *executor.notes, *_notes(of_ideal, found.values(), chosen)),
    )


def _trials(seconds: Sequence[float], repeats: int, layers: int) -> list[Trial]:
    """All trials: each chip at each time, and with each layer alone at the last one."""
    count = repeats * (len(seconds) + layers)
    if count > _MOST_TRIALS:
        raise ConfigError(f"{repeats:,} chips are {count:,} trials, over {_MOST_TRIALS:,}; take fewer chips or times")
    of_times = (Trial(repeat, each) for each in seconds for repeat in range(repeats))
    return [*of_times, *(Trial(repeat, seconds[-1], layer) for layer in range(layers) for repeat in range(repeats))]


def _goodness(mean: float, ideal: float) -> float:
    """The larger, the nearer to the ideal model; SQNR has no ideal that is finite."""
    return -abs(mean - ideal) if math.isfinite(ideal) and math.isfinite(mean) else mean


def _notes(ideal: float, found: Iterable[float], output: str) -> tuple[str, ...]:
    """What may be wrong with figures that say nothing."""
    if any(value != ideal for value in found):
        return ()
    said = "the metric is on each chip what it is on the ideal model"
    return (f"{said}; if no mapped weight leads to the output '{output}', choose another one with --output-name",)


def _values(
    executor: TrialExecutor,
    experiment: Experiment,
    trials: Sequence[Trial],
    journal: Journal,
    progress: Callable[[int, int], None] | None,
) -> dict[str, float]:
    """The metric of each trial, by its key."""
    found = {trial.key: value for trial in trials if (value := journal.known(trial.key)) is not None}
    waiting = [trial for trial in trials if trial.key not in found]
    with contextlib.closing(executor.values(experiment, waiting)) as arriving:
        for trial, value in arriving:
            found[trial.key] = value
            journal.add(trial.key, value)
            if progress is not None:
                progress(len(found), len(trials))
    return found


def _times(times: str | float | Sequence[str | float]) -> list[float]:
    """Different times in ascending order, in seconds."""
    listed = times.split(",") if isinstance(times, str) else [times] if isinstance(times, (int, float)) else times
    seconds = sorted({seconds_of(each) for each in listed})
    if not seconds:
        raise ConfigError("there is no time to simulate; give one or more, such as 1s or 1d")
    return seconds


def _chosen(output: str | None, outputs: Outputs) -> str:
    """The name of an output that is an array of numbers."""
    if output is None:  # integers are often inputs that are handed through
        arrays = [(name, found) for name, found in outputs.items() if isinstance(found, np.ndarray) and found.ndim]
        floats = (name for name, found in arrays if found.dtype.kind in "fV")  # bfloat16 is V
        output = next(floats, next(iter(outputs)))
    name = output
    if name not in outputs:
        raise ConfigError(f"the model has no output '{name}'; it has {', '.join(map(repr, outputs))}")
    found = outputs[name]
    if not (isinstance(found, np.ndarray) and (found.dtype.kind in "fiub" or found.dtype.kind == "V") and found.ndim):
        raise ConfigError(f"the output '{name}' is no array of numbers; choose another one with --output-name")
    return name
