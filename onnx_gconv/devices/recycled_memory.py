"""New arrays in memory of arrays that nobody uses any more, since pages of the kernel take longer than formulas."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "empty"]

LARGEST = 1 << 18
"""Elements of the largest array that memory is kept for: 1 MiB."""

_SMALLEST = LARGEST // 2 + 1  # smaller ones would keep more memory from others than they use
_MOST = 6  # of a thread; devices that are programmed, drift and are read need three at a time


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: list[NDArray[np.float32]] = []
        self.unused = 0


_kept = _Kept()


def empty(size: int) -> NDArray[np.float32]:
    """A new array of float32, [size], whose elements may be anything.

    As `numpy.empty`, but an array of up to `LARGEST` elements, and more than half of them, may stand where an older
    one of this thread stood which is not referred to any more, by itself or by a view of it. NumPy gives memory of
    this size back to the kernel, which clears every page before it is written to again: a fifth of the time of
    programming, drift and reading.
    """
    if not _SMALLEST <= size <= LARGEST:
        return np.empty(size, np.float32)
    for number in range(len(_kept.arrays)):
        if sys.getrefcount(_kept.arrays[number]) <= _kept.unused:  # views count: each refers to the whole array
            return _kept.arrays[number][:size]
    if len(_kept.arrays) == _MOST:
        return np.empty(size, np.float32)
    _kept.arrays.append(np.empty(LARGEST, np.float32))
    _kept.unused = sys.getrefcount(_kept.arrays[-1])  # how interpreters count what they hold themselves differs
    return _kept.arrays[-1][:size]
