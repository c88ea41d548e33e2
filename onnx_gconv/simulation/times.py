"""Times after programming, as people write them: 0s, 20s, 1h, 1d, 1mo, 1y."""

from __future__ import annotations

import math
import re

from onnx_gconv.errors import ConfigError

__all__ = ["parse_time", "time_text"]

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "mo": 30 * 86400.0, "y": 365 * 86400.0}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)")


def parse_time(text: str) -> float:
    """The seconds that a text such as ``1d`` says. A month has 30 days, a year 365.

    Raises:
        ConfigError: If it is no such text.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or found[2] not in _SECONDS or not math.isfinite(float(found[1])):
        units = ", ".join(_SECONDS)
        raise ConfigError(f"a time is a number and one of {units}, such as 20s, 1d or 1mo, but it is '{text}'")
    return float(found[1]) * _SECONDS[found[2]]


def time_text(seconds: float) -> str:
    """A time in the largest unit that divides it, else in seconds."""
    if seconds:
        for unit, size in sorted(_SECONDS.items(), key=lambda item: -item[1]):
            if (number := seconds / size) >= 1 and number.is_integer():
                return f"{number:.0f}{unit}"
    return f"{seconds:g}s"
