"""Compares tensors bit by bit in bounded memory, whether their elements are in memory, in a file or computed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.external import ExternalReader
from onnx_gconv.tensors.streamed import StreamedTensor, element_chunks

__all__ = ["ElementBits", "has_same_elements", "is_transposed"]

Bits: TypeAlias = NDArray[np.unsignedinteger[Any]]

# A matrix and its transpose are compared in squares of this side: 4 MiB of float32, with rows of one page of memory.
_TILE = 1024


class ElementBits:
    """Random access to the elements of a tensor as unsigned integers; use it in a ``with`` statement.

    Args:
        tensor: A tensor whose elements are whole bytes.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self._tensor = tensor
        self._dtype = _bits_dtype(tensor)
        self._reader: ExternalReader | None = None
        self._array: Bits | None = None
        self._flat: Bits | None = None
        if isinstance(tensor, ir.ExternalTensor):
            self._reader = ExternalReader(tensor)
        elif not isinstance(tensor, StreamedTensor):
            self._array = tensor.numpy().view(self._dtype)
            # Flattening a strided view (such as the transpose that an exporter folds) would copy it.
            self._flat = self._array.reshape(-1) if self._array.flags.c_contiguous else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    def read(self, start: int, stop: int) -> Bits:
        """The elements from `start` to `stop`, in row-major order.

        Raises:
            ModelError: If the file of external data became shorter.
        """
        if self._flat is not None:
            return self._flat[start:stop]
        if self._reader is not None:
            found = np.empty(stop - start, self._dtype)
            self._reader.read_into(found, start)
            return found
        chunks = [chunk.view(self._dtype).copy() for chunk in element_chunks(self._tensor, start, stop)]
        return np.concatenate(chunks) if chunks else np.empty(0, self._dtype)

    def sample(self, indices: Sequence[int]) -> bytes:
        """The bytes of the elements at some flat indices, joined into one key for comparing tensors quickly."""
        return b"".join(self.read(index, index + 1).tobytes() for index in indices)

    def block(self, rows: range, columns: range) -> Bits:
        """A rectangle of a matrix, [rows, columns]."""
        if self._array is not None:
            return self._array[rows.start : rows.stop, columns.start : columns.stop]
        width = self._tensor.shape.numpy()[1]
        if len(columns) == width:
            return self.read(rows.start * width, rows.stop * width).reshape(len(rows), width)
        out = np.empty((len(rows), len(columns)), self._dtype)
        for number, row in enumerate(rows):
            start = row * width
            if self._reader is not None:
                self._reader.read_into(out[number], start + columns.start)
            else:
                out[number] = self.read(start + columns.start, start + columns.stop)
        return out


def has_same_elements(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Whether two tensors of one type have the same elements in row-major order, bit for bit, whatever their shapes.

    Raises:
        ModelError: If external data cannot be read.
    """
    if first.dtype != second.dtype or first.size != second.size:
        return False
    bits = _bits_dtype(first)
    pairs = zip(element_chunks(first), element_chunks(second), strict=True)
    return all(np.array_equal(one.view(bits), other.view(bits)) for one, other in pairs)


def is_transposed(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Whether two matrices have the same type, and one is the transpose of the other, bit for bit.

    Raises:
        ModelError: If external data cannot be read.
    """
    rows, columns = first.shape.numpy()
    if first.dtype != second.dtype or tuple(second.shape.numpy()) != (columns, rows):
        return False
    with ElementBits(first) as ours, ElementBits(second) as theirs:
        return all(
            np.array_equal(ours.block(down, across), theirs.block(across, down).T)
            for down in _tiles(rows)
            for across in _tiles(columns)
        )


def _tiles(size: int) -> list[range]:
    return [range(start, min(start + _TILE, size)) for start in range(0, size, _TILE)]


def _bits_dtype(tensor: ir.TensorProtocol) -> np.dtype[Any]:
    return np.dtype(f"u{np.dtype(tensor.dtype.numpy()).itemsize}")
