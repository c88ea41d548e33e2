"""The floating-point types in which converters compute."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import UnmappableWeightError

__all__ = ["FloatArray", "FloatOrArray", "compute_dtype", "is_half_precision", "operand", "plain"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

FloatOrArray: TypeAlias = float | FloatArray
"""A number for the whole weight, or an array with one number for each group of elements that share a scale."""

_HALF_PRECISION = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})

# Floating-point types of at most 16 bits; float32 holds all their values exactly.
_NARROW = frozenset(
    np.dtype(dtype)
    for dtype in (
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e4m3fnuz,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e5m2fnuz,
    )
)


def compute_dtype(dtype: np.dtype[Any] | type) -> np.dtype[Any]:
    """The type in which a weight is mapped: float64 stays, all others are computed in float32.

    float16 weights are not computed in their own type, because the scale would overflow for max|W| below 3.8e-4.

    Raises:
        UnmappableWeightError: If `dtype` is not a real number.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        dtype = dtype.newbyteorder("=")
    if dtype in _NARROW or dtype.kind in "iub":
        return np.dtype(np.float32)
    if dtype in {np.dtype(np.float32), np.dtype(np.float64)}:
        return dtype
    raise UnmappableWeightError(f"weights of type {dtype} cannot be mapped; float16, bfloat16, float32 and float64 can")


def is_half_precision(dtype: np.dtype[Any]) -> bool:
    """Whether conductances of this type are computed in float32 and rounded to it: float16 and bfloat16."""
    return dtype in _HALF_PRECISION


def operand(value: FloatOrArray, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 - a scalar or an array of `dtype`
    """Cast a number to a NumPy scalar of a type, or an array to an array of that type."""
    return value.astype(dtype, copy=False) if isinstance(value, np.ndarray) else dtype.type(value)


def plain(value: Any) -> FloatOrArray:  # noqa: ANN401 - what NumPy's functions return
    """Convert a NumPy scalar to a Python number, or an array to a float64 array."""
    return value.astype(np.float64, copy=False) if isinstance(value, np.ndarray) else float(value)
