"""Matrix views: a weight as the matrices that stand on crossbars. Rows are inputs, columns are outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from onnx_gconv.schemes.matrix_layout import MatrixLayout

__all__ = ["MatrixView", "PathStep"]


class PathStep(Protocol):
    """A node between a weight and its weight slot that transposes or reshapes the weight."""

    @property
    def op(self) -> Literal["transpose", "reshape"]:
        """What the node does."""

    @property
    def argument(self) -> tuple[int, ...]:
        """The permutation of a transposition, or the new shape of a reshape."""


@dataclass(frozen=True)
class MatrixView:
    """How a weight tensor is read as ``matrices`` matrices of ``rows`` inputs by ``columns`` outputs.

    Reshape the tensor to ``split_shape``, transpose it to ``matrix_axes + row_axes + column_axes``, and reshape it to
    ``[matrices, rows, columns]``, always in row-major order.

    Attributes:
        rows: Inputs of one matrix.
        columns: Outputs of one matrix.
        matrices: Number of independent matrices: one for each element of a batch, each group of a convolution, or each
            direction of an LSTM.
        split_shape: The shape of the tensor, with the axis that holds groups split in two.
        matrix_axes: Axes of `split_shape` that count matrices.
        row_axes: Axes of `split_shape` that are unrolled over the rows, the slowest first.
        column_axes: Axes of `split_shape` that are unrolled over the columns, the slowest first.
        factor: Digital factor by which the node multiplies the product (alpha of Gemm).
        columns_per_channel: How many neighbouring columns belong to one output channel: the number of kernel positions
            in a transposed convolution, else 1.
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
        """The view of a stack of weights that each have this view.

        Args:
            stack: The sizes of the stack's axes, which stand before the axes of a weight.
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
        """The place of each element of a stored weight in the matrices.

        Args:
            shape: The shape of the weight.
            path: The transpositions and reshapes between the weight and the weight slot.

        Raises:
            IncommensurableShapeError: If the axes of the weight cannot be split so that they fit the view.
            ValueError: If a shape has another number of elements, or an axis is missing or named twice.
        """
        return MatrixLayout.of(
            shape,
            [(step.op, step.argument) for step in path],
            self.split_shape,
            matrix_axes=self.matrix_axes,
            row_axes=self.row_axes,
            column_axes=self.column_axes,
        )
