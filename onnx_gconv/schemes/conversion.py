"""The conversion of one weight to conductances, and measures of what the weight loses by it."""

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

# Rounding of the scale moves the ends of the range of weights by up to this many times the machine epsilon.
_END_ROUNDINGS = 4


@dataclass(frozen=True, eq=False)
class WeightConversion:
    """How the elements of one weight become conductances.

    Attributes:
        converter: The converter.
        scaling: Scale and zero: numbers, or arrays of the shape of `grid`.
        grid: Which elements share a scale; None if all do.
        is_clipped: Whether weights are clipped to the limits of the devices first; False if none are beyond them.
        levels: The levels to which conductances are rounded; None for no rounding.
        has_integers_on_levels: Whether the weights are integers whose conductances are levels apart from roundings.
    """

    converter: ConductanceConverter
    scaling: Scaling
    grid: ScaleGrid | None = None
    is_clipped: bool = False
    levels: ConductanceLevels | None = None
    has_integers_on_levels: bool = False

    @property
    def decoding(self) -> Decoding:
        """The formula that rebuilds the weight from the conductances."""
        return self.converter.decoding(self.scaling)

    @property
    def is_lossy(self) -> bool:
        """Whether rebuilt weights differ by design (clipping, levels), not only by floating-point roundings."""
        return self.is_clipped or self.levels is not None or self.converter.natural_levels is not None

    @property
    def _is_on_levels(self) -> bool:
        """Whether the converter's own conductances are the levels."""
        levels = self.levels
        return levels is not None and levels.is_uniform and levels.count == self.converter.natural_levels

    def convert(self, weights: FloatArray, start: int, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`.

        Args:
            weights: A stretch of the flattened weight, float32 or float64, one axis.
            start: Flat index of its first element in the weight.
            out: For each device an array of the same shape and type; none may overlap `weights`.
        """
        scaling = self.scaling_at(start, start + weights.size, weights.dtype)
        if self.is_clipped:
            weights = self.clipped(weights, scaling)
        self.converter.convert_chunk(weights, scaling, out)
        if self.levels is not None:
            for conductances in out:
                self.levels.round_chunk(conductances, conductances)

    def overflow(
        self, statistics: WeightStatistics, dtype: np.dtype[Any], cast_to: np.dtype[Any] | None = None
    ) -> str | None:
        """Why the largest weights might be rebuilt as infinity; None if they are not.

        Rounding makes a rebuilt weight up to about 1e-7 (relative) larger than the weight, and few levels of
        conductance make it larger by up to half a level, which only the largest numbers of a type cannot bear. Rounding
        keeps the order of numbers, so it is enough to check the smallest and the largest weight of each group.

        Args:
            statistics: Statistics of the weight, or of each group of elements that share a scale.
            dtype: The type in which the weight is rebuilt.
            cast_to: The type to which the rebuilt weight is cast; None if it is not.
        """
        computed = np.dtype(np.float32) if is_half_precision(dtype) else dtype
        result = dtype if cast_to is None else cast_to
        for ends in (statistics.minimum, statistics.maximum):
            weights = np.asarray(ends, computed).reshape(-1)
            if np.abs(weights).max() < float(ml_dtypes.finfo(result).max) / 2:
                continue
            scale, zero = (
                values.reshape(-1) if isinstance(values, np.ndarray) else values
                for values in (self.scaling.scale, self.scaling.zero)
            )
            of_ends = replace(self, scaling=Scaling(scale, zero), grid=None)
            conductances: list[FloatArray] = [np.empty_like(weights) for _ in self.converter.device_names]
            with np.errstate(over="ignore", invalid="ignore"):
                of_ends.convert(weights, 0, conductances)
                rebuilt = of_ends.decoding.decode([each.astype(dtype) for each in conductances], dtype).astype(result)
            if not (np.isfinite(rebuilt).all() and np.isfinite(self.error_bound(statistics, dtype)).all()):
                return f"has values up to {np.abs(weights).max():g}, which may overflow when rebuilt in {result.name}"
        return None

    def clipped(self, weights: FloatArray, scaling: Scaling) -> FloatArray:
        """Clip weights to the limits of the devices.

        Args:
            weights: A stretch of the weight, float32 or float64.
            scaling: The scaling of these elements.
        """
        low, high = self.converter.limits(scaling)
        number = weights.dtype.type
        return np.clip(weights, number(low), number(high))

    def loss(self, weights: FloatArray, start: int, *, rounded: bool) -> ConversionLoss:
        """What a stretch of the weight loses when it is converted and rebuilt.

        Args:
            weights: A stretch of the flattened weight, float32 or float64, one axis.
            start: Flat index of its first element in the weight.
            rounded: Whether the weight consists of integers, so that rebuilt weights are rounded to integers.
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
            # The limits are rounded, so a weight that exceeds one only by rounding does not count as clipped.
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

        Rounding to levels moves each conductance by up to half a gap. Not moved are the device of a pair that is at
        g_min, because g_min is a level, and conductances that already are levels.

        Args:
            statistics: Statistics of the weight, or of each group of elements that share a scale.
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
            if self.has_integers_on_levels:  # these conductances have rounding errors, but do not move by half a gap
                moved_us -= self.levels.largest_gap_us / 2
            bound = bound + moving * moved_us / self.scaling.scale + roundings
        if self.is_clipped:  # the limits are rounded
            bound = bound + _END_ROUNDINGS * float(ml_dtypes.finfo(dtype).eps) * np.asarray(statistics.max_abs)
        return bound

    def scaling_at(self, start: int, stop: int, dtype: np.dtype[Any]) -> Scaling:
        """Scale and zero of the elements from `start` to `stop`: arrays of type `dtype`, or numbers without groups."""
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
        clipped: How many elements are beyond the limits of the devices.
        max_clipping_error: The largest distance of an element beyond a limit, in units of weight.
        max_rounding_error: The largest ``|rebuilt - clipped W|``, in units of weight.
        rms_error: Root mean square of ``rebuilt - W``, in units of weight.
        rms_weight: Root mean square of ``W``, in units of weight.
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
        """Signal-to-quantization-noise ratio in dB, ``20 log10(rms_weight / rms_error)``; None if one of both is 0."""
        if not (self.rms_error > 0 and self.rms_weight > 0):
            return None
        return 20 * (math.log10(self.rms_weight) - math.log10(self.rms_error))

    def __or__(self, other: ConversionLoss) -> ConversionLoss:
        """Join the losses of two parts of a weight.

        Root mean squares are joined, not sums of squares, which would overflow float64 for large weights.
        """
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
    """The root mean square of numbers of any magnitude.

    Numbers are divided by the largest before they are squared, to avoid overflow. `numpy.einsum` is used because BLAS
    splits a sum by the number of cores, so that the last digits would depend on the machine.
    """
    largest = max(float(numbers.max()), -float(numbers.min()))
    if not largest:
        return 0.0
    wide = numbers.astype(np.float64)
    wide /= largest
    return largest * math.sqrt(float(np.einsum("i,i", wide, wide)) / wide.size)
