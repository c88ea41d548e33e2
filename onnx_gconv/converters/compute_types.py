"""The types of numbers in which weights are mapped."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import UnmappableWeightError

__all__ = ["FloatArray", "FloatOrArray", "compute_dtype", "is_half_precision", "operand", "plain"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

FloatOrArray: TypeAlias = float | FloatArray
"""One number, or one for each group of elements that share a scale."""

_HALF_PRECISION = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})

# Types of 16 bits and fewer, whose values are all float32 values.
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

    Computing float16 in its own type would overflow the scale for max|W| below 3.8e-4, and siemens would be subnormal.

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
    """A number as a scalar of a type, an array as an array of it."""
    return value.astype(dtype, copy=False) if isinstance(value, np.ndarray) else dtype.type(value)


def plain(value: Any) -> FloatOrArray:  # noqa: ANN401 - what NumPy's functions return
    """A scalar of NumPy as a number of Python; an array as a float64 array."""
    return value.astype(np.float64, copy=False) if isinstance(value, np.ndarray) else float(value)
