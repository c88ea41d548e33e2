"""A weight that may be mapped, with how that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.streamed import element_chunks
from onnx_gconv.weights import FoundWeight
from onnx_gconv.weights.weight_grid import WeightGrid, weight_grid

__all__ = ["Candidate", "candidate_of"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A weight, how it is to be mapped, and which of its elements are to share a scale; or why that cannot be.

    If the conductances of its integers are levels, the held integer is the one that the largest conductance stands for.
    It may lose if its integers may come back as near ones, where levels do not tell them apart.
    """

    found: FoundWeight
    scheme: MappingScheme
    weight_grid: WeightGrid | None
    problem: UnmappableWeightError | None = None
    held_integer: int | None = None
    may_lose: bool = False

    @property
    def grid(self) -> ScaleGrid | None:
        """The groups of elements that share a scale; None if all do."""
        grid = None if self.weight_grid is None else self.weight_grid.grid
        return None if grid is None or grid.form == "number" else grid

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it before its values are looked at."""
        return (*self.found.notes, *(() if self.weight_grid is None else self.weight_grid.notes))

    def chunks(
        self, start: int, stop: int, dtype: np.dtype[Any]
    ) -> Iterator[tuple[FloatArray, NDArray[np.intp] | None]]:
        """Elements and the numbers of their groups; None if all share a scale."""
        for elements in element_chunks(self.found.numbers, start, stop, dtype=dtype):
            yield elements, None if self.grid is None else self.grid.groups(start, start + elements.size)
            start += elements.size


def candidate_of(weight: FoundWeight, scheme: MappingScheme, *, may_lose: bool) -> Candidate:
    """A weight with the groups of elements that share a scale, or why there are none.

    Args:
        weight: The weight.
        scheme: How it is to be mapped.
        may_lose: Whether integers may come back as near ones, where levels do not tell them apart.
    """
    try:
        return Candidate(weight, scheme, weight_grid(weight, scheme.granularity, scheme.parts), may_lose=may_lose)
    except UnmappableWeightError as problem:
        return Candidate(weight, scheme, None, problem)
