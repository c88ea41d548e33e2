"""A weight as the matrices that stand on crossbars: rows are inputs, columns are outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from onnx_gconv.schemes.matrix_layout import MatrixLayout

__all__ = ["MatrixView", "PathStep"]


class PathStep(Protocol):
    """A step of the way from a weight to a weight slot: a transposition or a reshape."""

    @property
    def op(self) -> Literal["transpose", "reshape"]:
        """Which of the two."""

    @property
    def argument(self) -> tuple[int, ...]:
        """The permutation, or the shape."""


@dataclass(frozen=True)
class MatrixView:
    """How a weight tensor is read as ``matrices`` matrices of ``rows`` inputs by ``columns`` outputs.

    Reshape the tensor to ``split_shape``, transpose it to ``matrix_axes + row_axes + column_axes``, and reshape it to
    ``[matrices, rows, columns]``, always in row-major order.

    Attributes:
        rows: Inputs of one matrix.
        columns: Outputs of one matrix.
        matrices: Number of independent matrices: of a batch, of the groups of a convolution, of the directions of an
            LSTM.
        split_shape: The shape of the tensor, with the axis that holds groups split in two.
        matrix_axes: Axes of `split_shape` that count matrices.
        row_axes: Axes of `split_shape` that are unrolled over the rows, the slowest first.
        column_axes: Axes of `split_shape` that are unrolled over the columns, the slowest first.
        factor: Digital factor by which the node multiplies the product (alpha of Gemm).
        columns_per_channel: How many columns, one after the other, belong to one output channel: the positions of the
            kernel of a transposed convolution, else 1.
    """

    rows: int
    columns: int
    matrices: int
    split_shape: tuple[int, ...]
    matrix_axes: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    factor: float = 1.0
    columns_per_channel: int = 1

    @classmethod
    def of_axes(
        cls,
        split_shape: Sequence[int],
        *,
        row_axes: Sequence[int],
        column_axes: Sequence[int],
        matrix_axes: Sequence[int] = (),
        factor: float = 1.0,
        columns_per_channel: int = 1,
    ) -> MatrixView:
        """The view with the given axes of a tensor of the given shape.

        Raises:
            IndexError: If the shape lacks an axis.
        """
        return cls(
            rows=math.prod(split_shape[axis] for axis in row_axes),
            columns=math.prod(split_shape[axis] for axis in column_axes),
            matrices=math.prod(split_shape[axis] for axis in matrix_axes),
            split_shape=tuple(split_shape),
            matrix_axes=tuple(matrix_axes),
            row_axes=tuple(row_axes),
            column_axes=tuple(column_axes),
            factor=factor,
            columns_per_channel=columns_per_channel,
        )

    def of_stack(self, stack: Sequence[int]) -> MatrixView:
        """The view of a stack of such weights, whose axes stand before those of one.

        Args:
            stack: The sizes of these axes.
        """
        if not stack:
            return self
        own, count = len(stack), math.prod(stack)
        return replace(
            self,
            matrices=count * self.matrices,
            split_shape=(*stack, *self.split_shape),
            matrix_axes=(*range(own), *(axis + own for axis in self.matrix_axes)),
            row_axes=tuple(axis + own for axis in self.row_axes),
            column_axes=tuple(axis + own for axis in self.column_axes),
        )

    def layout(self, shape: Sequence[int], path: Iterable[PathStep]) -> MatrixLayout:
        """Where the elements of a weight stand in the matrices.

        Args:
            shape: The shape of the weight.
            path: How it is rearranged before it is read so.

        Raises:
            IncommensurableShapeError: If its axes cannot be split so that they fit the view.
            ValueError: If a shape has another number of elements, or axes are not named once each.
        """
        return MatrixLayout.of(
            shape,
            [(step.op, step.argument) for step in path],
            self.split_shape,
            matrix_axes=self.matrix_axes,
            row_axes=self.row_axes,
            column_axes=self.column_axes,
        )
