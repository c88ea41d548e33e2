"""Whether measured conductances look like their targets in another arrangement, such as transposed.

An array [inputs, outputs] that comes back as [outputs, inputs] is recognized by its shape, unless the tile is square.
MATLAB, Octave, Julia and Fortran store arrays column by column, so a transposed tile is an easy mistake.

The rule: take the n cells of a tile whose target differs between the two arrangements. Let S be the sum of the squared
distances of their measured conductances from the targets, and R the sum of the squared distances from the rearranged
targets. The tile looks rearranged if R / S < 1/4 and (R / S)^((n - 1) / 2) < 1e-9.

The reason: programming errors have no preferred direction in the n-dimensional space of these cells. The points whose
squared distance from the rearranged targets is at most r times that from the targets, with r = R / S < 1, form a ball.
Seen from the targets, its half angle is asin(sqrt(r)), and an error of random direction points into it with a
probability below r^((n - 1) / 2) / 2. So noise, however large, makes a tile look rearranged less than once in a billion
tiles. Symmetric and empty tiles have no cells that differ, and a tile that reads the same number everywhere is equally
far from both arrangements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrangement", "Evidence", "evidence_of_rearrangement"]

Arrangement: TypeAlias = Literal["transposed", "rows_reversed", "columns_reversed", "turned", "exchanged"]

_CLEARLY_NEARER = 1 / 4
_CHANCE = 1e-9

# Smaller ratios count as this one. Otherwise a few cells that match exactly would be enough evidence, and cells with
# few levels often match by chance.
_SMALLEST_RATIO = 1e-3

# A tile whose mean squared error is below this share of the variance of its targets has ordinary programming errors.
# Most tiles do, and other arrangements need not be tried for them.
_SMALL_ERRORS = 1 / 16


@dataclass(frozen=True)
class Evidence:
    """Distances of measured conductances from the targets, and from the targets in another arrangement.

    ``a | b`` adds the evidence of two tiles. ``Evidence()`` is the neutral element: no cells.

    Attributes:
        cells: How many cells have another target in the other arrangement.
        straight: Sum of the squared distances of these cells from their targets, in µS².
        rearranged: Sum of the squared distances of these cells from the rearranged targets, in µS².
    """

    cells: int = 0
    straight: float = 0.0
    rearranged: float = 0.0

    def __or__(self, other: Evidence) -> Evidence:
        return Evidence(self.cells + other.cells, self.straight + other.straight, self.rearranged + other.rearranged)

    @property
    def ratio(self) -> float:
        """``rearranged / straight``; infinite if all cells are exactly at their targets."""
        return self.rearranged / self.straight if self.straight > 0 else math.inf

    @property
    def is_clear(self) -> bool:
        """Whether the cells look rearranged by the rule above, which noise alone hardly ever meets."""
        if self.ratio >= _CLEARLY_NEARER:
            return False
        return (self.cells - 1) / 2 * math.log(max(self.ratio, _SMALLEST_RATIO)) < math.log(_CHANCE)

    @property
    def rms_us(self) -> tuple[float, float]:
        """Root mean square of the distances from the targets and from the rearranged targets, in µS."""
        return math.sqrt(self.straight / self.cells), math.sqrt(self.rearranged / self.cells)


def evidence_of_rearrangement(
    targets: NDArray[Any], errors: NDArray[np.float64], partner: NDArray[Any] | None
) -> dict[Arrangement, Evidence]:
    """Compare the measurements of one device of a tile with its targets in each other arrangement.

    Args:
        targets: Targets of the device in µS, [inputs, outputs].
        errors: Measured minus target, in µS, of the same shape, NaN where nothing was measured.
        partner: The targets of the other device of the pair; None for a device without a partner.

    Returns:
        The evidence for each arrangement; empty if the errors are as small as ordinary programming errors.
    """
    if not _mean_square(errors) > _SMALL_ERRORS * (_mean_square(targets) - float(targets.mean()) ** 2):
        return {}
    is_measured, squares = ~np.isnan(errors), np.square(errors)
    found: dict[Arrangement, Evidence] = {}
    for name, other in _arrangements(targets, partner):
        cells = is_measured & (other != targets)
        distances = errors[cells] + targets[cells] - other[cells]
        found[name] = Evidence(
            distances.size, float(squares[cells].sum()), float(np.einsum("i,i", distances, distances))
        )
    return found


def _mean_square(array: NDArray[Any]) -> float:
    """The mean of the squares of all elements that are not NaN."""
    mean = float(np.einsum("ij,ij", array, array)) / array.size
    return float(np.nanmean(np.square(array))) if math.isnan(mean) else mean


def _arrangements(targets: NDArray[Any], partner: NDArray[Any] | None) -> Iterator[tuple[Arrangement, NDArray[Any]]]:
    if targets.shape[0] == targets.shape[1]:
        yield "transposed", targets.T
    yield "rows_reversed", targets[::-1]
    yield "columns_reversed", targets[:, ::-1]
    yield "turned", targets[::-1, ::-1]
    if partner is not None:
        yield "exchanged", partner
