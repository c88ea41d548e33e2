"""The conversion of one weight to conductances, with everything known that it takes, and what it loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.converters import ConductanceConverter, Decoding, Scaling, WeightStatistics
from onnx_gconv.converters.compute_types import FloatArray, is_half_precision
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.scale_grid import ScaleGrid

__all__ = ["ConversionLoss", "WeightConversion"]

# Roundings of the scale move the ends of the range by up to this many times the machine epsilon.
_END_ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class WeightConversion:
    """How the elements of one weight become conductances.

    Attributes:
        converter: The rule.
        scaling: Scale and zero: numbers, or arrays of the shape of `grid`.
        grid: Which elements share a scale; None if all do.
        is_clipped: Whether weights beyond what the devices can hold are clipped first; else there are none.
        levels: The levels that conductances are rounded to; None for none.
        has_integers_on_levels: Whether weights are integers whose conductances are levels, but for roundings.
    """

    converter: ConductanceConverter
    scaling: Scaling
    grid: ScaleGrid | None = None
    is_clipped: bool = False
    levels: ConductanceLevels | None = None
    has_integers_on_levels: bool = False

    @property
    def decoding(self) -> Decoding:
        """How the conductances become the weight again."""
        return self.converter.decoding(self.scaling)

    @property
    def is_lossy(self) -> bool:
        """Whether weights come back with more than the roundings of floating-point numbers, on purpose."""
        return self.is_clipped or self.levels is not None or self.converter.natural_levels is not None

    @property
    def _is_on_levels(self) -> bool:
        """Whether the converter's own conductances are the levels."""
        levels = self.levels
        return levels is not None and levels.is_uniform and levels.count == self.converter.natural_levels

    def convert(self, weights: FloatArray, start: int, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`.

        Args:
            weights: A stretch of the weight, of type float32 or float64, one axis.
            start: Index of its first element.
            out: For each device an array of the same shape and type; none may overlap `weights`.
        """
        scaling = self.scaling_at(start, start + weights.size, weights.dtype)
        if self.is_clipped:
            weights = self.clipped(weights, scaling)
        self.converter.convert_chunk(weights, scaling, out)
        if self.levels is not None:
            for conductances in out:
                self.levels.round_chunk(conductances, conductances)

    def overflow(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> str | None:
        """Why the largest weights might be rebuilt as infinity, or None.

        Roundings take a rebuilt weight up to some 1e-7 beyond the weight; only the largest numbers have no room for
        that. Each rounding keeps the order of numbers, so that the two ends of a group tell of all between them.

        Args:
            statistics: Those of the weight, or of each group of elements that share a scale.
            dtype: Type in which the weight is rebuilt.
        """
        computed = np.dtype(np.float32) if is_half_precision(dtype) else dtype
        for ends in (statistics.minimum, statistics.maximum):
            weights = np.asarray(ends, computed).reshape(-1)
            if np.abs(weights).max() < float(ml_dtypes.finfo(dtype).max) / 2:
                continue
            scale, zero = (
                values.reshape(-1) if isinstance(values, np.ndarray) else values
                for values in (self.scaling.scale, self.scaling.zero)
            )
            of_ends = replace(self, scaling=Scaling(scale, zero), grid=None)
            conductances: list[FloatArray] = [np.empty_like(weights) for _ in self.converter.device_names]
            with np.errstate(over="ignore", invalid="ignore"):
                of_ends.convert(weights, 0, conductances)
                rebuilt = of_ends.decoding.decode([each.astype(dtype) for each in conductances], dtype)
            if not (np.isfinite(rebuilt).all() and np.isfinite(self.error_bound(statistics, dtype)).all()):
                return f"has values up to {np.abs(weights).max():g}, which may overflow when rebuilt in {dtype.name}"
        return None

    def clipped(self, weights: FloatArray, scaling: Scaling) -> FloatArray:
        """A stretch of the weight, cut to what the devices can hold.

        Args:
            weights: Float32 or float64.
            scaling: That of these elements.
        """
        low, high = self.converter.limits(scaling)
        number = weights.dtype.type
        return np.clip(weights, number(low), number(high))

    def loss(self, weights: FloatArray, start: int, *, rounded: bool) -> ConversionLoss:
        """What a stretch of the weight loses.

        Args:
            weights: Float32 or float64, one axis.
            start: Index of its first element.
            rounded: Whether it consists of integers, to which rebuilt ones are rounded.
        """
        scaling = self.scaling_at(start, start + weights.size, weights.dtype)
        conductances: list[FloatArray] = [np.empty_like(weights) for _ in self.converter.device_names]
        self.convert(weights, start, conductances)
        rebuilt = self.converter.decoding(scaling).decode(conductances, weights.dtype)
        if rounded:
            rebuilt = np.rint(rebuilt)
        held, clipped_away, count = weights, 0.0, 0
        if self.is_clipped:
            held = self.clipped(weights, scaling)
            beyond = np.abs(weights - held)
            # The ends of the range are rounded themselves; what lies on them is not clipped.
            is_clipped = beyond > _END_ROUNDINGS * np.finfo(weights.dtype).eps * np.abs(held)
            count = int(np.count_nonzero(is_clipped))
            clipped_away = float(beyond.max(initial=0.0, where=is_clipped))
        return ConversionLoss(
            clipped=count,
            max_clipping_error=clipped_away,
            max_rounding_error=float(np.abs(rebuilt - held).max(initial=0.0)),
            rms_error=_root_mean_square(rebuilt - weights),
            rms_weight=_root_mean_square(weights),
            count=weights.size,
        )

    def error_bound(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float | FloatArray:
        """Largest possible ``|rebuilt - W|``, in units of weight, for weights that the devices can hold.

        Rounding to levels moves each device by up to half a gap; of a pair, the one at g_min stays, which is a level.
        Conductances that are levels already stay, too.

        Args:
            statistics: Those of the weight, or of each group of elements that share a scale.
            dtype: Type of the conductances.

        Returns:
            A number, or an array of the shape of `grid`.
        """
        if self.is_clipped:
            low, high = self.converter.limits(self.scaling)
            statistics = WeightStatistics(
                minimum=np.clip(statistics.minimum, low, high),
                maximum=np.clip(statistics.maximum, low, high),
                count=statistics.count,
            )
        bound = self.converter.error_bound(statistics, self.scaling, dtype)
        if self.levels is not None and not self._is_on_levels:
            coefficients = np.abs(self.decoding.coefficients)
            paired = {device for pair in self.converter.pairs for device in pair}
            moving = sum(coefficients[one] for one, _ in self.converter.pairs)
            moving += sum(coefficient for number, coefficient in enumerate(coefficients) if number not in paired)
            roundings = 4 * float(ml_dtypes.finfo(dtype).eps) * np.asarray(statistics.max_abs)
            moved_us = self.levels.error_bound_us(dtype)
            if self.has_integers_on_levels:  # they stay on theirs, which is rounded, but not moved by half a gap
                moved_us -= self.levels.largest_gap_us / 2
            bound = bound + moving * moved_us / self.scaling.scale + roundings
        if self.is_clipped:  # the ends of the range are rounded
            bound = bound + _END_ROUNDINGS * float(ml_dtypes.finfo(dtype).eps) * np.asarray(statistics.max_abs)
        return bound

    def scaling_at(self, start: int, stop: int, dtype: np.dtype[Any]) -> Scaling:
        """Scale and zero of the elements from `start` to `stop`, as arrays of that type, or numbers."""
        if self.grid is None:
            return self.scaling
        scale, zero = (
            self.grid.entries(values, start, stop, dtype) for values in (self.scaling.scale, self.scaling.zero)
        )
        return Scaling(scale, zero)


@dataclass(frozen=True)
class ConversionLoss:
    """What a weight, or a part of it, loses when it is mapped and rebuilt.

    Attributes:
        clipped: How many elements are beyond what the devices can hold.
        max_clipping_error: The largest distance by which one is, in units of weight.
        max_rounding_error: The largest ``|rebuilt - W|``, with W cut to what the devices can hold.
        rms_error: The root of the mean of ``(rebuilt - W)^2``, in units of weight.
        rms_weight: The root of the mean of ``W^2``. Sums of squares would leave the range of float64 before W does.
        count: Number of elements.
    """

    clipped: int
    max_clipping_error: float
    max_rounding_error: float
    rms_error: float
    rms_weight: float
    count: int

    @property
    def sqnr_db(self) -> float | None:
        """Ratio of the power of the weights to that of the errors, in dB; None without errors or weights."""
        if not (self.rms_error > 0 and self.rms_weight > 0):
            return None
        return 20 * (math.log10(self.rms_weight) - math.log10(self.rms_error))

    def __or__(self, other: ConversionLoss) -> ConversionLoss:
        """The loss of two parts of a weight together."""
        count = self.count + other.count
        ours, theirs = math.sqrt(self.count / count), math.sqrt(other.count / count)
        return ConversionLoss(
            clipped=self.clipped + other.clipped,
            max_clipping_error=max(self.max_clipping_error, other.max_clipping_error),
            max_rounding_error=max(self.max_rounding_error, other.max_rounding_error),
            rms_error=math.hypot(ours * self.rms_error, theirs * other.rms_error),
            rms_weight=math.hypot(ours * self.rms_weight, theirs * other.rms_weight),
            count=count,
        )


def _root_mean_square(numbers: FloatArray) -> float:
    """Of numbers of any size: they are divided by the largest before they are squared.

    Not with BLAS, which splits a sum by the number of cores, so that its last digits depend on the machine.
    """
    largest = max(float(numbers.max()), -float(numbers.min()))
    if not largest:
        return 0.0
    wide = numbers.astype(np.float64)
    wide /= largest
    return largest * math.sqrt(float(np.einsum("i,i", wide, wide)) / wide.size)
