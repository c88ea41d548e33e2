"""The interface of converters."""

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

    A weight has one scale, or one scale for each group of its elements. With groups, scales, zeros, limits and bounds
    are arrays with one entry for each group instead of numbers, and each group is converted like a separate weight.
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
        """Indices of the two devices of each pair, for pairs of which one device is always at `g_min`."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether the rebuilt weights are bit-identical to the weights."""
        ...

    @property
    def natural_levels(self) -> int | None:
        """The number of uniform levels on which all conductances of the rule lie; None if they take any value."""
        ...

    @property
    def largest_integer(self) -> int | None:
        """The largest integer that the converter's codes hold; None if it does not round weights to codes.

        If max|W| is this number, the code of each integer up to it is the integer itself.
        """
        ...

    def for_levels(self, count: int) -> ConductanceConverter:
        """The converter for devices with `count` uniform levels from `g_min` to `g_max`."""
        ...

    def manifest_parameters(self) -> dict[str, Any]:
        """All parameters, as JSON values; conductances in µS."""
        ...

    def scaling(self, statistics: WeightStatistics, dtype: np.dtype[Any]) -> Scaling:
        """The scale in µS per unit of weight, and the zero in units of weight, as values of `dtype`.

        Both are arrays with one entry for each group if `statistics` has groups.

        Raises:
            UnmappableWeightError: If a scale is zero or infinite in `dtype`.
        """
        ...

    def limits(self, scaling: Scaling) -> tuple[FloatOrArray, FloatOrArray]:
        """The smallest and the largest weight that the devices hold with that scaling.

        The caller has to clip weights beyond these limits before converting them. There are such weights only if the
        scaling was made from other statistics than those of the weight.
        """
        ...

    def check_chunk(self, weights: FloatArray, scaling: Scaling) -> str | None:
        """Why this chunk cannot be converted with this scaling; None if it can. Called only after `needs_check`."""
        ...

    def needs_check(self, scaling: Scaling) -> bool:
        """Whether a second scan has to call `check_chunk` before the weight may be converted."""
        ...

    def decoding(self, scaling: Scaling) -> Decoding:
        """The formula that rebuilds weights from the conductances."""
        ...

    def convert_chunk(self, weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]) -> None:
        """Write the conductances of all devices, in µS, to `out`.

        Args:
            weights: A part of the weight, float32 or float64, any shape.
            scaling: The result of `scaling`; with groups, its arrays hold one entry for each element of `weights`, and
                have the type of `weights`.
            out: For each of `device_names` an array of the same shape and type; none may overlap `weights`.
        """
        ...

    def conductance_bounds(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """The lowest and the highest conductance, in µS, that converting to `dtype` can give, roundings included."""
        ...

    def error_bound(self, statistics: WeightStatistics, scaling: Scaling, dtype: np.dtype[Any]) -> FloatOrArray:
        """Largest possible ``|rebuilt - W|`` over the elements of the weight, in units of weight.

        Args:
            statistics: The statistics of the weight. If the weight exceeds `limits`, the bound includes the error of
                clipping.
            scaling: The scaling with which the weight is converted.
            dtype: Type of the conductances and of the rebuilt weight before any cast. float16 and bfloat16 conductances
                are computed in float32 and rounded.

        Returns:
            A number, or an array with one bound for each group.
        """
        ...
