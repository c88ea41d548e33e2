"""Bounds of the errors that rounding and clipping cause in rebuilt weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.converters.compute_types import FloatOrArray, is_half_precision, plain
from onnx_gconv.converters.decoding import Decoding

__all__ = ["clipping_error", "rebuilding_error", "rounding_unit", "storing_error_us"]


# The mantissa that math.frexp returns for every power of two.
_POWER_OF_TWO = 0.5


def rounding_unit(dtype: np.dtype[Any]) -> float:
    """Half an ulp of 1 in the type in which conductances of `dtype` are computed: float32 for half precision."""
    computed = np.dtype(np.float32) if is_half_precision(dtype) else dtype
    return float(ml_dtypes.finfo(computed).eps) / 2


def storing_error_us(highest_us: float, dtype: np.dtype[Any]) -> float:
    """Largest error in µS of rounding a computed conductance of at most `highest_us` µS to the stored type.

    It is 0 for float32 and float64, because these conductances are computed in the stored type.
    """
    if not is_half_precision(dtype):
        return 0.0
    finfo = ml_dtypes.finfo(dtype)
    return float(finfo.eps) / 2 * highest_us + float(finfo.smallest_subnormal)


def clipping_error(largest: FloatOrArray, limit: FloatOrArray) -> FloatOrArray:
    """By how much clipping at `limit` changes weights up to `largest`, in units of weight.

    The bound includes the rounding of this difference in float64.
    """
    return plain(np.maximum(largest - limit + np.finfo(np.float64).eps * np.abs(largest), 0.0))


def rebuilding_error(
    decoding: Decoding,
    errors_us: Sequence[float],
    highest_us: Sequence[float],
    largest: FloatOrArray,
    dtype: np.dtype[Any],
) -> FloatOrArray:
    """Largest difference between a rebuilt weight and the exact result of the formula with exact conductances.

    Let u be half an ulp of 1, c_k the coefficients, h_k the highest conductances, b the offset, and
    ``A_k = sum_i<=k |c_i| * h_i``. The errors e_k of the conductances add up to ``sum_k |c_k| * e_k``. A coefficient
    that is no power of two is rounded, and so is its product: ``2u * |c_k| * h_k``. The sum with device k is rounded by
    at most u * A_k, b by u * b, and the subtraction of b by u * max(A, b), all in µS. The quotient by the scale and the
    sum with w0 are rounded by u relative to the weight. Each operation may also lose a subnormal number.

    Args:
        decoding: The formula that rebuilds the weights.
        errors_us: For each device, the largest error of its conductance, in µS.
        highest_us: For each device, its largest conductance, in µS.
        largest: The larger of max|W - w0| and max|W|; for each group if there are groups.
        dtype: The type in which the weights are rebuilt.

    Returns:
        The difference in units of weight; infinite if a sum of conductances or a weight may overflow.
    """
    finfo = ml_dtypes.finfo(dtype)
    unit, subnormal = float(finfo.eps) / 2, float(finfo.smallest_subnormal)
    count, offset_us = len(decoding.coefficients), abs(decoding.offset_us)
    magnitudes = [abs(coefficient) for coefficient in decoding.coefficients]
    products_us = [c * highest for c, highest in zip(magnitudes, highest_us, strict=True)]
    sums_us = list(itertools.accumulate(products_us))
    if max(sums_us[-1], offset_us) * (1 + 4 * count * unit) > float(finfo.max):
        return plain(np.full(np.shape(decoding.scale), math.inf)[()])
    rounded_us = sum(sums_us[1:]) + (offset_us + max(sums_us[-1], offset_us) if offset_us else 0.0)
    rounded_us += sum(
        2 * us for c, us in zip(magnitudes, products_us, strict=True) if math.frexp(c)[0] != _POWER_OF_TWO
    )
    lost_us = sum(c * error for c, error in zip(magnitudes, errors_us, strict=True)) + (2 * count + 3) * subnormal
    in_weight = (lost_us + unit * rounded_us) / decoding.scale + 2 * unit * largest
    distance = in_weight * (1 + 16 * count * unit) + 2 * subnormal
    return plain(np.where(largest + distance > float(finfo.max), math.inf, distance)[()])
