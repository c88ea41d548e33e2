"""Checks whether conductances in float16 or bfloat16 can hold a weight of that type."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.converters import WeightStatistics, narrowed_scale
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors.conductance import conductance_tensors
from onnx_gconv.tensors.rebuilt import RebuiltTensor
from onnx_gconv.tensors.streamed import element_chunks
from onnx_gconv.weights import FoundWeight

__all__ = ["in_half_precision"]


def in_half_precision(
    weight: FoundWeight, conversion: WeightConversion, statistics: WeightStatistics
) -> WeightConversion | str:
    """The conversion of a weight to conductances of its own type.

    Args:
        weight: A weight of float16 or bfloat16.
        conversion: The conversion to conductances of float32.
        statistics: The extremes of the weight, or of each group of elements that share a scale.

    Returns:
        The conversion, or why conductances of that type cannot hold the weight.
    """
    dtype: np.dtype[Any] = np.dtype(weight.tensor.dtype.numpy())
    scale = narrowed_scale(conversion.scaling.scale, dtype)
    if scale is None:
        return f"its scale of {float(np.max(conversion.scaling.scale)):g} µS per unit does not fit {dtype.name}"
    half = replace(conversion, scaling=replace(conversion.scaling, scale=scale))
    overflow = half.overflow(statistics, dtype)
    return _obstacle(weight, half, dtype) or (half if overflow is None else f"it {overflow}")


def _obstacle(weight: FoundWeight, conversion: WeightConversion, dtype: np.dtype[Any]) -> str | None:
    """Why conductances of half precision cannot hold the weight; None if they can."""
    name = dtype.name
    if not isinstance(conversion.scaling.zero, float) or conversion.scaling.zero:
        return f"{name} cannot hold the zero that its converter adds"
    if _largest_sum_us(conversion) > float(ml_dtypes.finfo(dtype).max):
        return f"{name} cannot hold the sum of its conductances"
    if not conversion.converter.is_exact:
        return None
    names = conversion.converter.device_names
    tensor, stored = weight.tensor, weight.tensor.dtype
    tensors = conductance_tensors(tensor, conversion, dtype=stored, names=names)
    rebuilt = RebuiltTensor(tensors, conversion.decoding, dtype=stored, name=weight.name, grid=conversion.grid)
    for ours, theirs in zip(rebuilt.chunks(), element_chunks(tensor), strict=True):
        different = np.flatnonzero(ours != theirs)
        if different.size:
            value = float(theirs[int(different[0])])
            return f"{name} cannot hold the conductance of its value {value:g} exactly"
    return None


def _largest_sum_us(conversion: WeightConversion) -> float:
    """An upper bound, in µS, of the weighted sum of conductances and of its partial sums."""
    coefficients = np.array(conversion.decoding.coefficients)
    largest = max(float(coefficients[coefficients > 0].sum()), -float(coefficients[coefficients < 0].sum()))
    return largest * conversion.converter.g_max
