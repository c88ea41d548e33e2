"""Checks of the parameters of converters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx_gconv.errors import ConfigError

__all__ = ["checked_factors", "checked_range", "positive_number", "whole_number"]


def checked_range(g_max: float, g_min: float) -> tuple[float, float]:
    """Check the ends of a conductance range and return them as ``(g_max, g_min)``, in µS.

    Raises:
        ConfigError: If an end is negative or not finite, or the range is empty.
    """
    high, low = _conductance("g_max", g_max), _conductance("g_min", g_min)
    if low >= high:
        raise ConfigError(f"g_min should be smaller than g_max, but g_min={low} and g_max={high} µS")
    return high, low


def checked_factors(f_lst: Sequence[float]) -> tuple[float, ...]:
    """Check the factors of several pairs and return them.

    Raises:
        ConfigError: If there is no factor, or one is not positive and finite.
    """
    try:
        given = [*f_lst]
    except TypeError:
        raise ConfigError(f"f_lst should be a list of factors, but it is {f_lst!r}") from None
    if not given:
        raise ConfigError("f_lst should have at least one factor, but it is empty")
    return tuple(positive_number(f"factor {number} of f_lst", f) for number, f in enumerate(given, 1))


def positive_number(name: str, value: float) -> float:
    """Check that a value is a positive, finite number, and return it.

    Raises:
        ConfigError: If it is not.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} should be a number, but it is {value!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{name} should be positive and finite, but it is {number}")
    return number


def whole_number(name: str, value: int, lowest: int, highest: int) -> int:
    """Check that a value is a whole number from `lowest` to `highest`, and return it.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ConfigError(f"{name} should be a whole number from {lowest} to {highest}, but it is {value!r}")
    return value


def _conductance(name: str, value: float) -> float:
    """Check one end of a conductance range, and return it in µS."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} should be a number in µS, but it is {value!r}") from None
    if not math.isfinite(number):
        raise ConfigError(f"{name} should be finite, but it is {number} µS")
    if number < 0:
        raise ConfigError(f"{name} should be a positive value, but it is {number} µS")
    return number + 0.0  # turns -0.0 into 0.0, so that equal ranges are written alike
