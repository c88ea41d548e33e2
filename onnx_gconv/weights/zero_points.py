"""The zero points that nodes on the way of a weight subtract from its integer codes, for the axes of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.codes import Blocks
from onnx_gconv.weights.choices import StackOnItsWay

__all__ = ["PointsOnTheWay", "Subtracted", "axis_before"]


@dataclass(frozen=True, eq=False)
class Subtracted:
    """The zero point that a node subtracts from integer codes.

    Attributes:
        value: The value that holds the zero point.
        axes: The axes of the weight along which the zero point varies, if it has fewer axes than the weight; or the
            axis of its blocks.
        block: The number of neighbours along that axis that share a zero point with as many axes as the weight; 0 if
            zero points do not belong to blocks.
    """

    value: ir.Value
    axes: tuple[int, ...] = ()
    block: int = 0

    def points(
        self, found: NDArray[np.generic], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64] | None, Blocks | None]:
        """The zero points with as many axes as `shape`, and their blocks.

        The zero points are None if they are no integers or do not fit the shape. The blocks are None if the zero points
        broadcast to the shape.

        Args:
            found: The array of the value.
            shape: The shape of the codes.
        """
        if not self.block or len(self.axes) != 1 or not -len(shape) <= self.axes[0] < len(shape):
            return _broadcastable(found, self.axes, shape), None
        blocks = Blocks(self.axes[0] % len(shape), self.block)
        points = _broadcastable(found, (), blocks.shape(shape))
        return points, None if points is None or points.size == 1 else blocks


@dataclass
class PointsOnTheWay:
    """The sum of the zero points that the nodes of a path have subtracted so far.

    Attributes:
        total: Integers with as many axes as the weight.
        blocks: The blocks that share a zero point each; None if the integers broadcast to the weight.
    """

    total: NDArray[np.int64]
    blocks: Blocks | None = None

    def add(self, found: NDArray[np.int64] | None, blocks: Blocks | None, way: StackOnItsWay) -> bool:
        """Add the zero points that a node subtracts from the rearranged weight.

        Returns:
            False if the sum cannot be written for the axes of the weight.
        """
        back = _before(way, found, self.total.ndim)
        if back is None:
            return False
        if not back.any():
            return True
        if self.blocks is not None or (blocks is not None and self.total.any()):
            return False
        axis = None if blocks is None else axis_before(way, blocks.axis)
        if blocks is not None and axis is not None:
            self.total, self.blocks = back, Blocks(axis, blocks.size)
        else:
            self.total = self.total + back
        return True


def axis_before(way: StackOnItsWay, axis: int | None) -> int | None:
    """The axis of a weight that became `axis` of the rearranged weight; None if a reshape may have merged it."""
    axis = None if axis is None else axis + len(way.hidden)
    for step in reversed(way.steps):
        if axis is None or step.op != "transpose":
            return None
        axis = step.argument[axis]
    return axis


def _broadcastable(found: NDArray[np.generic], axes: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Zero points with as many axes as `shape`, or None if they are not integers or do not fit the shape.

    Args:
        found: The zero points.
        axes: The axes of the shape to which the axes of the zero points belong, if these are fewer.
        shape: The shape of the codes.
    """
    numbers = np.asarray(found).astype(np.float64)
    integers = numbers.astype(np.int64)
    if not np.array_equal(integers, numbers):
        return None
    if integers.size and (integers == integers.reshape(-1)[0]).all():
        return integers.reshape(-1)[:1].reshape((1,) * len(shape))
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        return None
    if integers.ndim < len(shape) and integers.ndim <= len(axes):
        sizes = [1] * len(shape)
        for axis, size in zip(axes, integers.shape, strict=False):
            sizes[axis] = size
        integers = integers.reshape(sizes)
    if integers.ndim > len(shape):
        return None
    integers = integers.reshape((1,) * (len(shape) - integers.ndim) + integers.shape)
    fits = all(length in {1, size} for length, size in zip(integers.shape, shape, strict=True))
    return integers if fits else None


def _before(way: StackOnItsWay, zero_points: NDArray[np.int64] | None, rank: int) -> NDArray[np.int64] | None:
    """Zero points of a rearranged weight, moved to the axes of the weight; None if a reshape stands between.

    Args:
        way: The rearrangements.
        zero_points: The zero points, with the axes of the rearranged weight.
        rank: The number of axes of the weight.
    """
    if zero_points is None:
        return None
    if zero_points.size == 1:
        return zero_points.reshape((1,) * rank)
    zero_points = zero_points.reshape((1,) * len(way.hidden) + zero_points.shape)
    for step in reversed(way.steps):
        if step.op != "transpose":
            return None
        zero_points = zero_points.transpose(np.argsort(step.argument))
    return zero_points
