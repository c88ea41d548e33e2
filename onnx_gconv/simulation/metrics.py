"""How good the outputs of a chip are: beside labels, or beside the outputs of the ideal model."""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError

__all__ = ["Metric", "Outputs", "chosen_output", "metric_of"]

Outputs: TypeAlias = Mapping[str, Any]
"""Outputs of a model by name, for all samples."""

_TOP = re.compile(r"top([1-9][0-9]*)")
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_OF_TWO_MODELS = {"sqnr", "cosine", "agreement"}
_BUILT_IN = "accuracy, topK, sqnr, cosine, agreement, or module:function"


@dataclass(frozen=True)
class Metric:
    """A figure of the outputs of a model.

    Attributes:
        name: As it was asked for.
        unit: ``dB``, or nothing for shares and numbers of any kind.
        digest: What tells a function of the user's from another one of its name; empty for the built-in metrics.
        compute: Gives it from the outputs, the labels and the outputs of the ideal model.
    """

    name: str
    unit: str
    digest: str
    compute: Callable[[Outputs, NDArray[Any] | None, Outputs], float]

    @property
    def is_of_two_models(self) -> bool:
        """Whether it compares outputs with those of another model, so that it says nothing of one model alone."""
        return self.name in _OF_TWO_MODELS

    @property
    def is_larger_better(self) -> bool:
        """Whether the larger one of two figures is the better one, which nobody knows of a user's function."""
        return _FUNCTION.fullmatch(self.name) is None

    def of(self, outputs: Outputs, labels: NDArray[Any] | None, ideal: Outputs) -> float:
        """The figure.

        Raises:
            ConfigError: If the metric fails, gives no number, or the outputs do not suit it.
        """
        try:
            found = float(self.compute(outputs, labels, ideal))
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the metric '{self.name}' fails: {type(error).__name__}: {reason}") from error
        if math.isnan(found):
            raise ConfigError(f"the metric '{self.name}' gives no number (NaN) for the output of a chip")
        return found


def chosen_output(output: str | None, outputs: Outputs) -> str:
    """The name of an output that is an array of numbers.

    Args:
        output: The one that is asked for; the first one of floats if None.
        outputs: All outputs of the model.

    Raises:
        ConfigError: If there is none of that name, or it is something else.
    """
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


def metric_of(name: str | None, output: str, *, has_labels: bool) -> Metric:
    """The metric of a name.

    Args:
        name: ``accuracy``, ``topK`` such as ``top5``, ``sqnr``, ``cosine``, ``agreement``, or ``module:function``; if
            None, the accuracy where there are labels, else the SQNR.
        output: The output that it is about.
        has_labels: Whether there are labels.

    Raises:
        ConfigError: If there is none of that name, it cannot be imported, or it needs labels and there are none.
    """
    name = name or ("accuracy" if has_labels else "sqnr")
    if (top := _TOP.fullmatch(name)) is not None or name == "accuracy":
        if not has_labels:
            raise ConfigError(f"the metric '{name}' needs labels; name an array of the inputs with --labels")
        count = 1 if top is None else int(top[1])
        return Metric(name, "", "", lambda outputs, labels, _: _top(_numbers(outputs, output), labels, count))
    of_ideal = {"sqnr": (_sqnr, "dB"), "cosine": (_cosine, ""), "agreement": (_agreement, "")}
    if name in of_ideal:
        figure, unit = of_ideal[name]
        return Metric(name, unit, "", lambda outputs, _, ideal: figure(_numbers(outputs, output), ideal[output]))
    if (found := _FUNCTION.fullmatch(name)) is not None:
        function = _imported(name, *found.groups())
        return Metric(name, "", _digest(function), lambda outputs, labels, _: function(outputs, labels))
    raise ConfigError(f"there is no metric '{name}'; there are {_BUILT_IN}")


def _imported(name: str, module: str, function: str) -> Callable[..., Any]:
    """A function of a module that is installed, or lies in the present folder."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # and it stays: the function may import its neighbours later
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the metric '{name}' cannot be imported: {type(error).__name__}: {reason}") from error
    if not callable(found):
        raise ConfigError(f"the metric '{name}' is a {type(found).__name__}, no function of outputs and labels")
    return found  # type: ignore[no-any-return]  # it is checked to be callable


def _digest(function: Callable[..., Any]) -> str:
    """The file of a function, hashed."""
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def _numbers(outputs: Outputs, output: str) -> NDArray[Any]:
    """An output in which there is a number everywhere."""
    found: NDArray[Any] = outputs[output]
    if found.dtype.kind not in "iub" and np.isnan(found.astype(np.float64)).any():
        raise ConfigError(f"the output '{output}' has elements that are no numbers (NaN); give other inputs")
    return found


def _top(found: NDArray[Any], labels: NDArray[Any] | None, count: int) -> float:
    """The share of labels among the `count` largest scores of the last axis."""
    assert labels is not None  # noqa: S101 - `metric_of` asks for them
    scores = found.reshape(-1, found.shape[-1]) if found.ndim > 1 else found[None]
    flat = labels.reshape(-1)
    if len(scores) != flat.size:
        raise ConfigError(
            f"there are {flat.size} labels for outputs of the shape {list(found.shape)}; there has to be one for each "
            "row of scores"
        )
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < scores.shape[1]:
        wrong = int(flat.max()) if flat.max() >= scores.shape[1] else int(flat.min())
        raise ConfigError(f"a label is {wrong}, but there are scores of the classes 0 to {scores.shape[1] - 1}")
    if count == 1:
        return float((scores.argmax(axis=1) == flat).mean())
    # As many are better as the rank of the right class; of equal ones the first counts, as for argmax.
    right = scores[np.arange(flat.size), flat]
    better = (scores > right[:, None]).sum(axis=1)
    earlier = ((scores == right[:, None]) & (np.arange(scores.shape[1]) < flat[:, None])).sum(axis=1)
    return float((better + earlier < count).mean())


def _sqnr(found: NDArray[Any], ideal: NDArray[Any]) -> float:
    """The power of the ideal outputs beside that of the distance from them, in dB; infinite if there is none."""
    one, other = found.astype(np.float64), ideal.astype(np.float64)
    noise = float(np.square(one - other).sum())
    signal = float(np.square(other).sum())
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _cosine(found: NDArray[Any], ideal: NDArray[Any]) -> float:
    """The mean cosine similarity of the vectors of the last axis; 1 for two that are 0, and 0 where only one is."""
    if not found.ndim or found.shape[-1] < 2:  # noqa: PLR2004 - the angle between two numbers says nothing
        raise ConfigError(
            f"the cosine needs vectors along the last axis, but the output has the shape {list(found.shape)}; take "
            "another metric, or another output"
        )
    one, other = (each.astype(np.float64).reshape(-1, each.shape[-1] if each.ndim else 1) for each in (found, ideal))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_zero = ~one.any(axis=1) & ~other.any(axis=1)
    cosines = np.where(norms > 0, (one * other).sum(axis=1) / np.where(norms > 0, norms, 1), both_zero)
    return float(cosines.mean())


def _agreement(found: NDArray[Any], ideal: NDArray[Any]) -> float:
    """How often the largest element of the last axis is the same one."""
    if not found.ndim or found.shape[-1] < 2:  # noqa: PLR2004 - one number is always the largest
        raise ConfigError(
            f"agreement needs scores along the last axis, but the output has the shape {list(found.shape)}; take "
            "another metric, or another output"
        )
    return float((found.argmax(axis=-1) == ideal.argmax(axis=-1)).mean())
