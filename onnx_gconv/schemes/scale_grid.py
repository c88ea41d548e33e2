"""Which elements of a weight share a scale, and in which form the graph stores the scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.matrix_layout import Factor, MatrixLayout, Role
from onnx_gconv.schemes.parts import ColumnParts

__all__ = ["GatherStep", "ScaleForm", "ScaleGrid"]

ScaleForm: TypeAlias = Literal["number", "broadcast", "tiles"]

# The groups of elements repeat with a period, whose pattern is computed once. Shorter periods save no time, longer ones
# need too much memory.
_SHORTEST_PERIOD = 16
_LONGEST_PERIOD = 1 << 22

# For runs with fewer elements than this, reducing each run with NumPy is slower than handling elements one by one.
_WORTH_REDUCING = 4

# A message shows at most so many numbers.
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class GatherStep:
    """A Gather node that expands scales along an axis.

    Attributes:
        role: Whether the axis is that of matrices, rows or columns.
        axis: The axis that is expanded.
        indices: The piece of each matrix, row or column; its shape is the sizes of the factors of that role.
    """

    role: Role
    axis: int
    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Split:
    """The factors of a layout, split into outer (slow) and inner (fast) ones.

    The number of an element's group is the sum of a number that depends on the outer factors, and one that depends on
    the inner factors.

    Attributes:
        outer: The outer factors.
        period: Number of elements over which the inner factors run.
        inner_groups: The contribution of the inner factors to the number of the group, [period].
        inner_starts: The indices in `inner_groups` at which runs of equal numbers begin.
    """

    outer: tuple[Factor, ...]
    period: int
    inner_groups: NDArray[np.intp]
    inner_starts: NDArray[np.intp]


def _shortened(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")


@dataclass(frozen=True)
class ScaleGrid:
    """The groups of elements that share a scale: in each matrix, pieces of rows by pieces of columns.

    Attributes:
        layout: The place of each element of the weight in the matrices.
        row_starts: The rows at which pieces begin, ascending; the first is 0.
        column_starts: The columns at which pieces begin, ascending; the first is 0.
        is_broadcast: Whether the graph stores the scales in a shape that broadcasts to the weight, if there is one.
        repeats_columns: Whether that array has an entry for each column, so that pieces may have different sizes.
            Otherwise it has an entry for each piece, which needs pieces of equal sizes.

    Raises:
        ValueError: If the starts do not ascend from 0, or are beyond the number of rows or columns.
    """

    layout: MatrixLayout
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]
    is_broadcast: bool = False
    repeats_columns: bool = False

    def __post_init__(self) -> None:
        for name, starts, size in (
            ("rows", self.row_starts, self.layout.rows),
            ("columns", self.column_starts, self.layout.columns),
        ):
            if starts[:1] != (0,) or starts[-1] >= size or any(a >= b for a, b in itertools.pairwise(starts)):
                raise ValueError(f"pieces of {size} {name} begin at 0 and rise, but here at {_shortened(starts)}")

    @classmethod
    def of(
        cls,
        layout: MatrixLayout,
        granularity: Granularity,
        columns_per_channel: int,
        parts: ColumnParts | None = None,
    ) -> ScaleGrid:
        """The grid of a granularity finer than the tensor, or of a weight in parts.

        Args:
            layout: The place of each element of the weight in the matrices.
            granularity: Which elements share a scale. With parts, it applies to each part: no piece spans two parts.
            columns_per_channel: How many neighbouring columns belong to one output channel.
            parts: The parts of each matrix; None if the matrix is one part.

        Raises:
            ValueError: If the parts have another number of columns than the matrices, or one cuts a channel.
        """
        stretches = ((0, layout.columns),) if parts is None else parts.stretches
        if stretches[-1][1] != layout.columns or any(start % columns_per_channel for start, _ in stretches):
            raise ValueError(f"parts {stretches} of {layout.columns} columns, {columns_per_channel} a channel")
        rows, columns = {0}, {start for start, _ in stretches}
        if granularity.tile is not None:
            rows.update(granularity.starts(layout.rows, granularity.tile[0]))
            for start, stop in stretches:
                columns.update(start + piece for piece in granularity.starts(stop - start, granularity.tile[1]))
        if granularity.kind in {"channel", "tile_channel"}:
            columns.update(range(0, layout.columns, columns_per_channel))
        return cls(
            layout,
            tuple(sorted(rows)),
            tuple(sorted(columns)),
            is_broadcast=granularity.tile is None,
            repeats_columns=granularity.kind == "tensor",
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of matrices, of pieces of rows, and of pieces of columns."""
        return self.layout.matrices, len(self.row_starts), len(self.column_starts)

    @property
    def count(self) -> int:
        """Number of groups."""
        return math.prod(self.shape)

    def groups(self, start: int, stop: int) -> NDArray[np.intp]:
        """The flat number of the group of each element of the stored tensor from `start` to `stop`."""
        return self._groups_within(self.layout.factors, start, stop)

    def expanded(self, values: NDArray[Any], start: int, stop: int, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Expand values of groups to the elements of the stored tensor from `start` to `stop`.

        Args:
            values: A value for each group, of the shape `shape`.
            start: Flat index of the first element.
            stop: Flat index after the last element.
            dtype: The type of the result; None for that of `values`.

        Returns:
            The value of the group of each element, [stop - start].
        """
        flat = values.reshape(-1)

        def of_groups(groups: NDArray[np.intp]) -> NDArray[Any]:
            # Cast only the needed values: there may be millions of groups, and one call for each stretch of a weight.
            return np.asarray(flat[groups] if dtype is None else flat[groups].astype(dtype, copy=False))

        split = self._split
        if split is None:
            return of_groups(self.groups(start, stop))
        first, last = start // split.period, -(-stop // split.period)
        outer = self._groups_within(split.outer, first, last)
        inner, skipped, count = split.inner_groups, start - first * split.period, stop - start
        if last - first == 1:
            return of_groups(outer[0] + inner[skipped : skipped + count])
        if not inner.any():
            return np.repeat(of_groups(outer), split.period)[skipped : skipped + count]
        heads = _run_starts(outer)
        rows = np.repeat(of_groups(outer[heads][:, None] + inner), np.diff([*heads, outer.size]), axis=0)
        return rows.reshape(-1)[skipped : skipped + count]

    def entries(self, values: FloatOrArray, start: int, stop: int, dtype: np.dtype[Any]) -> FloatOrArray:
        """Expand `values` as `expanded` does; a number, which holds for all groups, is returned unchanged."""
        return values if isinstance(values, float) else self.expanded(values, start, stop, dtype)

    def reduced(self, ufunc: np.ufunc, elements: NDArray[Any], start: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Reduce runs of elements of one group, so that fewer elements give the same extremes of each group.

        Args:
            ufunc: `numpy.minimum` or `numpy.maximum`.
            elements: A stretch of the stored tensor.
            start: Flat index of its first element.

        Returns:
            The reduced elements, and the flat number of the group of each.
        """
        split, stop = self._split, start + elements.size
        first, last = (0, 0) if split is None else (-(-start // split.period), stop // split.period)
        if split is None or first >= last:
            return elements, self.groups(start, stop)
        head, tail = first * split.period - start, last * split.period - start
        whole = elements[head:tail].reshape(-1, split.period)
        outer, inner = self._groups_within(split.outer, first, last), split.inner_groups
        if (starts := split.inner_starts).size * _WORTH_REDUCING <= split.period:
            whole, inner = ufunc.reduceat(whole, starts, axis=1), inner[starts]
        if (starts := _run_starts(outer)).size * _WORTH_REDUCING <= outer.size:
            whole, outer = ufunc.reduceat(whole, starts, axis=0), outer[starts]
        groups = (outer[:, None] + inner).reshape(-1)
        return (
            np.concatenate([elements[:head], whole.reshape(-1), elements[tail:]]),
            np.concatenate([self.groups(start, start + head), groups, self.groups(start + tail, stop)]),
        )

    def _groups_within(self, factors: Sequence[Factor], start: int, stop: int) -> NDArray[np.intp]:
        """The contribution of some factors to the group numbers, for a tensor that only has these factors."""
        matrices, row_pieces, column_pieces = self.shape
        axes: tuple[tuple[Role, int, NDArray[np.int64] | None], ...] = (
            ("matrix", matrices, None),
            ("row", row_pieces, self._row_pieces),
            ("column", column_pieces, self._column_pieces),
        )
        group: NDArray[np.intp] | None = None
        for role, count, pieces in axes:
            if count == 1:
                continue
            index = self.layout.index_within(factors, role, start, stop)
            piece = index if pieces is None or len(pieces) == count else pieces[index]
            group = piece if group is None else group * count + piece
        return np.zeros(stop - start, np.intp) if group is None else group

    @cached_property
    def _split(self) -> _Split | None:
        """The factors split so that all row factors are in one part, and all column factors in one part.

        None if no such split has a useful period. The number of a group is the sum of the contributions of both parts.
        """
        factors = self.layout.factors
        for place in range(len(factors), -1, -1):
            outer, inner = factors[:place], factors[place:]
            apart = not any(
                role in {factor.role for factor in outer} and role in {factor.role for factor in inner}
                for role in ("row", "column")
            )
            period = math.prod(factor.size for factor in inner)
            if period > _LONGEST_PERIOD:
                return None
            if apart and period >= _SHORTEST_PERIOD:
                groups = self._groups_within(inner, 0, period)
                return _Split(outer, period, groups, _run_starts(groups))
        return None

    @cached_property
    def _row_pieces(self) -> NDArray[np.int64]:
        return _pieces(self.row_starts, self.layout.rows)

    @cached_property
    def _column_pieces(self) -> NDArray[np.int64]:
        return _pieces(self.column_starts, self.layout.columns)

    # In the graph

    @cached_property
    def form(self) -> ScaleForm:
        """How the graph stores the scales: a number, an array that broadcasts to the weight, or one entry a tile."""
        if self.count == 1:
            return "number"
        return "broadcast" if self.is_broadcast and self._broadcast_shape is not None else "tiles"

    @property
    def axis(self) -> int | None:
        """The axis of the weight along which broadcast scales vary; None for other forms, or several such axes."""
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
        """Rearrange values of groups, an array of the shape `shape`, into the shape `stored_shape` of the graph."""
        if self.form != "broadcast":
            return values.reshape(self.stored_shape)
        sizes, order = self._varying_sizes_and_order()
        entries = values[..., self._column_pieces] if self.repeats_columns else values
        return entries.reshape(sizes).transpose(order).reshape(self.stored_shape)

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Rearrange values of the shape `stored_shape` into the shape `shape`: the inverse of `stored`."""
        if self.form != "broadcast":
            return stored.reshape(self.shape)
        sizes, order = self._varying_sizes_and_order()
        split = stored.reshape([sizes[number] for number in order])
        entries = split.transpose(np.argsort(order))
        if self.repeats_columns:
            entries = entries.reshape(*self.shape[:-1], self.layout.columns)[..., list(self.column_starts)]
        return entries.reshape(self.shape)

    @cached_property
    def gathers(self) -> tuple[GatherStep, ...]:
        """The Gather nodes that expand scales of the form ``tiles``, in their order.

        The result has an axis for each factor of the layout: first those of matrices, then of rows, then of columns.
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
        """The permutation that brings the axes after the Gather nodes into the order of the stored tensor."""
        order = [number for role in ("matrix", "row", "column") for number in self.layout.of_role(role)]
        return tuple(int(position) for position in np.argsort(order))

    def _sizes(self, role: Role) -> tuple[int, ...]:
        return tuple(self.layout.factors[number].size for number in self.layout.of_role(role))

    @cached_property
    def _varying(self) -> tuple[int, ...]:
        """The indices of the factors along which broadcast scales vary: those of matrices, and of pieces or columns."""
        width = 1 if self.repeats_columns else self.layout.columns // len(self.column_starts)
        return tuple(
            number
            for role in ("matrix", "column")
            for number in self.layout.of_role(role)
            if role == "matrix" or self.layout.factors[number].stride >= width
        )

    @cached_property
    def _broadcast_shape(self) -> tuple[int, ...] | None:
        """The shape of the weight with 1 for each axis along which scales do not vary.

        None if scales vary along a part of an axis only, or if pieces have different sizes.
        """
        sizes = [1] * len(self.layout.shape)
        varying = set(self._varying)
        for number in varying:
            sizes[self.layout.factors[number].axis] *= self.layout.factors[number].size
        is_whole = all(size in {1, full} for size, full in zip(sizes, self.layout.shape, strict=True))
        columns = self.layout.columns if self.repeats_columns else len(self.column_starts)
        is_complete = math.prod(sizes) == self.layout.matrices * len(self.row_starts) * columns
        return tuple(sizes) if is_whole and is_complete else None

    def _varying_sizes_and_order(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The sizes of the varying factors in the order of groups, and the permutation to the order of the tensor."""
        sizes = tuple(self.layout.factors[number].size for number in self._varying)
        return sizes, tuple(int(position) for position in np.argsort(self._varying))


def _run_starts(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """The indices at which runs of equal numbers begin."""
    return np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])


def _pieces(starts: Sequence[int], size: int) -> NDArray[np.int64]:
    """The piece to which each index of an axis belongs, [size]."""
    return np.repeat(np.arange(len(starts)), np.diff([*starts, size]))
