"""What every converter offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.scaling import Scaling
from onnx_gconv.converters.weight_statistics import WeightStatistics

__all__ = ["ConductanceConverter"]


class ConductanceConverter(Protocol):
    """A rule weight ⇄ conductances that can be applied to a weight chunk by chunk.

    A weight has one scale, or one for each group of its elements. What holds for a scale is then an array of the shape
    of the groups instead of a number, and every group is converted as if it were a weight of its own.
    """

    @property
    def g_max(self) -> float:
        """Upper end of the devices' range, in µS."""
        ...

    @property
    def g_min(self) -> float:
        """Lower end of the devices' range, in µS."""
        ...

    @property
    def device_names(self) -> tuple[str, ...]:
        """One name for each device of a weight, e.g. ``("g_plus", "g_minus")``."""
        ...

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the two devices of each pair of which one is always at `g_min`."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether the rebuilt weights are bit-identical to the weights."""
        ...

    @property
    def natural_levels(self) -> int | None:
        """Into how many uniform levels all conductances fall by themselves; None if they take any value."""
        ...

    @property
    def largest_integer(self) -> int | None:
        """The largest integer that codes of the converter hold; None if it does not round to codes.

        With statistics whose max|W| is this number, every integer up to it has a code of its own.
        """
        ...

    def for_levels(self, count: int) -> ConductanceConverter:
        """The converter for devices of which each has `count` uniform levels from `g_min` to `g_max`."""
        ...

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        ...

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """The scale in µS per unit of weight, and the zero, as values of `dtype`; for each group if there are groups.

        Raises:
            UnmappableWeightError: If a scale is zero or infinite in `dtype`.
        """
        ...

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """The smallest and the largest weight that the devices hold with that scaling.

        Weights beyond them, which are there if the scaling is not made from their own statistics, have to be clipped
        before they are converted.
        """
        ...

    def check_chunk(self, weights: FloatArray, scaling: Scaling) -> str | None:
        """Why this chunk cannot be converted with this scaling, or None. Only asked if `needs_check` says so."""
        ...

    def needs_check(self, scaling: Scaling) -> bool:
        """Whether a second scan has to call `check_chunk` before the weight may be converted."""
        ...

    def decoding(self, scaling: Scaling) -> Decoding:
        """How the conductances become weights again."""
        ...

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`.

        Args:
            weights: A part of the weight, float32 or float64, any shape.
            scaling: From `scaling`; arrays have the shape and the type of `weights` (see `Scaling.at`).
            out: For each of `device_names` an array of the same shape and type; none may overlap `weights`.
        """
        ...

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance, in µS, that converting to `dtype` can give, roundings included."""
        ...

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|`` over the elements of the weight, in units of weight.

        Args:
            statistics: Of the weight. Where it exceeds `limits`, the bound includes what clipping changes.
            scaling: With which it is converted.
            dtype: Type of the conductances and of the rebuilt weight before any cast. float16 and bfloat16 conductances
                are computed in float32 and rounded.

        Returns:
            A number, or an array with one bound for each group.
        """
        ...
