"""One conductance pair per weight: one device holds positive weights, the other one negative weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from onnx_gconv.converters.base_converter import SMALLEST_MAX_ABS, BaseConductanceConverter, scale_of_params
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, is_half_precision, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.rounding import clipping_error
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics
from onnx_gconv.errors import ConfigError

__all__ = ["SinglePairConductanceConverter"]


class SinglePairConductanceConverter(BaseConductanceConverter):
    """Maps a weight to a conductance pair; one device of the pair is always at `g_min`.

    With ``scale = (1 / max(max|W|, 1e-7)) * (g_max - g_min)``, both roundings in the type of the weight::

        G+ = clip( W * scale, 0, g_max) + g_min
        G- = clip(-W * scale, 0, g_max) + g_min
        W  = (G+ - G-) / scale

    float32 and float64 results are bit-identical to aihwkit's converter of the same name (aihwkit 1.1.0,
    ``inference/converter/conductance.py``). Deliberate differences: float16, bfloat16 and integer weights are computed
    and returned in float32; NaN, infinite and empty weights, and ranges that are not finite, are refused.

    With `g_min` > 0, rounding may put the largest conductance above `g_max` by some ulps, as in aihwkit.

    Args:
        g_max: Conductance of the largest weight, in µS. Default 25.
        g_min: Conductance of a zero weight, in µS. Default 0.
        exact: Round the scale down to a power of two. The rebuilt weights are then bit-identical to the weights, but up
            to half of the conductance range may stay unused. A negative zero is kept as ``G+ = -0.0``. Needs
            ``g_min = 0``.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite, or `exact` is set with ``g_min > 0``.
    """

    name = "single-pair"
    device_names: tuple[str, ...] = ("g_plus", "g_minus")
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)

    def __init__(self, g_max: float | None = None, g_min: float | None = None, *, exact: bool = False) -> None:
        super().__init__(g_max, g_min)
        self._exact = bool(exact)
        if self._exact and self._g_min > 0:
            raise ConfigError(
                f"exact mapping needs g_min = 0, but g_min = {self._g_min} µS: adding g_min rounds small weights; "
                "use g_min = 0 or leave exact out"
            )

    @property
    def is_exact(self) -> bool:
        """Whether the scale is a power of two, so that the rebuilt weights are bit-identical."""
        return self._exact

    def __repr__(self) -> str:
        exact = ", exact=True" if self._exact else ""
        return f"{type(self).__name__}(g_max={self._g_max!r}, g_min={self._g_min!r}{exact})"

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"g_max": self._g_max, "g_min": self._g_min, "exact": self._exact}

    def convert_back_to_weights(self, conductances: Sequence[ArrayLike], params: Mapping[str, Any]) -> FloatArray:
        """Convert conductances back: ``((G+ - g_min) - (G- - g_min)) / scale``, as aihwkit does.

        Args:
            conductances: ``[G+, G-]`` in µS, of one shape.
            params: ``{"scale_ratio": scale}`` from `convert_to_conductances`.

        Returns:
            Weights of that shape, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there are not two conductances, or `params` has no ``scale_ratio``.
        """
        if len(conductances) != len(self.device_names):
            raise ValueError("conductances must contain exactly two elements")
        g_plus, g_minus = self._checked_conductances(conductances)
        number = g_plus.dtype.type
        scale, g_min = number(scale_of_params(params)), number(self._g_min)
        return np.asarray(((g_plus - g_min) - (g_minus - g_min)) / scale)

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / max(max|W|, 1e-7)) * (g_max - g_min)``, or the largest power of two that is not above it.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        scale = self._scale_of_largest(self._g_max - self._g_min, statistics, dtype)
        return Scaling(plain(np.ldexp(1.0, np.frexp(scale)[1] - 1)) if self._exact else scale)

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±(g_max - g_min) / scale``."""
        limit = (self._g_max - self._g_min) / scaling.scale
        return -limit, limit

    def needs_check(self, scaling: Scaling) -> bool:
        """Whether products may lose bits: only with a power of two below 1, which can make products subnormal."""
        return self._exact and bool(np.any(np.less(scaling.scale, 1)))

    def check_chunk(self, weights: FloatArray, scaling: Scaling) -> str | None:
        """Why this chunk cannot be converted exactly with this scaling; None if it can."""
        factor = operand(scaling.scale, weights.dtype)
        # NumPy 1.26 fills up the last vector register with ones, and warns of an overflow of 1 / factor, which is no
        # result.
        with np.errstate(over="ignore", under="ignore"):
            lost = np.flatnonzero((weights * factor) / factor != weights)
        if not lost.size:
            return None
        first = int(lost[0])
        return (
            f"has the value {float(weights.reshape(-1)[first]):g}, which a conductance in {weights.dtype.name} cannot "
            f"hold exactly at the scale of {float(np.broadcast_to(factor, weights.shape).reshape(-1)[first]):g} µS"
        )

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G+ - G-) / scale``."""
        return Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of both devices, in µS, to `out`: G+, then G-.

        G- is computed as ``g_min - clip(W * scale, -g_max, 0)``. This rounds like
        ``clip(-W * scale, 0, g_max) + g_min`` and needs no second product.
        """
        number = weights.dtype.type
        g_plus, g_minus = out
        with np.errstate(under="ignore"):
            product = np.multiply(weights, operand(scaling.scale, weights.dtype), out=g_plus)
        if self._exact:
            # No clip is needed: |W * scale| <= g_max. `W * scale < 0` is false for a negative zero, so it stays in G+
            # and survives the subtraction.
            negative = product < 0
            g_minus.fill(0)
            np.negative(product, out=g_minus, where=negative)
            np.copyto(g_plus, number(0), where=negative)
            return
        zero, g_min, g_max = number(0), number(self._g_min), number(self._g_max)
        np.clip(product, -g_max, zero, out=g_minus)
        np.subtract(g_min, g_minus, out=g_minus)
        np.clip(product, zero, g_max, out=g_plus)
        # Also needed if g_min is 0: the addition turns a negative zero into zero, as in aihwkit.
        np.add(g_plus, g_min, out=g_plus)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS.

        Let u be half an ulp of 1. The two roundings of the scale, and those of ``W * scale``, of g_min and g_max to
        `dtype`, and of the sum lift the highest conductance to at most ``g_max * (1 + 6u)``.
        """
        rounding = 3 * float(ml_dtypes.finfo(dtype).eps)
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max)) * (1 + rounding)

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1. The roundings of ``W * scale`` and of the quotient are 2u relative to W. Weights
        beyond ``(g_max - g_min) / scale`` may be clipped. If the scale was rounded up, the largest weights are beyond
        it by up to 2u, or more if 1 / max|W| is a subnormal number. With g_min > 0, the sum with g_min is rounded by
        u * g_max, in µS, and the difference of the pair by another u.

        In half precision, conductances are computed in float32 and then rounded to half precision; only the last
        rounding counts. The scale is rounded down, so that nothing is clipped. One device holds the rounded g_min, the
        other one the rounded sum of g_min and weight, so the rounding error of g_min, u * g_min, stays in the
        difference.
        """
        finfo = ml_dtypes.finfo(dtype)
        unit = float(finfo.eps) / 2
        _, limit = self.limits(scaling)
        largest = np.minimum(statistics.max_abs, limit)
        clipped = clipping_error(statistics.max_abs, limit)
        if self._exact:
            # Without a clip, the devices also hold weights that exceed the limit by the roundings of the scale.
            return plain(np.where(clipped > 6 * unit * np.asarray(limit), clipped, 0.0)[()])
        bound = 2 * unit * largest + clipped
        if self._g_min:
            reach = np.maximum(largest, SMALLEST_MAX_ABS)
            rounded_us = self._g_max + (self._g_min if is_half_precision(dtype) else 0.0)
            bound = bound + (1 + rounded_us / (self._g_max - self._g_min)) * unit * reach
        subnormal = float(finfo.smallest_subnormal)
        # Small conductances in half precision are subnormal numbers, with an absolute rounding error.
        lost_us = subnormal if is_half_precision(dtype) else 0.0
        return plain(bound * (1 + 8 * unit) + lost_us / scaling.scale + subnormal)
