"""Dequantizes packed integer codes when they are read: scale times (code minus zero point)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.codes import EffectiveIntegerTensor
from onnx_gconv.tensors.packed import BlockZeroPoint, UnpackedTensor
from onnx_gconv.tensors.streamed import StreamedTensor, all_elements

__all__ = ["DequantizedTensor"]


class DequantizedTensor(StreamedTensor):
    """``W[n, k] = scales[n, k // block] * (codes[n, k] - zero_points[n, k // block])``, computed when it is read.

    The result is computed in float32 and then rounded to the type of the scales. With integer zero points the
    difference is exact in float32, and only the product is rounded.

    Args:
        codes: The codes, [outputs, inputs].
        zero_point: The zero points of the codes.
        scales: The scales, [outputs, blocks] or flat.
        name: Name of the weight.
    """

    def __init__(
        self, codes: UnpackedTensor, zero_point: BlockZeroPoint, scales: ir.TensorProtocol, name: str | None
    ) -> None:
        super().__init__(scales.dtype, ir.Shape(codes.shape.numpy()), name)
        self._numbers = EffectiveIntegerTensor(codes, zero_point, ir.DataType.FLOAT)
        self.scales: ir.TensorProtocol = scales
        self.block: int = zero_point.block
        self.stored: ir.TensorProtocol = codes.packed

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The bytes and the scales."""
        return self.stored, self.scales

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The weights from `start` to `stop`, in row-major order."""
        rows, columns = self.shape.numpy()
        scales = all_elements(self.scales).astype(np.float32).reshape(rows, -1)
        dtype = self.dtype.numpy()
        for numbers in self._numbers.chunks(start, stop):
            row, column = np.divmod(np.arange(start, start + numbers.size), columns)
            yield (numbers * scales[row, column // self.block]).astype(dtype, copy=False)
            start += numbers.size
