"""How far roundings can take rebuilt weights from the weights."""

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


# What math.frexp gives as mantissa of a power of two
_POWER_OF_TWO = 0.5


def rounding_unit(dtype: np.dtype[Any]) -> float:
    """Half an ulp of 1 in the type in which conductances of `dtype` are computed: float32 for half precision."""
    computed = np.dtype(np.float32) if is_half_precision(dtype) else dtype
    return float(ml_dtypes.finfo(computed).eps) / 2


def storing_error_us(highest_us: float, dtype: np.dtype[Any]) -> float:
    """What rounding a computed conductance of at most `highest_us` to its type changes, in µS.

    float32 and float64 conductances are computed in their own type, so nothing.
    """
    if not is_half_precision(dtype):
        return 0.0
    finfo = ml_dtypes.finfo(dtype)
    return float(finfo.eps) / 2 * highest_us + float(finfo.smallest_subnormal)


def clipping_error(largest: FloatOrArray, limit: FloatOrArray) -> FloatOrArray:
    """By how much weights up to `largest` are cut if they are clipped at `limit`; what float64 rounds counted in."""
    return plain(np.maximum(largest - limit + np.finfo(np.float64).eps * np.abs(largest), 0.0))


def rebuilding_error(
    decoding: Decoding,
    errors_us: Sequence[float],
    highest_us: Sequence[float],
    largest: FloatOrArray,
    dtype: np.dtype[Any],
) -> FloatOrArray:
    """Largest distance of a rebuilt weight from the one that exact conductances would give exactly.

    Let u be half an ulp of 1, c_k the coefficients, h_k the highest conductances, b the offset, and
    ``A_k = sum_i<=k |c_i| * h_i``. The errors e_k of the conductances add up to ``sum_k |c_k| * e_k``. A coefficient
    that is no power of two is rounded, and so is its product: ``2u * |c_k| * h_k``. The sum with device k is rounded by
    u * A_k at most, b by u * b, the difference with it by u * max(A, b), all in µS; the quotient by the scale and the
    sum with w0 are rounded by u relative to the weight. Each operation may give a subnormal number.

    Args:
        decoding: How the weights are rebuilt.
        errors_us: For each device, how far its conductance may be off, in µS.
        highest_us: For each device, its largest conductance, in µS.
        largest: Largest |W - w0| and |W| of the weights; for each group if there are groups.
        dtype: In which the weights are rebuilt.

    Returns:
        The distance in units of weight; infinite where a sum of conductances, or a weight, may overflow.
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
