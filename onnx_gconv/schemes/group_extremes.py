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
    """Collects the smallest and the largest element of each group while a weight is scanned.

    Threads that scan parts of one weight share one instance, because there may be millions of groups.

    Args:
        grid: The groups.

    Attributes:
        minimum: Smallest element of each group, of the shape of the grid; +inf for groups without an element yet.
        maximum: Largest element of each group, of the shape of the grid; -inf for groups without an element yet.
    """

    def __init__(self, grid: ScaleGrid) -> None:
        self.minimum: NDArray[np.float64] = np.full(grid.shape, np.inf)
        self.maximum: NDArray[np.float64] = np.full(grid.shape, -np.inf)
        self._grid = grid
        self._lock = threading.Lock()

    def added(self, chunks: Iterator[FloatArray], start: int) -> Iterator[FloatArray]:
        """Yield chunks unchanged, and collect the extremes of each chunk when the next one is requested.

        Args:
            chunks: Consecutive chunks of the stored tensor.
            start: Flat index of the first element of the first chunk.
        """
        for elements in chunks:
            yield elements  # the consumer raises an error if an element is not finite, before extremes are collected
            for ufunc, extremes in ((np.minimum, self.minimum), (np.maximum, self.maximum)):
                reduced, groups = self._grid.reduced(ufunc, elements, start)
                with self._lock:
                    ufunc.at(extremes.reshape(-1), groups, reduced.astype(np.float64))
            start += elements.size
