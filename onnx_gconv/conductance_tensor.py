"""The conductances of a weight, computed while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import ConductanceConverter, is_half_precision
from onnx_gconv.streamed_tensor import CHUNK_ELEMENTS, StreamedTensor, TensorGroup, element_chunks

__all__ = ["ConductanceTensor", "conductance_tensors"]


def conductance_tensors(
    weight: ir.TensorProtocol,
    converter: ConductanceConverter,
    scale: float,
    *,
    dtype: ir.DataType,
    names: Sequence[str],
) -> tuple[ConductanceTensor, ...]:
    """The conductances of a weight in µS, of its shape, one tensor for each device.

    Args:
        weight: The weight. Its data must stay as it is until the conductances are written.
        converter: The rule.
        scale: The scale of the weight, in µS per unit of weight.
        dtype: Type of the conductances: FLOAT or DOUBLE; FLOAT16 or BFLOAT16 are computed in float32 and rounded.
        names: Names of the tensors, one for each of the converter's `device_names`.
    """
    group = _Conductances(weight, converter, scale, dtype)
    return tuple(ConductanceTensor(group, device, name) for device, name in enumerate(names))


class _Conductances(TensorGroup):
    """The conductances of all devices of a weight, chunk by chunk from one read of it."""

    def __init__(
        self, weight: ir.TensorProtocol, converter: ConductanceConverter, scale: float, dtype: ir.DataType
    ) -> None:
        self.weight = weight
        self.dtype = dtype
        self._converter = converter
        self._scale = scale

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(self.dtype.numpy()),) * len(self._converter.device_names)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        dtype = self.dtypes[0]
        if is_half_precision(dtype):
            yield from self._rounded_chunks(start, stop, buffers)
            return
        for weights in element_chunks(self.weight, start, stop, dtype=dtype):
            out = tuple(buffer[: weights.size] for buffer in buffers())
            self._converter.convert_chunk(weights, self._scale, out)
            yield out

    def _rounded_chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Conductances of half precision, which are computed in float32."""
        exact = [np.empty(min(CHUNK_ELEMENTS, stop - start), np.float32) for _ in self._converter.device_names]
        for weights in element_chunks(self.weight, start, stop, dtype=np.dtype(np.float32)):
            computed = [array[: weights.size] for array in exact]
            self._converter.convert_chunk(weights, self._scale, computed)
            out = tuple(buffer[: weights.size] for buffer in buffers())
            for rounded, array in zip(out, computed, strict=True):
                rounded[:] = array
            yield out


class ConductanceTensor(StreamedTensor):
    """Conductances in µS of one device of every cell of a weight; `conductance_tensors` makes them.

    Args:
        group: The conductances of all devices.
        device: Index among them.
        name: Name of the tensor.
    """

    def __init__(self, group: _Conductances, device: int, name: str) -> None:
        super().__init__(group.dtype, ir.Shape(group.weight.shape.numpy()), name)
        self._group = group
        self._device = device

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The weight."""
        return (self._group.weight,)

    @property
    def group(self) -> tuple[TensorGroup, int]:
        """The conductances of all devices of the weight, and which of them this is."""
        return self._group, self._device

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances in µS from element `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        buffers = [np.empty(min(CHUNK_ELEMENTS, stop - start), dtype) for dtype in self._group.dtypes]
        for devices in self._group.chunks(start, stop, lambda: buffers):
            yield devices[self._device]
