"""Whether conductances are in the range of their device."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["first_out_of_range"]

# Of the scale, the product, and the sum with g_min, each rounded.
_END_ROUNDINGS = 4


def first_out_of_range(
    conductances: NDArray[Any], g_min: float, g_max: float, compute_dtype: str
) -> tuple[int, int] | None:
    """The first cell whose conductance is no number, or out of the range by more than roundings; None if none is.

    Args:
        conductances: In µS, [rows, columns].
        g_min: Lower end of the range, in µS.
        g_max: Upper end of the range, in µS.
        compute_dtype: The type in which they were computed.
    """
    slack = _END_ROUNDINGS * float(ml_dtypes.finfo(np.dtype(compute_dtype)).eps) * g_max
    low, high = float(conductances.min()), float(conductances.max())
    if low >= g_min - slack and high <= g_max + slack:  # NaN is neither
        return None
    wrong = ~((conductances >= g_min - slack) & (conductances <= g_max + slack))
    row, column = np.argwhere(wrong)[0]
    return int(row), int(column)
