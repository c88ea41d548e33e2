"""The conductances of one device over a whole weight: measured where there are measurements, targets elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.crossbars.tiles import TileGrid, touched_pieces
from onnx_gconv.schemes.matrix_layout import Factor, MatrixLayout, Role
from onnx_gconv.tensors.matrix_reader import joined_factors, numbers_of_role
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, element_chunks

__all__ = ["MeasuredTile", "TiledTensor"]

# Most elements that are put together at once: 64 MiB of float32.
_STRIP_ELEMENTS = 1 << 24

MeasuredTile = Callable[[int], NDArray[np.floating[Any]] | None]


class TiledTensor(StreamedTensor):
    """Conductances in µS of the shape of the weight, put together from tiles when the tensor is read.

    The stored tensor is cut along its slowest axis into strips that begin where tiles begin. So most tiles are read
    once, and only one row or column of tiles is in memory. If a strip of that axis is no contiguous part of the
    matrices (such as the height of kernels in a weight that is transposed before a Conv reads it), there is one strip,
    and the whole weight is in memory.

    Args:
        targets: The target conductances in µS, FLOAT or DOUBLE.
        layout: The place of each element of the weight in the matrices.
        tiles: How the matrices are cut.
        measured: Takes the number of a tile and returns the measured conductances in µS, [inputs, outputs], with NaN
            where nothing was measured; None if the whole tile was not measured.
    """

    def __init__(
        self, targets: ir.TensorProtocol, layout: MatrixLayout, tiles: TileGrid, measured: MeasuredTile
    ) -> None:
        super().__init__(targets.dtype, ir.Shape(targets.shape.numpy()), targets.name)
        self._targets = targets
        self._tiles = tiles
        self._measured = measured
        self._axes = joined_factors(layout.factors)
        self._sizes: dict[Role, int] = {"matrix": layout.matrices, "row": layout.rows, "column": layout.columns}
        self._starts = _strip_starts(self._axes, tiles, self.size)

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The targets."""
        return (self._targets,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances from element `start` to `stop`, in row-major order.

        Raises:
            BundleError: If a measured array cannot be read.
        """
        stop = self.size if stop is None else stop
        strip, (begin, end) = np.empty(0), (start, start)
        for first in range(start, stop, CHUNK_ELEMENTS):
            chunk = np.empty(min(CHUNK_ELEMENTS, stop - first), self.dtype.numpy())
            done = 0
            while done < chunk.size:
                place = first + done
                if not begin <= place < end:
                    begin, end = self._strip_around(place)
                    strip = self._strip(begin, end)
                count = min(end - place, chunk.size - done)
                chunk[done : done + count] = strip[place - begin : place - begin + count]
                done += count
            yield chunk

    def _strip_around(self, place: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        stop = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
        return int(self._starts[number]), int(stop)

    def _strip(self, start: int, stop: int) -> NDArray[Any]:
        """The elements from `start` to `stop`, which form a box of the matrices."""
        stored = np.concatenate([part.copy() for part in element_chunks(self._targets, start, stop)])
        sizes, ranges = [axis.size for axis in self._axes], {role: (0, size) for role, size in self._sizes.items()}
        if stop - start < self.size:
            slowest, slab = self._axes[0], self.size // self._axes[0].size
            sizes[0] = (stop - start) // slab
            ranges[slowest.role] = start // slab * slowest.stride, stop // slab * slowest.stride
        order = [number for role in self._sizes for number in numbers_of_role(self._axes, role)]
        box = stored.reshape(sizes).transpose(order)
        matrices = np.ascontiguousarray(box).reshape([end - first for first, end in ranges.values()])
        self._overlay(matrices, ranges["matrix"], ranges["row"], ranges["column"])
        strip: NDArray[Any] = matrices.reshape(box.shape).transpose(np.argsort(order).tolist()).reshape(-1)
        return strip

    def _overlay(
        self, block: NDArray[Any], matrices: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
    ) -> None:
        """Replace targets by measurements in a block of the matrices, in place.

        Args:
            block: Conductances in µS, [matrices, rows, columns].
            matrices: The first matrix of the block, and the one after the last.
            rows: The first row of the block, and the one after the last.
            columns: The first column of the block, and the one after the last.
        """
        tiles = self._tiles
        places = itertools.product(
            range(*matrices),
            range(*touched_pieces(tiles.row_starts, *rows)),
            range(*touched_pieces(tiles.column_starts, *columns)),
        )
        for matrix, grid_row, grid_column in places:
            tile = tiles.tile(matrix, grid_row, grid_column)
            measured = self._measured(tile.number)
            if measured is None:
                continue
            (to_rows, of_rows), (to_columns, of_columns) = _common(rows, tile.inputs), _common(columns, tile.outputs)
            part = measured[of_rows, of_columns]
            target = block[matrix - matrices[0], to_rows, to_columns]
            np.copyto(target, part, casting="unsafe", where=~np.isnan(part))


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[slice, slice]:
    """The overlap of two stretches as slices, counted from the beginning of each of them."""
    first, stop = max(one[0], other[0]), min(one[1], other[1])
    return slice(first - one[0], stop - one[0]), slice(first - other[0], stop - other[0])


def _strip_starts(axes: Sequence[Factor], tiles: TileGrid, size: int) -> NDArray[np.int64]:
    """The flat indices of the elements at which strips begin; one strip if the slowest axis gives no boxes."""
    if not axes or any(axis.role == axes[0].role and axis.stride > axes[0].stride for axis in axes):
        return np.zeros(1, np.int64)
    slowest, slab = axes[0], size // axes[0].size
    of_role: dict[Role, Sequence[int]] = {
        "matrix": range(tiles.matrices),
        "row": tiles.row_starts,
        "column": tiles.column_starts,
    }
    of_inputs = (start // slowest.stride for start in of_role[slowest.role])
    # Tiles that hold only bias rows begin beyond the weight.
    digits = sorted({digit for digit in of_inputs if digit < slowest.size})
    most = max(_STRIP_ELEMENTS // slab, 1)
    starts = [
        slab * digit
        for first, stop in itertools.pairwise((*digits, slowest.size))
        for digit in range(first, stop, most)
    ]
    return np.array(starts, np.int64)
