"""Reuses the memory of arrays that are no longer used: fresh pages of the kernel cost more time than the formulas."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "empty"]

LARGEST = 1 << 18
"""Elements of the largest array whose memory is reused: 1 MiB of float32."""

_SMALLEST = LARGEST // 2 + 1  # smaller arrays would waste more of a block of `LARGEST` elements than they use
_MOST = 6  # blocks that a thread keeps; programming, drift and reading need three arrays at a time


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: list[NDArray[np.float32]] = []
        self.unused = 0


_kept = _Kept()


def empty(size: int) -> NDArray[np.float32]:
    """A float32 array, [size], with arbitrary elements, like `numpy.empty`.

    An array of more than half of, and at most, `LARGEST` elements may reuse the memory of an older array of this thread
    that nothing refers to any more, neither directly nor by a view. `numpy.empty` returns memory of this size to the
    kernel, which clears every page before the next use. That takes a fifth of the time of programming, drift and
    reading.
    """
    if not _SMALLEST <= size <= LARGEST:
        return np.empty(size, np.float32)
    for number in range(len(_kept.arrays)):
        if sys.getrefcount(_kept.arrays[number]) <= _kept.unused:  # a view also counts: it refers to the whole array
            return _kept.arrays[number][:size]
    if len(_kept.arrays) == _MOST:
        return np.empty(size, np.float32)
    _kept.arrays.append(np.empty(LARGEST, np.float32))
    _kept.unused = sys.getrefcount(_kept.arrays[-1])  # measured, because the number differs between interpreters
    return _kept.arrays[-1][:size]
