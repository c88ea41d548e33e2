"""A weight that is going to be mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_gconv.converters import (
    WeightStatistics,
)
from onnx_gconv.schemes.conversion import ConversionLoss, WeightConversion
from onnx_gconv.schemes.parts import ColumnParts
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.weights import FoundWeight
from onnx_gconv.weights.same_source import SameSource

__all__ = ["PlannedWeight"]


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight that is going to be mapped.

    Attributes:
        found: The weight in the model.
        scheme: How it is mapped.
        statistics: The extremes of its values.
        conversion: How its elements become conductances.
        compute_dtype: The type of the conductances in µS, stored or decoded from level codes.
        consumer: Index of the consumer whose matrix view its scales follow; None if all elements share one scale.
        parts: The parts of each matrix of that view, which do not share a scale; None for an undivided weight.
        loss: The error by clipping and by rounding to levels; None if the weight is neither clipped nor rounded.
        notes: Notes for the user on how it is mapped, one line each.
        same_source_as: The constants with the same values, of the same parameter or not.
        has_narrow_codes: Whether level codes are stored in four bits.
        is_limited: Whether it consists of integers that may be rebuilt as other ones, so that nodes clip them to their
            range.
    """

    found: FoundWeight
    scheme: MappingScheme
    statistics: WeightStatistics
    conversion: WeightConversion
    compute_dtype: np.dtype[Any]
    consumer: int | None = None
    parts: ColumnParts | None = None
    loss: ConversionLoss | None = None
    notes: tuple[str, ...] = ()
    same_source_as: tuple[SameSource, ...] = ()
    has_narrow_codes: bool = False
    is_limited: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the weight."""
        return np.dtype(self.found.tensor.dtype.numpy())
