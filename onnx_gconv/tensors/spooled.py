"""Caches tensors that are slow to compute in a temporary file, when they are read for the first time.

A data file with the same content need not be written then: the temporary file gets its name.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
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

__all__ = ["Spool", "SpooledTensor", "become_file"]


_Arrays = TypeVar("_Arrays", bound=tuple[NDArray[Any], ...])

_LEAST_BYTES = 1 << 14


class Spool:
    """A temporary file without a name, which the system deletes at the end of the ``with`` block or of the process.

    If the file cannot be made or the disk is full, tensors are computed each time they are read; only time is lost.
    `become_file` makes it a file with a name, which remains.

    Args:
        folder: The folder of the file; it should be on a disk with room for large files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._file = _nameless_file(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def kept(self, tensor: StreamedTensor) -> StreamedTensor:
        """Wrap a tensor so that only its first read computes it; read the result within the ``with`` block only.

        Small tensors are returned as they are: they are computed again in no time, and a model may hold them itself,
        where `become_file` takes the tensors of a data file only.
        """
        if self._file is None or tensor.nbytes < _LEAST_BYTES:
            return tensor
        with self._lock:
            place, self._end = self._end, self._end + tensor.size * tensor.dtype.numpy().itemsize
        return SpooledTensor(tensor, self, self._file.fileno(), place)

    def name(self, path: Path) -> bool:
        """Give the file a name that no other file has; False if the system cannot do so, or has big-endian numbers."""
        if self._file is None or sys.byteorder != "little":
            return False
        number = self._file.fileno()
        try:
            # With `src_dir_fd`, which does not matter for an absolute path, Python follows the link to the file.
            os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)
        except (OSError, NotImplementedError):  # no /proc, no such links, or the file was made with a name
            return False
        return True

    @property
    def end(self) -> int:
        """The bytes that all tensors need together."""
        return self._end


def become_file(path: Path, tensors: Sequence[ir.TensorProtocol]) -> dict[int, int]:
    """Make the temporary file that holds tensors a data file, which saves copying it and the room for the copy.

    Args:
        path: The new file, on the same file system. It must not exist.
        tensors: All tensors that the data file shall hold.

    Returns:
        For the number of each tensor that the file holds, the offset of its first byte. Nothing, and there is no file,
        if the temporary file holds other tensors, too, some are not stored, or the system cannot name the file.
    """
    places = {
        number: (tensor.spool, tensor.place)
        for number, tensor in enumerate(tensors)
        if isinstance(tensor, SpooledTensor) and tensor.is_stored
    }
    spools = {spool for spool, _ in places.values()}
    if len(spools) != 1 or sum(tensors[number].nbytes for number in places) != next(iter(spools)).end:
        return {}
    return {number: place for number, (_, place) in places.items()} if spools.pop().name(path) else {}


def _nameless_file(folder: Path) -> BinaryIO:
    """A new file without a name; where the system can do so, in a way that it can be named later."""
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):
            return io.FileIO(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "r+b")
    return tempfile.TemporaryFile(dir=folder, buffering=0)


class SpooledTensor(StreamedTensor):
    """A tensor that stores its elements in a file during its first complete read, and reads them from there afterwards.

    Args:
        tensor: The tensor. Only one thread may read it until it is stored.
        spool: The spool that the file belongs to.
        file: The descriptor of the file.
        place: Offset of the elements in the file, in bytes.
    """

    def __init__(self, tensor: StreamedTensor, spool: Spool, file: int, place: int) -> None:
        super().__init__(tensor.dtype, ir.Shape(tensor.shape.numpy()), tensor.name)
        self.spool: Spool = spool
        self.place: int = place
        self.is_stored: bool = False
        self._tensor = tensor
        self._file = file

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The sources of the wrapped tensor."""
        return self._tensor.sources

    @property
    def group(self) -> tuple[TensorGroup, int] | None:
        """A group of this tensor alone that reads directly into the caller's buffer; None until it is stored."""
        return (_Alone(self), 0) if self.is_stored else None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Elements from `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        if self.is_stored:
            yield from self._stored(start, stop)
        elif (start, stop) == (0, self.size):
            yield from (chunk for [chunk] in self.storing((chunk,) for chunk in self._tensor.chunks()))
        else:
            yield from self._tensor.chunks(start, stop)

    def storing(self, chunks: Iterable[_Arrays]) -> Iterator[_Arrays]:
        """Store chunks of this tensor that the caller computes together with other tensors.

        Args:
            chunks: Tuples whose last array is the next chunk of this tensor; together they are the whole tensor.

        Yields:
            Each tuple, after its last array is stored.
        """
        place, is_stored = self.place, True
        for arrays in chunks:
            try:
                place = _write(self._file, arrays[-1], place) if is_stored else place
            except OSError:  # the disk is full
                is_stored = False
            yield arrays
        self.is_stored = is_stored

    def _stored(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        buffer = np.empty(min(CHUNK_ELEMENTS, stop - start), self.dtype.numpy())
        for first in range(start, stop, CHUNK_ELEMENTS):
            yield self.read_into(buffer[: stop - first], first)

    def read_into(self, elements: NDArray[Any], first: int) -> NDArray[Any]:
        """Fill an array with the stored elements from flat index `first` on, and return it."""
        _read(self._file, elements, self.place + first * elements.itemsize)
        return elements


class _Alone(TensorGroup):
    """A group of one stored tensor; its elements are read from the file into the buffers of the caller."""

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
    """Write elements at an offset of a file, and return the offset after them, in bytes."""
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
