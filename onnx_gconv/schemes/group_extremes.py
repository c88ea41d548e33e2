"""The smallest and the largest element of each group of elements that share a scale."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.schemes.scale_grid import ScaleGrid

__all__ = ["GroupExtremes"]


class GroupExtremes:
    """Extremes of groups, taken down while a weight is scanned.

    Parts of a weight that are scanned side by side have them in common: there may be millions of groups.

    Args:
        grid: The groups.

    Attributes:
        minimum: Of the shape of the grid; +inf for groups without an element yet.
        maximum: The same; -inf.
    """

    def __init__(self, grid: ScaleGrid) -> None:
        self.minimum: NDArray[np.float64] = np.full(grid.shape, np.inf)
        self.maximum: NDArray[np.float64] = np.full(grid.shape, -np.inf)
        self._grid = grid
        self._lock = threading.Lock()

    def added(self, chunks: Iterator[FloatArray], start: int) -> Iterator[FloatArray]:
        """Pass on the elements from an element on, and take down their extremes once the next ones are asked for."""
        for elements in chunks:
            yield elements  # to one who refuses elements that are not finite
            for ufunc, extremes in ((np.minimum, self.minimum), (np.maximum, self.maximum)):
                reduced, groups = self._grid.reduced(ufunc, elements, start)
                with self._lock:
                    ufunc.at(extremes.reshape(-1), groups, reduced.astype(np.float64))
            start += elements.size
