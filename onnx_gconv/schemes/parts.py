"""The parts of a weight that joins several matrices side by side, such as those of queries, keys and values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["ColumnParts", "PartsChoice"]

PartsChoice: TypeAlias = tuple[int, ...] | Literal["auto", "none"]
"""The number of outputs of each part; ``auto`` for parts found in the graph, ``none`` for a single matrix."""

_FEWEST = 2


@dataclass(frozen=True)
class ColumnParts:
    """Matrices that stand side by side in one matrix; each has a range of neighbouring columns (outputs).

    Attributes:
        names: The name of each part, e.g. ``query``.
        sizes: The number of columns of each part.

    Raises:
        ValueError: If there are fewer than two parts, a part has no columns, or names and sizes differ in number.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) < _FEWEST or len(self.names) != len(self.sizes) or min(self.sizes) < 1:
            raise ValueError(f"the parts {list(self.sizes)} are not two or more of at least one column each")

    @classmethod
    def numbered(cls, sizes: Sequence[int]) -> ColumnParts:
        """Parts with the names ``part0``, ``part1``, ..., if only their sizes are known."""
        return cls(tuple(f"part{number}" for number in range(len(sizes))), tuple(sizes))

    @property
    def columns(self) -> int:
        """The number of columns of all parts together."""
        return sum(self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """The columns at which the parts begin; the first is 0."""
        return tuple(itertools.accumulate(self.sizes[:-1], initial=0))

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """For each part, its first column and the one after its last."""
        return tuple(itertools.pairwise((*self.starts, self.columns)))
