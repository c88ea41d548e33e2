"""An experiment in a form that can be sent to other processes, which rebuild the experiment from it."""

from __future__ import annotations

import contextlib
import pickle
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.simulation.bench import Bench
from onnx_gconv.simulation.chips.chips import Chips
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial
from onnx_gconv.simulation.metrics import Metric, MetricImportError, metric_of
from onnx_gconv.simulation.outputs import KeptOutput
from onnx_gconv.simulation.run_time_weights import weights_as_inputs
from onnx_gconv.simulation.samples import Samples
from onnx_gconv.version import __version__

__all__ = ["OpenedExperiment", "SentExperiment", "different_versions", "versions_here"]

# The hash of the file of each metric when this process imported it. A worker that runs for long may have an old version
# in memory.
_imported_metrics: dict[str, str] = {}


@dataclass(frozen=True)
class OpenedExperiment:
    """An experiment in another process.

    Attributes:
        experiment: The experiment.
        is_exact: Whether this process computes the same bits as the process that sent the experiment.
    """

    experiment: Experiment
    is_exact: bool


class SentExperiment:
    """What another process needs to compute trials. All threads of that process share one bench.

    Arrays and the files of the model, which are mapped into memory, are sent without a copy. The other process writes
    the files to its disk when it opens the experiment, and then frees their memory. Freeing this object there also
    closes the session of ONNX Runtime and removes the files.

    Samples that are not in memory are not sent: the other process reads their file under the same path. Outputs of the
    plain model that are too large for memory are not sent either: the other process computes them from that model.

    Args:
        experiment: The experiment, with the file of its mapped model.
        trial: A trial by which the other process checks whether it computes the same bits.
        dumps: Returns the bytes of an object for `pickle.loads`.

    Raises:
        ConfigError: If the device model cannot be pickled, or fails.
    """

    def __init__(self, experiment: Experiment, trial: Trial, dumps: Callable[[Any], bytes]) -> None:
        if experiment.mapped is None:
            raise ValueError("the experiment has no file of its mapped model")
        try:
            self._chips = dumps(experiment.chips)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"the device model '{experiment.chips.device}' cannot be sent to other processes: "
                f"{type(error).__name__}: {reason}; give it attributes that can be pickled"
            ) from error
        self._device = experiment.chips.device
        self._models = {"mapped": experiment.mapped.name}
        self._files = _files(experiment.mapped)
        self._samples = _without_file(experiment.samples)
        self._reference: NDArray[Any] | None = None
        if (reference := experiment.reference) is not None and not reference.is_on_disk:
            self._reference = reference.whole()
        elif reference is not None:
            if experiment.plain is None:
                raise ValueError("the experiment has no file of its plain model")
            self._models["plain"] = experiment.plain.name
            self._files |= _files(experiment.plain)
        self._metric = experiment.metric.name, experiment.output
        self._metric_file = experiment.metric.digest
        self._source = experiment.source
        self._trial = trial
        self._fingerprint = experiment.fingerprint(trial)
        self._versions = versions_here()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._opened: OpenedExperiment | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in {"_lock", "_opened"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def opened(self, folder: Path) -> OpenedExperiment:
        """The experiment in this process. It is rebuilt for the first thread that asks; the others share it.

        Args:
            folder: A temporary folder with the files of the model is made in here, and removed when this object is
                freed.

        Raises:
            GconvError: If the experiment cannot be rebuilt in this process.
        """
        with self._lock:
            if self._opened is None:
                self._opened = self._open(folder)
            return self._opened

    def _open(self, folder: Path) -> OpenedExperiment:
        if (problem := different_versions(self._versions)) is not None:
            raise ConfigError(problem)
        with contextlib.ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnx-gconv-", dir=folder)))
            for name, content in self._files.items():
                content.tofile(place / name)
            # Free what was received. All its arrays are parts of one piece of memory, so keep no array of it.
            self._files = {}
            for model in self._models.values():
                self._files |= _files(place / model)
            graph = load_model(place / self._models["mapped"])
            weights = target_weights(graph, "simulated", "simulate")
            names = weights_as_inputs(graph, weights)
            save_model(graph, place / "bench.onnx")
            bench = stack.enter_context(Bench(place / "bench.onnx", names, self._source))
            samples = self._opened_samples(bench, place)
            on_chips = [WeightOnChips(weight) for weight in weights]
            metric, output = self._loaded_metric(samples), self._metric[1]
            ideal = KeptOutput(output, samples, place)
            ideal.keep(bench.run([weight.ideal() for weight in on_chips], samples))
            experiment = Experiment(
                bench,
                on_chips,
                self._loaded_chips(),
                samples,
                metric,
                output,
                ideal,
                self._source,
                reference=self._opened_reference(samples, place),
            )
            weakref.finalize(self, stack.pop_all().close)
        return OpenedExperiment(experiment, experiment.fingerprint(self._trial) == self._fingerprint)

    def _opened_samples(self, bench: Bench, place: Path) -> Samples:
        """The samples that were sent, or those that this process reads from their file."""
        if (file := self._samples.file) is None:
            self._samples = _copied(self._samples)
            return self._samples
        remedy = "it is not sent: put it where all workers find it under this path, such as on a common file system"
        try:
            samples = bench.inputs_of_file(file.path, file.labels, file.batch, place)
        except ConfigError as error:
            raise ConfigError(f"cannot use the file of the inputs, {error}; {remedy}") from error
        if samples.file is None or samples.file.contents != file.contents:
            raise ConfigError(f"has other inputs in '{file.path}' than this machine; {remedy}")
        sent = self._samples
        return replace(samples, completed=sent.completed, completed_along=sent.completed_along)

    def _opened_reference(self, samples: Samples, place: Path) -> KeptOutput | None:
        """The output of the plain model that was sent, or is computed here; None if there is no plain model."""
        output = KeptOutput(self._metric[1], samples, place)
        if self._reference is not None:
            output.keep_array(self._reference)
        elif "plain" in self._models:
            with Bench(place / self._models["plain"], (), self._source) as bench:
                output.keep(bench.run((), samples))
        else:
            return None
        return output

    def _loaded_metric(self, samples: Samples) -> Metric:
        name, output = self._metric
        try:
            metric = metric_of(name, output, has_labels=samples.labels is not None)
        except ConfigError as error:
            problem = error.problem if isinstance(error, MetricImportError) else error
            raise ConfigError(
                f"has no such metric: {problem}; copy its file to where the worker was started"
            ) from error
        if _imported_metrics.setdefault(name, metric.digest) != self._metric_file:
            raise ConfigError(
                f"has another version of the file of the metric '{name}'; copy it there, and start the worker anew"
            )
        return metric

    def _loaded_chips(self) -> Chips:
        try:
            found: Chips = pickle.loads(self._chips)  # noqa: S301 - who sends it can run code here anyway
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"cannot load the device model '{self._device}': {type(error).__name__}: {reason}; install the package "
                "that has it there"
            ) from error
        return found


def versions_here() -> dict[str, str]:
    """The versions of this process on which figures, and the pickling of objects, depend."""
    import onnxruntime

    return {
        "onnx_gconv": __version__,
        "NumPy": np.__version__,
        "ONNX Runtime": onnxruntime.__version__,
        "onnx-ir": version("onnx-ir"),
        "Python": ".".join(map(str, sys.version_info[:2])),
    }


def different_versions(expected: Mapping[str, str], found: Mapping[str, str] | None = None) -> str | None:
    """A line on the versions that differ between two processes; None if all are equal.

    Args:
        expected: The versions of the process that sends an experiment.
        found: The versions of the process that is to compute it; those of this process if None.
    """
    found = versions_here() if found is None else found
    others = [
        f"{name} {found.get(name)}, not {wanted}" for name, wanted in expected.items() if found.get(name) != wanted
    ]
    if not others:
        return None
    return f"has {'; '.join(others)}, and may compute other figures; install the same versions there"


def _files(model: Path) -> dict[str, NDArray[np.uint8]]:
    """The files of a model and its external data, which lies beside it, by name; mapped into memory, not read."""
    found = (path for path in sorted(model.parent.iterdir()) if path.name.startswith(model.name))
    # As plain arrays: NumPy copies an array of its class memmap when it pickles it.
    return {
        path.name: np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
        for path in found
    }


def _without_file(samples: Samples) -> Samples:
    """The samples without arrays and labels, if these are in a file; else all of them."""
    return samples if samples.file is None else replace(samples, arrays={}, labels=None)


def _copied(samples: Samples) -> Samples:
    """A copy of the samples, whose arrays own their memory."""
    labels = samples.labels
    if labels is not None:
        labels = labels.copy()
        labels.setflags(write=False)  # like the original labels
    arrays = {name: np.array(array[:] if array.ndim else array) for name, array in samples.arrays.items()}
    completed = {name: array.copy() for name, array in samples.completed.items()}
    return replace(samples, arrays=arrays, labels=labels, completed=completed)
