"""Reads blocks of the matrices of a stored tensor without reading or transposing the whole tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.schemes.matrix_layout import Factor, MatrixLayout, Role
from onnx_gconv.tensors.external import ExternalReader
from onnx_gconv.tensors.streamed import unpacked_codes

__all__ = ["MatrixReader", "joined_factors", "numbers_of_role", "stored_from_matrices"]

_BYTE_BITS = 8

_Ranges: TypeAlias = tuple[tuple[int, int], ...]


class MatrixReader:
    """A stored tensor as matrices [inputs, outputs]; external data is read block by block.

    Several threads can read blocks at once. Close the reader at the end, or use it in a ``with`` statement.

    Args:
        tensor: The tensor. Elements of less than a byte are read as uint8.
        layout: The place of each element of the tensor in the matrices.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """

    def __init__(self, tensor: ir.TensorProtocol, layout: MatrixLayout) -> None:
        self._bits = tensor.dtype.bitwidth
        self.dtype: np.dtype[Any] = np.dtype(tensor.dtype.numpy() if self._bits >= _BYTE_BITS else np.uint8)
        self._axes = joined_factors(layout.factors)
        self._sizes = tuple(axis.size for axis in self._axes)
        self._reader: ExternalReader | None = None
        self._array: NDArray[Any] | None = None
        if isinstance(tensor, ir.ExternalTensor):
            self._reader = ExternalReader(tensor)
        else:
            self._array = tensor.numpy().view(self.dtype).reshape(self._sizes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._reader is not None:
            self._reader.close()

    @property
    def fastest(self) -> Role:
        """The index that changes fastest in storage: "column" if a row of the matrix is contiguous, else "row"."""
        return next((axis.role for axis in reversed(self._axes) if axis.role != "matrix"), "column")

    def read(
        self,
        matrix: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        memory: NDArray[np.uint8] | None = None,
    ) -> NDArray[Any]:
        """Read a block of a matrix.

        Args:
            matrix: Number of the matrix.
            rows: The first row of the block, and the one after the last.
            columns: The first column of the block, and the one after the last.
            memory: Memory that a block of external data may use, [bytes]: as many as the block has, or more.

        Returns:
            An array [rows, columns], which may be a view.

        Raises:
            ModelError: If external data has become shorter.
        """
        [(_, matrix_box)] = self._boxes("matrix", matrix, matrix + 1)
        row_boxes, column_boxes = list(self._boxes("row", *rows)), list(self._boxes("column", *columns))
        if len(row_boxes) == len(column_boxes) == 1:
            return self._block(matrix_box, row_boxes[0][1], column_boxes[0][1], memory)
        block = np.empty((rows[1] - rows[0], columns[1] - columns[0]), self.dtype)
        for (row, row_box), (column, column_box) in itertools.product(row_boxes, column_boxes):
            part = self._block(matrix_box, row_box, column_box)
            block[row : row + part.shape[0], column : column + part.shape[1]] = part
        return block

    def _numbers(self, role: Role) -> tuple[int, ...]:
        """The numbers of the axes of a role, the slowest first."""
        return numbers_of_role(self._axes, role)

    def _boxes(self, role: Role, first: int, stop: int) -> Iterator[tuple[int, _Ranges]]:
        """Yield the boxes that form the stretch `first` to `stop` of a role's index, each with its offset in it."""
        done = 0
        for ranges in _boxes([self._sizes[number] for number in self._numbers(role)], first, stop):
            yield done, ranges
            done += math.prod(end - start for start, end in ranges)

    def _block(
        self, matrices: _Ranges, rows: _Ranges, columns: _Ranges, memory: NDArray[np.uint8] | None = None
    ) -> NDArray[Any]:
        order = (*self._numbers("matrix"), *self._numbers("row"), *self._numbers("column"))
        by_number = dict(zip(order, (*matrices, *rows, *columns), strict=True))
        box = self._box([by_number[number] for number in range(len(order))], memory)
        height, width = (math.prod(end - start for start, end in ranges) for ranges in (rows, columns))
        return box.transpose(order).reshape(height, width)

    def _box(self, ranges: Sequence[tuple[int, int]], memory: NDArray[np.uint8] | None) -> NDArray[Any]:
        """The elements within a range of each axis; the axes are in the order of storage."""
        if self._array is not None:
            return self._array[tuple(slice(*one) for one in ranges)]
        assert self._reader is not None  # noqa: S101 - the constructor sets either the array or the reader
        shape = tuple(end - start for start, end in ranges)
        whole = len(shape)  # the first axis from which on all axes are read completely, so that elements are contiguous
        while whole and shape[whole - 1] == self._sizes[whole - 1]:
            whole -= 1
        outer = ranges[: max(whole - 1, 0)]
        size = math.prod(shape) * self.dtype.itemsize
        box = np.empty(shape, self.dtype) if memory is None else memory[:size].view(self.dtype).reshape(shape)
        runs = box.reshape(math.prod(shape[: len(outer)]), -1)
        strides = [math.prod(self._sizes[axis + 1 :]) for axis in range(len(shape))]
        skipped = ranges[whole - 1][0] * strides[whole - 1] if whole else 0
        for number, index in enumerate(itertools.product(*(range(*one) for one in outer))):
            start = skipped + sum(digit * stride for digit, stride in zip(index, strides, strict=False))
            self._read_into(self._reader, runs[number], start)
        return box

    def _read_into(self, reader: ExternalReader, elements: NDArray[Any], start: int) -> None:
        """Fill an array with the elements of the tensor from flat index `start` on."""
        if self._bits >= _BYTE_BITS:
            reader.read_into(elements, start)
            return
        per_byte = _BYTE_BITS // self._bits
        first, stop = start // per_byte, -(-(start + elements.size) // per_byte)
        packed = np.empty(stop - first, np.uint8)
        reader.read_into(packed, first)
        skipped = start - first * per_byte
        elements[:] = unpacked_codes(packed, self._bits)[skipped : skipped + elements.size]


def stored_from_matrices(matrices: NDArray[Any], layout: MatrixLayout) -> NDArray[Any]:
    """The array of the shape of the stored tensor whose matrices are `matrices`, [matrices, rows, columns]."""
    order = (*layout.of_role("matrix"), *layout.of_role("row"), *layout.of_role("column"))
    sizes = [layout.factors[number].size for number in order]
    return matrices.reshape(sizes).transpose(np.argsort(order).tolist()).reshape(layout.shape)


def joined_factors(factors: Sequence[Factor]) -> list[Factor]:
    """Join neighbouring factors that together count one index without a gap."""
    joined: list[Factor] = []
    for factor in factors:
        last = joined[-1] if joined else None
        if last is not None and last.role == factor.role and last.stride == factor.size * factor.stride:
            joined[-1] = Factor(last.size * factor.size, last.axis, factor.role, factor.stride)
        else:
            joined.append(factor)
    return joined


def numbers_of_role(factors: Sequence[Factor], role: Role) -> tuple[int, ...]:
    """Numbers of the factors of a role, the slowest in its index first."""
    numbers = (number for number, factor in enumerate(factors) if factor.role == role)
    return tuple(sorted(numbers, key=lambda number: -factors[number].stride))


def _boxes(sizes: Sequence[int], first: int, stop: int) -> Iterator[_Ranges]:
    """Yield boxes of indices that together cover the flat indices from `first` to `stop`, in ascending order.

    Args:
        sizes: The sizes of the axes, the slowest first.
        first: The first flat index.
        stop: The flat index after the last.
    """
    if not sizes:
        yield ()
        return
    inner = math.prod(sizes[1:])
    (begin, head), (end, tail) = divmod(first, inner), divmod(stop, inner)
    if begin == end:
        yield from (((begin, begin + 1), *rest) for rest in _boxes(sizes[1:], head, tail))
        return
    if head:
        yield from (((begin, begin + 1), *rest) for rest in _boxes(sizes[1:], head, inner))
        begin += 1
    if begin < end:
        yield ((begin, end), *((0, size) for size in sizes[1:]))
    if tail:
        yield from (((end, end + 1), *rest) for rest in _boxes(sizes[1:], 0, tail))
