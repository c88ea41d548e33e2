"""The parts of a weight that is several matrices side by side, such as those of queries, keys and values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["ColumnParts", "PartsChoice"]

PartsChoice: TypeAlias = tuple[int, ...] | Literal["auto", "none"]
"""How many outputs each part has; ``auto`` for those that the graph says, ``none`` for one matrix."""

_FEWEST = 2


@dataclass(frozen=True)
class ColumnParts:
    """Matrices that stand side by side in one: neighbouring columns (outputs) of a matrix view.

    Attributes:
        names: What each of them is called, e.g. ``query``.
        sizes: How many columns each of them has.

    Raises:
        ValueError: If there are fewer than two, or one has no columns.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) < _FEWEST or len(self.names) != len(self.sizes) or min(self.sizes) < 1:
            raise ValueError(f"the parts {list(self.sizes)} are not two or more of at least one column each")

    @classmethod
    def numbered(cls, sizes: Sequence[int]) -> ColumnParts:
        """Parts of which nothing but their sizes is known: ``part0``, ``part1``."""
        return cls(tuple(f"part{number}" for number in range(len(sizes))), tuple(sizes))

    @property
    def columns(self) -> int:
        """How many columns they have together."""
        return sum(self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """The columns at which they begin; the first is 0."""
        return tuple(itertools.accumulate(self.sizes[:-1], initial=0))

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """The first column of each, and the one after its last."""
        return tuple(itertools.pairwise((*self.starts, self.columns)))
