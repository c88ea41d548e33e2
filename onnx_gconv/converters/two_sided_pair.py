"""One conductance pair per weight whose devices move in opposite directions from the middle of their range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_gconv.converters.base_converter import BaseConductanceConverter
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["TwoSidedPairConductanceConverter"]


class TwoSidedPairConductanceConverter(BaseConductanceConverter):
    """Maps a weight to a conductance pair whose sum is the same for all weights.

    With ``D = g_max - g_min`` and ``scale = (1 / max(max|W|, 1e-7)) * D``, both roundings in the type of the weight::

        G+ = clip(g_min + D/2 + W * scale / 2, g_min, g_max)
        G- = clip(g_min + D/2 - W * scale / 2, g_min, g_max)
        W  = (G+ - G-) / scale

    This is the balanced core of CrossSim 3.2.0 with two-sided subtraction, in µS. For a zero weight, both devices are
    in the middle of the range. float16, bfloat16 and integer weights are computed and returned in float32.

    Args:
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite.
    """

    name = "two-sided-pair"
    device_names: tuple[str, ...] = ("g_plus", "g_minus")

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"g_max": self._g_max, "g_min": self._g_min}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / max(max|W|, 1e-7)) * (g_max - g_min)``.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        return Scaling(self._scale_of_largest(self._g_max - self._g_min, statistics, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±(g_max - g_min) / scale``."""
        limit = (self._g_max - self._g_min) / scaling.scale
        return -limit, limit

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G+ - G-) / scale``."""
        return Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of both devices, in µS, to `out`: G+, then G-."""
        g_plus, g_minus = out
        dtype = weights.dtype
        half, middle = dtype.type(0.5), dtype.type(self._middle_us)
        with np.errstate(under="ignore"):
            np.multiply(weights, operand(scaling.scale, dtype), out=g_plus)
            # The product is halved, not the scale: half of a small scale may be an inexact subnormal number.
            np.multiply(g_plus, half, out=g_plus)
        np.subtract(middle, g_plus, out=g_minus)
        np.add(g_plus, middle, out=g_plus)
        for conductance in (g_plus, g_minus):
            np.clip(conductance, dtype.type(self._g_min), dtype.type(self._g_max), out=conductance)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: the clip is the last step."""
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1. A conductance is off by the roundings of ``W * scale / 2``, u * D/2, of
        ``g_min + D/2``, u times that, and of their sum, u * g_max. The clip moves it at most to the rounded end of the
        range, which is off by less. `rebuilding_error` bounds the error of rebuilding. Weights beyond ``D / scale`` are
        clipped; the two roundings of the scale can leave the largest weight up to 2u above it.
        """
        unit = rounding_unit(dtype)
        range_us = self._g_max - self._g_min
        error_us = unit * (1 + 8 * unit) * (range_us / 2 + self._middle_us + self._g_max) + storing_error_us(
            self._g_max, dtype
        )
        _, limit = self.limits(scaling)
        clipped = clipping_error(statistics.max_abs, limit)
        return plain(
            rebuilding_error(self.decoding(scaling), [error_us] * 2, [self._g_max] * 2, limit, dtype) + clipped
        )

    @property
    def _middle_us(self) -> float:
        """The conductance of a zero weight, in µS."""
        return self._g_min + (self._g_max - self._g_min) / 2
