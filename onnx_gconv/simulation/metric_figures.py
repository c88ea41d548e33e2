"""Built-in metrics of outputs that come batch by batch. They equal those of all samples at once, bit for bit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError
from onnx_gconv.terminal_text import counted

__all__ = ["Agreement", "Cosine", "LabelsError", "MetricFigure", "PairwiseSum", "Sqnr", "Top"]

_LEAF = 1 << 16  # elements


class LabelsError(ConfigError):
    """Labels do not suit an output. The message goes on after the name of their array."""


class PairwiseSum:
    """The sum of numbers that come piece by piece, rounded exactly as `numpy.sum` rounds the sum of all.

    NumPy splits an array into two halves, of which the first has a multiple of eight numbers, sums each half in the
    same way, and adds both sums. The count alone therefore gives the place of each number in this binary tree of sums.
    Only the numbers of one leaf, and a sum for each level of the tree, are held in memory.

    Args:
        count: How many numbers there will be in all.
    """

    def __init__(self, count: int) -> None:
        self._left: list[int | None] = [count]  # stack: how many numbers the next sum has; None: add the last two sums
        self._sums: list[float] = []
        self._pieces: list[NDArray[np.float64]] = []
        self._there = 0

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Add the next numbers, an array of any shape."""
        self._pieces.append(numbers.reshape(-1))
        self._there += numbers.size
        while self._left:
            count = self._left.pop()
            if count is None:
                second = self._sums.pop()
                self._sums.append(self._sums.pop() + second)
            elif count <= self._there:
                self._sums.append(float(self._taken(count).sum()))
            elif count <= _LEAF:
                self._left.append(count)
                return
            else:
                half = count // 2
                half -= half % 8
                self._left += [None, count - half, half]

    def _taken(self, count: int) -> NDArray[np.float64]:
        numbers = self._pieces[0] if len(self._pieces) == 1 else np.concatenate(self._pieces)
        self._pieces = [numbers[count:]]
        self._there -= count
        return numbers[:count]

    def value(self) -> float:
        """The sum, after all numbers were added."""
        [found] = self._sums
        return found


class MetricFigure(ABC):
    """A built-in metric of one output, which comes batch by batch.

    Args:
        shape: The shape of the output for all samples.
        labels: The labels of all samples; None if there are none.
    """

    def __init__(self, shape: tuple[int, ...], labels: NDArray[Any] | None) -> None:
        self.shape = shape
        self.rows: int = math.prod(shape[:-1])
        self.check(labels)

    def check(self, labels: NDArray[Any] | None) -> None:  # noqa: B027 - most metrics take any shape
        """Raise ConfigError if the labels or the shape of the output do not suit the metric."""

    @abstractmethod
    def add(self, found: NDArray[Any], labels: NDArray[Any] | None, ideal: Callable[[], NDArray[Any]]) -> None:
        """Add a batch.

        Args:
            found: The output of a chip for this batch.
            labels: The labels of this batch; None if there are none.
            ideal: Returns the output of the ideal model for this batch. It may be read from a file, so metrics that do
                not need it do not call this.
        """

    @abstractmethod
    def value(self) -> float:
        """The metric, after all batches were added."""


class Top(MetricFigure):
    """The share of samples whose label is among the `count` largest scores along the last axis."""

    def __init__(self, count: int, shape: tuple[int, ...], labels: NDArray[Any] | None) -> None:
        self._count = count
        super().__init__(shape, labels)
        self._right = 0

    def check(self, labels: NDArray[Any] | None) -> None:
        """Raise ConfigError if the labels or the shape of the output do not suit the metric."""
        if not self.shape:
            raise _no_scores("accuracy", self.shape)
        if self._count > self.shape[-1]:
            raise ConfigError(
                f"top{self._count} is about {self._count} scores, but there are {self.shape[-1]} classes; take a "
                "smaller number"
            )
        assert labels is not None  # noqa: S101 - `metric_of` asks for them
        if labels.dtype.kind not in "iu":
            raise LabelsError(
                f"they are {labels.dtype}, but classes are integers; give such, or a metric of your own "
                "(module:function)"
            )
        if self.rows != labels.size or not _fit(labels.shape, self.shape[:-1]):
            form = f" of the shape {list(labels.shape)}" if labels.ndim > 1 else ""
            raise LabelsError(
                f"there are {labels.size} labels{form} for outputs of the shape {list(self.shape)}; there has to be "
                "one for each row of scores, which are along the last axis"
            )
        classes = self.shape[-1]
        wrong = np.argwhere((labels < 0) | (labels >= classes))
        if len(wrong):
            first = tuple(map(int, wrong[0]))
            more = f" (and {counted(len(wrong) - 1, 'more label')} of no class)" if len(wrong) > 1 else ""
            raise LabelsError(
                f"the label at {list(first)} is {labels[first]}{more}, but the scores are of the classes 0 to "
                f"{classes - 1}; give classes of this output, counted from 0, or choose another one with --output-name"
            )

    def add(self, found: NDArray[Any], labels: NDArray[Any] | None, ideal: Callable[[], NDArray[Any]]) -> None:
        """Add a batch."""
        del ideal
        assert labels is not None  # noqa: S101 - `metric_of` asks for them
        scores, flat = found.reshape(-1, found.shape[-1]), labels.reshape(-1)
        if self._count == 1:
            self._right += int((scores.argmax(axis=1) == flat).sum())
            return
        # The rank of the right class is the number of better scores; of equal scores the first one wins, as in argmax.
        right = scores[np.arange(flat.size), flat]
        better = (scores > right[:, None]).sum(axis=1)
        earlier = ((scores == right[:, None]) & (np.arange(scores.shape[1]) < flat[:, None])).sum(axis=1)
        self._right += int((better + earlier < self._count).sum())

    def value(self) -> float:
        """The metric, after all batches were added."""
        return self._right / self.rows if self.rows else math.nan


class Sqnr(MetricFigure):
    """The SQNR in dB: the power of the ideal outputs over the power of the errors; infinite without any error."""

    def __init__(self, shape: tuple[int, ...], labels: NDArray[Any] | None) -> None:
        super().__init__(shape, labels)
        size = math.prod(shape)
        self._noise, self._signal = PairwiseSum(size), PairwiseSum(size)

    def add(self, found: NDArray[Any], labels: NDArray[Any] | None, ideal: Callable[[], NDArray[Any]]) -> None:
        """Add a batch."""
        del labels
        other = _of_same_shape(ideal(), found).astype(np.float64)
        self._noise.add(np.square(found.astype(np.float64) - other))
        self._signal.add(np.square(other))

    def value(self) -> float:
        """The metric, after all batches were added."""
        if 0 in self.shape:
            raise ConfigError(f"the output has the shape {list(self.shape)}, without any element; choose another one")
        noise, signal = self._noise.value(), self._signal.value()
        if not noise:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf


class Cosine(MetricFigure):
    """The mean cosine similarity of vectors along the last axis: 1 if both vectors are 0, and 0 if only one is."""

    def __init__(self, shape: tuple[int, ...], labels: NDArray[Any] | None) -> None:
        super().__init__(shape, labels)
        self._sum = PairwiseSum(self.rows)

    def check(self, labels: NDArray[Any] | None) -> None:
        """Raise ConfigError if the labels or the shape of the output do not suit the metric."""
        del labels
        if not self.shape or self.shape[-1] < 2:  # noqa: PLR2004 - the angle between two numbers says nothing
            raise ConfigError(
                f"the cosine needs vectors along the last axis, but the output has the shape {list(self.shape)}; take "
                "another metric, or another output"
            )

    def add(self, found: NDArray[Any], labels: NDArray[Any] | None, ideal: Callable[[], NDArray[Any]]) -> None:
        """Add a batch."""
        del labels
        both = found, _of_same_shape(ideal(), found)
        one, other = (each.astype(np.float64).reshape(-1, each.shape[-1]) for each in both)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        both_zero = ~one.any(axis=1) & ~other.any(axis=1)
        self._sum.add(np.where(norms > 0, (one * other).sum(axis=1) / np.where(norms > 0, norms, 1), both_zero))

    def value(self) -> float:
        """The metric, after all batches were added."""
        return self._sum.value() / self.rows if self.rows else math.nan


class Agreement(MetricFigure):
    """The share of rows whose largest element, along the last axis, is at the same place as in the ideal output."""

    def __init__(self, shape: tuple[int, ...], labels: NDArray[Any] | None) -> None:
        super().__init__(shape, labels)
        self._equal = 0

    def check(self, labels: NDArray[Any] | None) -> None:
        """Raise ConfigError if the labels or the shape of the output do not suit the metric."""
        del labels
        if not self.shape or self.shape[-1] < 2:  # noqa: PLR2004 - one number is always the largest
            raise _no_scores("agreement", self.shape)

    def add(self, found: NDArray[Any], labels: NDArray[Any] | None, ideal: Callable[[], NDArray[Any]]) -> None:
        """Add a batch."""
        del labels
        self._equal += int((found.argmax(axis=-1) == _of_same_shape(ideal(), found).argmax(axis=-1)).sum())

    def value(self) -> float:
        """The metric, after all batches were added."""
        return self._equal / self.rows if self.rows else math.nan


def _of_same_shape(ideal: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """The output of the ideal model; raises ConfigError if it has another shape than that of a chip.

    NumPy would compare each row of one with a single row of the other.
    """
    if ideal.shape != found.shape:
        raise ConfigError(
            f"the output has the shape {list(found.shape)} on a chip, but {list(ideal.shape)} in the ideal model; "
            "choose an output whose shape does not depend on weights, or a metric of your own (module:function)"
        )
    return ideal


def _no_scores(metric: str, shape: tuple[int, ...]) -> ConfigError:
    return ConfigError(
        f"{metric} needs scores along the last axis, but the output has the shape {list(shape)}; take another metric, "
        "or another output"
    )


def _fit(labels: tuple[int, ...], rows: tuple[int, ...]) -> bool:
    """Whether labels of a shape belong to rows of scores of a shape with as many elements.

    Axes of one element do not count, and either of both may be flat. Otherwise axes in another order would give each
    row the label of another one: an output may have the time before the batch, or classes along another axis than the
    last.
    """
    of_labels, of_rows = (tuple(size for size in shape if size != 1) for shape in (labels, rows))
    return of_labels == of_rows or len(of_labels) != len(of_rows)
