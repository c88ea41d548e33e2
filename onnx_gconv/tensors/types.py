"""The ONNX data types of weights that can be mapped."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

__all__ = ["INTEGER_DTYPES", "MAPPABLE_DTYPES", "WIDENING_CASTS", "dtype_of_name", "finite_range", "type_name"]

# Types of weights that are integer codes.
INTEGER_DTYPES = frozenset(
    {
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.INT32,
    }
)

_FLOAT8_DTYPES = frozenset(
    {
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)
_HALF_DTYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

# All types of weights that can be mapped.
MAPPABLE_DTYPES = INTEGER_DTYPES | _FLOAT8_DTYPES | _HALF_DTYPES | {ir.DataType.FLOAT, ir.DataType.DOUBLE}


_DTYPES_BY_NAME = {np.dtype(dtype.numpy()).name: dtype for dtype in MAPPABLE_DTYPES}


def dtype_of_name(name: str) -> ir.DataType | None:
    """The mappable type with a NumPy name such as ``float32``; None if there is none."""
    return _DTYPES_BY_NAME.get(name)


def type_name(dtype: ir.DataType) -> str:
    """The NumPy name of a type, such as ``float32``."""
    if dtype in {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        return dtype.name.lower()
    return np.dtype(dtype.numpy()).name


def finite_range(dtype: ir.DataType) -> tuple[float, float]:
    """The lowest and the highest finite number of a mappable type."""
    numpy_dtype = np.dtype(dtype.numpy())
    info = ml_dtypes.iinfo(numpy_dtype) if dtype in INTEGER_DTYPES else ml_dtypes.finfo(numpy_dtype)
    return float(info.min), float(info.max)


# Casts that keep every value: for each target type, the source types.
WIDENING_CASTS = {
    ir.DataType.FLOAT16: _FLOAT8_DTYPES,
    ir.DataType.BFLOAT16: _FLOAT8_DTYPES,
    ir.DataType.FLOAT: _FLOAT8_DTYPES | _HALF_DTYPES,
    ir.DataType.DOUBLE: _FLOAT8_DTYPES | _HALF_DTYPES | {ir.DataType.FLOAT},
}
