"""Metrics: how good the outputs of a chip are, compared with labels or with the outputs of the ideal model."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.metric_figures import Agreement, Cosine, LabelsError, MetricFigure, Sqnr, Top
from onnx_gconv.simulation.outputs import KeptOutput, Outputs, joined
from onnx_gconv.simulation.samples import Samples
from onnx_gconv.suggestions import suggestion
from onnx_gconv.visible_text import listed

__all__ = ["Metric", "MetricImportError", "chosen_output", "metric_of"]

_TOP = re.compile(r"top([1-9][0-9]*)")
_POSITION = re.compile(r"(?P<metric>[a-z]+[0-9]*)@(?P<position>last|-?[0-9]{1,9})")
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_OF_TWO_MODELS: dict[str, tuple[type[MetricFigure], str]] = {
    "sqnr": (Sqnr, "dB"),
    "cosine": (Cosine, ""),
    "agreement": (Agreement, ""),
}
_SHARES = {"accuracy", "agreement"}
_BUILT_IN = ("accuracy", "topK", "sqnr", "cosine", "agreement")
_FEWEST_AXES = 3
_CALLED = "it is called with a dict of outputs by name, and the labels, and gives a number"
_MOST_NAMED = 5


class MetricImportError(ConfigError):
    """A metric function of the user cannot be imported.

    Attributes:
        problem: What is wrong.

    Args:
        problem: What is wrong.
        remedy: What to do.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}; {remedy}")


@dataclass(frozen=True)
class Metric:
    """A metric: a number that says how good the outputs of a model are.

    Attributes:
        name: The name, as the user gave it.
        unit: ``dB``, or empty.
        digest: A hash of the file of the user's function, to tell versions of it apart; empty for built-in metrics.
        output: The name of the output that a built-in metric looks at.
        begin: Makes the object that computes a built-in metric batch by batch, from the shape of the output for all
            samples, and the labels; None for a function of the user.
        function: The function of the user, which gets all outputs for all samples, and the labels; None for built-in
            metrics.
        position: The position along the second axis of an output [batch, sequence, ...] that counts, from the end if
            negative; None if all positions count.
    """

    name: str
    unit: str
    digest: str
    output: str
    begin: Callable[[tuple[int, ...], NDArray[Any] | None], MetricFigure] | None = None
    function: Callable[[Outputs, NDArray[Any] | None], Any] | None = None
    position: int | None = None

    @property
    def is_of_two_models(self) -> bool:
        """Whether the metric compares the outputs of two models. It is then not defined for one model alone."""
        return self.name.partition("@")[0] in _OF_TWO_MODELS

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value of the metric; None if it has no bounds, or they are not known."""
        name = self.name.partition("@")[0]
        if name in _SHARES or _TOP.fullmatch(name) is not None:
            return 0.0, 1.0
        return (-1.0, 1.0) if name == "cosine" else None

    @property
    def is_larger_better(self) -> bool:
        """Whether larger values are better: True for built-in metrics, False for a user's function: it is not known."""
        return _FUNCTION.fullmatch(self.name) is None

    def of(self, batches: Iterable[Outputs], samples: Samples, ideal: KeptOutput) -> float:
        """The value of the metric for the outputs of a model.

        Args:
            batches: The outputs of the model for one batch of samples after the other.
            samples: The samples.
            ideal: The output of the ideal model, for metrics that compare two models.

        Raises:
            ConfigError: If the metric fails or returns NaN, or outputs or labels do not suit it.
        """
        whole = {} if self.function is None else joined(batches)
        try:
            if self.function is not None:
                found = float(self.function(whole, samples.labels))
            else:
                with np.errstate(all="ignore"):  # outputs may be infinite; a figure that is NaN is refused below
                    found = self._of_batches(batches, samples, ideal)
        except LabelsError as error:
            raise ConfigError(f"{samples.source}: the labels '{samples.labels_name}': {error}") from None
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"the metric '{self.name}' fails: {type(error).__name__}: {reason}"
                f"{'' if self.function is None else f'; {_CALLED}'}"
            ) from error
        if math.isnan(found):
            raise ConfigError(
                f"the metric '{self.name}' gives no number (NaN) for the output of a chip"
                f"{samples.not_finite() or '; give other inputs, or another metric'}"
            )
        return found

    def _of_batches(self, batches: Iterable[Outputs], samples: Samples, ideal: KeptOutput) -> float:
        assert self.begin is not None  # noqa: S101 - the metric is built in
        figure: MetricFigure | None = None
        labels, rows_of_all = samples.labels, samples.rows()
        for outputs in self._with_whole_vectors(batches):
            found = self._at_position(_numbers(outputs, self.output, samples))
            if found.ndim == 1 or samples.is_of_one_run:
                figure = self.begin(found.shape, labels)
                figure.add(found, labels, lambda: self._at_position(ideal.whole()))
                break
            rows = next(rows_of_all)
            if figure is None:
                figure = self.begin((samples.count, *found.shape[1:]), labels)
            of_rows = partial(self._part_at_position, ideal, rows)
            figure.add(found, None if labels is None else labels[rows], of_rows)
        assert figure is not None  # noqa: S101 - there is at least one batch
        return figure.value()

    def _part_at_position(self, ideal: KeptOutput, rows: slice) -> NDArray[Any]:
        return self._at_position(ideal.part(rows))

    def _at_position(self, output: NDArray[Any]) -> NDArray[Any]:
        """The part of an output at the position that counts; the whole output if all positions count.

        Raises:
            ConfigError: If the output has no such position.
        """
        if self.position is None:
            return output
        if output.ndim < _FEWEST_AXES or not -output.shape[1] <= self.position < output.shape[1]:
            has = f"{output.shape[1]} positions" if output.ndim >= _FEWEST_AXES else "no positions"
            raise ConfigError(
                f"the metric '{self.name}' takes one position along the second of at least three axes, but the output "
                f"'{self.output}' has the shape {list(output.shape)}, with {has}; leave @ out, or choose another one"
            )
        return output[:, self.position]

    def _with_whole_vectors(self, batches: Iterable[Outputs]) -> Iterator[Outputs]:
        """The same batches; those of an output with one number a sample are joined to one vector of all samples."""
        of_vector = []
        for outputs in batches:
            if outputs[self.output].ndim > 1:
                yield outputs
            else:
                of_vector.append({self.output: outputs[self.output]})
        if of_vector:
            yield joined(of_vector)


def chosen_output(output: str | None, outputs: Outputs) -> str:
    """The name of the output that the metric looks at.

    Args:
        output: The name that was asked for; None for the first output of floating-point numbers.
        outputs: All outputs of the model, for some samples.

    Raises:
        ConfigError: If the model has no output of that name, or the output is not an array of numbers.
    """
    if output is None:  # outputs of integers are often inputs that the model passes through
        arrays = [(name, found) for name, found in outputs.items() if isinstance(found, np.ndarray)]
        floats = [(name, found) for name, found in arrays if found.dtype.kind in "fV"]  # bfloat16 is V
        output = next((name for name, found in floats if found.ndim), next((name for name, _ in floats), None))
        output = next(iter(outputs)) if output is None else output
    name = output
    if name not in outputs:
        raise ConfigError(f"the model has no output '{name}'; {suggestion(name, outputs, of_model=True)}")
    found = outputs[name]
    if not (isinstance(found, np.ndarray) and found.dtype.kind in "fiubV"):
        raise ConfigError(f"the output '{name}' is no array of numbers; choose another one with --output-name")
    return name


def metric_of(name: str | None, output: str, *, has_labels: bool) -> Metric:
    """The metric of a name.

    Args:
        name: ``accuracy``, ``topK`` such as ``top5``, ``sqnr``, ``cosine``, ``agreement``, each also with ``@last`` or
            another position of a text such as ``@0``; or ``module:function``. If None, the accuracy where there are
            labels, else the SQNR.
        output: The name of the output that a built-in metric looks at.
        has_labels: Whether there are labels.

    Raises:
        ConfigError: If no metric has that name, the function cannot be imported, or labels are needed and missing.
    """
    if name is not None and not isinstance(name, str):
        raise ConfigError(
            f"a metric is given by its name, such as 'sqnr' or 'module:function', but not as a {type(name).__name__}"
        )
    name = name or ("accuracy" if has_labels else "sqnr")
    if (at := _POSITION.fullmatch(name)) is not None:
        metric = metric_of(at["metric"], output, has_labels=has_labels)
        return replace(metric, name=name, position=-1 if at["position"] == "last" else int(at["position"]))
    if (top := _TOP.fullmatch(name)) is not None or name == "accuracy":
        if not has_labels:
            raise ConfigError(f"the metric '{name}' needs labels; name an array of the inputs with --labels")
        return Metric(name, "", "", output, partial(Top, 1 if top is None else int(top[1])))
    if (built_in := _OF_TWO_MODELS.get(name)) is not None:
        figure, unit = built_in
        return Metric(name, unit, "", output, figure)
    if (found := _FUNCTION.fullmatch(name)) is not None:
        function = _imported(name, *found.groups())
        return Metric(name, "", _digest(function), output, function=function)
    near = suggestion(name, _BUILT_IN, lists_all=False) or f"there are {', '.join(_BUILT_IN)}"
    raise ConfigError(f"there is no metric '{name}'; {near}, each also @last or @POSITION, or module:function")


def _imported(name: str, module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is installed, or lies in the current folder."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # not removed again: the function may import modules of the folder when it is called
    problem = f"the metric '{name}' cannot be imported"
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise MetricImportError(
            f"{problem}: {type(error).__name__}: {reason}", _remedy_of_import(module, folder, error)
        ) from error
    if not hasattr(loaded, function):
        there = [each for each, value in vars(loaded).items() if inspect.isfunction(value) and each[:1] != "_"]
        remedy = f"name one that it has: {listed(there, _MOST_NAMED)}" if there else "define it there"
        raise MetricImportError(f"{problem}: AttributeError: module '{module}' has no attribute '{function}'", remedy)
    found = getattr(loaded, function)
    if not callable(found):
        kind = type(found).__name__
        raise ConfigError(
            f"the metric '{name}' is of the type {kind}, and no function of outputs and labels; name a function"
        )
    return found  # type: ignore[no-any-return]  # `callable` was checked above


def _remedy_of_import(module: str, folder: str, error: BaseException) -> str:
    """The remedy of a failed import, for the message."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None:
        return f"correct what {module} does when it is imported"
    if f"{module}.".startswith(f"{missing}."):
        return f"put {missing}.py into the folder '{folder}', or install the package that has it"
    return f"install {missing}, which {module} imports"


def _digest(function: Callable[..., Any]) -> str:
    """A hash of the file that defines a function; empty if there is no such file."""
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def _numbers(outputs: Outputs, output: str, samples: Samples) -> NDArray[Any]:
    """An output; raises ConfigError if it holds NaN, which says whether the inputs do so, too."""
    found: NDArray[Any] = outputs[output]
    numbers = found if found.dtype.kind in "iubf" else found.astype(np.float64)  # NumPy cannot test types of ml_dtypes
    if numbers.dtype.kind == "f" and np.isnan(numbers).any():
        raise ConfigError(
            f"the output '{output}' has elements that are no numbers (NaN)"
            f"{samples.not_finite() or '; give other inputs'}"
        )
    return found
