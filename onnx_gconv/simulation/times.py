"""Times after programming, as people write them: 0s, 20s, 1h, 1d, 1mo, 1y."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from onnx_gconv.errors import ConfigError

__all__ = ["DEFAULT_TIMES", "parse_time", "seconds_of", "time_text", "times_of"]

DEFAULT_TIMES = ("1s", "1h", "1d", "1mo", "1y")

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "mo": 30 * 86400.0, "y": 365 * 86400.0}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)")

_MOST_WRITTEN_OUT = 1e9  # larger numbers are written with an exponent


def parse_time(text: str) -> float:
    """The seconds of a time that is written as ``1d`` or ``20s``. A month has 30 days, a year 365.

    Raises:
        ConfigError: If the text is not a number with one of the units.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or found[2] not in _SECONDS or not math.isfinite(float(found[1])):
        units = ", ".join(_SECONDS)
        raise ConfigError(f"a time is a number and one of {units}, such as 20s, 1d or 1mo, but it is '{text}'")
    return float(found[1]) * _SECONDS[found[2]]


def seconds_of(time: str | float) -> float:
    """A time after programming, in seconds, from a number or a text such as ``1d``.

    Raises:
        ConfigError: If the text is not a time, or the time is negative or not finite.
    """
    if isinstance(time, bool) or not isinstance(time, (str, Real)):
        raise _no_time(time)
    seconds = parse_time(time) if isinstance(time, str) else float(time)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ConfigError(f"a time is 0 seconds or more after programming, but it is {seconds}")
    return seconds + 0.0  # -0.0 becomes 0.0, whose text names the random numbers of a reading


def times_of(times: str | float | Sequence[str | float]) -> list[float]:
    """Times after programming in seconds, in ascending order and without repetitions.

    Args:
        times: A number of seconds, a text such as ``1d`` or ``1s,1d``, or a sequence of these. NumPy's numbers and
            arrays are taken, too.

    Raises:
        ConfigError: If there is no time, or one of them is not valid.
    """
    seconds = sorted({seconds_of(each) for each in _listed(times)})
    if not seconds:
        raise ConfigError("there is no time to simulate; give one or more, such as 1s or 1d")
    return seconds


def _listed(times: Any) -> Iterable[Any]:  # noqa: ANN401 - a program may give anything
    if isinstance(times, str):
        return times.split(",")
    if isinstance(times, Real):
        return [times]
    if isinstance(times, np.ndarray):
        found: list[Any] = times.reshape(-1).tolist()
        return found
    if isinstance(times, Iterable) and not isinstance(times, (bytes, bytearray, Mapping)):
        return times
    raise _no_time(times)


def _no_time(time: object) -> ConfigError:
    return ConfigError(f"a time is a number of seconds, or a text such as 1d, but not a {type(time).__name__}")


def time_text(seconds: float) -> str:
    """A time as text, in the largest unit of which it is a whole number; else in seconds."""
    if seconds:
        for unit, size in sorted(_SECONDS.items(), key=lambda item: -item[1]):
            if (number := seconds / size) >= 1 and number.is_integer():
                return f"{number:.0f}{unit}" if number < _MOST_WRITTEN_OUT else f"{number:g}{unit}"
    return f"{seconds:g}s"
