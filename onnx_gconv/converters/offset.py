"""One device per weight, read against a reference device in the middle of the range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onnx_gconv.converters.base_converter import BaseConductanceConverter
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.parameters import whole_number
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["OffsetConductanceConverter"]

_FEWEST_LEVELS, _MOST_LEVELS = 3, 1 << 16


class OffsetConductanceConverter(BaseConductanceConverter):
    """Maps a weight to one device; a column of reference devices holds the conductance of a zero weight.

    With ``D = g_max - g_min`` and the reference ``b = g_min + D/2``, all roundings in the type of the weight::

        scale = (1 / max(max|W|, 1e-7)) * D/2
        G = clip(W * scale + b, g_min, g_max)
        W = (G - b) / scale

    With an even number of levels ``g_min + k * D / (levels - 1)``, no level lies in the middle. Then a zero weight has
    the level ``levels / 2``, the lowest level is not used, and the equations have::

        b = g_min + D/2 * levels / (levels - 1)
        scale = (1 / max(max|W|, 1e-7)) * D/2 * (levels - 2) / (levels - 1)

    This is the offset core of CrossSim 3.2.0, in µS, with a digital offset as well as with unit-column subtraction
    (where the reference devices stand in a separate column). float16, bfloat16 and integer weights are computed and
    returned in float32.

    Args:
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.
        levels: How many uniform levels a device has; None for any conductance.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite, or `levels` is not a whole number
            from 3 to 65536.
    """

    name = "offset"
    settings: ClassVar[Mapping[str, str]] = {}  # `MappingScheme` sets the levels
    device_names: tuple[str, ...] = ("g",)

    def __init__(self, g_max: float | None = None, g_min: float | None = None, levels: int | None = None) -> None:
        super().__init__(g_max, g_min)
        self._levels = None if levels is None else whole_number("levels", levels, _FEWEST_LEVELS, _MOST_LEVELS)

    @property
    def levels(self) -> int | None:
        """How many uniform levels a device has; None for any conductance."""
        return self._levels

    @property
    def reference_us(self) -> float:
        """The conductance of a zero weight and of the reference devices, in µS."""
        range_us = self._g_max - self._g_min
        if self._levels is None or self._levels % 2:
            return self._g_min + range_us / 2
        return self._g_min + range_us * (self._levels // 2) / (self._levels - 1)

    def for_levels(self, count: int) -> OffsetConductanceConverter:
        """This converter for devices with `count` levels, one of which is the zero weight.

        Raises:
            ConfigError: If `count` is not a whole number from 3 to 65536.
        """
        return OffsetConductanceConverter(self._g_max, self._g_min, count)

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"g_max": self._g_max, "g_min": self._g_min, "levels": self._levels}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / max(max|W|, 1e-7)) * D/2``, of the used part of the range.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        return Scaling(self._scale_of_largest(self._reach_us, statistics, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±D/2 / scale``, of the used part of the range."""
        limit = self._reach_us / scaling.scale
        return -limit, limit

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G - b) / scale``."""
        return Decoding(coefficients=(1.0,), offset_us=self.reference_us, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances, in µS, to the one array of `out`."""
        [conductance] = out
        number = weights.dtype.type
        low, high = self._used_us
        with np.errstate(under="ignore"):
            np.multiply(weights, operand(scaling.scale, weights.dtype), out=conductance)
        np.add(conductance, number(self.reference_us), out=conductance)
        np.clip(conductance, number(low), number(high), out=conductance)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: the clip is the last step."""
        low, high = self._used_us
        return float(dtype.type(low)), float(dtype.type(high))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1. A conductance is off by the roundings of ``W * scale``, u * D/2, of b, u * b, and of
        their sum, u * g_max. The clip moves it at most to the rounded end of the range, which is off by less.
        `rebuilding_error` bounds the error of rebuilding. Weights beyond `limits` are clipped; the two roundings of the
        scale can leave the largest weight up to 2u beyond them.
        """
        unit = rounding_unit(dtype)
        error_us = unit * (1 + 8 * unit) * (self._reach_us + self.reference_us + self._g_max) + storing_error_us(
            self._g_max, dtype
        )
        _, limit = self.limits(scaling)
        clipped = clipping_error(statistics.max_abs, limit)
        return plain(rebuilding_error(self.decoding(scaling), [error_us], [self._g_max], limit, dtype) + clipped)

    @property
    def _used_us(self) -> tuple[float, float]:
        """The part of the devices' range that weights use, in µS."""
        if self._levels is None or self._levels % 2:
            return self._g_min, self._g_max
        return self._g_min + (self._g_max - self._g_min) / (self._levels - 1), self._g_max

    @property
    def _reach_us(self) -> float:
        """The distance of the largest weight's conductance from the reference, in µS."""
        range_us = self._g_max - self._g_min
        if self._levels is None or self._levels % 2:
            return range_us / 2
        return range_us * (self._levels - 2) / (self._levels - 1) / 2
