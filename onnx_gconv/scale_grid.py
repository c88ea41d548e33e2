"""Which elements of a weight share a scale, and how the scales stand in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.granularity import Granularity
from onnx_gconv.matrix_layout import MatrixLayout, Role

__all__ = ["GatherStep", "ScaleForm", "ScaleGrid"]

ScaleForm: TypeAlias = Literal["number", "broadcast", "tiles"]


@dataclass(frozen=True, eq=False)
class GatherStep:
    """A Gather node that expands scales along an axis.

    Attributes:
        role: What the axis stands for.
        axis: The axis that is expanded.
        indices: For each matrix, row or column, the piece that it belongs to; of the shape of their factors.
    """

    role: Role
    axis: int
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class ScaleGrid:
    """The groups of elements that share a scale: in each matrix, pieces of rows by pieces of columns.

    Attributes:
        layout: Where the elements stand in the matrices.
        row_starts: The rows at which pieces begin, the first is 0.
        column_starts: The columns at which pieces begin, the first is 0.
        is_broadcast: Whether the graph holds the scales in a shape that broadcasts to the weight's, if it can.
    """

    layout: MatrixLayout
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]
    is_broadcast: bool = False

    @classmethod
    def of(cls, layout: MatrixLayout, granularity: Granularity, columns_per_channel: int) -> ScaleGrid:
        """The grid of a granularity finer than the tensor.

        Args:
            layout: Where the elements stand in the matrices.
            granularity: What shares a scale.
            columns_per_channel: How many columns belong to one output channel.
        """
        rows, columns = {0}, {0}
        if granularity.tile is not None:
            rows.update(granularity.starts(layout.rows, granularity.tile[0]))
            columns.update(granularity.starts(layout.columns, granularity.tile[1]))
        if granularity.kind in {"channel", "tile_channel"}:
            columns.update(range(0, layout.columns, columns_per_channel))
        return cls(layout, tuple(sorted(rows)), tuple(sorted(columns)), is_broadcast=granularity.tile is None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, pieces of rows, pieces of columns."""
        return self.layout.matrices, len(self.row_starts), len(self.column_starts)

    @property
    def count(self) -> int:
        """Number of groups."""
        return math.prod(self.shape)

    def groups(self, start: int, stop: int) -> NDArray[np.intp]:
        """For each element of the stored tensor from `start` to `stop`, the flat number of its group."""
        matrices, row_pieces, column_pieces = self.shape
        group: NDArray[np.intp] | None = None
        axes: tuple[tuple[Role, int, NDArray[np.int64] | None], ...] = (
            ("matrix", matrices, None),
            ("row", row_pieces, self._row_pieces),
            ("column", column_pieces, self._column_pieces),
        )
        for role, count, pieces in axes:
            if count == 1:
                continue
            index = self.layout.index(role, start, stop)
            piece = index if pieces is None or len(pieces) == count else pieces[index]
            group = piece if group is None else group * count + piece
        return np.zeros(stop - start, np.intp) if group is None else group

    @cached_property
    def _row_pieces(self) -> NDArray[np.int64]:
        return _pieces(self.row_starts, self.layout.rows)

    @cached_property
    def _column_pieces(self) -> NDArray[np.int64]:
        return _pieces(self.column_starts, self.layout.columns)

    # In the graph

    @cached_property
    def form(self) -> ScaleForm:
        """How the graph holds the scales: one number, an array that broadcasts to the weight, or one entry a tile."""
        if self.count == 1:
            return "number"
        return "broadcast" if self.is_broadcast and self._broadcast_shape is not None else "tiles"

    @property
    def axis(self) -> int | None:
        """The only axis of the weight along which an array that broadcasts to it varies; None if there is no such."""
        if self.form != "broadcast" or self._broadcast_shape is None:
            return None
        axes = [axis for axis, size in enumerate(self._broadcast_shape) if size > 1]
        return axes[0] if len(axes) == 1 else None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the scales in the graph."""
        if self.form == "number":
            return ()
        if self.form == "broadcast":
            assert self._broadcast_shape is not None  # noqa: S101 - see `form`
            return self._broadcast_shape
        return self.shape if self.layout.matrices > 1 else self.shape[1:]

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the groups, an array of `shape`, as the graph holds them."""
        if self.form != "broadcast":
            return values.reshape(self.stored_shape)
        sizes, order = self._varying_sizes_and_order()
        return values.reshape(sizes).transpose(order).reshape(self.stored_shape)

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `stored`."""
        if self.form != "broadcast":
            return stored.reshape(self.shape)
        sizes, order = self._varying_sizes_and_order()
        split = stored.reshape([sizes[number] for number in order])
        return split.transpose(np.argsort(order)).reshape(self.shape)

    @cached_property
    def gathers(self) -> tuple[GatherStep, ...]:
        """For the form ``tiles``: how the entries are expanded, in this order.

        The result has an axis for each factor of the layout: those of the matrices, of the rows, of the columns.
        """
        first = 1 if self.layout.matrices > 1 else 0
        steps = [
            GatherStep("column", first + 1, self._column_pieces.reshape(self._sizes("column"))),
            GatherStep("row", first, self._row_pieces.reshape(self._sizes("row"))),
        ]
        if len(self._sizes("matrix")) > 1:
            steps.append(GatherStep("matrix", 0, np.arange(self.layout.matrices).reshape(self._sizes("matrix"))))
        return tuple(steps)

    @property
    def expanded_shape(self) -> tuple[int, ...]:
        """The shape after the Gather nodes."""
        return (*self._sizes("matrix"), *self._sizes("row"), *self._sizes("column"))

    @property
    def permutation(self) -> tuple[int, ...]:
        """How the axes after the Gather nodes come into the order of the stored tensor."""
        order = [number for role in ("matrix", "row", "column") for number in self.layout.of_role(role)]
        return tuple(int(position) for position in np.argsort(order))

    def _sizes(self, role: Role) -> tuple[int, ...]:
        return tuple(self.layout.factors[number].size for number in self.layout.of_role(role))

    @cached_property
    def _varying(self) -> tuple[int, ...]:
        """Numbers of the factors that the matrices, and channels as pieces of columns, differ by."""
        width = self.layout.columns // len(self.column_starts)
        return tuple(
            number
            for role in ("matrix", "column")
            for number in self.layout.of_role(role)
            if role == "matrix" or self.layout.factors[number].stride >= width
        )

    @cached_property
    def _broadcast_shape(self) -> tuple[int, ...] | None:
        """The shape of the weight with 1 for the axes along which the scale is the same; None if an axis is mixed."""
        sizes = [1] * len(self.layout.shape)
        varying = set(self._varying)
        for number in varying:
            sizes[self.layout.factors[number].axis] *= self.layout.factors[number].size
        is_whole = all(size in {1, full} for size, full in zip(sizes, self.layout.shape, strict=True))
        return tuple(sizes) if is_whole and math.prod(sizes) == self.count else None

    def _varying_sizes_and_order(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The sizes of the varying factors as the groups count them, and their order in the stored tensor."""
        sizes = tuple(self.layout.factors[number].size for number in self._varying)
        return sizes, tuple(int(position) for position in np.argsort(self._varying))


def _pieces(starts: Sequence[int], size: int) -> NDArray[np.int64]:
    """For each index of an axis, the piece that it belongs to."""
    return np.repeat(np.arange(len(starts)), np.diff([*starts, size]))
