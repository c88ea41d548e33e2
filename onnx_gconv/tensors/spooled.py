"""Tensors that take longer to compute than to write and read, kept in a temporary file after they were read once."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, TensorGroup

__all__ = ["Spool", "SpooledTensor"]


_Arrays = TypeVar("_Arrays", bound=tuple[NDArray[Any], ...])


class Spool:
    """A temporary file without a name, which is gone when the ``with`` block is left, or the process ends.

    If the disk has no room for it, tensors are computed each time that they are read: nothing but time is lost.

    Args:
        folder: Where it is, so that it is on a disk that has room for large files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def kept(self, tensor: StreamedTensor) -> StreamedTensor:
        """The tensor, which is computed when it is read for the first time; to be read inside of the ``with`` block."""
        if self._file is None:
            return tensor
        with self._lock:
            place, self._end = self._end, self._end + tensor.size * tensor.dtype.numpy().itemsize
        return SpooledTensor(tensor, self._file.fileno(), place)


class SpooledTensor(StreamedTensor):
    """A tensor whose elements stand in a file as soon as all of them were read, from the first to the last.

    Args:
        tensor: The tensor. The first who reads it does so alone.
        file: The descriptor of the file.
        place: Where in it the elements go, in bytes.
    """

    def __init__(self, tensor: StreamedTensor, file: int, place: int) -> None:
        super().__init__(tensor.dtype, ir.Shape(tensor.shape.numpy()), tensor.name)
        self._tensor = tensor
        self._file = file
        self._place = place
        self._is_stored = False

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """Those of the tensor."""
        return self._tensor.sources

    @property
    def group(self) -> tuple[TensorGroup, int] | None:
        """As soon as it is stored, what reads it without a copy on the way."""
        return (_Alone(self), 0) if self._is_stored else None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Elements from `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        if self._is_stored:
            yield from self._stored(start, stop)
        elif (start, stop) == (0, self.size):
            yield from (chunk for [chunk] in self.storing((chunk,) for chunk in self._tensor.chunks()))
        else:
            yield from self._tensor.chunks(start, stop)

    def storing(self, chunks: Iterable[_Arrays]) -> Iterator[_Arrays]:
        """Keep what somebody else computes: the last array of each tuple, from the first element to the last.

        Yields:
            Each of the tuples, when it is stored.
        """
        place, is_stored = self._place, True
        for arrays in chunks:
            try:
                place = _write(self._file, arrays[-1], place) if is_stored else place
            except OSError:  # the disk is full
                is_stored = False
            yield arrays
        self._is_stored = is_stored

    def _stored(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        buffer = np.empty(min(CHUNK_ELEMENTS, stop - start), self.dtype.numpy())
        for first in range(start, stop, CHUNK_ELEMENTS):
            yield self.read_into(buffer[: stop - first], first)

    def read_into(self, elements: NDArray[Any], first: int) -> NDArray[Any]:
        """Fill an array with the elements from `first` on, which are stored."""
        _read(self._file, elements, self._place + first * elements.itemsize)
        return elements


class _Alone(TensorGroup):
    """A tensor that stands in a file, whose elements are read to where they are wanted."""

    def __init__(self, tensor: SpooledTensor) -> None:
        self._tensor = tensor

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(self._tensor.dtype.numpy()),)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        for first in range(start, stop, CHUNK_ELEMENTS):
            [buffer] = buffers()
            yield (self._tensor.read_into(buffer[: stop - first], first),)


def _write(file: int, elements: NDArray[Any], place: int) -> int:
    """Write elements at a place of a file; where they end."""
    missing = np.ascontiguousarray(elements).view(np.uint8).data
    while missing.nbytes:
        count = os.pwrite(file, missing, place)
        missing, place = missing[count:], place + count
    return place


def _read(file: int, elements: NDArray[Any], place: int) -> None:
    missing = elements.view(np.uint8).data
    while missing.nbytes:
        count = os.preadv(file, [missing], place)
        if not count:
            raise OSError(f"a temporary file ends at {place:,} bytes, before its last tensor")
        missing, place = missing[count:], place + count
