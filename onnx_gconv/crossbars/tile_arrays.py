"""Cuts the conductance arrays of tiles out of the stored tensors of a layer, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnx_gconv.crossbars.bias import BiasRows
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tiles import Tile
from onnx_gconv.devices.recycled_memory import RecycledMemory
from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.matrix_reader import MatrixReader
from onnx_gconv.tensors.streamed import worker_count

__all__ = [
    "TileArrays",
    "as_stored",
    "block_with_bias",
    "digest",
    "first_out_of_range",
    "little_endian",
    "tile_arrays",
]

# Cells of the tiles that are cut at once, over all devices: 8 MiB of float32. A block of one device is read at a time.
# With three quarters or half of it, a hand-off takes a fifth longer.
_BLOCK_CELLS = 1 << 21

_ALIGNMENT = 16  # bytes


@dataclass(frozen=True, eq=False)
class TileArrays:
    """The arrays of a tile.

    Attributes:
        tile: The tile.
        conductances: For each device its targets in µS, [inputs, outputs], little-endian.
        codes: For each device the codes of its levels, [inputs, outputs]; None if the model does not store codes.
        digests: SHA-256 of the conductances of each device, then of the codes of each device.
    """

    tile: Tile
    conductances: tuple[NDArray[Any], ...]
    codes: tuple[NDArray[Any], ...] | None
    digests: tuple[str, ...]


def tile_arrays(layer: Layer, executor: Executor, memory: RecycledMemory | None = None) -> Iterator[TileArrays]:
    """Yield the arrays of all tiles of a layer; `executor` reads and cuts a few blocks of tiles at the same time.

    Args:
        layer: The layer.
        executor: Reads and cuts.
        memory: Where the arrays go. Give the same to the calls for several layers, so that they share it. Without it,
            the C library keeps a few blocks for each thread that allocates some, instead of using them again.

    Raises:
        ModelError: If external data cannot be read, or a conductance is out of the range of the device.
    """
    memory = RecycledMemory() if memory is None else memory
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(MatrixReader(tensor, layer.layout)) for tensor in layer.mapped.stored_tensors]
        jobs: deque[Future[list[TileArrays]]] = deque()
        # The caller still holds one block while these are cut. Large tiles are cut one by one to save memory.
        waiting = max(worker_count() - 1, 1) if _tile_cells(layer) <= _BLOCK_CELLS else 0
        try:
            for tiles in _blocks(layer, along_rows=readers[0].fastest == "row"):
                jobs.append(executor.submit(_cut, layer, readers, tiles, memory))
                if len(jobs) > waiting:
                    yield from _removed(jobs.popleft().result())
            while jobs:
                yield from _removed(jobs.popleft().result())
        finally:  # the files are closed next, so wait until no job reads them any more
            for job in jobs:
                job.cancel()
            for job in jobs:
                if not job.cancelled():
                    job.exception()


def _removed(tiles: list[TileArrays]) -> Iterator[TileArrays]:
    """Tiles in their order. Each is removed from the list, so that its memory is free once the caller drops it."""
    tiles.reverse()
    while tiles:
        yield tiles.pop()


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of the bytes of a C-contiguous array."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The array in row-major order, its elements little-endian."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _blocks(layer: Layer, *, along_rows: bool) -> Iterator[list[Tile]]:
    """Yield the tiles that are read together: neighbours along the axis on which elements are contiguous in storage."""
    grid, (high, wide) = layer.grid, layer.grid.shape
    most = max(_BLOCK_CELLS // _tile_cells(layer), 1)
    for matrix in range(grid.matrices):
        for across in range(wide if along_rows else high):
            length = high if along_rows else wide
            for first in range(0, length, most):
                along = range(first, min(first + most, length))
                yield [grid.tile(matrix, *((one, across) if along_rows else (across, one))) for one in along]


def _tile_cells(layer: Layer) -> int:
    """Cells of the first tile, over all devices; no tile is larger."""
    return math.prod(layer.grid.tile(0, 0, 0).shape) * len(layer.record.conductances)


def _cut(layer: Layer, readers: list[MatrixReader], tiles: list[Tile], memory: RecycledMemory) -> list[TileArrays]:
    first, last = tiles[0], tiles[-1]
    rows, columns = (first.inputs[0], last.inputs[1]), (first.outputs[0], last.outputs[1])
    place = first.matrix, rows, columns
    in_us, is_coded = as_stored(layer), layer.record.levels_of_codes is not None
    conductances: list[list[NDArray[Any]]] = [[] for _ in tiles]
    codes: list[list[NDArray[Any]]] = [[] for _ in tiles]
    cells, sizes = [math.prod(tile.shape) for tile in tiles], [layer.array_dtype.itemsize]
    stored_size = readers[0].dtype.itemsize
    if is_coded:
        sizes.append(stored_size)
    size = sum(_aligned(count * each) for count in cells for each in sizes) * len(readers)
    own = memory.empty(size + sum(cells) * stored_size)
    place_for, for_block = _Places(own[:size]), own[size:]
    for number, reader in enumerate(readers):  # device by device, so that memory holds one block at a time
        stored = block_with_bias(layer, number, reader, place, for_block)
        block = in_us(stored)  # many tiles at once, because the calls themselves are what a small tile costs
        if _first_out_of_range(layer, block) is not None:
            for tile in tiles:
                _check_range(layer, tile, number, _part(block, tile, first))
        for index, tile in enumerate(tiles):
            conductances[index].append(place_for.copy_of(_part(block, tile, first)))
            if is_coded:
                codes[index].append(place_for.copy_of(_part(stored, tile, first)))
    return [
        TileArrays(
            tile,
            tuple(conductances[index]),
            tuple(codes[index]) if is_coded else None,
            tuple(map(digest, (*conductances[index], *codes[index]))),
        )
        for index, tile in enumerate(tiles)
    ]


def _aligned(size: int) -> int:
    """A size in bytes, rounded up so that elements of any type may follow."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Places:
    """Places for arrays in memory, one after the other.

    Args:
        memory: The memory, [bytes].
    """

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._left = memory

    def copy_of(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy in row-major order, whose elements are little-endian."""
        place, self._left = self._left[: array.nbytes], self._left[_aligned(array.nbytes) :]
        copy = place.view(array.dtype.newbyteorder("<")).reshape(array.shape)
        copy[...] = array
        return copy


def block_with_bias(
    layer: Layer,
    device: int,
    reader: MatrixReader,
    place: tuple[int, tuple[int, int], tuple[int, int]],
    memory: NDArray[np.uint8] | None = None,
) -> NDArray[Any]:
    """Read a block of one device's stored elements, with the bias in the rows below the inputs.

    Args:
        layer: The layer.
        device: Index of the device.
        reader: Reads the stored tensor of the device.
        place: Number of the matrix, the first row and the one after the last, and the same for columns.
        memory: Memory that the block may use, see `MatrixReader.read`.

    Returns:
        Conductances in µS or codes, as the model stores them, [rows, columns].
    """
    inputs, (matrix, rows, columns) = layer.layout.rows, place
    if rows[1] <= inputs or not isinstance(layer.bias_rows, BiasRows):
        return reader.read(matrix, rows, columns, memory)
    first, stop = max(rows[0] - inputs, 0), rows[1] - inputs
    bias = layer.bias_rows.stored[device][matrix, first:stop, slice(*columns)]
    if rows[0] >= inputs:
        return bias
    return np.concatenate([reader.read(matrix, (rows[0], inputs), columns), bias])


def _part(block: NDArray[Any], tile: Tile, first: Tile) -> NDArray[Any]:
    row, column = tile.inputs[0] - first.inputs[0], tile.outputs[0] - first.outputs[0]
    return block[row : row + tile.shape[0], column : column + tile.shape[1]]


def as_stored(layer: Layer) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A function that turns stored elements (conductances or codes) into µS, in the type of the bundle."""
    levels = layer.record.levels_of_codes
    if levels is None:
        return lambda part: part.astype(layer.array_dtype, copy=False)
    found = levels.levels
    return lambda part: found.decode(np.ascontiguousarray(part), layer.array_dtype)


def _first_out_of_range(layer: Layer, conductances: NDArray[Any]) -> tuple[int, int] | None:
    parameters = layer.record.converter.parameters
    return first_out_of_range(conductances, parameters["g_min"], parameters["g_max"], layer.record.compute_dtype)


def _check_range(layer: Layer, tile: Tile, number: int, conductances: NDArray[Any]) -> None:
    cell = _first_out_of_range(layer, conductances)
    if cell is not None:
        record = layer.record
        low, high = record.converter.parameters["g_min"], record.converter.parameters["g_max"]
        raise ModelError(
            f"the weight {record.quoted} cannot be handed off: {record.conductances[number].device} of input "
            f"{tile.inputs[0] + cell[0]}, output {tile.outputs[0] + cell[1]} (tile {layer.tile_id(tile.number)}) is "
            f"{conductances[cell]:g} µS, out of the range of {low:g} .. {high:g} µS; map the model again"
        )


# Scale, product, and sum with g_min are each rounded; conductances may exceed the range by this many ulps.
_END_ROUNDINGS = 4


def first_out_of_range(
    conductances: NDArray[Any], g_min: float, g_max: float, compute_dtype: str
) -> tuple[int, int] | None:
    """Row and column of the first cell that is NaN or out of the range by more than rounding; None if all are fine.

    Args:
        conductances: Conductances in µS, [rows, columns].
        g_min: Lower end of the range, in µS.
        g_max: Upper end of the range, in µS.
        compute_dtype: The type in which the conductances were computed.
    """
    slack = _END_ROUNDINGS * float(ml_dtypes.finfo(np.dtype(compute_dtype)).eps) * g_max
    low, high = float(conductances.min()), float(conductances.max())
    if low >= g_min - slack and high <= g_max + slack:  # both comparisons are false for NaN
        return None
    wrong = ~((conductances >= g_min - slack) & (conductances <= g_max + slack))
    row, column = np.argwhere(wrong)[0]
    return int(row), int(column)
