"""Simulates many chips at several times after programming, and reports how good their outputs are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.prompts import TokenIds
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chips.chip_weight import DriftCompensation
from onnx_gconv.simulation.chips.chips import chips_of, whole_number
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.experiments.executors import DaskCluster, trial_executor
from onnx_gconv.simulation.experiments.experiment import Experiment
from onnx_gconv.simulation.experiments.journal import opened_journal
from onnx_gconv.simulation.experiments.trials import figures_of, report_of, trials_of
from onnx_gconv.simulation.metrics import chosen_output, metric_of
from onnx_gconv.simulation.outputs import KeptOutput
from onnx_gconv.simulation.own_noise import own_noise_notes
from onnx_gconv.simulation.preparation import asked_inputs, check_weights, mapped_for, saved_for_bench
from onnx_gconv.simulation.simulation_report import SimulationReport
from onnx_gconv.simulation.times import DEFAULT_TIMES, times_of
from onnx_gconv.weights.random_nodes import random_nodes

__all__ = ["simulate"]


def simulate(
    model: ModelLike,
    device: str | DeviceModel = "pcm",
    converter: ConverterLike | None = None,
    *,
    config: ConfigurationLike | None = None,
    mapping: MappingOptions | None = None,
    settings: Mapping[str, Any] | None = None,
    times: str | float | Sequence[str | float] = DEFAULT_TIMES,
    repeats: int = 25,
    inputs: str | os.PathLike[str] | None = None,
    token_ids: Sequence[int] | TokenIds | None = None,
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
    """Report how good the outputs of a model are on chips of a device, at some times after programming.

    Each repeat is another chip. At each time the same chip has drifted for longer and is read again. Repeat `k` at a
    time is the chip that `program_model` writes for the same seed, time and ``chip=k``: both give the same outputs.
    Results do not depend on the number of workers.

    Args:
        model: The mapped model, as a file, as an `onnx_ir.Model`, as an `onnx.ModelProto`, or as
            ``torch.onnx.export`` returns it; or a plain model, which is mapped in memory: to the range of the device,
            unless another range is given.
        device: The device model, as for `program_model`.
        converter: The rule weight ⇄ conductances by which a plain model is mapped, as for `map_model`.
        config: The configuration by which a plain model is mapped, or the TOML file that holds it.
        mapping: More options of the mapping of a plain model, such as ``{"granularity": "channel"}``. They win over
            `config`.
        settings: The settings of the device model.
        times: One or more times after programming, in seconds or as texts such as ``1d``.
        repeats: How many chips to simulate.
        inputs: An .npz file with an array for each input, which has the samples along its first axis, and an array of
            labels; None for generated inputs. For a language model the tokens are enough: mask, positions and empty
            caches are generated to fit them.
        token_ids: The tokens of one prompt, in place of `inputs`.
        labels: The name of the array of labels in `inputs`. Labels are numbers of classes; those of a function of your
            own may also be floats or texts.
        metric: ``accuracy`` or ``topK``, such as ``top5``, which need labels; or ``sqnr`` in dB, ``cosine`` or
            ``agreement`` of the largest element, which compare with the outputs of the ideal model, whose weights are
            those of the targets. Each of these can be limited to one position of a text, as in ``agreement@last`` or
            ``sqnr@0``. Or ``module:function``, which is called with the outputs by name and the labels. If None,
            accuracy with labels, else SQNR.
        output: The output that the metric looks at; the first output of floating-point numbers if None.
        batch: How many samples go into one run. If None: the batch of the model if it is fixed; else all samples, or,
            if they have more than 256 MiB, as many as have 64 MiB. Another batch may change the last digits, because
            ONNX Runtime then adds in another order.
        dims: Sizes of symbolic dimensions of generated inputs.
        values: Ranges of values of generated inputs.
        seed: The seed of all random numbers.
        drift_compensation: How drift is compensated, as for `program_model`.
        sensitivity: Whether to measure each layer alone, too: only one weight is on the chip and all others are ideal,
            at the last time.
        workers: How many trials are computed at once.
        dask: A Dask cluster that computes the trials in place of this process: the address of its scheduler, such as
            ``tcp://127.0.0.1:8786``, or a `distributed.Client`.
        journal: A file that records finished trials. A simulation that was stopped goes on from there.
        progress: Called with the step ("simulate"), the number of finished trials and the number of all trials.

    Raises:
        ModelError: If the model cannot be read or mapped, or its conductances are not targets but those of a chip.
        UnmappableWeightError: If a weight of a plain model has values that no conductance can hold.
        ConfigError: If an option is wrong, inputs or labels do not fit the model, the metric fails, ONNX Runtime does
            not run the model, conductances are outside of the range of the device model, or the Dask cluster cannot be
            used.
    """
    given = GivenModel.of(model, "simulate")
    source = given.label
    chips = chips_of(device, settings or {}, seed, drift_compensation)
    seconds = times_of(times)
    repeats, workers = whole_number("number of chips", repeats, 1), whole_number("number of workers", workers, 1)
    asked = asked_inputs(inputs, token_ids, labels=labels, batch=batch, dims=dims, values=values, seed=seed)
    watched = WatchedFiles()
    graph = given.load(watched)
    of_model = {} if journal is None else given.identity(graph)
    done, weights = mapped_for(chips.model, graph, source, watched, converter=converter, config=config, mapping=mapping)
    check_weights(weights, chips, source)
    trials = trials_of(seconds, repeats, len(weights) if sensitivity else 0)
    drawing = random_nodes(graph)
    with (
        trial_executor(workers, dask) as executor,
        tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder,
    ):
        files = saved_for_bench(graph, weights, Path(folder), source, watched, with_mapped=executor.takes_a_file)
        with Bench(files.bench, files.names, source) as bench:
            on_chips = [WeightOnChips(weight) for weight in weights]
            targets = [weight.ideal() for weight in on_chips]
            if asked.file is not None:
                watched.add(asked.file, ConfigError)
            with watched.blamed():
                samples = bench.samples(targets, asked, Path(folder))
                batches = bench.run(targets, samples)
                first = next(batches)
                chosen = chosen_output(output, first)
                figure = metric_of(metric, chosen, has_labels=samples.labels is not None)
                ideal = KeptOutput(chosen, samples, Path(folder))
                of_ideal = figure.of(ideal.passing(chain([first], batches)), samples, ideal)
                own_noise = own_noise_notes(drawing, chosen, partial(bench.run, targets, samples))
                del targets, first, batches  # they hold all weights in memory
                experiment = Experiment(bench, on_chips, chips, samples, figure, chosen, ideal, source, files.mapped)
                identity = {} if journal is None else experiment.identity(of_model, done)
                with opened_journal(None if journal is None else Path(journal), identity) as notes:
                    found = figures_of(experiment, trials, executor, notes, progress_of_step(progress, "simulate"))
                watched.check()  # each chip reads large samples and conductances again: the files must not have changed
    said = (*(() if done is None else done.notes), *samples.notes, *own_noise, *executor.notes)
    return report_of(experiment, of_ideal, seconds, repeats, found, notes=said, with_layers=sensitivity)
