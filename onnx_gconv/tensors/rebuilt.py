"""A weight that is rebuilt from its conductances when it is read."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.errors import ModelError
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.codes import DecodedLevelsTensor, ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, element_chunks

__all__ = ["LevelSteps", "RebuiltTensor"]

# `level_steps` tries all combinations of level codes and zero points, but at most so many.
_MOST_COMBINATIONS = 1 << 16


@dataclass(frozen=True)
class LevelSteps:
    """Rebuilds codes of a weight in integer arithmetic: ``code = sum_k step_k * level_k + constant + zero point``.

    Attributes:
        codes: The level codes of each device.
        count: How many levels there are; level codes from `count` on are invalid.
        steps: step_k for each device.
        constant: The constant of the formula.
        points: The zero points.
    """

    codes: tuple[ir.TensorProtocol, ...]
    count: int
    steps: tuple[int, ...]
    constant: int
    points: BlockZeroPoint


class RebuiltTensor(StreamedTensor):
    """``W = (sum_k c_k * G_k - b) / scale + w0``, chunk by chunk, bit-identical to the nodes of a mapped model.

    Integer codes are rebuilt as ``round(W) + zero point``. Codes that are packed into bytes may have zero points that
    are no integers; these codes are rebuilt as ``round(W + zero point)``.

    Args:
        conductances: Conductances in µS for each device, all of one shape and of type FLOAT or DOUBLE.
        decoding: c, b, scale and w0; scale and w0 are numbers, or arrays of the shape of `grid`.
        dtype: Type of the weight; the result is cast to it as a Cast node does.
        name: Name of the weight.
        rounded: Whether the weight consists of integer codes.
        zero_point: The zero points of the codes; None for 0.
        grid: Which elements share a scale; None if all do.
        limits: The lowest and the highest number of the type; weights are clipped to them. None for no clipping.
        highest: The highest valid code of packed codes; None for the highest number of the type.
    """

    def __init__(
        self,
        conductances: Sequence[ir.TensorProtocol],
        decoding: Decoding,
        *,
        dtype: ir.DataType,
        name: str,
        rounded: bool = False,
        zero_point: ZeroPoint | BlockZeroPoint | None = None,
        grid: ScaleGrid | None = None,
        limits: tuple[float, float] | None = None,
        highest: int | None = None,
    ) -> None:
        super().__init__(dtype, ir.Shape(conductances[0].shape.numpy()), name)
        self._conductances = tuple(conductances)
        self._decoding = decoding
        self._rounded = rounded
        self._zero_point = zero_point
        self._grid = grid
        self._limits = limits
        self._highest = highest

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The conductances."""
        return self._conductances

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Rebuilt weights from element `start` to `stop`, in row-major order.

        Raises:
            ModelError: If integer codes are out of the range of their type.
        """
        compute = np.dtype(self._conductances[0].dtype.numpy())
        readers = [element_chunks(conductance, start, stop) for conductance in self._conductances]
        for parts in zip(*readers, strict=True):
            yield self.weights_of(parts, start, self._decoding, compute)
            start += parts[0].size

    @functools.cached_property
    def level_steps(self) -> LevelSteps | None:
        """The integer arithmetic that gives the same codes as the nodes for all level codes; None if there is none."""
        points = self._zero_point
        tensors = [each for each in self._conductances if isinstance(each, DecodedLevelsTensor)]
        is_plain = self._rounded and self._limits is None and self._grid is None and len(tensors) > 0
        if not is_plain or len(tensors) < len(self._conductances):
            return None
        if not isinstance(points, BlockZeroPoint) or points.codes is None:
            return None
        count, compute = tensors[0].levels.count, np.dtype(tensors[0].dtype.numpy())
        added = np.unique(points.codes).astype(compute)
        if count ** len(tensors) * added.size > _MOST_COMBINATIONS:
            return None
        combined = np.indices((count,) * len(tensors), np.uint16).reshape(len(tensors), -1)
        with np.errstate(all="ignore"):
            parts = [each.levels.decode(codes, compute) for each, codes in zip(tensors, combined, strict=True)]
            numbers = self._decoding.decode(parts, compute)
            found = np.rint(numbers + added[:, None])
        first = np.rint(numbers[0])
        steps = [np.rint(numbers[count**place]) - first for place in reversed(range(len(tensors)))]
        if count == 1 or not np.isfinite([*steps, first]).all():
            return None
        wanted = np.asarray(steps) @ combined.astype(np.float64) + first
        if not np.array_equal(found, wanted + added[:, None]):
            return None
        return LevelSteps(
            codes=tuple(each.codes for each in tensors),
            count=count,
            steps=tuple(int(step) for step in steps),
            constant=int(first),
            points=points,
        )

    def from_others(self, conductances: Sequence[NDArray[Any]], decoding: Decoding) -> NDArray[Any]:
        """Rebuild the whole weight in memory from other conductances and another scale.

        Args:
            conductances: Conductances in µS for each device, of the shape of the weight and of the type of the
                conductances given to the constructor.
            decoding: c, b, scale and w0, as for the constructor.

        Raises:
            ModelError: If integer codes are out of the range of their type.
        """
        flat = [each.reshape(-1) for each in conductances]
        weights = np.empty(self.size, self.dtype.numpy())
        for start in range(0, self.size, CHUNK_ELEMENTS):
            part = slice(start, start + CHUNK_ELEMENTS)
            weights[part] = self.weights_of([each[part] for each in flat], start, decoding, flat[0].dtype)
        return weights.reshape(self.shape.numpy())

    def weights_of(
        self, parts: Sequence[NDArray[Any]], start: int, decoding: Decoding, compute: np.dtype[Any]
    ) -> NDArray[Any]:
        """Rebuild some elements of the weight.

        Args:
            parts: Conductances of the elements in µS, one flat array for each device.
            start: Flat index of the first element.
            decoding: c, b, scale and w0, as for the constructor.
            compute: The type to compute in.
        """
        # Overflow gives the same infinities as in the nodes; NumPy need not warn of it.
        with np.errstate(all="ignore"):
            return self._chunk(parts, start, decoding, compute)

    def _chunk(
        self, parts: Sequence[NDArray[Any]], start: int, decoding: Decoding, compute: np.dtype[Any]
    ) -> NDArray[Any]:
        count, target = parts[0].size, np.dtype(self.dtype.numpy())
        if self._grid is not None:
            scale, zero = (
                self._grid.entries(values, start, start + count, compute) for values in (decoding.scale, decoding.zero)
            )
            decoding = replace(decoding, scale=scale, zero=zero)
        weights = decoding.decode(parts, compute)
        if isinstance(self._zero_point, BlockZeroPoint):
            weights += self._zero_point.chunk(start, count).astype(compute)
        if self._rounded:
            np.rint(weights, out=weights)
            if isinstance(self._zero_point, ZeroPoint):
                weights += self._zero_point.chunk(start, count).astype(compute)
        if self._limits is not None:
            np.clip(weights, *self._limits, out=weights)
        elif self._rounded:
            self._check_codes(weights)
        return weights if target == compute else weights.astype(target)

    def _check_codes(self, codes: NDArray[np.floating[Any]]) -> None:
        low, high = float(codes.min()), float(codes.max())
        highest = self.dtype.max if self._highest is None else self._highest
        if not (low >= self.dtype.min and high <= highest):  # also refuses NaN
            holder = self.dtype.name if self._highest is None else f"{self._highest.bit_length()} bits"
            raise ModelError(
                f"the weight '{self.name}' is rebuilt to codes from {low:g} to {high:g}, which {holder} "
                "cannot hold; its conductances or its scale were changed, map the model again"
            )
