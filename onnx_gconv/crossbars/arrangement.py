"""Whether measured conductances look like their targets in another arrangement, such as transposed.

An array [inputs, outputs] that comes back as [outputs, inputs] shows by its shape, unless the tile is square. MATLAB,
Octave, Julia and Fortran store arrays column by column, so that this happens in the best of labs.

The rule: of the cells of a tile whose target is another one in the other arrangement, let S be the sum of the squared
distances from the targets, R that from the rearranged targets, and n the number of cells. They look rearranged if
R / S < 1/4 and (R / S)^((n - 1) / 2) < 1e-9.

The reason: errors of programming point in no direction of the space of n cells. The points that are nearer to another
one by a ratio r = R / S are a ball that is seen from the targets under half an angle of asin(sqrt(r)), and errors point
into it with a chance of less than r^((n - 1) / 2) / 2. So a tile with its noise, however large, is taken for another
one less often than once in a billion. Symmetric and empty tiles have no such cells, and a tile that reads the
same number everywhere is as near to both.
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

# So few cells would do if they were exact. Measured conductances are not, and those that are may have few levels.
_SMALLEST_RATIO = 1e-3

# Where squared errors are below this part of the variance of the targets, they are those of programming. Most tiles are
# such, and need no further look.
_SMALL_ERRORS = 1 / 16


@dataclass(frozen=True)
class Evidence:
    """How far what was measured is from its targets, and from the same in another arrangement; joined with ``|``.

    Without arguments it is evidence of nothing.

    Attributes:
        cells: How many cells have another target in the other arrangement.
        straight: Sum of the squared distances of these cells from their targets, in µS².
        rearranged: The same, from the rearranged targets.
    """

    cells: int = 0
    straight: float = 0.0
    rearranged: float = 0.0

    def __or__(self, other: Evidence) -> Evidence:
        return Evidence(self.cells + other.cells, self.straight + other.straight, self.rearranged + other.rearranged)

    @property
    def ratio(self) -> float:
        """What is left of the squared distances in the other arrangement."""
        return self.rearranged / self.straight if self.straight > 0 else math.inf

    @property
    def is_clear(self) -> bool:
        """Whether noise hardly ever looks like that."""
        if self.ratio >= _CLEARLY_NEARER:
            return False
        return (self.cells - 1) / 2 * math.log(max(self.ratio, _SMALLEST_RATIO)) < math.log(_CHANCE)

    @property
    def rms_us(self) -> tuple[float, float]:
        """The root mean squares of both distances, in µS."""
        return math.sqrt(self.straight / self.cells), math.sqrt(self.rearranged / self.cells)


def evidence_of_rearrangement(
    targets: NDArray[Any], errors: NDArray[np.float64], partner: NDArray[Any] | None
) -> dict[Arrangement, Evidence]:
    """What speaks for other arrangements of one device of the cells of a tile; nothing where errors are small.

    Args:
        targets: In µS, [inputs, outputs].
        errors: Measured minus target, in µS, of the same shape, NaN where nothing was measured.
        partner: The targets of the other device of the pair; None if there is none.
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
    """The mean of the squares, without those that are NaN."""
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
