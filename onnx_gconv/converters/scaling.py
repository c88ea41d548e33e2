"""How weights and conductances are proportional: the scale, and the weight that is added at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.converters.compute_types import FloatOrArray, plain

__all__ = ["Scaling", "narrowed_scale"]


@dataclass(frozen=True)
class Scaling:
    """The scale of a weight, or of each group of its elements that share one.

    Entries are numbers of Python or float64 arrays; all are numbers of the type in which the weight is mapped.

    Attributes:
        scale: µS per unit of weight; positive and finite.
        zero: w0, the weight that is added at the end, in units of weight.
    """

    scale: FloatOrArray
    zero: FloatOrArray = 0.0


def narrowed_scale(scale: FloatOrArray, dtype: np.dtype[Any]) -> FloatOrArray | None:
    """The largest numbers of a type of half precision that are not above scales, so that no conductance is clipped.

    Args:
        scale: µS per unit of weight.
        dtype: float16 or bfloat16.

    Returns:
        The numbers, or None if one scale is too large for the type, or so small that it is a subnormal number.
    """
    finfo = ml_dtypes.finfo(dtype)
    if not np.all((float(finfo.smallest_normal) <= np.asarray(scale)) & (np.asarray(scale) <= float(finfo.max))):
        return None
    narrowed = np.asarray(scale, np.float64).astype(dtype)
    below = np.nextafter(narrowed, np.zeros_like(narrowed))
    return plain(np.where(narrowed.astype(np.float64) > scale, below, narrowed).astype(np.float64)[()])
