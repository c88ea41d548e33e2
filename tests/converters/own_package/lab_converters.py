"""A converter of a laboratory's own: a device beside a reference device that stands at one conductance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_gconv.converters import (
    BaseConductanceConverter,
    Decoding,
    FloatArray,
    FloatOrArray,
    Scaling,
    WeightStatistics,
)
from onnx_gconv.converters.compute_types import operand, plain
from onnx_gconv.converters.rounding import clipping_error, rebuilding_error, rounding_unit, storing_error_us
from onnx_gconv.errors import ConfigError


class ReferencePair(BaseConductanceConverter):
    """Maps a weight to a device, whose reference device has the same conductance for all weights::

        scale       = (1 / max(max|W|, 1e-7)) * min(g_max - midpoint, midpoint - g_min)
        g           = clip(midpoint + W * scale, g_min, g_max)
        g_reference = midpoint
        W           = (g - g_reference) / scale

    Args:
        g_max: Upper end of the devices' range, in µS.
        g_min: Lower end of the devices' range, in µS.
        midpoint: The conductance of the reference device, in µS; the middle of the range if None.
    """

    name = "reference-pair"
    device_names = ("g", "g_reference")

    def __init__(self, g_max: float | None = None, g_min: float | None = None, midpoint: float | None = None) -> None:
        super().__init__(g_max, g_min)
        self._midpoint = (self.g_max + self.g_min) / 2 if midpoint is None else float(midpoint)
        self._reach = min(self.g_max - self._midpoint, self._midpoint - self.g_min)
        if not self._reach > 0:
            raise ConfigError(
                f"midpoint should lie between g_min = {self.g_min:g} and g_max = {self.g_max:g} µS, but it is "
                f"{self._midpoint:g}"
            )

    def manifest_parameters(self) -> dict[str, Any]:
        return {"g_max": self.g_max, "g_min": self.g_min, "midpoint": self._midpoint}

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        return Scaling(self._scale_of_largest(self._reach, statistics, dtype))

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        limit = self._reach / scaling.scale
        return -limit, limit

    def decoding(self, scaling: Scaling) -> Decoding:
        return Decoding(coefficients=(1.0, -1.0), offset_us=0.0, scale=scaling.scale, zero=0.0)

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        g, g_reference = out
        number = weights.dtype.type
        np.multiply(weights, operand(scaling.scale, weights.dtype), out=g)
        np.add(g, number(self._midpoint), out=g)
        np.clip(g, number(self.g_min), number(self.g_max), out=g)
        g_reference.fill(number(self._midpoint))

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        return float(dtype.type(self.g_min)), float(dtype.type(self.g_max))

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        unit = rounding_unit(dtype)  # of the product, of the midpoint, and of their sum
        error_us = unit * (1 + 8 * unit) * (self._reach + self._midpoint + self.g_max)
        error_us += storing_error_us(self.g_max, dtype)
        _, limit = self.limits(scaling)
        rebuilt = rebuilding_error(self.decoding(scaling), [error_us] * 2, [self.g_max] * 2, limit, dtype)
        return plain(rebuilt + clipping_error(statistics.max_abs, limit))
