"""A weight that may be mapped, with the scheme that is asked for."""

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
    """A weight that may be mapped.

    Attributes:
        found: The weight.
        scheme: How it is to be mapped.
        weight_grid: Which of its elements share a scale; None if there is a problem.
        problem: Why the weight cannot have scales of the granularity that is asked for; None if it can.
        held_integer: For integers on levels, the integer that the largest conductance stands for; None for others.
        may_lose: Whether integers may be rebuilt as nearby ones if there are too few levels to tell them apart.
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
        """Notes for the user that do not depend on the values of the weight."""
        return (*self.found.notes, *(() if self.weight_grid is None else self.weight_grid.notes))

    def chunks(
        self, start: int, stop: int, dtype: np.dtype[Any]
    ) -> Iterator[tuple[FloatArray, NDArray[np.intp] | None]]:
        """Yield elements in chunks, each with the numbers of their groups; None if all elements share a scale."""
        for elements in element_chunks(self.found.numbers, start, stop, dtype=dtype):
            yield elements, None if self.grid is None else self.grid.groups(start, start + elements.size)
            start += elements.size


def candidate_of(weight: FoundWeight, scheme: MappingScheme, *, may_lose: bool) -> Candidate:
    """A weight with the groups of elements that share a scale, or with the reason why it cannot have such groups.

    Args:
        weight: The weight.
        scheme: How it is to be mapped.
        may_lose: Whether integers may be rebuilt as nearby ones if there are too few levels to tell them apart.
    """
    try:
        return Candidate(weight, scheme, weight_grid(weight, scheme.granularity, scheme.parts), may_lose=may_lose)
    except UnmappableWeightError as problem:
        return Candidate(weight, scheme, None, problem)
