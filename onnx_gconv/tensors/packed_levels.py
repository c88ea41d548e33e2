"""Codes of levels of packed codes, a byte of several codes at a time: in arithmetic on whole bytes, or looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.tensors.packed import BlockZeroPoint, UnpackedTensor
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, packed_codes, unpacked_codes

__all__ = ["LEVEL_BITS", "PackedLevels"]

LEVEL_BITS = 4
"""Bits of the codes of levels."""

_LOW, _HIGH = np.uint8(0x0F), np.uint8(0xF0)


class PackedLevels:
    """The codes of the levels of all devices of packed codes, in bytes, as they are stored: four bits each.

    Args:
        codes: The packed codes, of two or four bits.
        points: Their zero points, for which the packing `is_bytewise`.
        tables: For each device the codes of levels: [zero points from 0 to the highest, packed codes]; only one
            row if all codes have one zero point.
    """

    def __init__(self, codes: UnpackedTensor, points: BlockZeroPoint, tables: Sequence[NDArray[np.uint8]]) -> None:
        self._codes = codes
        self._points = points
        self._is_pair = codes.packing.bits == LEVEL_BITS and _is_pair(tables, points)
        self._tables = () if self._is_pair else tuple(_of_bytes(table, codes.packing.bits) for table in tables)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Bytes with the codes of levels from `start` to `stop`, for each device in the beginning of its buffer.

        Args:
            start: Index of the first code of a byte.
            stop: Index after the last code of a byte.
            buffers: Called once for each chunk; gives `CHUNK_ELEMENTS` bytes for each device.
        """
        step = CHUNK_ELEMENTS * self._codes.packing.bits // LEVEL_BITS
        work = _Work(min(step, stop - start))
        for packed, points in self._codes.bytes_with_points(start, stop, self._points):
            for first in range(0, packed.size, step):
                part = packed[first : first + step]
                size = part.size * LEVEL_BITS // self._codes.packing.bits
                out = tuple(buffer.view(np.uint8)[:size] for buffer in buffers())
                part_points = points if points.size == 1 else points[first : first + step]
                if self._is_pair:
                    work.take(part_points)
                    _put_pair(part, out[0], out[1], work)
                else:
                    self._look_up(part, part_points, out)
                yield out

    def _look_up(self, packed: NDArray[np.uint8], points: NDArray[np.uint8], out: Sequence[NDArray[np.uint8]]) -> None:
        index = packed if points.size == 1 else points.astype(np.uint16) << np.uint16(8) | packed
        for array, table in zip(out, self._tables, strict=True):
            np.take(table, index, out=array.view(table.dtype), mode="clip")  # the fastest; no index is beyond the end


class _Work:
    """Memory for some bytes that is used again and again.

    Attributes:
        low: Their zero points in the low bits, where the first code of a byte stands.
        high: The same in the high bits.
        code: Anything.
    """

    def __init__(self, count: int) -> None:
        self.low, self.high, self.code = (np.empty(count, np.uint8) for _ in range(3))
        self._is_filled = False

    def take(self, points: NDArray[np.uint8]) -> None:
        """Take a zero point for each byte, or one for all: NumPy compares two arrays faster than one with a number."""
        if self._is_filled:
            return
        self._is_filled = points.size == 1
        count = self.low.size if self._is_filled else points.size
        self.low[:count] = points
        np.multiply(self.low, np.uint8(1 << LEVEL_BITS), out=self.high)  # to shift them would take ten times as long


def _put_pair(packed: NDArray[np.uint8], plus: NDArray[np.uint8], minus: NDArray[np.uint8], work: _Work) -> None:
    """``max(code - zero point, 0)`` and ``max(zero point - code, 0)``, from ``max(code, zero point)``.

    No difference is negative, so that none borrows from its neighbour in the byte.
    """
    low, high, code = (array[: packed.size] for array in (work.low, work.high, work.code))
    np.bitwise_and(packed, _LOW, out=plus)
    np.maximum(plus, low, out=plus)
    np.bitwise_and(packed, _HIGH, out=code)
    np.maximum(code, high, out=code)
    np.bitwise_or(plus, code, out=plus)
    np.subtract(plus, packed, out=minus)
    np.subtract(plus, low, out=plus)
    np.subtract(plus, high, out=plus)


def _is_pair(tables: Sequence[NDArray[np.uint8]], points: BlockZeroPoint) -> bool:
    """Whether one device holds the codes above their zero points, and another one those below, a level a code."""
    assert points.codes is not None  # noqa: S101 - else it would not be bytewise
    if len(tables) != 2:  # noqa: PLR2004 - a pair
        return False
    bottom, top = int(points.codes.min()), int(points.codes.max())
    differences = np.arange(tables[0].shape[1]) - np.arange(bottom, top + 1)[:, None]
    wanted = np.maximum(differences, 0), np.maximum(-differences, 0)
    return all(np.array_equal(table[-len(differences) :], each) for table, each in zip(tables, wanted, strict=True))


def _of_bytes(table: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """What stands for each byte: for each zero point 256 elements, of as many bytes as its codes need."""
    each = table[:, unpacked_codes(np.arange(256, dtype=np.uint8), bits)]
    return packed_codes(np.ascontiguousarray(each).reshape(-1), LEVEL_BITS).view(f"u{LEVEL_BITS // bits}")
