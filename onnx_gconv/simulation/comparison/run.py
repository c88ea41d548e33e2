"""Simulates planned candidates one after the other. Candidates share a session where their models are equal."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.files.progress import Progress
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chips.chips import Chips
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.comparison.report import ComparedCandidate
from onnx_gconv.simulation.comparison.settings import Candidate
from onnx_gconv.simulation.experiments.executors import TrialExecutor
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial, identity_of_chips
from onnx_gconv.simulation.experiments.journal import Journal
from onnx_gconv.simulation.experiments.trials import figures_of, report_of
from onnx_gconv.simulation.mapped_in_memory import Mapped
from onnx_gconv.simulation.metrics import Metric
from onnx_gconv.simulation.outputs import KeptOutput
from onnx_gconv.simulation.preparation import BenchFiles, saved_for_bench
from onnx_gconv.simulation.samples import Samples

__all__ = ["Benches", "ComparisonRun", "MappedModel", "PlannedCandidate", "Yardstick"]


@dataclass(frozen=True)
class MappedModel:
    """A mapped model, which several candidates may share.

    Attributes:
        graph: The model.
        weights: The mapped weights of the model.
        how: How the model was mapped; None if it was given as a mapped model.
    """

    graph: ir.Model
    weights: tuple[MappedWeight, ...]
    how: Mapped | None


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate that is mapped and checked, with its chips and its trials."""

    candidate: Candidate
    chips: Chips
    trials: Sequence[Trial]
    model: MappedModel


@dataclass(frozen=True)
class Yardstick:
    """The samples, metric and reference with which all candidates are measured.

    Attributes:
        samples: The samples on which the models run.
        metric: The metric.
        output: The output that the metric looks at.
        reference: That output of the plain model; None if the model was given as a mapped one.
        unmapped: The metric of the plain model; None without a plain model, or if the metric compares two models.
        plain: A file with the plain model, for workers of other processes; None if they do not need it.
    """

    samples: Samples
    metric: Metric
    output: str
    reference: KeptOutput | None = None
    unmapped: float | None = None
    plain: Path | None = None


class Benches:
    """Gives the bench of one mapped model after the other, and keeps it as long as models differ only in weights.

    Args:
        source: The model of the user, for messages.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._bench: Bench | None = None
        self._key: tuple[object, ...] | None = None

    def of(self, files: BenchFiles) -> Bench:
        """The bench of a model. A bench that was returned before may be closed by this."""
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
class _Setup:
    """A mapped model that is ready for simulation.

    Attributes:
        bench: The session that runs the model.
        weights: The weights, which can be put on chips.
        ideal: The output of the ideal model.
        of_ideal: The metric of the ideal model.
        mapped: A file with the mapped model, for workers of other processes; None if there are none.
    """

    bench: Bench
    weights: Sequence[WeightOnChips]
    ideal: KeptOutput
    of_ideal: float
    mapped: Path | None


@dataclass(frozen=True)
class ComparisonRun:
    """What the simulations of all candidates share."""

    source: Path
    watched: WatchedFiles
    executor: TrialExecutor
    benches: Benches
    yardstick: Yardstick
    journal: Journal

    def simulated(
        self, planned: Sequence[PlannedCandidate], progress: Progress | None
    ) -> tuple[ComparedCandidate, ...]:
        """The figures of all candidates, in their order. Candidates with the same mapped model run in succession."""
        models = {id(each.model): each.model for each in planned}
        total, done = sum(len(each.trials) for each in planned), 0
        found: dict[str, ComparedCandidate] = {}
        for model in models.values():
            with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
                sharing = [each for each in planned if each.model is model]
                with sharing[0].candidate.named():
                    setup = self._setup(model, Path(folder))
                for each in sharing:
                    found[each.candidate.name] = self._candidate(each, setup, _from(progress, done, total))
                    done += len(each.trials)
        return tuple(found[each.candidate.name] for each in planned)

    def _setup(self, model: MappedModel, place: Path) -> _Setup:
        with_mapped = self.executor.takes_a_file
        files = saved_for_bench(model.graph, model.weights, place, self.source, self.watched, with_mapped=with_mapped)
        bench = self.benches.of(files)
        on_chips = tuple(WeightOnChips(weight) for weight in model.weights)
        yardstick = self.yardstick
        ideal = KeptOutput(yardstick.output, yardstick.samples, place)
        batches = ideal.passing(bench.run([weight.ideal() for weight in on_chips], yardstick.samples))
        of_ideal = yardstick.metric.of(batches, yardstick.samples, yardstick.reference or ideal)
        return _Setup(bench, on_chips, ideal, of_ideal, files.mapped)

    def _candidate(
        self, planned: PlannedCandidate, setup: _Setup, progress: Callable[[int, int], None] | None
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
                yardstick.plain,
            )
            journal = self.journal.part(identity_of_chips(planned.chips, how))
            figures = figures_of(experiment, planned.trials, self.executor, journal, progress)
        notes = () if how is None else how.notes
        report = report_of(experiment, setup.of_ideal, candidate.seconds, candidate.repeats, figures, notes=notes)
        return ComparedCandidate(candidate.name, candidate.differences, report)


def _from(progress: Progress | None, done: int, total: int) -> Callable[[int, int], None] | None:
    """The callback of one candidate, which reports its finished trials as a part of those of all candidates."""
    return None if progress is None else lambda own, _: progress("simulate", done + own, total)
