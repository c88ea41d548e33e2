"""The place of each element of a weight in its matrices, computed for any stretch of the stored tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factor", "IncommensurableShapeError", "LayoutStep", "MatrixLayout", "Role"]

Role: TypeAlias = Literal["matrix", "row", "column"]
LayoutStep: TypeAlias = tuple[Literal["transpose", "reshape"], Sequence[int]]


class IncommensurableShapeError(ValueError):
    """A reshape cuts axes at places that have no common refinement, such as 4x6 to 3x8."""


@dataclass(frozen=True)
class Factor:
    """A factor of an axis of the stored tensor; the axis has the product of its factors' sizes as its size.

    Attributes:
        size: Size of the factor, above 1.
        axis: The axis of the stored tensor to which the factor belongs.
        role: The index in the matrices that the factor contributes to: matrix, row or column.
        stride: By how much that index grows if the factor's index grows by 1.
    """

    size: int
    axis: int
    role: Role
    stride: int


@dataclass(frozen=True)
class MatrixLayout:
    """The place of each element of a stored tensor in ``matrices`` matrices of ``rows`` inputs by ``columns`` outputs.

    The axes of the stored tensor are split into factors, so that each factor contributes to one index only: that of
    matrices, rows or columns.

    Attributes:
        shape: Shape of the stored tensor.
        matrices: Number of matrices.
        rows: Inputs of one matrix.
        columns: Outputs of one matrix.
        factors: The factors, in the order of the stored tensor, the slowest first.
    """

    shape: tuple[int, ...]
    matrices: int
    rows: int
    columns: int
    factors: tuple[Factor, ...]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        steps: Iterable[LayoutStep],
        split_shape: Sequence[int],
        *,
        matrix_axes: Sequence[int],
        row_axes: Sequence[int],
        column_axes: Sequence[int],
    ) -> MatrixLayout:
        """The layout that follows from a matrix view.

        Args:
            shape: Shape of the stored tensor; no axis is empty.
            steps: The transpositions and reshapes of the tensor before the view applies.
            split_shape: The shape to which the view then reshapes the tensor.
            matrix_axes: Axes of `split_shape` that count matrices, the slowest first.
            row_axes: Axes of `split_shape` that are unrolled over the rows, the slowest first.
            column_axes: Axes of `split_shape` that are unrolled over the columns, the slowest first.

        Raises:
            IncommensurableShapeError: If axes cannot be split so that they fit both shapes of a reshape.
            ValueError: If a shape has another number of elements, or an axis is missing or named twice.
        """
        splitter = _Splitter(shape)
        for op, argument in steps:
            if op == "transpose":
                splitter.transpose(argument)
            else:
                splitter.reshape(argument)
        splitter.reshape(split_shape)
        _check_each_once((*matrix_axes, *row_axes, *column_axes), len(split_shape))
        roles: dict[int, tuple[Role, int]] = {}
        sizes: dict[Role, int] = {}
        named: tuple[tuple[Role, Sequence[int]], ...] = (
            ("matrix", matrix_axes),
            ("row", row_axes),
            ("column", column_axes),
        )
        for role, axes in named:
            stride = 1
            for factor in reversed([leaf for axis in axes for leaf in splitter.leaves(splitter.axes[axis])]):
                roles[factor] = role, stride
                stride *= splitter.sizes[factor]
            sizes[role] = stride
        factors = tuple(Factor(splitter.sizes[leaf], axis, *roles[leaf]) for axis, leaf in splitter.stored())
        return cls(tuple(shape), sizes["matrix"], sizes["row"], sizes["column"], factors)

    def of_role(self, role: Role) -> tuple[int, ...]:
        """The indices in `factors` of the factors of a role, the slowest first."""
        numbers = [number for number, factor in enumerate(self.factors) if factor.role == role]
        return tuple(sorted(numbers, key=lambda number: -self.factors[number].stride))

    def index(self, role: Role, start: int, stop: int) -> NDArray[np.int64]:
        """The matrix, row or column of each element of the stored tensor from `start` to `stop`, in row-major order."""
        return self.index_within(self.factors, role, start, stop)

    def element(self, matrix: int, row: int, column: int) -> int:
        """The flat index in the stored tensor of the element at a matrix, row and column."""
        place: dict[Role, int] = {"matrix": matrix, "row": row, "column": column}
        found, inner = 0, 1
        for factor in reversed(self.factors):
            found += place[factor.role] // factor.stride % factor.size * inner
            inner *= factor.size
        return found

    @staticmethod
    def index_within(factors: Sequence[Factor], role: Role, start: int, stop: int) -> NDArray[np.int64]:
        """What `index` returns for a tensor that only has the given factors: the first or the last ones of a layout."""
        position = np.arange(start, stop)
        total = np.zeros(stop - start, np.int64)
        whole = math.prod(factor.size for factor in factors)
        for inner, size, stride in _runs(factors, role):
            digit = position // inner if inner > 1 else position
            if inner * size < whole:  # not needed for the slowest factor, whose digit never wraps around
                digit = digit % size
            total += digit * stride if stride > 1 else digit
        return total


def _runs(factors: Sequence[Factor], role: Role) -> Iterator[tuple[int, int, int]]:
    """Yield the factors of a role from the fastest on, neighbours joined: elements per step, size, and stride."""
    inner, joined = 1, None
    for factor in reversed(factors):
        if factor.role != role:
            if joined is not None:
                yield joined
            joined = None
        elif joined is not None and factor.stride == joined[1] * joined[2]:
            joined = joined[0], joined[1] * factor.size, joined[2]
        else:
            if joined is not None:
                yield joined
            joined = inner, factor.size, factor.stride
        inner *= factor.size
    if joined is not None:
        yield joined


def _check_each_once(axes: Sequence[int], count: int) -> None:
    if sorted(axes) != list(range(count)):
        raise ValueError(f"the axes {list(axes)} are not each of {count} axes once")


class _Splitter:
    """Axes as lists of factors; a factor is split when a reshape cuts through it."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.sizes: dict[int, int] = dict(enumerate(shape))
        self._parts: dict[int, tuple[int, int]] = {}
        self._stored = list(range(len(shape)))
        self.axes: list[list[int]] = [[factor] for factor in self._stored]

    def leaves(self, factors: Iterable[int]) -> list[int]:
        """The smallest factors into which factors have been split, without those of size 1."""
        found: list[int] = []
        for factor in factors:
            if factor in self._parts:
                found.extend(self.leaves(self._parts[factor]))
            elif self.sizes[factor] > 1:
                found.append(factor)
        return found

    def stored(self) -> Iterator[tuple[int, int]]:
        """Yield the smallest factors in the order of the stored tensor, each with its axis: ``(axis, factor)``."""
        for axis in self._stored:
            for leaf in self.leaves([axis]):
                yield axis, leaf

    def transpose(self, permutation: Sequence[int]) -> None:
        """Put the axes in another order."""
        _check_each_once(permutation, len(self.axes))
        self.axes = [self.axes[axis] for axis in permutation]

    def reshape(self, shape: Sequence[int]) -> None:
        """Distribute all factors over new axes, from the fastest on.

        Raises:
            IncommensurableShapeError: If a factor cannot be split to fit the shape.
            ValueError: If the shape has another number of elements.
        """
        size = math.prod(self.sizes[axis] for axis in self._stored)
        if any(axis < 1 for axis in shape) or math.prod(shape) != size:
            raise ValueError(f"the shape {list(shape)} does not have the {size} elements of the weight")
        waiting = self.leaves(factor for axis in self.axes for factor in axis)
        axes: list[list[int]] = []
        for size in reversed(shape):
            axis: list[int] = []
            missing = size
            while missing > 1:
                factor = waiting.pop()
                if missing % self.sizes[factor] == 0:
                    missing //= self.sizes[factor]
                elif self.sizes[factor] % missing == 0:
                    outer, factor = self._split(factor, missing)
                    waiting.append(outer)
                    missing = 1
                else:
                    raise IncommensurableShapeError(f"the shape {list(shape)} cuts across the axes of the weight")
                axis.insert(0, factor)
            axes.insert(0, axis)
        self.axes = axes

    def _split(self, factor: int, inner_size: int) -> tuple[int, int]:
        outer, inner = len(self.sizes), len(self.sizes) + 1
        self.sizes[outer], self.sizes[inner] = self.sizes[factor] // inner_size, inner_size
        self._parts[factor] = outer, inner
        return outer, inner
