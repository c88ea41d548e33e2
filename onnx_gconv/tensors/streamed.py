"""Tensors that are read, computed and written in chunks, so that memory does not grow with them."""

from __future__ import annotations

import abc
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.external import ExternalReader

__all__ = [
    "CHUNK_ELEMENTS",
    "StreamedTensor",
    "TensorGroup",
    "all_elements",
    "byte_chunks",
    "element_chunks",
    "packed_codes",
    "unpacked_codes",
    "worker_count",
    "write_elements",
]

# A chunk is 1 MiB of float32, which stays in the cache of the processor. With smaller chunks, two workers compete for
# the interpreter lock. Chunks are counted in elements, so that tensors of different types that are read side by side
# stay in step.
CHUNK_ELEMENTS = 1 << 18

# `cp` writes in blocks of this size. The kernel caches larger writes in larger blocks of memory, which can be slow to
# allocate.
_WRITE_BYTES = 1 << 18

_BYTE_BITS = 8

# Columns of a transposed matrix that are copied at a time; the fastest number for 4096 x 4096 float32.
_COLUMNS_AT_A_TIME = 64


def worker_count() -> int:
    """How many threads read and write tensors. More than four gain nothing on one disk."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1), 4)


class TensorGroup(abc.ABC):
    """Tensors of one size that are cheaper to compute together than one after the other."""

    @property
    @abc.abstractmethod
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        """The types of the tensors."""

    @abc.abstractmethod
    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield the elements from `start` to `stop` of each tensor, in row-major order.

        Args:
            start: Index of the first element.
            stop: Index after the last element.
            buffers: Called once for each chunk; returns an array of `CHUNK_ELEMENTS` elements for each tensor.

        Yields:
            For each tensor the filled beginning of its array.
        """

    def stored_chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield the elements from `start` to `stop` as a file stores them; elements of less than a byte are packed.

        Args:
            start: Index of the first element; a byte must begin with it.
            stop: Index after the last element.
            buffers: Called once for each chunk, as for `chunks`.
        """
        for chunks in self.chunks(start, stop, buffers):
            yield tuple(_stored(chunk) for chunk in chunks)


class StreamedTensor(abc.ABC):
    """A tensor for onnx-ir whose elements are computed when they are read.

    Implements `onnx_ir.TensorProtocol`. A subclass defines `chunks`, which computes the elements; none are kept.

    Args:
        dtype: Type of the elements.
        shape: Shape of the tensor.
        name: Name of the tensor.
    """

    def __init__(self, dtype: ir.DataType, shape: ir.Shape, name: str | None = None) -> None:
        self.dtype = dtype
        self.shape: ir.ShapeProtocol = shape
        self.name = name
        self.raw: Any = self  # the protocol wants the underlying data, which does not exist here
        self.doc_string: str | None = None
        self.metadata_props: MutableMapping[str, str] = {}
        self.meta: MutableMapping[str, Any] = {}

    @abc.abstractmethod
    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield the elements from `start` to `stop`, in row-major order.

        Yields:
            One-dimensional arrays of `CHUNK_ELEMENTS` elements, the last one shorter; valid until the next one is
            requested.
        """

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The tensors from which this one is computed."""
        return ()

    @property
    def group(self) -> tuple[TensorGroup, int] | None:
        """Tensors that are best computed together with this one, and its index among them; None if there are none."""
        return None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape.numpy())

    @property
    def nbytes(self) -> int:
        """Number of bytes that the elements need."""
        return math.ceil(self.dtype.itemsize * self.size)

    def numpy(self) -> NDArray[Any]:
        """All elements, in memory."""
        array = np.empty(self.size, self.dtype.numpy())
        start = 0
        for chunk in self.chunks():
            array[start : start + chunk.size] = chunk
            start += chunk.size
        return array.reshape(self.shape.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - NumPy's signature
        del copy  # the array is always a new one
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __dlpack__(self, *, stream: Any = None) -> Any:  # noqa: ANN401 - the signature of the protocol
        return self.numpy().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> Any:  # noqa: ANN401 - the signature of the protocol
        return np.empty(0).__dlpack_device__()

    def tobytes(self) -> bytes:
        """All elements as little-endian bytes; those of less than a byte are packed, the first one in the low bits."""
        return b"".join(_little_endian(chunk).tobytes() for chunk in self._stored_chunks())

    def tofile(self, file: BinaryIO) -> None:
        """Write what `tobytes` gives at the position of `file`."""
        for chunk in self._stored_chunks():
            write_elements(file, chunk)

    def _stored_chunks(self) -> Iterator[NDArray[Any]]:
        for chunk in self.chunks():
            yield _stored(chunk)

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.dtype},{self.shape}>(name={self.name!r})"


def _stored(chunk: NDArray[Any]) -> NDArray[Any]:
    """A chunk as a file stores it; elements of less than a byte are packed.

    Only the last byte of a tensor may have room left, because `CHUNK_ELEMENTS` is a power of two.
    """
    bits = ir.DataType.from_numpy(chunk.dtype).bitwidth
    return chunk if bits >= _BYTE_BITS else packed_codes(chunk, bits)


def write_elements(file: BinaryIO, elements: NDArray[Any]) -> None:
    """Write elements as little-endian bytes at the position of a file, buffered or not."""
    # bfloat16 and similar types have no buffer format, so the array is written as bytes.
    view = _little_endian(elements).view(np.uint8).data
    while view.nbytes:
        view = view[file.write(view[:_WRITE_BYTES]) :]


def all_elements(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """All elements of a tensor, in memory, in its shape.

    External data is read, never memory-mapped: if a mapped file becomes shorter, the next access ends the process.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """
    if not isinstance(tensor, (ir.ExternalTensor, StreamedTensor)):
        return np.asarray(tensor.numpy())
    array = np.empty(tensor.size, tensor.dtype.numpy())
    first = 0
    for chunk in element_chunks(tensor):
        array[first : first + chunk.size] = chunk
        first += chunk.size
    return array.reshape(tensor.shape.numpy())


def elements_along(tensor: ir.TensorProtocol, axis: int, first: int, stop: int) -> NDArray[Any]:
    """The elements of a tensor from index `first` to `stop` of an axis; only these are read from external data.

    Args:
        tensor: The tensor.
        axis: The axis, from 0 on.
        first: The first index.
        stop: The index after the last.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """
    if not isinstance(tensor, (ir.ExternalTensor, StreamedTensor)):
        array: NDArray[Any] = np.asarray(tensor.numpy())[(slice(None),) * axis + (slice(first, stop),)]
        return array
    shape = tensor.shape.numpy()
    inner = math.prod(shape[axis + 1 :])
    elements = np.empty((math.prod(shape[:axis]), (stop - first) * inner), tensor.dtype.numpy())
    for number, part in enumerate(elements):
        begin, filled = (number * shape[axis] + first) * inner, 0
        for chunk in element_chunks(tensor, begin, begin + part.size):
            part[filled : filled + chunk.size] = chunk
            filled += chunk.size
    return elements.reshape(*shape[:axis], stop - first, *shape[axis + 1 :])


def element_chunks(
    tensor: ir.TensorProtocol, start: int = 0, stop: int | None = None, *, dtype: np.dtype[Any] | None = None
) -> Iterator[NDArray[Any]]:
    """Read a tensor in chunks, in row-major order.

    External data is read from its file into one buffer, never memory-mapped: mapped pages count as resident memory.

    Args:
        tensor: Any tensor of onnx-ir.
        start: Index of the first element.
        stop: Index after the last element; the whole tensor if None.
        dtype: Type of the arrays; the tensor's own if None.

    Yields:
        One-dimensional arrays of `CHUNK_ELEMENTS` elements, the last one shorter; valid until the next is requested.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """
    stop = tensor.size if stop is None else stop
    for chunk in _native_chunks(tensor, start, stop):
        yield chunk if dtype is None else chunk.astype(dtype, copy=False)


def _native_chunks(tensor: ir.TensorProtocol, start: int, stop: int) -> Iterator[NDArray[Any]]:
    if isinstance(tensor, StreamedTensor):
        yield from tensor.chunks(start, stop)
        return
    bits = tensor.dtype.bitwidth
    if isinstance(tensor, ir.ExternalTensor) and (bits >= _BYTE_BITS or _BYTE_BITS % bits == 0):
        yield from (_file_chunks if bits >= _BYTE_BITS else _packed_file_chunks)(tensor, start, stop)
        return
    array = tensor.numpy()
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for first in range(start, stop, CHUNK_ELEMENTS):
            yield flat[first : min(first + CHUNK_ELEMENTS, stop)]
        return
    # Flattening a strided view (such as the transpose that an exporter folds) would copy it.
    buffer = np.empty(min(CHUNK_ELEMENTS, stop - start), array.dtype)
    for first in range(start, stop, CHUNK_ELEMENTS):
        chunk = buffer[: min(CHUNK_ELEMENTS, stop - first)]
        _copy_elements(array, first, chunk)
        yield chunk


def _copy_elements(array: NDArray[Any], first: int, chunk: NDArray[Any]) -> None:
    """Copy the elements of an array from `first` on, in row-major order, until `chunk` is full."""
    if array.flags.c_contiguous:
        chunk[:] = array.reshape(-1)[first : first + chunk.size]
        return
    size = array[0].size
    while chunk.size:
        index, skipped = divmod(first, size)
        if skipped or chunk.size < size:  # a part of a row
            count = min(size - skipped, chunk.size)
            _copy_elements(array[index], skipped, chunk[:count])
        else:
            rows = chunk.size // size
            count = rows * size
            _copy_rows(array[index : index + rows], chunk[:count].reshape(rows, *array.shape[1:]))
        first, chunk = first + count, chunk[count:]


def _copy_rows(rows: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy an array; if its columns, not its rows, are contiguous in memory, copy some columns at a time.

    Each access to memory also loads the neighbours in the column into the cache. Copying whole long rows would evict
    them before they are used.
    """
    width = target.shape[-1]
    step = _COLUMNS_AT_A_TIME if rows.ndim > 1 and rows.strides[-1] != rows.itemsize else width
    for first in range(0, width, step):
        target[..., first : first + step] = rows[..., first : first + step]


def _file_chunks(tensor: ir.ExternalTensor, start: int, stop: int) -> Iterator[NDArray[Any]]:
    with contextlib.closing(ExternalReader(tensor)) as reader:
        buffer = np.empty(min(CHUNK_ELEMENTS, stop - start), tensor.dtype.numpy())
        for first in range(start, stop, CHUNK_ELEMENTS):
            chunk = buffer[: min(CHUNK_ELEMENTS, stop - first)]
            reader.read_into(chunk, first)
            yield chunk


def _packed_file_chunks(tensor: ir.ExternalTensor, start: int, stop: int) -> Iterator[NDArray[Any]]:
    """Yield the elements of a tensor of less than a byte per element, which the file stores packed."""
    bits = tensor.dtype.bitwidth
    per_byte = _BYTE_BITS // bits
    with contextlib.closing(ExternalReader(tensor)) as reader:
        for first in range(start, stop, CHUNK_ELEMENTS):
            end = min(first + CHUNK_ELEMENTS, stop)
            begin = first // per_byte
            packed = np.empty(math.ceil(end / per_byte) - begin, np.uint8)
            reader.read_into(packed, begin)
            skipped = first - begin * per_byte
            yield unpacked_codes(packed, bits)[skipped : skipped + end - first].view(tensor.dtype.numpy())


def byte_chunks(tensor: ir.TensorProtocol, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read the packed bytes of a tensor of less than a byte per element; the first element is in the low bits.

    Args:
        tensor: A tensor of 1, 2 or 4 bits per element.
        start: Index of the first byte.
        stop: Index after the last byte; the whole tensor if None.

    Yields:
        Arrays of `CHUNK_ELEMENTS` bytes, the last one shorter; valid until the next is requested.

    Raises:
        ModelError: If external data is unsafe, missing or too short.
    """
    bits, stop = tensor.dtype.bitwidth, tensor.nbytes if stop is None else stop
    per_byte = _BYTE_BITS // bits
    with contextlib.ExitStack() as stack:
        reader = None
        if isinstance(tensor, ir.ExternalTensor):
            reader = stack.enter_context(contextlib.closing(ExternalReader(tensor)))
        buffer = np.empty(min(CHUNK_ELEMENTS, stop - start), np.uint8)
        for first in range(start, stop, CHUNK_ELEMENTS):
            chunk = buffer[: min(CHUNK_ELEMENTS, stop - first)]
            if reader is not None:
                reader.read_into(chunk, first)
            else:
                last, filled = min((first + chunk.size) * per_byte, tensor.size), 0
                for elements in element_chunks(tensor, first * per_byte, last):
                    packed = packed_codes(elements, bits)
                    chunk[filled : filled + packed.size] = packed
                    filled += packed.size
            yield chunk


def unpacked_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Unpack bytes to codes of `bits` bits: the inverse of `packed_codes`, plus the codes that fill the last byte."""
    return _codes_of_bytes(bits)[packed].view(np.uint8).reshape(-1)


@functools.cache
def _codes_of_bytes(bits: int) -> NDArray[Any]:
    """A table of the codes in each byte, [256].

    The codes of a byte are the bytes of one integer, so that one look-up gives them all.
    """
    shifts = np.arange(0, _BYTE_BITS, bits, dtype=np.uint8)
    codes: NDArray[np.uint8] = (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.view(f"u{shifts.size}").reshape(-1)


def packed_codes(elements: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack codes of `bits` bits into bytes, as ONNX stores them: the first code in the low bits."""
    per_byte = _BYTE_BITS // bits
    codes = elements.view(np.uint8)
    if codes.size % per_byte:
        codes = np.concatenate([codes, np.zeros(-codes.size % per_byte, np.uint8)])
    places, mask = codes.reshape(-1, per_byte), np.uint8((1 << bits) - 1)
    packed: NDArray[np.uint8] = places[:, 0] & mask
    for place in range(1, per_byte):
        packed |= (places[:, place] & mask) << np.uint8(place * bits)
    return packed


def _little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array with little-endian bytes, as ONNX stores them: bytes are swapped on big-endian machines."""
    return array if np.little_endian or array.dtype.byteorder == "<" else array.byteswap()
