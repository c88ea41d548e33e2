"""What is taken for a measurement, and how far from its target it may be."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.crossbars.error_figures import Tolerance
from onnx_gconv.errors import ConfigError

__all__ = ["check_limits", "check_limits_of_type", "parse_limits", "tolerance_of"]


def check_limits(limits: tuple[float, float] | None) -> None:
    """Refuse a range that is none.

    Raises:
        ConfigError: If it is not two finite numbers of float32, the lower one first.
    """
    if limits is None:
        return
    if not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise ConfigError(f"limits are the lowest and the highest conductance in µS, but they are {limits}")
    _check_largest(limits, float(np.finfo(np.float32).max), "float32")


def check_limits_of_type(limits: tuple[float, float] | None, dtype: np.dtype[Any], weight: str) -> None:
    """Refuse limits beyond what the conductances of a weight can be; what is measured there would become infinite.

    Raises:
        ConfigError: If one is.
    """
    if limits is not None:
        _check_largest(limits, float(ml_dtypes.finfo(dtype).max), f"{dtype.name}, the type of those of '{weight}'")


def _check_largest(limits: tuple[float, float], largest: float, what: str) -> None:
    if max(map(abs, limits)) > largest:
        raise ConfigError(
            f"the limits {limits[0]:g}..{limits[1]:g} µS reach beyond {largest:g}, the largest conductance in {what}; "
            "give narrower ones"
        )


def parse_limits(text: str) -> tuple[float, float]:
    """The two conductances in ``LOW..HIGH``, in µS.

    Raises:
        ConfigError: If the text is none such.
    """
    low, dots, high = text.partition("..")
    try:
        limits = float(low), float(high)
    except ValueError:
        dots = ""
    if not dots:
        raise ConfigError(f"limits are given as LOW..HIGH in µS, e.g. -1..30, but not as '{text}'")
    check_limits(limits)
    return limits


def tolerance_of(absolute_us: float | None, relative: float | None) -> Tolerance | None:
    """How far a device may be from its target; None if neither is given.

    Args:
        absolute_us: In µS.
        relative: As a part of the target.

    Raises:
        ConfigError: If one is not positive and finite.
    """
    for what, value in (("tolerance_us", absolute_us), ("tolerance_relative", relative)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{what} is positive and finite, but it is {value}")
    return None if absolute_us is None and relative is None else Tolerance(absolute_us, relative)
