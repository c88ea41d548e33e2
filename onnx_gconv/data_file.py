"""Writes the tensors of a model to one file of external data, with several workers and in flat memory."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.streamed_tensor import StreamedTensor, TensorGroup, worker_count, write_elements

__all__ = ["write_data_file"]

# A tensor is written in parts of this many elements, so that one large tensor keeps all workers busy.
_PART_ELEMENTS = 1 << 24

_Job: TypeAlias = Callable[[Path, threading.Event], int]


def write_data_file(path: Path, tensors: Sequence[ir.TensorProtocol], progress: Callable[[int], None]) -> list[int]:
    """Write tensors to a new file, densely and in their order.

    Tensors of a `TensorGroup` are computed together, so that what they are computed from is read once.

    Args:
        path: The file; there must be none.
        tensors: Streamed tensors are computed while they are written.
        progress: Called with the bytes written so far.

    Returns:
        For each tensor, the offset of its first byte.

    Raises:
        FileExistsError: If there is a file.
        OSError: If it cannot be written.
        ModelError: If what a tensor is computed from cannot be read.
    """
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(end)
        end += tensor.nbytes
    with path.open("xb") as file:
        file.truncate(end)
    done, stop = 0, threading.Event()
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        try:
            progress(done)
            waiting = [executor.submit(job, path, stop) for job in _jobs(tensors, offsets)]
            for job in concurrent.futures.as_completed(waiting):
                done += job.result()
                if progress is not None:
                    progress(done)
        except BaseException:
            stop.set()
            executor.shutdown(cancel_futures=True)
            raise
    return offsets


def _jobs(tensors: Sequence[ir.TensorProtocol], offsets: Sequence[int]) -> Iterator[_Job]:
    """What the workers do, in an order that goes through the file from front to back."""
    groups: dict[TensorGroup, list[_Member]] = {}
    others: dict[int, tuple[ir.TensorProtocol, list[int]]] = {}  # by identity: not every tensor can be read by two
    work: dict[object, Callable[[], Iterable[_Job]]] = {}
    for tensor, offset in zip(tensors, offsets, strict=True):
        if isinstance(tensor, StreamedTensor):
            group, index = tensor.group or (_Alone(tensor), 0)
            members = groups.setdefault(group, [])
            members.append(_Member(tensor, index, offset))
            work.setdefault(group, functools.partial(_parts, group, members))
        else:
            _, places = others.setdefault(id(tensor), (tensor, []))
            places.append(offset)
            work.setdefault(id(tensor), functools.partial(_whole, tensor, places))
    for jobs in work.values():
        yield from jobs()


@dataclass(frozen=True, eq=False)
class _Member:
    """A tensor to write, its index in its group, and the offset of its first byte in the file."""

    tensor: StreamedTensor
    index: int
    offset: int


class _Alone(TensorGroup):
    """A streamed tensor that is computed on its own."""

    def __init__(self, tensor: StreamedTensor) -> None:
        self._tensor = tensor

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[NDArray[Any], ...]]:
        for chunk in self._tensor.chunks(start, stop):
            yield (chunk,)


def _parts(group: TensorGroup, members: Sequence[_Member]) -> Iterator[_Job]:
    """Write the tensors of a group, part by part."""
    size = members[0].tensor.size
    for start in range(0, size, _PART_ELEMENTS):
        yield functools.partial(_write_part, group, members, range(start, min(start + _PART_ELEMENTS, size)))


def _write_part(group: TensorGroup, members: Sequence[_Member], part: range, path: Path, stop: threading.Event) -> int:
    """Compute and write a part of the elements of all tensors of a group; return the bytes written."""
    written = 0
    with contextlib.ExitStack() as stack:
        files = []
        for member in members:
            file = stack.enter_context(path.open("r+b", buffering=0))
            file.seek(member.offset + part.start * int(member.tensor.dtype.itemsize))
            files.append(file)
        for chunks in group.chunks(part.start, part.stop):
            if stop.is_set():
                break
            for file, member in zip(files, members, strict=True):
                write_elements(file, chunks[member.index])
                written += chunks[member.index].nbytes
    return written


def _whole(tensor: ir.TensorProtocol, offsets: Sequence[int]) -> Iterator[_Job]:
    """Write a tensor that is no streamed one, at each of its places."""
    yield functools.partial(_write_whole, tensor, offsets)


def _write_whole(tensor: ir.TensorProtocol, offsets: Sequence[int], path: Path, stop: threading.Event) -> int:
    with path.open("r+b") as file:
        for offset in offsets:
            if not stop.is_set():
                file.seek(offset)
                if hasattr(tensor, "tofile"):
                    tensor.tofile(file)
                else:  # it is not part of the protocol
                    file.write(tensor.tobytes())
    return tensor.nbytes * len(offsets)
