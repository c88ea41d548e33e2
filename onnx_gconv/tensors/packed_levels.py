"""Computes 4-bit level codes from packed weight codes a whole byte at a time, by byte arithmetic or by look-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.tensors.packed import BlockZeroPoint, UnpackedTensor
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, packed_codes, unpacked_codes

__all__ = ["LEVEL_BITS", "PackedLevels"]

LEVEL_BITS = 4
"""Bits of a level code."""

_LOW, _HIGH = np.uint8(0x0F), np.uint8(0xF0)


class PackedLevels:
    """The level codes of all devices of a packed weight, as they are stored: four bits each, two in a byte.

    Args:
        codes: The packed codes of the weight, of two or four bits.
        points: Their zero points; the packing must be `is_bytewise` for them.
        tables: For each device the level code for each zero point and each code of the weight: [zero points from 0 to
            the highest, codes]; [1, codes] if all codes share one zero point.
    """

    def __init__(self, codes: UnpackedTensor, points: BlockZeroPoint, tables: Sequence[NDArray[np.uint8]]) -> None:
        self._codes = codes
        self._points = points
        self._is_pair = codes.packing.bits == LEVEL_BITS and _is_pair(tables, points)
        self._tables = () if self._is_pair else tuple(_of_bytes(table, codes.packing.bits) for table in tables)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Yield the bytes of the level codes of elements `start` to `stop`.

        Args:
            start: Index of the first code; a byte must begin with it.
            stop: Index after the last code; a byte must end before it.
            buffers: Called once for each chunk; returns an array of `CHUNK_ELEMENTS` bytes for each device.

        Yields:
            For each device the filled beginning of its buffer.
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
            # No index exceeds the table; "clip" is the fastest mode.
            np.take(table, index, out=array.view(table.dtype), mode="clip")


class _Work:
    """Arrays that are reused for each chunk of bytes.

    Attributes:
        low: The zero point of each byte in the low bits, where the first code of a byte stands.
        high: The zero point of each byte in the high bits, where the second code stands.
        code: Scratch memory.
    """

    def __init__(self, count: int) -> None:
        self.low, self.high, self.code = (np.empty(count, np.uint8) for _ in range(3))
        self._is_filled = False

    def take(self, points: NDArray[np.uint8]) -> None:
        """Fill `low` and `high` with the zero point of each byte, [bytes], or with one for all, [1].

        One zero point is also written to the whole array, because NumPy compares two arrays faster than an array with a
        number.
        """
        if self._is_filled:
            return
        self._is_filled = points.size == 1
        count = self.low.size if self._is_filled else points.size
        self.low[:count] = points
        np.multiply(self.low, np.uint8(1 << LEVEL_BITS), out=self.high)  # a shift of bytes takes ten times as long


def _put_pair(packed: NDArray[np.uint8], plus: NDArray[np.uint8], minus: NDArray[np.uint8], work: _Work) -> None:
    """Write ``max(code - zero point, 0)`` to `plus` and ``max(zero point - code, 0)`` to `minus`, two codes a byte.

    With ``larger = max(code, zero point)`` they are ``larger - zero point`` and ``larger - code``. No difference is
    negative, so bytes can be subtracted whole: no code borrows from the other code in its byte.
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
    """Whether the tables are what `_put_pair` computes: one device holds ``code - zero point``, the other the negative.

    Both differences are cut off at 0, and their level codes are the differences themselves.
    """
    assert points.codes is not None  # noqa: S101 - a bytewise packing has zero points that are codes
    if len(tables) != 2:  # noqa: PLR2004 - a pair
        return False
    bottom, top = int(points.codes.min()), int(points.codes.max())
    differences = np.arange(tables[0].shape[1]) - np.arange(bottom, top + 1)[:, None]
    wanted = np.maximum(differences, 0), np.maximum(-differences, 0)
    return all(np.array_equal(table[-len(differences) :], each) for table, each in zip(tables, wanted, strict=True))


def _of_bytes(table: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    """Turn a table of codes into a table of bytes.

    Args:
        table: Level codes, [zero points, codes].
        bits: Bits of a code of the weight: 2 or 4.

    Returns:
        The packed level codes for each byte of the weight, [zero points * 256]: uint8 for 4 bits, uint16 for 2 bits.
    """
    each = table[:, unpacked_codes(np.arange(256, dtype=np.uint8), bits)]
    return packed_codes(np.ascontiguousarray(each).reshape(-1), LEVEL_BITS).view(f"u{LEVEL_BITS // bits}")
