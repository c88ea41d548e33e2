"""The base class of converters that round a weight to an integer code and spread its bits over several devices."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.base_converter import BaseConductanceConverter
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand, plain
from onnx_gconv.converters.parameters import whole_number
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.converters.scaling import Scaling, pieces
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["BitSlicedConductanceConverter"]

_FEWEST_BITS, _MOST_BITS = 2, 16
_MOST_SLICE_BITS = 8


class BitSlicedConductanceConverter(BaseConductanceConverter):
    """Rounds a weight to an integer code; slices of the code's bits are the conductances of the devices.

    With ``L = 2^(bits-1) - 1``, the base ``B = 2^slice_bits``, and the step ``d = (g_max - g_min) / (B - 1)``::

        scale = (1 / max(max|W|, 1e-7)) * d * L
        code  = clip(round(W * scale / d), -L, L)    # ties away from zero

    A device holds a digit i of a code, from 0 to B - 1, as the conductance ``g_min + i * d``.

    Args:
        bits: Bits of a code, including its sign.
        slice_bits: Bits that a device holds.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If `bits` is not a whole number from 2 to 16, `slice_bits` is not a whole number
            from 1 to 8 or is above `bits`, or the range is negative, empty or not finite.
    """

    def __init__(
        self, bits: int = 8, slice_bits: int = 4, g_max: float | None = None, g_min: float | None = None
    ) -> None:
        super().__init__(g_max, g_min)
        self._bits = whole_number("bits", bits, _FEWEST_BITS, _MOST_BITS)
        self._slice_bits = whole_number("slice_bits", slice_bits, 1, min(_MOST_SLICE_BITS, self._bits))
        digits = np.arange(self._base)
        # Rounding must not lift the last level above g_max.
        self._levels_us = np.minimum(self._g_min + digits * (self._g_max - self._g_min) / (self._base - 1), self._g_max)

    @property
    def bits(self) -> int:
        """Bits of a code, including its sign."""
        return self._bits

    @property
    def slice_bits(self) -> int:
        """Bits that a device holds."""
        return self._slice_bits

    @property
    @abc.abstractmethod
    def slices(self) -> int:
        """Number of slices of a code."""

    @property
    @abc.abstractmethod
    def _highest_digits(self) -> list[int]:
        """The highest digit that each device holds; the last slice may have fewer bits than the others."""

    @property
    def natural_levels(self) -> int:
        """``2^slice_bits``: the number of uniform levels on which all conductances lie."""
        return self._base

    @property
    def largest_integer(self) -> int:
        """``2^(bits-1) - 1``: if max|W| is this number, the code of an integer is the integer itself."""
        return (1 << (self._bits - 1)) - 1

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"bits": self._bits, "slice_bits": self._slice_bits, "g_max": self._g_max, "g_min": self._g_min}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / max(max|W|, 1e-7)) * d * L``.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        return Scaling(self._scale_of_largest(self._step_us * self.largest_integer, statistics, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±d * L / scale``."""
        limit = self._step_us * self.largest_integer / scaling.scale
        return -limit, limit

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: the first and the last level."""
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        A code is off by up to half a step, ``d / (2 * scale)`` in units of weight. Let u be half an ulp of 1. The
        weight at which codes change is shifted by up to 10u * L steps: by the roundings of ``scale / d`` and of its
        product with the weight, and because a product up to 8u below a tie is rounded like a tie. Levels are rounded by
        u. `rebuilding_error` bounds the error of rebuilding. Weights beyond `limits` are clipped; the two roundings of
        the scale can leave the largest weight up to 2u beyond them.
        """
        unit = rounding_unit(dtype)
        rounded = (0.5 + 10 * unit * (1 + 16 * unit) * self.largest_integer) * self._step_us / scaling.scale
        _, limit = self.limits(scaling)
        clipped = clipping_error(statistics.max_abs, limit)
        highest_us = [self._levels_us[digit] for digit in self._highest_digits]
        errors_us = [2 * unit * highest + storing_error_us(highest, dtype) for highest in highest_us]
        rebuilt = rebuilding_error(self.decoding(scaling), errors_us, highest_us, limit, dtype)
        return plain(rounded + clipped + rebuilt)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`, in the order of `device_names`."""
        for part, scaling_of_part, conductances in pieces(weights, scaling, out):
            self._write_codes(self._codes(part, scaling_of_part), conductances)

    @abc.abstractmethod
    def _write_codes(self, codes: NDArray[np.intp], out: Sequence[FloatArray]) -> None:
        """Write the conductances of codes, in µS, to `out`; `codes` may be overwritten."""

    def _codes(self, weights: FloatArray, scaling: Scaling) -> NDArray[np.intp]:
        """The integer codes of weights."""
        # Scale and product have a relative rounding error of at most 5u. The factor 1 + 8u makes sure that a weight
        # that would be a tie without these roundings is rounded away from zero.
        ties = 1 + 8 * rounding_unit(weights.dtype)
        per_weight = operand(plain(np.divide(scaling.scale, self._step_us / ties, dtype=np.float64)), weights.dtype)
        with np.errstate(under="ignore"):
            codes = np.multiply(weights, per_weight, out=np.empty_like(weights))
        np.rint(codes, out=codes)
        np.clip(codes, -self.largest_integer, self.largest_integer, out=codes)
        integers: NDArray[np.intp] = codes.astype(np.intp)
        return integers

    def _write_digits(self, codes: NDArray[np.intp], out: Sequence[FloatArray]) -> None:
        """Write the conductances of the digits of non-negative codes, in µS, the least significant digit first."""
        mask = self._base - 1
        for number, conductance in enumerate(out):
            digits = (codes >> (number * self._slice_bits)) & mask
            # Digits are always valid indices of levels; mode "clip" saves the check of each index, and a copy.
            np.take(self._levels_us.astype(conductance.dtype), digits, out=conductance, mode="clip")

    @property
    def _base(self) -> int:
        return 1 << self._slice_bits

    @property
    def _step_us(self) -> float:
        """The distance of neighbouring levels, in µS."""
        return (self._g_max - self._g_min) / (self._base - 1)


def slice_count(bits: int, slice_bits: int) -> int:
    """Number of slices of `slice_bits` bits that `bits` bits need."""
    return math.ceil(bits / slice_bits)


def highest_digits(bits: int, slice_bits: int) -> list[int]:
    """The highest digit of each slice of a number of `bits` bits, the least significant slice first."""
    return [(1 << min(slice_bits, bits - number * slice_bits)) - 1 for number in range(slice_count(bits, slice_bits))]
