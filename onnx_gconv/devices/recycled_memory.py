"""Reuses the memory of arrays that are no longer used: fresh pages of the kernel cost more time than the formulas."""

from __future__ import annotations

import sys
import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST", "RecycledMemory", "empty"]

LARGEST = 1 << 18
"""Elements of the largest array whose memory is reused: 1 MiB of float32."""

_SMALLEST = LARGEST // 2 + 1  # smaller arrays would waste more of a block of `LARGEST` elements than they use
_MOST = 6  # blocks that a thread keeps; programming, drift and reading need three arrays at a time


class RecycledMemory:
    """Memory that is used again once no array refers to it any more, neither directly nor by a view.

    Several threads may use it at once.

    Args:
        room: Bytes of a new piece of memory at least.
        most: How many pieces are kept; None for any number.
    """

    def __init__(self, room: int = 0, most: int | None = None) -> None:
        self._room, self._most = room, most
        self._pieces: list[NDArray[np.uint8]] = []
        self._unused = 0
        self._lock = threading.Lock()

    def empty(self, size: int) -> NDArray[np.uint8]:
        """An array of `size` bytes with arbitrary content."""
        with self._lock:
            for number in range(len(self._pieces)):
                if sys.getrefcount(self._pieces[number]) <= self._unused:  # a view counts: it refers to the whole array
                    if self._pieces[number].size < size:
                        self._pieces[number] = np.empty(size, np.uint8)
                    return self._pieces[number][:size]
            if len(self._pieces) == self._most:
                return np.empty(size, np.uint8)
            self._pieces.append(np.empty(max(size, self._room), np.uint8))
            self._unused = sys.getrefcount(self._pieces[-1])  # measured, because it differs between interpreters
            return self._pieces[-1][:size]


class _Kept(threading.local):
    def __init__(self) -> None:
        self.memory = RecycledMemory(LARGEST * np.dtype(np.float32).itemsize, _MOST)


_kept = _Kept()


def empty(size: int) -> NDArray[np.float32]:
    """A float32 array, [size], with arbitrary elements, like `numpy.empty`.

    An array of more than half of, and at most, `LARGEST` elements may reuse the memory of an older array of this
    thread. `numpy.empty` returns memory of this size to the kernel, which clears every page before the next use. That
    takes a fifth of the time of programming, drift and reading.
    """
    if not _SMALLEST <= size <= LARGEST:
        return np.empty(size, np.float32)
    return _kept.memory.empty(size * np.dtype(np.float32).itemsize).view(np.float32)
