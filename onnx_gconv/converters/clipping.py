"""Where the range of weights ends that the conductance range holds: at the largest, at a percentile, or at a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx_gconv.errors import ConfigError

__all__ = ["Clipping"]

_WHOLE = 100.0


@dataclass(frozen=True)
class Clipping:
    """What the largest conductance stands for; weights beyond it are clipped.

    Attributes:
        percentile: The smallest |W| that is not below this percentage of all; None for no percentile.
        value: A weight; None for no value. If both are None, max|W| counts, and nothing is clipped.

    Raises:
        ConfigError: If both are given, the percentile is not above 0 and at most 100, or the value is not positive and
            finite.
    """

    percentile: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        if self.percentile is not None and self.value is not None:
            raise ConfigError(
                f"clipping is at a percentile or at a value, but both are given: {self.percentile} and {self.value}"
            )
        if self.percentile is not None and not 0 < self.percentile <= _WHOLE:
            raise ConfigError(f"the percentile of clipping is above 0 and at most 100, but it is {self.percentile}")
        if self.value is not None and not (math.isfinite(self.value) and self.value > 0):
            raise ConfigError(f"the value of clipping is positive and finite, but it is {self.value}")

    @property
    def is_at_maximum(self) -> bool:
        """Whether max|W| counts."""
        return self.percentile is None and self.value is None
