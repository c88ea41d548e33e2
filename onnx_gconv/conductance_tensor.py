"""The conductances of one device of every cell of a weight, computed while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.streamed_tensor import CHUNK_ELEMENTS, StreamedTensor, element_chunks

__all__ = ["ConductanceTensor"]


class ConductanceTensor(StreamedTensor):
    """Conductances in µS, of the shape of a weight, computed from it chunk by chunk.

    Args:
        weight: The weight. Its data must stay as it is until the conductances are written.
        converter: The rule.
        device: Index into the converter's `device_names`.
        scale: The scale of the weight, in µS per unit of weight.
        dtype: Type of the conductances: FLOAT or DOUBLE.
        name: Name of the tensor.
    """

    def __init__(
        self,
        weight: ir.TensorProtocol,
        converter: ConductanceConverter,
        device: int,
        scale: float,
        *,
        dtype: ir.DataType,
        name: str,
    ) -> None:
        super().__init__(dtype, ir.Shape(weight.shape.numpy()), name)
        self._weight = weight
        self._converter = converter
        self._device = device
        self._scale = scale

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The weight."""
        return (self._weight,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances in µS from element `start` to `stop`, in row-major order."""
        dtype = np.dtype(self.dtype.numpy())
        buffer = np.empty(min(CHUNK_ELEMENTS, self.size), dtype)
        for weights in element_chunks(self._weight, start, stop, dtype=dtype):
            out = buffer[: weights.size]
            self._converter.convert_chunk(self._device, weights, self._scale, out)
            yield out
