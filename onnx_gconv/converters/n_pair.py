"""Several pairs of devices per weight, which count differently: more range, or less noise for the same range."""

from __future__ import annotations

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
    positive_number,
    scale_of_params,
    two_roundings_scale,
)
from onnx_gconv.errors import ConfigError

__all__ = ["NPairConductanceConverter"]


class NPairConductanceConverter:
    """Maps a weight to N conductance pairs with factors f_1, f_2, ...; a pair is used when those before it are full.

    With ``D = g_max - g_min``, ``scale = (1 / max(max|W|, 1e-7)) * sum_k f_k * D``, both roundings in the type of the
    weight, ``L_1 = 0`` and ``L_k+1 = L_k + f_k * D``::

        G+_k = clip((max( W * scale, 0) - L_k) / f_k + g_min, g_min, g_max)
        G-_k = clip((max(-W * scale, 0) - L_k) / f_k + g_min, g_min, g_max)
        W    = sum_k f_k * (G+_k - G-_k) / scale

    float32 and float64 results are bit-identical to aihwkit's converter of the same name (aihwkit 1.1.0,
    ``inference/converter/conductance.py``). Deliberate differences: every factor has to be positive and finite, not the
    largest alone, and any sequence of them is taken; float16, bfloat16 and integer weights are computed and returned in
    float32; NaN, infinite and empty weights, and ranges that are not finite, are refused; converting back needs as many
    pairs as there are factors.

    Args:
        f_lst: The factors, in the order in which the pairs are filled; at least one.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, and conductance of a zero weight, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If there is no factor, one is not positive and finite, or the range is negative,
            empty or not finite.
    """

    def __init__(self, f_lst: Sequence[float], g_max: float | None = None, g_min: float | None = None) -> None:
        try:
            given = [*f_lst]
        except TypeError:
            raise ConfigError(f"f_lst should be a list of factors, but it is {f_lst!r}") from None
        if not given:
            raise ConfigError("f_lst should have at least one factor, but it is empty")
        self._factors = tuple(positive_number(f"factor {number} of f_lst", f) for number, f in enumerate(given, 1))
        self._g_max, self._g_min = checked_range(
            DEFAULT_G_MAX_US if g_max is None else g_max, DEFAULT_G_MIN_US if g_min is None else g_min
        )

    @property
    def f_lst(self) -> list[float]:
        """The factors, in the order in which the pairs are filled."""
        return list(self._factors)

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
        """False: the rebuilt weights are off by some ulps."""
        return False

    @property
    def device_names(self) -> tuple[str, ...]:
        """``g_plus_1``, ``g_minus_1``, ``g_plus_2``, ..."""
        return tuple(f"g_{sign}_{number}" for number in range(1, len(self._factors) + 1) for sign in ("plus", "minus"))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the devices of each pair, of which one is always at `g_min`."""
        return tuple((2 * number, 2 * number + 1) for number in range(len(self._factors)))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, NPairConductanceConverter)  # noqa: S101 - its type is that of self
        return (self._factors, self._g_max, self._g_min) == (other._factors, other._g_max, other._g_min)

    def __hash__(self) -> int:
        return hash((type(self), self._factors, self._g_max, self._g_min))

    def __str__(self) -> str:
        return f"{type(self).__name__}(g_max={self._g_max:1.2f}, g_min={self._g_min:1.2f})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._factors)!r}, g_max={self._g_max!r}, g_min={self._g_min!r})"

    # Whole arrays, with the names and the calls of aihwkit

    def convert_to_conductances(self, weights: ArrayLike) -> tuple[list[FloatArray], dict[str, Any]]:
        """Convert a weight.

        Args:
            weights: Array of any shape with at least one element.

        Returns:
            ``[G+_1, G-_1, G+_2, ...]`` in µS, of the shape of `weights`, float64 for float64 weights and float32 for
            all others; and ``{"scale_ratio": scale, "f_lst": factors}`` with the scale in µS per unit of weight.

        Raises:
            UnmappableWeightError: If `weights` is empty, has NaN or infinite elements or no real type, or if the scale
                is not a positive finite number of the compute type.
        """
        conductances, scale = converted(self, weights)
        return conductances, {"scale_ratio": scale, "f_lst": self.f_lst}

    def convert_back_to_weights(self, conductances: Sequence[ArrayLike], params: Mapping[str, Any]) -> FloatArray:
        """Convert conductances back: ``sum_k f_k * (G+_k - G-_k) / scale``, as aihwkit does.

        Args:
            conductances: ``[G+_1, G-_1, G+_2, ...]`` in µS, of one shape.
            params: ``{"scale_ratio": scale, "f_lst": factors}`` from `convert_to_conductances`.

        Returns:
            Weights of that shape, float64 for float64 conductances and float32 for all others.

        Raises:
            ValueError: If there are not two conductances for each factor, or `params` lacks an entry.
        """
        if "f_lst" not in params:
            raise ValueError("params does not contain f_lst")
        if len(conductances) != 2 * len(self._factors):
            raise ValueError(
                f"conductances must contain exactly {2 * len(self._factors)} elements, two for each factor"
            )
        arrays = [np.asarray(conductance) for conductance in conductances]
        dtype = compute_dtype(arrays[0].dtype)
        scale = dtype.type(scale_of_params(params))
        total: FloatArray = np.zeros(arrays[0].shape, dtype)
        for factor, plus, minus in zip(self._factors, arrays[::2], arrays[1::2], strict=True):
            total = total + dtype.type(factor) * (np.asarray(plus, dtype) - np.asarray(minus, dtype))
        return np.asarray(total / scale)

    # Chunk by chunk

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        return {"f_lst": self.f_lst, "g_max": self._g_max, "g_min": self._g_min}

    def scale(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """The scale in µS per unit of weight, as a value of `dtype`.

        Raises:
            UnmappableWeightError: If it is zero or infinite in `dtype`.
        """
        return two_roundings_scale(self, self._range_us, statistics, dtype)

    def needs_check(self, scale: float) -> bool:  # noqa: ARG002 - the signature of all converters
        """False: whatever has a scale can be converted."""
        return False

    def check_chunk(self, weights: FloatArray, scale: float) -> str | None:  # noqa: ARG002 - see `needs_check`
        """None: whatever has a scale can be converted."""
        return None

    def decoding(self, scale: float) -> Decoding:
        """``W = (f_1 * G+_1 - f_1 * G-_1 + f_2 * G+_2 - ...) / scale``."""
        coefficients = tuple(sign * factor for factor in self._factors for sign in (1.0, -1.0))
        return Decoding(coefficients=coefficients, offset_us=0.0, scale=scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scale: float, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`: G+ and G- of each pair, pair after pair."""
        number = weights.dtype.type
        zero, g_min, g_max = number(0), number(self._g_min), number(self._g_max)
        with np.errstate(under="ignore"):
            product = weights * number(scale)
            filled = 0.0
            for pair, factor in enumerate(self._factors):
                for device, signed in zip(self.pairs[pair], (product, -product), strict=True):
                    conductance = out[device]
                    np.maximum(signed, zero, out=conductance)
                    np.subtract(conductance, number(filled), out=conductance)
                    np.divide(conductance, number(factor), out=conductance)
                    np.add(conductance, g_min, out=conductance)
                    np.clip(conductance, g_min, g_max, out=conductance)
                filled += factor * (self._g_max - self._g_min)

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance that converting can give, in µS: the clip is the last step."""
        return float(dtype.type(self._g_min)), float(dtype.type(self._g_max))

    def error_bound(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> float:
        """Largest possible ``|rebuilt - W|``, in units of weight.

        Let u be half an ulp of 1, S the range ``sum_k f_k * D`` and N the number of pairs. A device that is neither
        empty nor full is off by the roundings of ``W * scale``, of L_k and of their difference, u S each, divided by
        f_k, and by u times D and g_max for the quotient and for adding g_min. Decoding rounds each factor, each product
        and each of 2N sums by u times at most ``sum_k f_k * g_max``, and the quotient by u times max|W|. The two
        roundings of the scale leave the largest weight up to 2u above the range.
        """
        unit = float(ml_dtypes.finfo(dtype).eps) / 2
        pairs = len(self._factors)
        reach = self._g_max / (self._g_max - self._g_min)
        roundings = 3 * pairs + (1 + reach) + (4 + 2 * pairs) * reach + 1 + 2
        largest = max(statistics.max_abs, SMALLEST_MAX_ABS)
        subnormal = float(ml_dtypes.finfo(dtype).smallest_subnormal)
        if is_half_precision(dtype):
            subnormal += subnormal * 2 * sum(self._factors) / self.scale(statistics, np.dtype(np.float32))
        return roundings * unit * largest * (1 + 32 * pairs * unit) + subnormal

    @property
    def _range_us(self) -> float:
        """The conductance of the largest weight, all pairs and their factors counted, in µS."""
        return sum(factor * (self._g_max - self._g_min) for factor in self._factors)
