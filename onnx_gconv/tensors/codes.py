"""Tensors that are decoded from codes when they are read: integer weights, and conductances stored as level codes."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, byte_chunks, element_chunks

__all__ = ["Blocks", "DecodedLevelsTensor", "EffectiveIntegerTensor", "ZeroPoint", "highest_code"]

_BYTE_BITS = 8


@dataclass(frozen=True)
class Blocks:
    """Blocks of neighbouring elements along an axis of a weight; each block has one zero point.

    Attributes:
        axis: The axis, from 0 on.
        size: How many neighbours a block has; the last one may have fewer.
    """

    axis: int
    size: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an array with one entry for each block of a weight of the given shape.

        Raises:
            ModelError: If the weight has no such axis.
        """
        if not (0 <= self.axis < len(shape) and self.size > 0):
            raise ModelError(
                f"blocks of {self.size} along axis {self.axis} do not fit a weight of {list(shape)}; take the model "
                "as it was mapped"
            )
        blocks = math.ceil(shape[self.axis] / self.size)
        return (*shape[: self.axis], blocks, *shape[self.axis + 1 :])

    def of_each(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """The number of the block to which each index of the axis belongs, for a weight of the given shape."""
        return np.arange(shape[self.axis], dtype=np.int64) // self.size


@dataclass(frozen=True, eq=False)
class ZeroPoint:
    """The zero points of integer codes: the codes that stand for zero.

    Attributes:
        values: Integers that broadcast to the shape of the weight; with `blocks`, one for each block.
        shape: The shape of the weight.
        blocks: The blocks that have a zero point each; None if the integers broadcast.

    Raises:
        ModelError: If the zero points do not fit the weight.
    """

    values: NDArray[np.int64]
    shape: tuple[int, ...]
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        shape = self.shape if self.blocks is None else self.blocks.shape(self.shape)
        axes = zip(reversed(shape), reversed(self.values.shape), strict=False)
        if self.values.ndim > len(shape) or any(length not in {1, size} for size, length in axes):
            raise ModelError(
                f"zero points of the shape {list(self.values.shape)} do not fit a weight of {list(self.shape)}; take "
                "the model as it was mapped"
            )

    @property
    def is_integer(self) -> bool:
        """True: zero points of this class are integers. `BlockZeroPoint` also has others."""
        return True

    def is_same_as(self, other: ZeroPoint) -> bool:
        """Whether both have the same values and the same blocks."""
        return self.blocks == other.blocks and np.array_equal(self.values, other.values)

    def chunk(self, first: int, count: int) -> NDArray[np.int64]:
        """The zero points of `count` elements of the weight in row-major order, from flat index `first`.

        Returns:
            An array of `count` elements, or of one element if all have the same zero point.
        """
        flat = self.values.reshape(-1)
        if flat.size == 1:
            return flat
        position = np.arange(first, first + count)
        index = np.zeros(count, np.int64)
        inner, stride = 1, 1
        for axis, size, length in self._axes():
            if length != 1:
                place = (position // inner) % size
                is_blocked = self.blocks is not None and axis == self.blocks.axis
                index += (place // self.blocks.size if is_blocked and self.blocks is not None else place) * stride
            inner, stride = inner * size, stride * length
        return flat[index]

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        """Yield each axis, the last one first: its number, and the sizes of the weight and of `values` along it."""
        axes = range(len(self.shape) - 1, -1, -1)
        yield from zip(axes, reversed(self.shape), reversed(self.values.shape), strict=False)


class _DecodedTensor(StreamedTensor):
    """A tensor of which each element is computed from one code when it is read."""

    def __init__(self, codes: ir.TensorProtocol, dtype: ir.DataType, name: str | None) -> None:
        super().__init__(dtype, ir.Shape(codes.shape.numpy()), name)
        self._codes = codes

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The codes."""
        return (self._codes,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The decoded elements from `start` to `stop`, in row-major order."""
        dtype = np.dtype(self.dtype.numpy())
        for codes in element_chunks(self._codes, start, stop):
            yield self._decoded(codes, start, dtype)
            start += codes.size

    @abc.abstractmethod
    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Decode codes, the first of which is element `start` of the tensor."""


class EffectiveIntegerTensor(_DecodedTensor):
    """The numbers ``code - zero point`` of a weight of integer codes; conductances are computed from them.

    Args:
        codes: The weight.
        zero_point: Its zero points; None for 0.
        dtype: Type of the numbers: FLOAT or DOUBLE, whichever holds all the differences exactly.
    """

    def __init__(
        self, codes: ir.TensorProtocol, zero_point: ZeroPoint | BlockZeroPoint | None, dtype: ir.DataType
    ) -> None:
        super().__init__(codes, dtype, codes.name)
        self._zero_point = zero_point

    @property
    def codes(self) -> ir.TensorProtocol:
        """The codes."""
        return self._codes

    @property
    def zero_point(self) -> ZeroPoint | BlockZeroPoint | None:
        """The zero points; None for 0."""
        return self._zero_point

    @property
    def numbers_of_bytes(self) -> NDArray[np.floating[Any]] | None:
        """A table of the number for which each value of a byte stands; looking numbers up is faster than computing.

        Returns:
            An array [zero points, 256]: one row if all elements have the same zero point; if blocks have their own, a
            row for each zero point from 0 to the highest. None if elements are no bytes, or if the zero points vary
            otherwise or are no codes.
        """
        if self._codes.dtype not in {ir.DataType.UINT8, ir.DataType.INT8}:
            return None
        codes = np.arange(256, dtype=np.uint8).view(self._codes.dtype.numpy())
        dtype, points = np.dtype(self.dtype.numpy()), self._zero_point
        if not isinstance(points, BlockZeroPoint) or not points.values.ndim:
            has_one = points is None or points.values.size == 1
            return self._decoded(codes, 0, dtype)[None] if has_one else None
        if points.codes is None:
            return None
        of_rows = np.arange(int(points.codes.max()) + 1, dtype=dtype)
        numbers: NDArray[np.floating[Any]] = codes.astype(dtype) - of_rows[:, None]
        return numbers

    def rows_of_numbers(self, start: int, count: int) -> NDArray[np.uint8] | None:
        """The row of `numbers_of_bytes` for each of `count` elements from flat index `start`; None for a single row."""
        points = self._zero_point
        if not isinstance(points, BlockZeroPoint) or not points.values.ndim:
            return None
        return points.codes_chunk(start, count)

    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        effective = codes.astype(dtype)
        if self._zero_point is not None:
            effective -= self._zero_point.chunk(start, codes.size).astype(dtype)
        return effective


class DecodedLevelsTensor(_DecodedTensor):
    """Conductances in µS decoded from level codes, bit-identical to the result of the nodes of a mapped model.

    Args:
        codes: The level codes.
        levels: The levels.
        dtype: Type of the conductances: FLOAT or DOUBLE.
        name: Name of the conductances.
    """

    def __init__(self, codes: ir.TensorProtocol, levels: ConductanceLevels, dtype: ir.DataType, name: str) -> None:
        super().__init__(codes, dtype, name)
        self._levels = levels

    @property
    def codes(self) -> ir.TensorProtocol:
        """The codes."""
        return self._codes

    @property
    def levels(self) -> ConductanceLevels:
        """The levels."""
        return self._levels

    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        del start
        return self._levels.decode(codes, dtype)


def highest_code(codes: ir.TensorProtocol) -> int:
    """The highest code of a tensor of unsigned codes of any width; 0 if it is empty.

    Raises:
        ModelError: If external data cannot be read.
    """
    bits = codes.dtype.bitwidth
    if bits >= _BYTE_BITS or codes.size * bits % _BYTE_BITS:
        return max((int(chunk.max()) for chunk in element_chunks(codes)), default=0)
    highest, work = 0, np.empty(CHUNK_ELEMENTS, np.uint8)
    for chunk in byte_chunks(codes):
        for shift in range(0, _BYTE_BITS, bits):
            mask = np.uint8(((1 << bits) - 1) << shift)
            highest = max(highest, int(np.bitwise_and(chunk, mask, out=work[: chunk.size]).max()) >> shift)
    return highest
