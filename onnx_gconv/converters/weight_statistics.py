"""Statistics of a whole weight, which are needed before it can be converted chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, plain
from onnx_gconv.errors import UnmappableWeightError

__all__ = ["WeightStatistics", "weight_statistics"]


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of a weight, collected in one scan.

    Attributes:
        minimum: Smallest element, exact in float64; or an array of any shape, one entry for each group of elements that
            share a scale.
        maximum: Largest element, in the same form.
        count: Number of elements in all groups together, at least 1.
    """

    minimum: FloatOrArray
    maximum: FloatOrArray
    count: int

    @property
    def max_abs(self) -> FloatOrArray:
        """max|W|, exact in float64; for each group if there are groups."""
        return plain(np.maximum(np.abs(self.minimum), np.abs(self.maximum)))

    def __or__(self, other: WeightStatistics) -> WeightStatistics:
        """The statistics of two parts of a weight together."""
        return WeightStatistics(
            minimum=plain(np.minimum(self.minimum, other.minimum)),
            maximum=plain(np.maximum(self.maximum, other.maximum)),
            count=self.count + other.count,
        )


def weight_statistics(chunks: Iterable[FloatArray], *, first_index: int = 0) -> WeightStatistics:
    """Scan a weight, or a part of it.

    Args:
        chunks: The elements in arrays of any shape, float32 or float64.
        first_index: Index of the first element in the flattened weight, for messages.

    Raises:
        UnmappableWeightError: If there is no element, or one is NaN or infinite; the message gives the value and the
            index in the flattened weight of the first such element.
    """
    minimum, maximum, count = math.inf, -math.inf, 0
    for chunk in chunks:
        if not chunk.size:
            continue
        low, high = _finite_ends(chunk, first_index + count)
        minimum, maximum, count = min(minimum, low), max(maximum, high), count + chunk.size
    if not count:
        raise UnmappableWeightError("has no elements")
    return WeightStatistics(minimum=minimum, maximum=maximum, count=count)


def _finite_ends(chunk: FloatArray, first_index: int) -> tuple[float, float]:
    """The smallest and the largest element of a chunk; an error if an element is not finite."""
    # min and max propagate NaN and infinities, so checking for finite elements needs no further scan.
    low, high = float(chunk.min()), float(chunk.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        flat = chunk.reshape(-1)
        first = int(np.flatnonzero(~np.isfinite(flat))[0])
        raise UnmappableWeightError(
            f"has the value {float(flat[first])} at flat index {first_index + first}; no conductance can hold it"
        )
    return low, high
