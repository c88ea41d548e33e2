"""One device per weight: the smallest weight has the lowest conductance, the largest weight the highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from onnx_gconv.converters.base_converter import SMALLEST_MAX_ABS, BaseConductanceConverter, scale_of_params
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["SingleDeviceConductanceConverter"]

DEFAULT_G_MAX_US = 88.199997
DEFAULT_G_MIN_US = 9.0


class SingleDeviceConductanceConverter(BaseConductanceConverter):
    """Maps a weight to one device whose range holds the weights from the smallest to the largest.

    With ``scale = (1 / (max W - min W)) * (g_max - g_min)``, all roundings in the type of the weight::

        G = (W - min W) * scale + g_min
        W = (G - g_min) / scale + min W

    float32 and float64 results are bit-identical to aihwkit's converter of the same name (aihwkit 1.1.0,
    ``inference/converter/conductance.py``); the default range is that of aihwkit's CMO ReRAM devices. Deliberate
    differences: the conductances are a list of one array, not a bare array; if all weights are equal (for which aihwkit
    gives NaN), or so close to each other that the scale would overflow, the scale is ``1e7 * (g_max - g_min)``, and
    equal weights are rebuilt exactly; float16, bfloat16 and integer weights are computed and returned in float32; NaN,
    infinite and empty weights, and ranges that are not finite, are refused.

    Rounding may put the largest conductance above `g_max` by some ulps, as in aihwkit.

    Args:
        g_max: Conductance of the largest weight, in µS. Default 88.199997.
        g_min: Conductance of the smallest weight, in µS. Default 9.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite.
    """

    name = "single-device"
    device_names: tuple[str, ...] = ("g",)

    def __init__(self, g_max: float | None = None, g_min: float | None = None) -> None:
        super().__init__(DEFAULT_G_MAX_US if g_max is None else g_max, DEFAULT_G_MIN_US if g_min is None else g_min)

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"g_max": self._g_max, "g_min": self._g_min}

    def convert_back_to_weights(
        self, conductances: Sequence[ArrayLike] | FloatArray, params: Mapping[str, Any]
    ) -> FloatArray:
        """Convert conductances back: ``min W + (G - g_min) / scale``, as aihwkit does.

        Args:
            conductances: ``[G]`` in µS, or G itself as an array.
            params: ``{"scale_ratio": scale, "min": min W}`` from `convert_to_conductances`.

        Returns:
            Weights of the shape of G, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there is not one conductance, or `params` lacks an entry.
        """
        [conductance] = self._checked_conductances(
            [conductances] if isinstance(conductances, np.ndarray) else conductances
        )
        number = conductance.dtype.type
        scale = number(scale_of_params(params))
        if "min" not in params:
            raise ValueError("params do not contain min")
        return np.asarray(number(params["min"]) + (conductance - number(self._g_min)) / scale)

    def _params(self, scaling: Scaling, dtype: np.dtype[Any]) -> dict[str, Any]:
        return {**super()._params(scaling, dtype), "min": dtype.type(scaling.zero)}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / (max W - min W)) * (g_max - g_min)``, and ``zero = min W``.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        number = dtype.type
        range_us = number(self._g_max - self._g_min)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            scale = (number(1) / (operand(statistics.maximum, dtype) - operand(statistics.minimum, dtype))) * range_us
            scale = np.where(np.isinf(scale), (number(1) / number(SMALLEST_MAX_ABS)) * range_us, scale)[()]
            span = plain(np.subtract(statistics.maximum, statistics.minimum))
        return Scaling(self._checked_scale(scale, "max W - min W", span, dtype), statistics.minimum)

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``zero`` and ``zero + (g_max - g_min) / scale``."""
        return scaling.zero, scaling.zero + (self._g_max - self._g_min) / scaling.scale

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G - g_min) / scale + zero``."""
        return Decoding(coefficients=(1.0,), offset_us=self._g_min, scale=scaling.scale, zero=scaling.zero)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances, in µS, to the one array of `out`."""
        [conductance] = out
        dtype = weights.dtype
        with np.errstate(under="ignore"):
            np.subtract(weights, operand(scaling.zero, dtype), out=conductance)
            np.multiply(conductance, operand(scaling.scale, dtype), out=conductance)
            np.add(conductance, dtype.type(self._g_min), out=conductance)
        # This changes nothing if the scaling comes from the weight's own statistics. But rounding may have lifted
        # clipped weights above the limit, by much if they are far from zero and close to each other.
        np.minimum(conductance, dtype.type(self.conductance_bounds(dtype)[1]), out=conductance)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS.

        Let u be half an ulp of 1. The roundings of the range of weights, of the scale (three), of ``W - min W``, of its
        product with the scale, of g_min and of the sum lift the highest conductance to at most ``g_max * (1 + 8u)``,
        apart from terms of second order in u, which another 2u covers.
        """
        highest = self._g_max * (1 + 5 * float(ml_dtypes.finfo(dtype).eps))
        return float(dtype.type(self._g_min)), float(dtype.type(highest))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1 and ``D = g_max - g_min``. A conductance is off by the roundings of ``W - min W`` and
        of its product with the scale, u * D each, of g_min, u * g_min, and of the sum, u * g_max. `rebuilding_error`
        bounds the error of rebuilding. Weights beyond `limits` are clipped; the roundings of the scale can leave the
        largest weight up to 4u * D / scale beyond them.
        """
        unit = rounding_unit(dtype)
        range_us = self._g_max - self._g_min
        error_us = unit * (1 + 8 * unit) * (2 * range_us + self._g_min + self._g_max) + storing_error_us(
            self._g_max, dtype
        )
        low, high = self.limits(scaling)
        clipped = np.maximum(
            clipping_error(statistics.maximum, high),
            clipping_error(plain(np.negative(statistics.minimum)), plain(np.negative(low))),
        )
        largest = np.maximum(np.maximum(np.abs(low), np.abs(high)), range_us / scaling.scale)
        rebuilt = rebuilding_error(self.decoding(scaling), [error_us], [self._g_max], plain(largest), dtype)
        # The limits are rounded sums in float64, so `clipped` may be too small by their rounding errors.
        return plain((rebuilt + clipped) * (1 + 8 * unit) + 4 * np.finfo(np.float64).eps * largest)
