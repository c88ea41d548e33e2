"""A weight as the matrices that stand on crossbars: rows are inputs, columns are outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MatrixView"]


@dataclass(frozen=True)
class MatrixView:
    """How a weight tensor is read as ``batches * groups`` matrices of ``rows`` inputs by ``columns`` outputs.

    Transpose the tensor to ``batch_axes + row_axes + column_axes``, and flatten each of the three lists of axes in
    row-major order. With ``groups`` > 1, the columns fall into that many equal runs, and each run is the matrix of one
    group; all have the same number of rows.

    Attributes:
        rows: Inputs of one matrix.
        columns: Outputs of one matrix.
        row_axes: Axes of the tensor that are unrolled over the rows, the slowest first.
        column_axes: Axes of the tensor that are unrolled over the columns, the slowest first.
        batch_axes: Axes of the tensor that count independent matrices.
        batches: Number of these.
        groups: Groups of a convolution.
        factor: Digital factor by which the node multiplies the product (alpha of Gemm).
    """

    rows: int
    columns: int
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]
    batch_axes: tuple[int, ...] = ()
    batches: int = 1
    groups: int = 1
    factor: float = 1.0

    @classmethod
    def of_axes(
        cls,
        shape: Sequence[int],
        *,
        row_axes: Sequence[int],
        column_axes: Sequence[int],
        batch_axes: Sequence[int] = (),
        groups: int = 1,
        factor: float = 1.0,
    ) -> MatrixView:
        """The view with the given axes of a tensor of the given shape."""
        columns = math.prod(shape[axis] for axis in column_axes)
        return cls(
            rows=math.prod(shape[axis] for axis in row_axes),
            columns=columns // groups,
            row_axes=tuple(row_axes),
            column_axes=tuple(column_axes),
            batch_axes=tuple(batch_axes),
            batches=math.prod(shape[axis] for axis in batch_axes),
            groups=groups,
            factor=factor,
        )
