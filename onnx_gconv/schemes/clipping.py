"""Clipping: which |W| the largest conductance stands for: the largest, a percentile, or a given value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, plain
from onnx_gconv.converters.weight_statistics import WeightStatistics
from onnx_gconv.errors import ConfigError, UnmappableWeightError

__all__ = ["Clipping", "GroupedChunks", "abs_percentiles"]

GroupedChunks: TypeAlias = Iterable[tuple[FloatArray, NDArray[np.intp] | None]]
"""Chunks of elements, [n], with the flat number of the group of each element, [n]; None if there is one group."""

_WHOLE = 100.0

_LEAST_BITS = 8  # each pass finds at least so many bits of each percentile

# At most so many counters are in memory at once: 32 MiB.
_MOST_COUNTERS = 1 << 22


@dataclass(frozen=True)
class Clipping:
    """The |W| that the largest conductance stands for; weights beyond it are clipped.

    If neither a percentile nor a value is given, it is max|W|, and nothing is clipped.

    Attributes:
        percentile: Clip at this percentile of |W|, above 0 and at most 100; None for no percentile.
        value: Clip at this |W|, in units of weight; None for no value.

    Raises:
        ConfigError: If both are given, the percentile is not above 0 and at most 100, or the value is not positive and
            finite.
    """

    percentile: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        if self.percentile is not None and self.value is not None:
            raise ConfigError(
                f"clipping is at a percentile or at a value, but both are given: {self.percentile} and {self.value}"
            )
        if self.percentile is not None and not 0 < self.percentile <= _WHOLE:
            raise ConfigError(f"the percentile of clipping is above 0 and at most 100, but it is {self.percentile}")
        if self.value is not None and not (math.isfinite(self.value) and self.value > 0):
            raise ConfigError(f"the value of clipping is positive and finite, but it is {self.value}")

    @property
    def is_at_maximum(self) -> bool:
        """Whether the largest conductance stands for max|W|, so that nothing is clipped."""
        return self.percentile is None and self.value is None

    def clipped(self, statistics: WeightStatistics, percentiles: FloatOrArray | None = None) -> WeightStatistics:
        """The range of weights that the conductance range has to hold.

        Args:
            statistics: Statistics of the weight, or of each group of its elements that share a scale.
            percentiles: The percentile of |W|, for each group if there are groups; None unless clipping is at a
                percentile.

        Returns:
            Statistics with the clipped minimum and maximum. For a percentile c, the part of the weight's range that is
            within -c to c; for a value v, the range -v to v.

        Raises:
            UnmappableWeightError: If a percentile is 0 although its group has other weights than 0.
        """
        if self.value is not None:
            end = np.full_like(np.asarray(statistics.maximum, np.float64), self.value)
            return WeightStatistics(minimum=plain(-end), maximum=plain(end), count=statistics.count)
        if self.percentile is None or percentiles is None:
            return statistics
        if np.any((np.asarray(percentiles) == 0) & (np.asarray(statistics.max_abs) > 0)):
            raise UnmappableWeightError(
                f"has so many zeros that the percentile {self.percentile:g} of |W| is 0, which would clip all other "
                "weights to 0; choose a higher percentile, or clip at a value"
            )
        return WeightStatistics(
            minimum=plain(np.maximum(statistics.minimum, -np.asarray(percentiles))),
            maximum=plain(np.minimum(statistics.maximum, percentiles)),
            count=statistics.count,
        )


def abs_percentiles(
    chunks: Callable[[], GroupedChunks], size: int, groups: int, percentile: float, dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Compute a percentile of |W| exactly, in memory that does not grow with the weight.

    It is the smallest |W| in a group such that at least this percentage of the group's elements are not above it: the
    method ``inverted_cdf`` of ``numpy.percentile``.

    The bit patterns of non-negative floats, read as integers, have the order of the floats. So the percentile of each
    group is found bit by bit, from the highest bits on: each pass over the weight looks at the elements that share the
    bits found so far, and counts the values of their next bits.

    Args:
        chunks: Yields the whole weight each time it is called; elements are of type `dtype` and finite.
        size: Number of elements of the weight. For small weights, more passes with fewer counters are faster.
        groups: Number of groups; each must have an element.
        percentile: A percentage above 0 and at most 100.
        dtype: float32 or float64.

    Returns:
        The percentile of each group, [groups].
    """
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"u{dtype.itemsize}")
    counters = min(max(size, groups << _LEAST_BITS), _MOST_COUNTERS)
    width = max((counters // groups).bit_length() - 1, 1)
    prefixes = np.zeros(groups, np.uint64)
    ranks: NDArray[np.int64] | None = None
    known = 1  # the sign, which is 0
    while known < bits:
        taken = min(width, bits - known)
        counts = np.zeros((groups, 1 << taken), np.int64)
        for elements, numbers in chunks():
            patterns = np.abs(elements).view(unsigned)
            digits, found = _next_bits(patterns, numbers, prefixes, unknown=bits - known, taken=taken)
            _count(counts, digits, found)
        if ranks is None:
            sizes = counts.sum(axis=1)
            ranks = np.clip(np.ceil(sizes * (percentile / _WHOLE)).astype(np.int64), 1, sizes)
        below = counts.cumsum(axis=1)
        digits = (below < ranks[:, None]).sum(axis=1)
        rows = np.arange(groups)
        ranks = ranks - np.where(digits > 0, below[rows, np.maximum(digits - 1, 0)], 0)
        prefixes = (prefixes << np.uint64(taken)) | digits.astype(np.uint64)
        known += taken
    return prefixes.astype(unsigned).view(dtype).astype(np.float64)


def _next_bits(
    patterns: NDArray[Any],
    numbers: NDArray[np.intp] | None,
    prefixes: NDArray[np.uint64],
    *,
    unknown: int,
    taken: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
    """The next bits of the elements whose higher bits equal the prefix of their group.

    Args:
        patterns: Bit patterns of the elements, unsigned integers.
        numbers: The group of each element; None if there is one group.
        prefixes: For each group, the bits of its percentile that are known.
        unknown: How many bits are not known yet.
        taken: How many of these bits to return, the highest ones.

    Returns:
        The next bits of these elements as integers, and the groups of these elements.
    """
    kind = patterns.dtype.type
    expected = prefixes.astype(patterns.dtype)
    matches = patterns >> kind(unknown) == (expected[0] if numbers is None else expected[numbers])
    digits = (patterns[matches] >> kind(unknown - taken)) & kind((1 << taken) - 1)
    return digits.astype(np.intp), None if numbers is None else numbers[matches]


def _count(counts: NDArray[np.int64], digits: NDArray[np.intp], numbers: NDArray[np.intp] | None) -> None:
    places = digits if numbers is None else digits + numbers * counts.shape[1]
    flat = counts.reshape(-1)
    if places.size < flat.size:  # np.bincount would allocate a new array of all counters
        np.add.at(flat, places, 1)
    else:
        flat += np.bincount(places, minlength=flat.size)
