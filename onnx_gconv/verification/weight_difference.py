"""Collects the differences between a rebuilt weight and its original, and the bounds that they have to keep."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import WeightStatistics, is_half_precision, narrowed_scale
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint

__all__ = ["WeightDifference"]

# The ends of the range of weights that devices can hold are uncertain by this factor, because the scale is rounded to
# float32.
_END_ROUNDINGS = 2.0**-21


class WeightDifference:
    """Collects the largest differences between two arrays in chunks, for each group of elements that share a scale.

    Args:
        conversion: How the original is mapped, with the scale of the targets.
        compute: The type in which conductances are computed.
        grid: The groups of elements that share a scale; None for one group.
        zero_point: What codes are measured from; None for 0.

    Attributes:
        largest: The largest |W| of the original, less its zero point.
        largest_errors: The largest error of each group, [groups]; with clipping, from the clipped original.
        max_error: The largest error from the original; NaN or infinite if an element is.
        max_ulp: The largest error in units in the last place, or of integers.
        clipped: Number of clipped elements; None without clipping.
        bit_identical: Whether all elements are equal bit for bit.
    """

    def __init__(
        self,
        conversion: WeightConversion,
        compute: np.dtype[Any],
        grid: ScaleGrid | None,
        zero_point: ZeroPoint | BlockZeroPoint | None,
    ) -> None:
        self._conversion = conversion
        self._compute = compute
        self._grid = grid
        self._zero_point = zero_point
        groups = 1 if grid is None else grid.count
        self._minimum, self._maximum = np.full(groups, np.inf), np.full(groups, -np.inf)
        self._first = 0
        self._squared_error = self._squared_weights = 0.0
        self.largest = 0.0
        self.largest_errors = np.zeros(groups)
        self.max_error = 0.0
        self.max_ulp = 0
        self.clipped: int | None = 0 if conversion.is_clipped else None
        self.bit_identical = True

    @property
    def max_abs(self) -> float:
        """max|W| of the original."""
        return max(float(self._maximum.max()), -float(self._minimum.min()))

    @property
    def sqnr_db(self) -> float | None:
        """Ratio of the power of the weights to that of the errors, in dB; None without errors, or beyond float64."""
        signal, noise = self._squared_weights, self._squared_error
        if not (0 < signal < math.inf and 0 < noise < math.inf):
            return None
        return 10 * (math.log10(signal) - math.log10(noise))

    def bounds(self) -> NDArray[np.float64]:
        """Return the converter's error bound for each group; 0 where the original is not finite.

        Without clipping on purpose, the bound is that of elements within the devices' range only: if the scale does not
        fit the original's range, the elements that are cut off must fail.
        """
        finite = np.isfinite(self._minimum) & np.isfinite(self._maximum)
        low, high = np.where(finite, self._minimum, 0.0), np.where(finite, self._maximum, 0.0)
        statistics = self._statistics(low, high)
        if not self._conversion.is_clipped and not self._has_own_scale(statistics):
            lowest, highest = self._conversion.converter.limits(self._conversion.scaling)
            ends = 1 + _END_ROUNDINGS
            statistics = self._statistics(
                np.maximum(low, np.broadcast_to(np.reshape(lowest, -1), low.shape) * ends),
                np.minimum(high, np.broadcast_to(np.reshape(highest, -1), high.shape) * ends),
            )
        bound = np.asarray(self._conversion.error_bound(statistics, self._compute), np.float64)
        return np.where(finite, np.broadcast_to(bound.reshape(-1), finite.shape), 0.0)

    def _statistics(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> WeightStatistics:
        if self._grid is None:
            return WeightStatistics(float(low[0]), float(high[0]), self._first)
        return WeightStatistics(low.reshape(self._grid.shape), high.reshape(self._grid.shape), self._first)

    def _has_own_scale(self, statistics: WeightStatistics) -> bool:
        """Whether the scale is the one that mapping chooses for the original weights.

        For conductances of half precision, that is the scale in float32, rounded down.
        """
        is_half = is_half_precision(self._compute)
        try:
            own = self._conversion.converter.scaling(statistics, np.dtype(np.float32) if is_half else self._compute)
        except UnmappableWeightError:
            return False
        scale = narrowed_scale(own.scale, self._compute) if is_half else own.scale
        return scale is not None and bool(np.all(np.asarray(scale) == np.asarray(self._conversion.scaling.scale)))

    def with_cast(self, bounds: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
        """Return the bounds after the Cast to the weight's type.

        The Cast rounds to the nearest number of that type. The original is such a number, so the Cast at most doubles
        the error. The value to which a weight is clipped need not be such a number.
        """
        doubled: NDArray[np.float64] = 2 * bounds
        if not self._conversion.is_clipped:
            return doubled
        finfo = ml_dtypes.finfo(dtype)
        largest = np.maximum(np.abs(self._minimum), np.abs(self._maximum)) + bounds
        rounding = float(finfo.eps) / 2 * largest + float(finfo.smallest_subnormal)
        return np.where(np.isfinite(rounding), np.maximum(doubled, bounds + rounding), doubled)

    def add(self, rebuilt: NDArray[Any], original: NDArray[Any]) -> None:
        """Add two chunks of the same length and type."""
        wide = original.astype(np.float64)
        start = self._first
        self._first += wide.size
        self._put(np.minimum, self._minimum, wide, start)
        self._put(np.maximum, self._maximum, wide, start)
        ours, theirs = _bits(rebuilt), _bits(original)
        less_zero = wide if self._zero_point is None else wide - self._zero_point.chunk(start, wide.size)
        self._squared_weights += _squared(less_zero)
        self.largest = max(self.largest, float(np.abs(less_zero).max(initial=0.0)))
        if np.array_equal(ours, theirs):
            return
        self.bit_identical = False
        distance = np.abs(rebuilt.astype(np.float64) - wide)
        self._squared_error += _squared(distance)
        largest = float(distance.max())
        self.max_error = largest if math.isnan(largest) else max(self.max_error, largest)
        is_integer = ir.DataType.from_numpy(original.dtype).is_integer()
        self.max_ulp = max(self.max_ulp, int(largest if is_integer else _distance(ours, theirs).max()))
        if self._conversion.is_clipped:
            distance = self._distance_from_held(rebuilt.astype(np.float64), wide, start)
        self._put(np.maximum, self.largest_errors, distance, start)

    def add_equal(self, lowest: float, highest: float, count: int) -> None:
        """Add elements that share a scale and are equal in both arrays, bit for bit.

        Args:
            lowest: The lowest element.
            highest: The highest element.
            count: Number of elements.
        """
        self._minimum[0], self._maximum[0] = min(self._minimum[0], lowest), max(self._maximum[0], highest)
        self._first += count

    def _put(self, ufunc: np.ufunc, extremes: NDArray[np.float64], numbers: NDArray[np.float64], start: int) -> None:
        """Extend the extremes of groups by the elements from `start` on."""
        if self._grid is None:
            extremes[0] = ufunc(extremes[0], ufunc.reduce(numbers))
            return
        reduced, groups = self._grid.reduced(ufunc, numbers, start)
        ufunc.at(extremes, groups, reduced)

    def _distance_from_held(
        self, rebuilt: NDArray[np.float64], wide: NDArray[np.float64], start: int
    ) -> NDArray[np.float64]:
        """Return the distance of rebuilt elements from the original ones, which are clipped to the devices' range."""
        scaling = self._conversion.scaling_at(start, start + wide.size, np.dtype(np.float64))
        low, high = self._conversion.converter.limits(scaling)
        held = np.clip(wide, low, high)
        beyond = np.abs(wide - held)
        self.clipped = (self.clipped or 0) + int(np.count_nonzero(beyond > _END_ROUNDINGS * np.abs(held)))
        return np.abs(rebuilt - held)


def _squared(array: NDArray[np.float64]) -> float:
    """Return the sum of squares; infinite or NaN if it overflows or is undefined."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(array, array))


def _bits(array: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _distance(a: NDArray[np.unsignedinteger[Any]], b: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """Return how many representable numbers two floats are apart, from their bits; +0 and -0 are one number."""
    sign = a.dtype.type(1 << (8 * a.dtype.itemsize - 1))

    def ordered(bits: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
        magnitude = bits & ~sign
        return np.asarray(np.where(bits & sign, sign - magnitude, sign + magnitude))

    first, second = ordered(a), ordered(b)
    distance: NDArray[Any] = np.maximum(first, second) - np.minimum(first, second)
    return distance
