"""Unpacks and packs matrices of integer codes that ops such as MatMulNBits store in bytes, in blocks along the rows.

Several codes share a byte, the first one in the low bits. A row consists of whole blocks. If its codes do not fill the
last block, the rest of the block is padding, which may have any value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.streamed import (
    CHUNK_ELEMENTS,
    StreamedTensor,
    element_chunks,
    packed_codes,
    unpacked_codes,
)

__all__ = ["BlockZeroPoint", "PackedTensor", "Packing", "UnpackedTensor", "read_padding"]

_BYTE_BITS = 8
_HIGHEST_OF_A_BYTE = 255

_Number = TypeVar("_Number", np.float64, np.uint8)


@dataclass(frozen=True)
class Packing:
    """How the codes of one or several matrices are packed in bytes.

    Attributes:
        bits: Bits of a code: 2, 4 or 8.
        shape: Shape of the codes without padding, the last axis along the packed rows: [outputs, inputs], or
            [experts, outputs, inputs].
        stored: Shape of the tensor of bytes.

    Raises:
        ModelError: If codes of these bits and this shape cannot be packed in bytes of the shape `stored`.
    """

    bits: int
    shape: tuple[int, ...]
    stored: tuple[int, ...]

    def __post_init__(self) -> None:
        is_possible = self.bits in {2, 4, 8} and bool(self.shape) and min((*self.shape, *self.stored)) > 0
        if not is_possible or math.prod(self.stored) % self.rows or self.row_codes < self.shape[-1]:
            raise ModelError(
                f"codes of {self.bits} bits and of the shape {list(self.shape)} are not packed in bytes of the shape "
                f"{list(self.stored)}"
            )

    @property
    def rows(self) -> int:
        """How many rows there are, over all matrices."""
        return math.prod(self.shape[:-1])

    @property
    def per_byte(self) -> int:
        """How many codes a byte has."""
        return _BYTE_BITS // self.bits

    @property
    def row_codes(self) -> int:
        """How many codes a row has, including its padding."""
        return math.prod(self.stored) // self.rows * self.per_byte

    @property
    def padding(self) -> int:
        """How many codes of a row are padding."""
        return self.row_codes - self.shape[-1]

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The code in the middle of the range; it is the default zero point."""
        return 1 << (self.bits - 1)

    def is_bytewise(self, points: BlockZeroPoint) -> bool:
        """Whether there is no padding, all zero points are codes, and the codes of a byte always share one."""
        if self.padding or points.codes is None:
            return False
        if not points.values.ndim:
            return True
        return points.values.shape[-1] * points.block == self.row_codes and not points.block % self.per_byte

    def pack(self, codes: NDArray[Any], padding: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Pack codes in memory.

        Args:
            codes: Integers from 0 to `highest`, of the shape `shape`.
            padding: The padding of each row, [rows, padding]; None for zeros.

        Returns:
            The bytes, of the shape `stored`.
        """
        return PackedTensor(ir.Tensor(codes.astype(np.uint8)), self, padding).numpy()

    def unpack(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Unpack bytes in memory to codes of the shape `shape`."""
        return UnpackedTensor(ir.Tensor(packed), self).numpy()


@dataclass(frozen=True, eq=False)
class BlockZeroPoint:
    """The zero points of packed codes, one for each block along a row; they need not be integers.

    Attributes:
        values: The zero points, [..., blocks] with the leading axes of the weight; or an array without axes for one
            zero point of all codes.
        block: How many codes a block has.
        shape: The shape of the weight.

    Raises:
        ModelError: If the zero points do not fit the weight, or are not finite.
    """

    values: NDArray[np.float64]
    block: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        values = self.values
        fits = values.ndim == 0 or (
            values.shape[:-1] == self.shape[:-1] and values.shape[-1] * self.block >= self.shape[-1]
        )
        if self.block < 1 or not fits or not np.isfinite(values).all():
            raise ModelError(
                f"zero points of the shape {list(values.shape)}, for blocks of {self.block}, do not fit codes of "
                f"{list(self.shape)}; take the model as it was mapped"
            )

    @property
    def is_integer(self) -> bool:
        """Whether all zero points are integers."""
        return bool((np.rint(self.values) == self.values).all())

    @functools.cached_property
    def codes(self) -> NDArray[np.uint8] | None:
        """The zero points as uint8 of the shape of `values`; None if one is no integer from 0 to 255."""
        codes: NDArray[np.uint8] = np.clip(self.values, 0, _HIGHEST_OF_A_BYTE).astype(np.uint8)
        return codes if np.array_equal(codes, self.values) else None

    def chunk(self, first: int, count: int) -> NDArray[np.float64]:
        """The zero points of `count` codes from flat index `first`, in row-major order; [1] if all codes share one."""
        return _of_each(self.values, self.block, self.shape[-1], first, count)

    def codes_chunk(self, first: int, count: int, per_byte: int = 1) -> NDArray[np.uint8]:
        """The zero points of `count` codes, or bytes, as uint8; `codes` must not be None.

        Args:
            first: The flat index of the first code, or of the first byte.
            count: How many codes, or bytes.
            per_byte: 1 for the zero points of codes; else how many codes a byte has, for one zero point per byte. Rows
                must not have padding then.

        Returns:
            The zero points, [count]; [1] if all codes share one.
        """
        assert self.codes is not None  # noqa: S101 - required of the caller
        return _of_each(self.codes, self.block // per_byte, self.shape[-1] // per_byte, first, count)


def _of_each(values: NDArray[_Number], block: int, columns: int, first: int, count: int) -> NDArray[_Number]:
    """Repeat the values of blocks for `count` elements from flat index `first`.

    Args:
        values: One value for each block, [..., blocks]; or an array without axes.
        block: How many elements a block has.
        columns: How many elements a row has.
        first: The flat index of the first element.
        count: How many elements.

    Returns:
        The value of each element, [count]; [1] if `values` has no axes.
    """
    flat = values.reshape(-1)
    if not values.ndim:
        return flat
    blocks = values.shape[-1]
    if columns == blocks * block:  # all blocks are full, so blocks can be counted across the ends of rows
        low, high = first // block, -(-(first + count) // block)
        return np.repeat(flat[low:high], block)[first - low * block :][:count]
    low, high = first // columns, -(-(first + count) // columns)
    rows = np.repeat(flat[low * blocks : high * blocks].reshape(-1, blocks), block, axis=1)
    return rows[:, :columns].reshape(-1)[first - low * columns :][:count]


class UnpackedTensor(StreamedTensor):
    """The codes of a tensor of bytes as uint8, without the padding, unpacked when they are read.

    Args:
        packed: The bytes.
        packing: How the codes are packed in them.
    """

    def __init__(self, packed: ir.TensorProtocol, packing: Packing) -> None:
        super().__init__(ir.DataType.UINT8, ir.Shape(packing.shape), packed.name)
        self._packed = packed
        self._packing = packing

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The bytes."""
        return (self._packed,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Codes from `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        yield from _in_chunks(self._codes(start, stop), stop - start)

    @property
    def packed(self) -> ir.TensorProtocol:
        """The bytes."""
        return self._packed

    @property
    def packing(self) -> Packing:
        """How the codes are packed."""
        return self._packing

    def extremes(self, start: int, stop: int, zero_point: BlockZeroPoint | None = None) -> tuple[int, int]:
        """The lowest and the highest value of code minus zero point, over the codes from `start` to `stop`.

        Where possible, whole bytes are searched, which is faster than unpacking them. The search stops early when it
        has found the lowest and the highest value that can occur at all.

        Args:
            start: Index of the first code.
            stop: Index after the last one; greater than `start`.
            zero_point: The zero points, which must all be integers from 0 to 255; None for 0.
        """
        points = BlockZeroPoint(np.zeros(()), 1, self._packing.shape) if zero_point is None else zero_point
        assert points.codes is not None  # noqa: S101 - required of the caller
        top, bottom, highest = int(points.codes.max()), int(points.codes.min()), self._packing.highest
        wide = np.dtype(np.uint8 if highest + top <= _HIGHEST_OF_A_BYTE else np.uint16)
        low, high = highest, -top
        for codes, subtracted in self._planes(start, stop, points):
            raised = np.add(codes, np.uint8(top) - subtracted, dtype=wide)
            low, high = min(low, int(raised.min()) - top), max(high, int(raised.max()) - top)
            if (low, high) == (-top, highest - bottom):
                break
        return low, high

    def _planes(
        self, start: int, stop: int, points: BlockZeroPoint
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield the codes in any order, with the zero point of each of them, or one for all."""
        packing = self._packing
        if not self._packing.is_bytewise(points) or start % packing.per_byte or stop % packing.per_byte:
            for codes in self.chunks(start, stop):
                yield codes, points.codes_chunk(start, codes.size)
                start += codes.size
            return
        for packed, subtracted in self.bytes_with_points(start, stop, points):
            for place in range(packing.per_byte):
                yield (packed >> np.uint8(packing.bits * place)) & np.uint8(packing.highest), subtracted

    def bytes_with_points(
        self, start: int, stop: int, points: BlockZeroPoint
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield chunks of bytes with the zero points of their codes, for a packing that `is_bytewise`.

        Args:
            start: Index of the first code; a byte must begin with it.
            stop: Index after the last code; a byte must end before it.
            points: The zero points.

        Yields:
            The bytes of a chunk, and the zero point of each byte, [bytes], or [1] if all share one.
        """
        per_byte = self._packing.per_byte
        first = start // per_byte
        for chunk in element_chunks(self._packed, first, stop // per_byte):
            yield chunk.view(np.uint8), points.codes_chunk(first, chunk.size, per_byte)
            first += chunk.size

    def _codes(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the codes from `start` to `stop` in pieces of any size."""
        if start >= stop:
            return
        packing = self._packing
        columns, row_codes, per_byte = packing.shape[-1], packing.row_codes, packing.per_byte
        first, last = ((index // columns) * row_codes + index % columns for index in (start, stop - 1))
        place = first - first % per_byte  # the index, with padding, of the first code in the next byte to be read
        for chunk in element_chunks(self._packed, first // per_byte, last // per_byte + 1):
            codes = unpacked_codes(chunk.view(np.uint8), packing.bits)
            begin, end = max(first - place, 0), min(last + 1 - place, codes.size)
            found = codes[begin:end]
            if packing.padding:
                found = found[np.arange(place + begin, place + end) % row_codes < columns]
            yield found
            place += codes.size


def read_padding(packed: ir.TensorProtocol, packing: Packing) -> NDArray[np.uint8]:
    """The padding of all rows, [rows, padding]."""
    found = np.empty((packing.rows, packing.padding), np.uint8)
    if not found.size:
        return found
    flat, done, place = found.reshape(-1), 0, 0
    for chunk in element_chunks(packed):
        codes = unpacked_codes(chunk.view(np.uint8), packing.bits)
        is_padding = np.arange(place, place + codes.size) % packing.row_codes >= packing.shape[-1]
        padding = codes[is_padding]
        flat[done : done + padding.size] = padding
        done, place = done + padding.size, place + codes.size
    return found


class PackedTensor(StreamedTensor):
    """The bytes of codes that are packed when they are read: the inverse of `UnpackedTensor`.

    Args:
        codes: Integers of any type, from 0 to the highest code, of the shape `packing.shape`.
        packing: How the codes are packed.
        padding: The padding of each row, [rows, padding]; None for zeros.
    """

    def __init__(self, codes: ir.TensorProtocol, packing: Packing, padding: NDArray[np.uint8] | None = None) -> None:
        super().__init__(ir.DataType.UINT8, ir.Shape(packing.stored), codes.name)
        self._codes = codes
        self._packing = packing
        self._padding = np.zeros((packing.rows, packing.padding), np.uint8) if padding is None else padding

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The codes."""
        return (self._codes,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Bytes from `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        bits, per_byte = self._packing.bits, self._packing.per_byte
        codes = self._padded(start * per_byte, stop * per_byte)
        yield from _in_chunks((packed_codes(part, bits) for part in codes), stop - start)

    def _padded(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the codes with their padding, in pieces that fill whole bytes."""
        if not self._packing.padding:
            for chunk in element_chunks(self._codes, start, stop):
                yield chunk.astype(np.uint8, copy=False)
            return
        columns, row_codes = self._packing.shape[-1], self._packing.row_codes
        for first in range(start, stop, CHUNK_ELEMENTS):
            row, column = np.divmod(np.arange(first, min(first + CHUNK_ELEMENTS, stop)), row_codes)
            is_code = column < columns
            piece = np.empty(row.size, np.uint8)
            piece[~is_code] = self._padding[row[~is_code], column[~is_code] - columns]
            if is_code.any():
                flat = row[is_code] * columns + column[is_code]
                found = [chunk.astype(np.uint8) for chunk in element_chunks(self._codes, flat[0], flat[-1] + 1)]
                piece[is_code] = np.concatenate(found)
            yield piece


def _in_chunks(pieces: Iterable[NDArray[np.uint8]], count: int) -> Iterator[NDArray[np.uint8]]:
    """Regroup pieces of any size into arrays of `CHUNK_ELEMENTS` elements; the last one may be shorter."""
    buffer = np.empty(min(CHUNK_ELEMENTS, count), np.uint8)
    filled = 0
    for piece in pieces:
        position = 0
        while position < piece.size:
            taken = piece[position : position + buffer.size - filled]
            buffer[filled : filled + taken.size] = taken
            filled, position = filled + taken.size, position + taken.size
            if filled == buffer.size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
