"""Limits of what is accepted as a measurement, and tolerances of devices."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.crossbars.error_figures import Tolerance
from onnx_gconv.errors import ConfigError

__all__ = ["check_limits", "check_limits_of_type", "parse_limits", "tolerance_of"]


def check_limits(limits: tuple[float, float] | None) -> None:
    """Check the lowest and highest conductance that is accepted as a measurement, in µS.

    Raises:
        ConfigError: If they are not two finite numbers within float32, the lower one first.
    """
    if limits is None:
        return
    if not (np.isfinite(limits).all() and limits[0] < limits[1]):
        raise ConfigError(f"limits are the lowest and the highest conductance in µS, but they are {limits}")
    _check_largest(limits, float(np.finfo(np.float32).max), "float32")


def check_limits_of_type(limits: tuple[float, float] | None, dtype: np.dtype[Any], weight: str) -> None:
    """Check that limits are within the dtype of the conductances of a weight; measurements beyond it become infinite.

    Args:
        limits: The limits in µS; None if there are none.
        dtype: The dtype of the conductances.
        weight: Name of the weight, for the message.

    Raises:
        ConfigError: If a limit is beyond the largest number of the dtype.
    """
    if limits is not None:
        what = f"{dtype.name}, the type of the conductances of '{weight}'"
        _check_largest(limits, float(ml_dtypes.finfo(dtype).max), what)


def _check_largest(limits: tuple[float, float], largest: float, what: str) -> None:
    if max(map(abs, limits)) > largest:
        raise ConfigError(
            f"the limits {limits[0]:g}..{limits[1]:g} µS reach beyond {largest:g}, the largest conductance in {what}; "
            "give narrower ones"
        )


def parse_limits(text: str) -> tuple[float, float]:
    """Parse limits ``LOW..HIGH`` in µS, such as ``-1..30``.

    Raises:
        ConfigError: If the text has another form, or is no range.
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
    """How far a device may be from its target; None if neither argument is given.

    Args:
        absolute_us: The tolerance in µS.
        relative: The tolerance as a fraction of the target. If both are given, the larger one counts.

    Raises:
        ConfigError: If a tolerance is not positive and finite.
    """
    for what, value in (
        ("--tolerance (tolerance_us)", absolute_us),
        ("--tolerance-relative (tolerance_relative)", relative),
    ):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{what} is positive and finite, but it is {value}")
    return None if absolute_us is None and relative is None else Tolerance(absolute_us, relative)
