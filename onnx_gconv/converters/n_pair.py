"""Several conductance pairs per weight with different factors: more range, or less noise for the same range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from onnx_gconv.converters.base_converter import SMALLEST_MAX_ABS, BaseConductanceConverter, scale_of_params
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, is_half_precision, operand, plain
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.parameters import checked_factors
from onnx_gconv.converters.rounding import clipping_error
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["NPairConductanceConverter"]


class NPairConductanceConverter(BaseConductanceConverter):
    """Maps a weight to N conductance pairs with factors f_1, f_2, ...; a pair is used when those before it are full.

    With ``D = g_max - g_min``, ``scale = (1 / max(max|W|, 1e-7)) * sum_k f_k * D``, both roundings in the type of the
    weight, ``L_1 = 0`` and ``L_k+1 = L_k + f_k * D``::

        G+_k = clip((max( W * scale, 0) - L_k) / f_k + g_min, g_min, g_max)
        G-_k = clip((max(-W * scale, 0) - L_k) / f_k + g_min, g_min, g_max)
        W    = sum_k f_k * (G+_k - G-_k) / scale

    float32 and float64 results are bit-identical to aihwkit's converter of the same name (aihwkit 1.1.0,
    ``inference/converter/conductance.py``). Deliberate differences: every factor must be positive and finite, not only
    the largest; the factors may be any sequence; float16, bfloat16 and integer weights are computed and returned in
    float32; NaN, infinite and empty weights, and ranges that are not finite, are refused; converting back needs exactly
    as many pairs as there are factors.

    Args:
        f_lst: The factors, in the order in which the pairs are filled; at least one.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, and conductance of a zero weight, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If there is no factor, one is not positive and finite, or the range is negative,
            empty or not finite.
    """

    name = "n-pair"
    settings: ClassVar[Mapping[str, str]] = {"factors": "f_lst"}

    def __init__(self, f_lst: Sequence[float], g_max: float | None = None, g_min: float | None = None) -> None:
        self._factors = checked_factors(f_lst)
        super().__init__(g_max, g_min)

    @property
    def f_lst(self) -> list[float]:
        """The factors, in the order in which the pairs are filled."""
        return list(self._factors)

    @property
    def device_names(self) -> tuple[str, ...]:
        """``g_plus_1``, ``g_minus_1``, ``g_plus_2``, ..."""
        return tuple(f"g_{sign}_{number}" for number in range(1, len(self._factors) + 1) for sign in ("plus", "minus"))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the two devices of each pair; one device of each pair is always at `g_min`."""
        return tuple((2 * number, 2 * number + 1) for number in range(len(self._factors)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._factors)!r}, g_max={self._g_max!r}, g_min={self._g_min!r})"

    def convert_back_to_weights(self, conductances: Sequence[ArrayLike], params: Mapping[str, Any]) -> FloatArray:
        """Convert conductances back: ``sum_k f_k * (G+_k - G-_k) / scale``, as aihwkit does.

        Args:
            conductances: ``[G+_1, G-_1, G+_2, ...]`` in µS, of one shape.
            params: ``{"scale_ratio": scale, "f_lst": factors}`` from `convert_to_conductances`.

        Returns:
            Weights of that shape, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there are not two conductances for each factor, `params` lacks an entry, or its factors are
                not those of this converter. aihwkit (version 1.1.0) ignores the factors of `params`.
        """
        if "f_lst" not in params:
            raise ValueError("params does not contain f_lst")
        if len(conductances) != 2 * len(self._factors):
            raise ValueError(
                f"conductances must contain exactly {2 * len(self._factors)} elements, two for each factor"
            )
        arrays = self._checked_conductances(conductances)
        dtype = arrays[0].dtype
        scale = dtype.type(scale_of_params(params))
        if not np.array_equal(np.asarray(params["f_lst"], np.float64), self._factors):
            raise ValueError(
                f"params are of the factors {[float(each) for each in params['f_lst']]}, but this converter has "
                f"{list(self._factors)}; convert back with the converter that gave the params"
            )
        total: FloatArray = np.zeros(arrays[0].shape, dtype)
        for factor, plus, minus in zip(self._factors, arrays[::2], arrays[1::2], strict=True):
            total = total + dtype.type(factor) * (plus - minus)
        return np.asarray(total / scale)

    def _params(self, scaling: Scaling, dtype: np.dtype[Any]) -> dict[str, Any]:
        return {**super()._params(scaling, dtype), "f_lst": self.f_lst}

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"f_lst": self.f_lst, "g_max": self._g_max, "g_min": self._g_min}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """``scale = (1 / max(max|W|, 1e-7)) * sum_k f_k * (g_max - g_min)``.

        Raises:
            UnmappableWeightError: If the scale is zero or infinite in `dtype`.
        """
        return Scaling(self._scale_of_largest(self._range_us, statistics, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """``±sum_k f_k * (g_max - g_min) / scale``."""
        limit = self._range_us / scaling.scale
        return -limit, limit

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (f_1 * G+_1 - f_1 * G-_1 + f_2 * G+_2 - ...) / scale``."""
        coefficients = tuple(sign * factor for factor in self._factors for sign in (1.0, -1.0))
        return Decoding(coefficients=coefficients, offset_us=0.0, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`: G+ and G- of each pair, pair after pair."""
        number = weights.dtype.type
        zero, g_min, g_max = number(0), number(self._g_min), number(self._g_max)
        with np.errstate(under="ignore"):
            product, rectified = np.empty_like(weights), np.empty_like(weights)
            np.multiply(weights, operand(scaling.scale, weights.dtype), out=product)
            for sign in range(2):
                if sign:
                    np.negative(product, out=product)
                np.maximum(product, zero, out=rectified)
                filled = 0.0
                for pair, factor in enumerate(self._factors):
                    conductance, rest = out[self.pairs[pair][sign]], rectified
                    # Subtracting 0 and dividing by 1 change nothing, so they are left out.
                    if pair:
                        rest = np.subtract(rest, number(filled), out=conductance)
                    if factor != 1:
                        rest = np.divide(rest, number(factor), out=conductance)
                    np.add(rest, g_min, out=conductance)
                    np.clip(conductance, g_min, g_max, out=conductance)
                    filled += factor * (self._g_max - self._g_min)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: the clip is the last step."""
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1, S the range ``sum_k f_k * D`` and N the number of pairs. A device that is neither
        empty nor full is off by the roundings of ``W * scale``, of L_k and of their difference, each u * S / f_k, of
        the quotient, u * D, and of the sum with g_min, u * g_max. Decoding rounds each factor, each product and each of
        2N sums by at most u times ``sum_k f_k * g_max``, and the quotient by u times max|W|. Weights beyond
        ``S / scale`` are clipped; the two roundings of the scale can leave the largest weight up to 2u above it.
        """
        unit = float(ml_dtypes.finfo(dtype).eps) / 2
        pairs = len(self._factors)
        reach = self._g_max / (self._g_max - self._g_min)
        roundings = 3 * pairs + (1 + reach) + (4 + 2 * pairs) * reach + 1 + 2
        _, limit = self.limits(scaling)
        largest = np.maximum(np.minimum(statistics.max_abs, limit), SMALLEST_MAX_ABS)
        clipped = clipping_error(statistics.max_abs, limit)
        subnormal = float(ml_dtypes.finfo(dtype).smallest_subnormal)
        lost_us = subnormal * 2 * sum(self._factors) if is_half_precision(dtype) else 0.0
        bound = (roundings * unit * largest + clipped) * (1 + 32 * pairs * unit)
        return plain(bound + lost_us / scaling.scale + subnormal)

    @property
    def _range_us(self) -> float:
        """The range of all pairs together, ``sum_k f_k * (g_max - g_min)``, in µS."""
        return sum(factor * (self._g_max - self._g_min) for factor in self._factors)
