"""Tensors of codes, decoded while they are read: integer weights, and conductances stored as codes of levels."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import StreamedTensor, element_chunks

__all__ = ["Blocks", "DecodedLevelsTensor", "EffectiveIntegerTensor", "ZeroPoint"]


@dataclass(frozen=True)
class Blocks:
    """Neighbours along an axis of a weight that have a zero point in common.

    Attributes:
        axis: The axis, which is not negative.
        size: How many neighbours a block has; the last one may have fewer.
    """

    axis: int
    size: int

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what each block of a weight of that shape has one of.

        Raises:
            ModelError: If the weight has no such axis.
        """
        if not (0 <= self.axis < len(shape) and self.size > 0):
            raise ModelError(
                f"blocks of {self.size} along axis {self.axis} are none of a weight of {list(shape)}; take the model "
                "as it was mapped"
            )
        blocks = math.ceil(shape[self.axis] / self.size)
        return (*shape[: self.axis], blocks, *shape[self.axis + 1 :])

    def of_each(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """The block of each index of the axis of a weight of that shape."""
        return np.arange(shape[self.axis], dtype=np.int64) // self.size


@dataclass(frozen=True, eq=False)
class ZeroPoint:
    """The codes that stand for zero.

    Attributes:
        values: Integers that broadcast to the shape of the weight; or one for each block of it.
        shape: The shape of the weight.
        blocks: Where each block has its own; None if the integers broadcast.

    Raises:
        ModelError: If they do not fit the weight.
    """

    values: NDArray[np.int64]
    shape: tuple[int, ...]
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        shape = self.shape if self.blocks is None else self.blocks.shape(self.shape)
        axes = zip(reversed(shape), reversed(self.values.shape), strict=False)
        if self.values.ndim > len(shape) or any(length not in {1, size} for size, length in axes):
            raise ModelError(
                f"zero points of the shape {list(self.values.shape)} are none of a weight of {list(self.shape)}; take "
                "the model as it was mapped"
            )

    @property
    def is_integer(self) -> bool:
        """Whether all of them are integers, which they are."""
        return True

    def is_same_as(self, other: ZeroPoint) -> bool:
        """Whether others are the same, element by element and block by block."""
        return self.blocks == other.blocks and np.array_equal(self.values, other.values)

    def chunk(self, first: int, count: int) -> NDArray[np.int64]:
        """The zero points of `count` elements of the weight in row-major order, from flat index `first`.

        Returns:
            An array of `count` elements, or of one if it is the same for all.
        """
        flat = self.values.reshape(-1)
        if flat.size == 1:
            return flat
        position = np.arange(first, first + count)
        index = np.zeros(count, np.int64)
        inner, stride = 1, 1
        for axis, size, length in self._axes():
            if length != 1:
                place = (position // inner) % size
                is_blocked = self.blocks is not None and axis == self.blocks.axis
                index += (place // self.blocks.size if is_blocked and self.blocks is not None else place) * stride
            inner, stride = inner * size, stride * length
        return flat[index]

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        """Each axis that the zero points have, the last one first: its number, and both sizes along it."""
        axes = range(len(self.shape) - 1, -1, -1)
        yield from zip(axes, reversed(self.shape), reversed(self.values.shape), strict=False)


class _DecodedTensor(StreamedTensor):
    """What is computed of codes, each element of its code, while they are read."""

    def __init__(self, codes: ir.TensorProtocol, dtype: ir.DataType, name: str | None) -> None:
        super().__init__(dtype, ir.Shape(codes.shape.numpy()), name)
        self._codes = codes

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The codes."""
        return (self._codes,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """What the codes from element `start` to `stop` stand for, in row-major order."""
        dtype = np.dtype(self.dtype.numpy())
        for codes in element_chunks(self._codes, start, stop):
            yield self._decoded(codes, start, dtype)
            start += codes.size

    @abc.abstractmethod
    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """What some codes stand for, the first of which is element `start`."""


class EffectiveIntegerTensor(_DecodedTensor):
    """``code - zero point`` of a weight of integer codes, as numbers that conductances are computed from.

    Args:
        codes: The weight.
        zero_point: Its zero points; None for zero.
        dtype: FLOAT or DOUBLE, in which all the differences are exact.
    """

    def __init__(
        self, codes: ir.TensorProtocol, zero_point: ZeroPoint | BlockZeroPoint | None, dtype: ir.DataType
    ) -> None:
        super().__init__(codes, dtype, codes.name)
        self._zero_point = zero_point

    @property
    def codes(self) -> ir.TensorProtocol:
        """The codes."""
        return self._codes

    @property
    def number_of_byte(self) -> NDArray[np.floating[Any]] | None:
        """What each value of a byte stands for, if each element is a byte and all have one zero point; else None.

        Numbers are then looked up, which takes less time than computing with them.
        """
        if self._codes.dtype not in {ir.DataType.UINT8, ir.DataType.INT8}:
            return None
        if self._zero_point is not None and self._zero_point.values.size > 1:
            return None
        codes = np.arange(256, dtype=np.uint8).view(self._codes.dtype.numpy())
        return self._decoded(codes, 0, np.dtype(self.dtype.numpy()))

    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        effective = codes.astype(dtype)
        if self._zero_point is not None:
            effective -= self._zero_point.chunk(start, codes.size).astype(dtype)
        return effective


class DecodedLevelsTensor(_DecodedTensor):
    """The conductances in µS that codes stand for, bit-identical to what the nodes of a mapped model decode.

    Args:
        codes: Codes of levels.
        levels: The levels.
        dtype: Type of the conductances: FLOAT or DOUBLE.
        name: Name of the conductances.
    """

    def __init__(self, codes: ir.TensorProtocol, levels: ConductanceLevels, dtype: ir.DataType, name: str) -> None:
        super().__init__(codes, dtype, name)
        self._levels = levels

    def _decoded(self, codes: NDArray[Any], start: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        del start
        return self._levels.decode(codes, dtype)
