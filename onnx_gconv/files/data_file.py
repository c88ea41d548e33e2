"""Writes the tensors of a model to one file of external data, in constant memory.

One thread writes, the others compute: the kernel lets only one thread at a time write to a file, and a second writer
would spend processor time on waiting.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.spooled import become_file
from onnx_gconv.tensors.streamed import (
    CHUNK_ELEMENTS,
    StreamedTensor,
    TensorGroup,
    element_chunks,
    worker_count,
    write_elements,
)

__all__ = ["write_data_file"]

_BYTE_BITS = 8

# Tensors are computed in parts of this many elements, so that one large tensor keeps all workers busy.
_PART_ELEMENTS = 1 << 24

# Besides the chunk that each worker computes, one chunk is being written and one waits to be written.
_SPARE_BUFFERS = 2


def write_data_file(path: Path, tensors: Sequence[ir.TensorProtocol], progress: Callable[[int], None]) -> list[int]:
    """Write tensors to a new file, without gaps and in the given order.

    Tensors of a `TensorGroup` are computed together, so that the weight that they are computed from is read once.
    Tensors that a temporary file holds come first, if that file can become the new one.

    Args:
        path: The file; it must not exist.
        tensors: Streamed tensors are computed while they are written.
        progress: Called with the bytes written so far.

    Returns:
        For each tensor, the offset of its first byte.

    Raises:
        FileExistsError: If the file exists.
        OSError: If it cannot be written.
        ModelError: If a weight that a tensor is computed from cannot be read.
    """
    progress(0)
    places = become_file(path, tensors)
    done = end = sum(tensors[number].nbytes for number in places)
    missing, offsets = [], []
    for number, tensor in enumerate(tensors):
        if number not in places:
            missing.append(tensor)
            offsets.append(end)
            places[number] = end
            end += tensor.nbytes
    with path.open("r+b" if done else "xb", buffering=0) as file:
        file.truncate(end)
        for tensor, offset in zip(missing, offsets, strict=True):
            if not _is_written_in_parts(tensor):
                file.seek(offset)
                _write_whole(tensor, file)
                progress(done := done + tensor.nbytes)
        with contextlib.closing(_pieces(_parts(missing, offsets))) as pieces:
            for piece in pieces:
                for elements, offset in zip(piece.elements, piece.offsets, strict=True):
                    file.seek(offset)
                    write_elements(file, elements)
                    done += elements.nbytes
                progress(done)
    return [places[number] for number in range(len(tensors))]


def _is_written_in_parts(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is computed in parts, in parallel with other tensors."""
    return isinstance(tensor, StreamedTensor)


def _write_whole(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    if isinstance(tensor, (ir.ExternalTensor, StreamedTensor)):
        tensor.tofile(file)
    elif isinstance(tensor, (ir.Tensor, ir.LazyTensor)) and tensor.dtype.bitwidth >= _BYTE_BITS:
        # `tofile` of torch's tensors is not used: it writes everything at once, and one write ends at 2 GiB.
        for chunk in element_chunks(tensor):
            write_elements(file, chunk)
    else:
        missing = memoryview(tensor.tobytes())
        while missing.nbytes:
            missing = missing[file.write(missing) :]


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the elements of all tensors of a group.

    Attributes:
        group: The group.
        elements: Indices of the elements.
        indices: Indices within the group of the tensors that are written.
        offsets: For each of these tensors, the offset of its first element in the file, in bytes.
        bits: For each of these tensors, the bits of an element in the file.
    """

    group: TensorGroup
    elements: range
    indices: tuple[int, ...]
    offsets: tuple[int, ...]
    bits: tuple[int, ...]


@dataclass(eq=False)
class _Buffers:
    """Memory for one chunk of all tensors of a group. It grows on demand and is reused."""

    memory: list[NDArray[np.uint8]] = field(default_factory=list)

    def arrays(self, dtypes: Sequence[np.dtype[Any]]) -> list[NDArray[Any]]:
        """Return an array of `CHUNK_ELEMENTS` elements for each type."""
        sizes = [CHUNK_ELEMENTS * dtype.itemsize for dtype in dtypes]
        for number, size in enumerate(sizes):
            if number == len(self.memory):
                self.memory.append(np.empty(size, np.uint8))
            elif self.memory[number].size < size:
                self.memory[number] = np.empty(size, np.uint8)
        return [memory[:size].view(dtype) for memory, size, dtype in zip(self.memory, sizes, dtypes, strict=False)]


@dataclass(frozen=True, eq=False)
class _Piece:
    """A computed chunk of each tensor of a group, and its place in the file."""

    elements: tuple[NDArray[Any], ...]
    offsets: tuple[int, ...]
    buffers: _Buffers


def _parts(tensors: Sequence[ir.TensorProtocol], offsets: Sequence[int]) -> Iterator[_Part]:
    """Yield the parts to compute, in the order in which their groups begin in the file."""
    groups: dict[TensorGroup, list[tuple[StreamedTensor, int, int]]] = {}
    for tensor, offset in zip(tensors, offsets, strict=True):
        if isinstance(tensor, StreamedTensor) and _is_written_in_parts(tensor):
            group, index = tensor.group or (_Alone(tensor), 0)
            groups.setdefault(group, []).append((tensor, index, offset))
    for group, members in groups.items():
        size = members[0][0].size
        for start in range(0, size, _PART_ELEMENTS):
            yield _Part(
                group,
                range(start, min(start + _PART_ELEMENTS, size)),
                tuple(index for _, index, _ in members),
                tuple(offset for _, _, offset in members),
                tuple(tensor.dtype.bitwidth for tensor, _, _ in members),
            )


class _Alone(TensorGroup):
    """A streamed tensor that is computed on its own."""

    def __init__(self, tensor: StreamedTensor) -> None:
        self._tensor = tensor

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(self._tensor.dtype.numpy()),)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        for chunk in self._tensor.chunks(start, stop):
            for first in range(0, chunk.size, CHUNK_ELEMENTS):
                [buffer] = buffers()
                elements = buffer[: min(CHUNK_ELEMENTS, chunk.size - first)]
                elements[:] = chunk[first : first + elements.size]
                yield (elements,)


class _StoppedError(Exception):
    """Stops a worker whose results are not needed any more."""


def _pieces(parts: Iterator[_Part]) -> Generator[_Piece]:
    """Compute parts in parallel; a piece is valid until the next one is requested."""
    workers = _Workers(parts, count=max(worker_count() - 1, 1))
    try:
        workers.start()
        yield from workers.pieces()
    finally:
        workers.stop()


class _Workers:
    """Threads that compute parts into free buffers.

    Args:
        parts: The parts to compute.
        count: Number of threads.
    """

    def __init__(self, parts: Iterator[_Part], count: int) -> None:
        self._todo: SimpleQueue[_Part | None] = SimpleQueue()
        self._free: SimpleQueue[_Buffers | None] = SimpleQueue()
        self._ready: SimpleQueue[_Piece | BaseException | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"data-file-{number}") for number in range(count)]
        for item in (*parts, *([None] * count)):
            self._todo.put(item)
        for _ in range(count + _SPARE_BUFFERS):
            self._free.put(_Buffers())

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all threads and wait for them; a thread that computes ends at its next request for a buffer."""
        for _ in self._threads:
            self._free.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def pieces(self) -> Iterator[_Piece]:
        running = len(self._threads)
        while running:
            item = self._ready.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
                self._free.put(item.buffers)

    def _work(self) -> None:
        try:
            while (part := self._todo.get()) is not None:
                for piece in self._computed(part):
                    self._ready.put(piece)
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that requests pieces
            self._ready.put(error)
        self._ready.put(None)

    def _computed(self, part: _Part) -> Iterator[_Piece]:
        taken = _Buffers()

        def buffers() -> Sequence[NDArray[Any]]:
            nonlocal taken
            free = self._free.get()
            if free is None:
                raise _StoppedError
            taken = free
            return taken.arrays(part.group.dtypes)

        done = part.elements.start
        for chunks in part.group.stored_chunks(part.elements.start, part.elements.stop, buffers):
            stored = tuple(chunks[index] for index in part.indices)
            places = (offset + done * bits // _BYTE_BITS for offset, bits in zip(part.offsets, part.bits, strict=True))
            yield _Piece(stored, tuple(places), taken)
            done += stored[0].nbytes * _BYTE_BITS // part.bits[0]
