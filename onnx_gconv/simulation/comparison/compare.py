"""Simulates several candidates on the same inputs with the same random numbers, and compares their figures."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions, configuration_of
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.models import save_model
from onnx_gconv.files.progress import Progress
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.prompts import TokenIds
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chips.chip_weight import DriftCompensation
from onnx_gconv.simulation.chips.chips import chips_of, whole_number
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.comparison.report import ComparisonReport
from onnx_gconv.simulation.comparison.run import Benches, ComparisonRun, MappedModel, PlannedCandidate, Yardstick
from onnx_gconv.simulation.comparison.settings import Candidate, Comparison, ComparisonLike
from onnx_gconv.simulation.experiments.executors import DaskCluster, trial_executor
from onnx_gconv.simulation.experiments.experiment import identity_of_chips, identity_of_data
from onnx_gconv.simulation.experiments.journal import opened_journal
from onnx_gconv.simulation.experiments.trials import trials_of
from onnx_gconv.simulation.mapped_in_memory import is_mapped
from onnx_gconv.simulation.metrics import chosen_output, metric_of
from onnx_gconv.simulation.outputs import KeptOutput, Outputs
from onnx_gconv.simulation.own_noise import own_noise_notes
from onnx_gconv.simulation.preparation import asked_inputs, check_weights, mapped_for
from onnx_gconv.simulation.samples import Samples
from onnx_gconv.weights.random_nodes import random_nodes

__all__ = ["compare"]


def compare(
    model: ModelLike,
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
    token_ids: Sequence[int] | TokenIds | None = None,
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
    """Simulate several candidates, such as converters, devices, levels or ranges, and compare their figures.

    All candidates run on the same samples, and their chips have the same random numbers. So only the candidates
    themselves make a difference. If the model is plain, outputs are compared with those of the plain model, not with
    those of the ideal model of each candidate: the SQNR of a candidate with few levels then shows the effect of the
    levels. If the model is mapped, outputs are compared with those of its ideal model.

    The arguments from `device` on are those of `simulate`. They win over the comparison, for all candidates.

    Args:
        model: The plain model, as a file or in memory as for `simulate`, which each candidate maps in memory; or a
            mapped model, whose candidates cannot differ in the mapping.
        comparison: A TOML file, or its content as a mapping, in which device models and converters may be objects. Its
            keys are ``candidates``; ``grid``; what candidates have in common: ``device``, ``device_options``,
            ``drift_compensation``, ``times``, ``repeats``, ``mapping``; and ``seed``, ``inputs``, ``labels``,
            ``metric``, ``output``, ``batch``. A key of a candidate replaces the common one.
        device: The device model.
        settings: The settings of the device model.
        converter: The rule weight ⇄ conductances.
        config: A configuration that replaces those of candidates. The other keys of a candidate win over it.
        mapping: More options of the mapping of a plain model.
        drift_compensation: How drift is compensated.
        times: One or more times after programming, in seconds or as texts such as ``1d``.
        repeats: How many chips to simulate.
        inputs: An .npz file with samples and labels; generated inputs if the comparison names no file either.
        token_ids: The tokens of one prompt, in place of `inputs`.
        labels: The name of the array of labels in `inputs`.
        metric: The metric.
        output: The output that the metric looks at.
        batch: How many samples go into one run.
        dims: Sizes of symbolic dimensions of generated inputs.
        values: Ranges of values of generated inputs.
        seed: The seed of all random numbers.
        workers: How many trials are computed at once.
        dask: A Dask cluster that computes the trials in place of this process.
        journal: A file that records finished trials of all candidates. The trials of a candidate are used again as long
            as the candidate, the model and the inputs are the same; other candidates may have changed.
        progress: Called with the step ("simulate"), and for all candidates together the number of finished trials and
            the number of all trials.

    Raises:
        ModelError: If the model cannot be read, or a candidate cannot map it.
        UnmappableWeightError: If a weight of a plain model has values that no conductance can hold.
        ConfigError: If the comparison is not valid, or for the reasons of `simulate`; messages name the candidate.
    """
    given = GivenModel.of(model, "compare")
    source = given.label
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
    if inputs is None and token_ids is None and table.inputs is not None:
        inputs = found.folder / table.inputs
    labels, metric, output = labels or table.labels, metric or table.metric, output or table.output
    batch = table.batch if batch is None else batch
    asked = asked_inputs(inputs, token_ids, labels=labels, batch=batch, dims=dims, values=values, seed=seed)
    watched = WatchedFiles()
    graph = given.load(watched)
    of_model = {} if journal is None else given.identity(graph)
    drawing = random_nodes(graph)
    planned = _planned(candidates, graph, source, watched, seed, converter=converter, config=config, mapping=mapping)
    with (
        trial_executor(workers, dask) as executor,
        contextlib.closing(Benches(source)) as benches,
        tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder,
        watched.blamed(),
    ):
        place = Path(folder)
        with given.on_disk() as file, Bench(file, (), source) as bench:  # the model as it is
            if asked.file is not None:
                watched.add(asked.file, ConfigError)
            samples = bench.samples((), asked, place)
            is_plain = planned[0].model.how is not None
            yardstick = _yardstick(metric, output, samples, bench.run((), samples), place, is_plain=is_plain)
            own_noise = own_noise_notes(drawing, yardstick.output, partial(bench.run, (), samples))
        if executor.takes_a_file and yardstick.reference is not None and yardstick.reference.is_on_disk:
            yardstick = replace(yardstick, plain=place / "plain.onnx")
            save_model(graph, place / "plain.onnx", watched=watched)
        of_data = samples, yardstick.metric, yardstick.output
        identity = {} if journal is None else identity_of_data(of_model, *of_data)
        with opened_journal(None if journal is None else Path(journal), {"comparison": True, **identity}) as notes:
            run = ComparisonRun(source, watched, executor, benches, yardstick, notes)
            compared = run.simulated(planned, progress)
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
        notes=(*_twins(planned), *samples.notes, *own_noise, *said_by_executor),
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
) -> list[PlannedCandidate]:
    """All candidates, mapped and checked: an error in the last one is raised before the first one is simulated."""
    is_plain = not is_mapped(graph)
    models: dict[str | None, MappedModel] = {}
    planned = []
    for candidate in candidates:
        with candidate.named():
            chips = chips_of(candidate.device, candidate.device_options, seed, candidate.drift_compensation)
            trials = trials_of(candidate.seconds, candidate.repeats)
            own = graph
            said: dict[str, Any] = {"converter": converter, "config": config, "mapping": mapping}
            if is_plain:
                own = graph.clone()  # which shares the weights
                said = {"config": configuration_of(candidate.configuration(config), converter, mapping)}
            elif candidate.mapping:
                raise ConfigError(
                    f"the model '{source}' is mapped already, so that mapping.{min(candidate.mapping)} would say "
                    "nothing; leave it out, or give the plain model"
                )
            how, weights = mapped_for(chips.model, own, source, watched, **said)
            model = MappedModel(own, weights, how)
            model = models.setdefault(None if how is None else how.digest, model)
            check_weights(model.weights, chips, source)
            smallest = WeightOnChips(min(model.weights, key=lambda weight: math.prod(weight.record.shape)))
            for seconds in candidate.seconds:  # device models refuse times for which they have no data
                smallest.on(chips.chip(0, seconds))
            planned.append(PlannedCandidate(candidate, chips, trials, model))
    return planned


def _yardstick(
    metric: str | None,
    output: str | None,
    samples: Samples,
    batches: Iterator[Outputs],
    folder: Path,
    *,
    is_plain: bool,
) -> Yardstick:
    first = next(batches)
    chosen = chosen_output(output, first)
    figure = metric_of(metric, chosen, has_labels=samples.labels is not None)
    if not is_plain:
        return Yardstick(samples, figure, chosen)
    reference = KeptOutput(chosen, samples, folder)
    batches = chain([first], batches)
    if figure.is_of_two_models:
        reference.keep(batches)
        return Yardstick(samples, figure, chosen, reference)
    return Yardstick(samples, figure, chosen, reference, figure.of(reference.passing(batches), samples, reference))


def _twins(planned: Sequence[PlannedCandidate]) -> tuple[str, ...]:
    """Notes that name candidates which are equal to an earlier one."""
    first: dict[str, str] = {}
    notes = []
    for each in planned:
        candidate, chips = each.candidate, identity_of_chips(each.chips, each.model.how)
        key = json.dumps([chips, candidate.seconds, candidate.repeats], sort_keys=True)
        name = candidate.name
        if (twin := first.setdefault(key, name)) != name:
            notes.append(f"'{name}' is the same as '{twin}': nothing is different for this model")
    return tuple(notes)
