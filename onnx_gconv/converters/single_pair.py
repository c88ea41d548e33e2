"""A single pair of devices per weight: one holds positive weights, the other negative ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from onnx_gconv.converters.conductance_converter import (
    DEFAULT_G_MAX_US,
    DEFAULT_G_MIN_US,
    SMALLEST_MAX_ABS,
    Decoding,
    FloatArray,
    WeightStatistics,
    checked_range,
    compute_dtype,
    converted,
    is_half_precision,
    scale_of_params,
    two_roundings_scale,
)
from onnx_gconv.errors import ConfigError

__all__ = ["SinglePairConductanceConverter"]


class SinglePairConductanceConverter:
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
        exact: Take the largest power of two that is not above the scale. The rebuilt weights are then bit-identical to
            the weights, at the price of up to half of the conductance range. A negative zero is kept as ``G+ = -0.0``.
            Needs ``g_min = 0``.

    Raises:
        ConfigError: (a ValueError) If the range is negative, empty or not finite, or `exact` is asked for with
            ``g_min > 0``.
    """

    device_names = ("g_plus", "g_minus")
    pairs = ((0, 1),)

    def __init__(self, g_max: float | None = None, g_min: float | None = None, *, exact: bool = False) -> None:
        self._g_max, self._g_min = checked_range(
            DEFAULT_G_MAX_US if g_max is None else g_max, DEFAULT_G_MIN_US if g_min is None else g_min
        )
        self._exact = bool(exact)
        if self._exact and self._g_min > 0:
            raise ConfigError(
                f"exact mapping needs g_min = 0, but g_min = {self._g_min} µS: adding g_min rounds small weights; "
                "use g_min = 0 or leave exact out"
            )

    @property
    def g_max(self) -> float:
        """Upper end of the devices' range, in µS."""
        return self._g_max

    @property
    def g_min(self) -> float:
        """Lower end of the devices' range, in µS."""
        return self._g_min

    @property
    def is_exact(self) -> bool:
        """Whether the scale is a power of two, so that the rebuilt weights are bit-identical."""
        return self._exact

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SinglePairConductanceConverter):
            return NotImplemented
        return (self._g_max, self._g_min, self._exact) == (other._g_max, other._g_min, other._exact)

    def __hash__(self) -> int:
        return hash((type(self), self._g_max, self._g_min, self._exact))

    def __str__(self) -> str:
        return f"{type(self).__name__}(g_max={self._g_max:1.2f}, g_min={self._g_min:1.2f})"

    def __repr__(self) -> str:
        exact = ", exact=True" if self._exact else ""
        return f"{type(self).__name__}(g_max={self._g_max!r}, g_min={self._g_min!r}{exact})"

    # Whole arrays, with the names and the calls of aihwkit

    def convert_to_conductances(self, weights: ArrayLike) -> tuple[list[FloatArray], dict[str, Any]]:
        """Convert a weight.

        Args:
            weights: Array of any shape with at least one element.

        Returns:
            ``[G+, G-]`` in µS, of the shape of `weights`, float64 for float64 weights and float32 for all others; and
            ``{"scale_ratio": scale}`` with the scale in µS per unit of weight as a scalar of that type.

        Raises:
            UnmappableWeightError: If `weights` is empty, has NaN or infinite elements or no real type, or if the scale
                is not a positive finite number of the compute type.
        """
        conductances, scale = converted(self, weights)
        return conductances, {"scale_ratio": scale}

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
        arrays = [np.asarray(conductance) for conductance in conductances]
        dtype = compute_dtype(arrays[0].dtype)
        scale, g_min = dtype.type(scale_of_params(params)), dtype.type(self._g_min)
        g_plus, g_minus = (np.asarray(array, dtype) for array in arrays)
        return np.asarray(((g_plus - g_min) - (g_minus - g_min)) / scale)

    # Chunk by chunk

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"g_max": self._g_max, "g_min": self._g_min, "exact": self._exact}

    def scale(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """The scale in µS per unit of weight, as a value of `dtype`.

        aihwkit divides a Python number by a tensor, which torch evaluates as reciprocal, then product. The two
        roundings are kept: with one division a third of all scales differ by an ulp.

        Raises:
            UnmappableWeightError: If it is zero or infinite in `dtype`.
        """
        scale = two_roundings_scale(self, self._g_max - self._g_min, statistics, dtype)
        return math.ldexp(1.0, math.frexp(scale)[1] - 1) if self._exact else scale

    def needs_check(self, scale: float) -> bool:
        """Multiplying by a power of two below one is exact unless the product is subnormal; only then look closer."""
        return self._exact and scale < 1

    def check_chunk(self, weights: FloatArray, scale: float) -> str | None:
        """Why this chunk cannot be converted exactly with this scale, or None."""
        factor = weights.dtype.type(scale)
        with np.errstate(under="ignore"):
            lost = np.flatnonzero((weights * factor) / factor != weights)
        if not lost.size:
            return None
        value = float(weights.reshape(-1)[int(lost[0])])
        return (
            f"has the value {value:g}, which a conductance in {weights.dtype.name} cannot hold exactly at the "
            f"scale of {scale:g} µS"
        )

    def decoding(self, scale: float) -> Decoding:
        """``W = (G+ - G-) / scale``."""
        return Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scale: float, out: Sequence[FloatArray]) -> None:
        """Write the conductances of both devices, in µS, to `out`: G+, then G-.

        G- is computed as ``g_min - clip(W * scale, -g_max, 0)``, which rounds as ``clip(-W * scale, 0, g_max) + g_min``
        does and shares the product with G+.
        """
        number = weights.dtype.type
        g_plus, g_minus = out
        with np.errstate(under="ignore"):
            product = np.multiply(weights, number(scale), out=g_plus)
        if self._exact:
            # |W * scale| <= g_max holds without a clip. `W * scale < 0` is false for a negative zero, which so stays in
            # G+ and survives the subtraction.
            negative = product < 0
            g_minus.fill(0)
            np.negative(product, out=g_minus, where=negative)
            np.copyto(g_plus, number(0), where=negative)
            return
        zero, g_min, g_max = number(0), number(self._g_min), number(self._g_max)
        np.clip(product, -g_max, zero, out=g_minus)
        np.subtract(g_min, g_minus, out=g_minus)
        np.clip(product, zero, g_max, out=g_plus)
        # With g_min = 0 the addition still turns a negative zero into zero, as in aihwkit.
        np.add(g_plus, g_min, out=g_plus)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS.

        With u half an ulp of 1, the two roundings of the scale, the rounding of ``W * scale``, those of g_min and g_max
        to `dtype` and that of their sum take the highest one to at most ``g_max * (1 + 6u)``.
        """
        rounding = 3 * float(ml_dtypes.finfo(dtype).eps)
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max)) * (1 + rounding)

    def error_bound(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1. Rounding ``W * scale`` and the quotient costs 2u relative to W. If the roundings of
        the scale went up, clipping at g_max cuts the largest weights to ``g_max / scale``: by up to another u, or more
        where 1 / max|W| is a subnormal number. With g_min > 0, adding it costs u * g_max, in µS, and the difference of
        the pair another u.

        Half precision: conductances are computed in float32, whose roundings are small beside the one that rounds them,
        and the scale has been rounded down, so that nothing is clipped.
        """
        if self._exact:
            return 0.0
        finfo = ml_dtypes.finfo(dtype)
        unit = float(finfo.eps) / 2
        scale = self.scale(statistics, np.dtype(np.float32) if is_half_precision(dtype) else dtype)
        clipped = max(statistics.max_abs - self._g_max / scale, 0.0)
        bound = 2 * unit * statistics.max_abs + clipped
        if self._g_min:
            reach = max(statistics.max_abs, SMALLEST_MAX_ABS)
            bound += (1 + self._g_max / (self._g_max - self._g_min)) * unit * reach
        subnormal = float(finfo.smallest_subnormal)
        if is_half_precision(dtype):  # of which small conductances are subnormal numbers
            subnormal += subnormal / scale
        return bound * (1 + 8 * unit) + subnormal
