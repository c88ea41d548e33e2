"""Simulates several candidates on the same inputs with the same random numbers, and puts their figures side by side."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions, configuration_of
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import check_model_path, load_model
from onnx_gconv.files.progress import Progress
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chip_weight import DriftCompensation
from onnx_gconv.simulation.chips import Chips, chips_of, whole_number
from onnx_gconv.simulation.comparison import Candidate, Comparison, ComparisonLike
from onnx_gconv.simulation.comparison_report import ComparedCandidate, ComparisonReport
from onnx_gconv.simulation.executors import DaskCluster, TrialExecutor, trial_executor
from onnx_gconv.simulation.experiment import Experiment, Trial, identity_of_chips, identity_of_data
from onnx_gconv.simulation.journal import Journal, opened_journal
from onnx_gconv.simulation.mapped_in_memory import Mapped, is_mapped
from onnx_gconv.simulation.metrics import Metric, Outputs, chosen_output, metric_of
from onnx_gconv.simulation.preparation import BenchFiles, check_data_options, check_ranges, mapped_for, saved_for_bench
from onnx_gconv.simulation.samples import Samples
from onnx_gconv.simulation.trial import WeightOnChips
from onnx_gconv.simulation.trials import figures_of, report_of, trials_of
from onnx_gconv.tensors.external import external_files

__all__ = ["compare"]


@dataclass(frozen=True)
class _MappedModel:
    """A mapped model, which several candidates may share.

    Attributes:
        graph: It.
        weights: Its weights.
        how: How it was mapped; None if it was mapped already.
    """

    graph: ir.Model
    weights: tuple[MappedWeight, ...]
    how: Mapped | None


@dataclass(frozen=True)
class _Planned:
    """A candidate of which all is known that can be known before it is simulated."""

    candidate: Candidate
    chips: Chips
    trials: Sequence[Trial]
    model: _MappedModel


@dataclass(frozen=True)
class _Yardstick:
    """By what all candidates are measured.

    Attributes:
        samples: What models run on.
        metric: How good outputs are.
        output: The output that it is about.
        reference: The outputs of the model before it was mapped; None if it was mapped already.
        unmapped: The metric of that model; None if it was mapped already, or the metric is of two models.
    """

    samples: Samples
    metric: Metric
    output: str
    reference: Outputs | None = None
    unmapped: float | None = None


def compare(
    model: str | os.PathLike[str],
    comparison: ComparisonLike,
    *,
    device: str | DeviceModel | None = None,
    settings: Mapping[str, Any] | None = None,
    converter: ConverterLike | None = None,
    config: ConfigurationLike | None = None,
    mapping: MappingOptions | None = None,
    drift_compensation: DriftCompensation | None = None,
    times: str | float | Sequence[str | float] | None = None,
    repeats: int | None = None,
    inputs: str | os.PathLike[str] | None = None,
    labels: str | None = None,
    metric: str | None = None,
    output: str | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, ValueRange] | None = None,
    seed: int | None = None,
    workers: int = 1,
    dask: DaskCluster | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Simulate several candidates, such as converters, devices, levels or ranges, and put their figures side by side.

    All candidates run on the same samples, and their chips have the same random numbers, so that figures differ by
    what candidates differ by. Outputs are compared with those of the plain model, not with those of each ideal one: the
    SQNR of a candidate with few levels shows these levels. Of a model that is mapped already, they are compared with
    its own.

    Args:
        model: The plain model, which each candidate maps in memory; or a mapped one, of which candidates can differ in
            all but the mapping.
        comparison: A TOML file, or the same as a mapping, in which device models and converters may be objects. Its
            keys are ``candidates``, ``grid``, and what they have in common: ``device``, ``device_options``,
            ``drift_compensation``, ``times``, ``repeats``, ``mapping``; and ``seed``, ``inputs``, ``labels``,
            ``metric``, ``output``, ``batch``. A key of a candidate replaces that of all.
        device: As for `simulate`, as all that follow. What is given here, wins over the comparison, for all candidates.
        settings: Of the device model.
        converter: The rule weight ⇄ conductances.
        config: A configuration, in place of those of candidates; their other keys win over what it says.
        mapping: How the plain model is mapped besides.
        drift_compensation: Whether drift is compensated.
        times: How long after programming.
        repeats: How many chips.
        inputs: An .npz file with samples, and labels. Generated inputs if neither here nor in the comparison.
        labels: The name of the array of labels.
        metric: The metric.
        output: The output that the metric is about.
        batch: How many samples go into one run.
        dims: Sizes of symbolic dimensions of generated inputs.
        values: Values of generated inputs.
        seed: Of all random numbers.
        workers: How many trials are computed at once.
        dask: The Dask cluster that computes them.
        journal: A file in which finished trials of all candidates are noted. Trials of a candidate are found there as
            long as the candidate, the model and the inputs are the same, whatever other candidates there are.
        progress: Called with the step ("simulate"), the trials of all candidates that are done, and how many there are.

    Raises:
        ModelError: If the model cannot be read, or a candidate cannot map it.
        UnmappableWeightError: If a weight of a plain model has values that no conductance can hold.
        ConfigError: If the comparison is wrong, or anything that is wrong for `simulate`; messages name the candidate.
    """
    source = check_model_path(model)
    found = Comparison.of(comparison)
    table = found.table
    said = {
        "device": device,
        "device_options": settings,
        "drift_compensation": drift_compensation,
        "times": times,
        "repeats": None if repeats is None else whole_number("number of chips", repeats, 1),
    }
    of_mapping = {name: value for name, value in (mapping or {}).items() if value is not None}
    candidates = found.candidates(said, {**of_mapping, **({} if converter is None else {"converter": converter})})
    seed = whole_number("seed", (table.seed or 0) if seed is None else seed)
    workers = whole_number("number of workers", workers, 1)
    if inputs is None and table.inputs is not None:
        inputs = found.folder / table.inputs
    labels, metric, output = labels or table.labels, metric or table.metric, output or table.output
    batch = check_data_options(inputs, labels, table.batch if batch is None else batch, dims, values)
    watched = WatchedFiles()
    graph = load_model(source, watched)
    data = [(file.name, file.stat()) for file in sorted(external_files(graph))]
    planned = _planned(candidates, graph, source, watched, seed, converter=converter, config=config, mapping=mapping)
    with (
        trial_executor(workers, dask) as executor,
        contextlib.closing(_Benches(source)) as benches,
    ):
        with Bench(source, (), source) as bench:  # the model as it is
            if inputs is None:
                samples = bench.generated_inputs((), dims or {}, values or {}, seed)
            else:
                samples = bench.inputs_of_file(Path(inputs), labels, batch)
            is_plain = planned[0].model.how is not None
            yardstick = _yardstick(metric, output, samples, bench.run((), samples), is_plain=is_plain)
        identity = identity_of_data(source, data, samples, yardstick.metric, yardstick.output)
        with opened_journal(None if journal is None else Path(journal), {"comparison": True, **identity}) as notes:
            run = _Run(source, watched, executor, benches, yardstick, notes)
            compared = run.simulated(planned, progress)
        with watched.blamed():
            watched.check()
        said_by_executor = executor.notes
    return ComparisonReport(
        model=source,
        file=found.source.files[0] if found.source.files else None,
        seed=seed,
        metric=yardstick.metric.name,
        unit=yardstick.metric.unit,
        is_larger_better=yardstick.metric.is_larger_better,
        output=yardstick.output,
        unmapped=yardstick.unmapped,
        reference=("unmapped" if is_plain else "ideal") if yardstick.metric.is_of_two_models else "",
        samples=samples.count,
        inputs=samples.source,
        candidates=compared,
        notes=(*_twins(planned), *said_by_executor),
    )


def _planned(
    candidates: Sequence[Candidate],
    graph: ir.Model,
    source: Path,
    watched: WatchedFiles,
    seed: int,
    *,
    converter: ConverterLike | None,
    config: ConfigurationLike | None,
    mapping: MappingOptions | None,
) -> list[_Planned]:
    """All candidates, mapped and checked, so that what is wrong with the last one is told before the first one runs."""
    is_plain = not is_mapped(graph)
    models: dict[str | None, _MappedModel] = {}
    planned = []
    for candidate in candidates:
        with candidate.named():
            chips = chips_of(candidate.device, candidate.device_options, seed, candidate.drift_compensation)
            trials = trials_of(candidate.seconds, candidate.repeats)
            if candidate.mapping and not is_plain:
                key = min(candidate.mapping)
                raise ConfigError(
                    f"the model '{source}' is mapped already, so that mapping.{key} would say nothing; leave it out, "
                    "or give the plain model"
                )
            if is_plain:
                configuration = configuration_of(candidate.configuration(config), converter, mapping)
                own = graph.clone()  # which shares the weights
                how, weights = mapped_for(chips.model, own, source, watched, config=configuration)
                model = _MappedModel(own, weights, how)
            elif models:
                model = models[None]
            else:
                how, weights = mapped_for(
                    chips.model, graph, source, watched, converter=converter, config=config, mapping=mapping
                )
                model = _MappedModel(graph, weights, how)
            model = models.setdefault(None if model.how is None else model.how.digest, model)
            check_ranges(model.weights, chips, source)
            smallest = WeightOnChips(min(model.weights, key=lambda weight: math.prod(weight.record.shape)))
            for seconds in candidate.seconds:  # a device model may know nothing of a time
                smallest.on(chips.chip(0, seconds))
            planned.append(_Planned(candidate, chips, trials, model))
    return planned


def _yardstick(
    metric: str | None, output: str | None, samples: Samples, outputs: Outputs, *, is_plain: bool
) -> _Yardstick:
    chosen = chosen_output(output, outputs)
    figure = metric_of(metric, chosen, has_labels=samples.labels is not None)
    if not is_plain:
        return _Yardstick(samples, figure, chosen)
    unmapped = None if figure.is_of_two_models else figure.of(outputs, samples.labels, outputs)
    return _Yardstick(samples, figure, chosen, outputs, unmapped)


def _twins(planned: Sequence[_Planned]) -> tuple[str, ...]:
    """Which candidates are the same, though they have two names."""
    first: dict[str, str] = {}
    notes = []
    for each in planned:
        candidate, chips = each.candidate, identity_of_chips(each.chips, each.model.how)
        key = json.dumps([chips, candidate.seconds, candidate.repeats], sort_keys=True)
        name = candidate.name
        if (twin := first.setdefault(key, name)) != name:
            notes.append(f"'{name}' is the same as '{twin}': nothing is different for this model")
    return tuple(notes)


class _Benches:
    """The bench of one mapped model after the other. If two have equal models, they share it: only weights differ.

    Args:
        source: The model of the user, for messages.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._bench: Bench | None = None
        self._key: tuple[object, ...] | None = None

    def of(self, files: BenchFiles) -> Bench:
        """The bench of a model. The one before is of no use any more."""
        key = files.names, *(_digest(path) for path in sorted(files.bench.parent.glob(f"{files.bench.name}*")))
        if self._bench is None or key != self._key:
            self.close()
            self._bench, self._key = Bench(files.bench, files.names, self._source), key
        return self._bench

    def close(self) -> None:
        """Release the session."""
        if self._bench is not None:
            self._bench.__exit__()
            self._bench = None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Run:
    """All that the simulations of candidates have in common."""

    source: Path
    watched: WatchedFiles
    executor: TrialExecutor
    benches: _Benches
    yardstick: _Yardstick
    journal: Journal

    def simulated(self, planned: Sequence[_Planned], progress: Progress | None) -> tuple[ComparedCandidate, ...]:
        """The figures of all candidates, in their order. Those with one mapped model run one after the other."""
        models = {id(each.model): each.model for each in planned}
        total, done = sum(len(each.trials) for each in planned), 0
        found: dict[str, ComparedCandidate] = {}
        for model in models.values():
            with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
                setup = self._setup(model, Path(folder))
                for each in planned:
                    if each.model is model:
                        found[each.candidate.name] = self._candidate(each, setup, _from(progress, done, total))
                        done += len(each.trials)
        return tuple(found[each.candidate.name] for each in planned)

    def _setup(self, model: _MappedModel, place: Path) -> _Setup:
        with_mapped = self.executor.takes_a_file
        files = saved_for_bench(model.graph, model.weights, place, self.source, self.watched, with_mapped=with_mapped)
        bench = self.benches.of(files)
        on_chips = tuple(WeightOnChips(weight) for weight in model.weights)
        ideal = bench.run([weight.ideal() for weight in on_chips], self.yardstick.samples)
        return _Setup(bench, on_chips, ideal, files.mapped)

    def _candidate(
        self, planned: _Planned, setup: _Setup, progress: Callable[[int, int], None] | None
    ) -> ComparedCandidate:
        candidate, yardstick, how = planned.candidate, self.yardstick, planned.model.how
        with candidate.named():
            experiment = Experiment(
                setup.bench,
                setup.weights,
                planned.chips,
                yardstick.samples,
                yardstick.metric,
                yardstick.output,
                setup.ideal,
                self.source,
                setup.mapped,
                yardstick.reference,
            )
            ideal = experiment.figure_of_ideal()
            journal = self.journal.part(identity_of_chips(planned.chips, how))
            figures = figures_of(experiment, planned.trials, self.executor, journal, progress)
        notes = () if how is None else how.notes
        report = report_of(experiment, ideal, candidate.seconds, candidate.repeats, figures, notes=notes)
        return ComparedCandidate(candidate.name, candidate.differences, report)


@dataclass(frozen=True)
class _Setup:
    """A mapped model that is ready for chips: its bench, weights, outputs, and file for workers elsewhere."""

    bench: Bench
    weights: Sequence[WeightOnChips]
    ideal: Outputs
    mapped: Path | None


def _from(progress: Progress | None, done: int, total: int) -> Callable[[int, int], None] | None:
    """What one of several simulations calls with what it has done itself."""
    return None if progress is None else lambda own, _: progress("simulate", done + own, total)
