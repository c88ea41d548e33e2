"""The conductances of a weight, computed while they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import is_half_precision
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, TensorGroup, element_chunks

__all__ = ["ConductanceTensor", "conductance_tensors", "level_code_tensors"]


def conductance_tensors(
    weight: ir.TensorProtocol, conversion: WeightConversion, *, dtype: ir.DataType, names: Sequence[str]
) -> tuple[ConductanceTensor, ...]:
    """The conductances of a weight in µS, of its shape, one tensor for each device.

    Args:
        weight: The weight. Its data must stay as it is until the conductances are written.
        conversion: How its elements become conductances.
        dtype: Type of the conductances: FLOAT or DOUBLE; FLOAT16 or BFLOAT16 are computed in float32 and rounded.
        names: Names of the tensors, one for each of the converter's `device_names`.
    """
    group = _Conductances(weight, conversion, dtype)
    return tuple(ConductanceTensor(group, device, name) for device, name in enumerate(names))


def level_code_tensors(
    weight: ir.TensorProtocol,
    conversion: WeightConversion,
    *,
    dtype: ir.DataType,
    names: Sequence[str],
    code_dtype: ir.DataType | None = None,
) -> tuple[ConductanceTensor, ...]:
    """The conductances of a weight as codes of levels, of its shape, one tensor for each device.

    Args:
        weight: The weight. Its data must stay as it is until the codes are written.
        conversion: How its elements become conductances; with levels.
        dtype: Type in which conductances are computed: FLOAT or DOUBLE.
        names: Names of the tensors, one for each of the converter's `device_names`.
        code_dtype: Type of the codes; that which holds so many levels if None.
    """
    group = _LevelCodes(weight, conversion, dtype, code_dtype)
    return tuple(ConductanceTensor(group, device, name) for device, name in enumerate(names))


class _Conductances(TensorGroup):
    """The conductances of all devices of a weight, chunk by chunk from one read of it."""

    def __init__(self, weight: ir.TensorProtocol, conversion: WeightConversion, dtype: ir.DataType) -> None:
        self.weight = weight
        self.dtype = dtype
        self._conversion = conversion

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(self.dtype.numpy()),) * len(self._conversion.converter.device_names)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        dtype = self.dtypes[0]
        if is_half_precision(dtype):
            yield from self._rounded_chunks(start, stop, buffers)
            return
        for weights in element_chunks(self.weight, start, stop, dtype=dtype):
            out = tuple(buffer[: weights.size] for buffer in buffers())
            self._conversion.convert(weights, start, out)
            start += weights.size
            yield out

    def _rounded_chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Conductances of half precision, which are computed in float32."""
        for computed in self._computed_chunks(start, stop, np.dtype(np.float32)):
            out = tuple(buffer[: computed[0].size] for buffer in buffers())
            for rounded, array in zip(out, computed, strict=True):
                rounded[:] = array
            yield out

    def _computed_chunks(self, start: int, stop: int, dtype: np.dtype[Any]) -> Iterator[list[NDArray[Any]]]:
        """Conductances in arrays of their own, valid until the next ones are asked for."""
        arrays = [np.empty(min(CHUNK_ELEMENTS, stop - start), dtype) for _ in self.dtypes]
        for weights in element_chunks(self.weight, start, stop, dtype=dtype):
            computed = [array[: weights.size] for array in arrays]
            self._conversion.convert(weights, start, computed)
            start += weights.size
            yield computed


class _LevelCodes(_Conductances):
    """The codes of the levels of all devices of a weight."""

    def __init__(
        self,
        weight: ir.TensorProtocol,
        conversion: WeightConversion,
        dtype: ir.DataType,
        code_dtype: ir.DataType | None = None,
    ) -> None:
        assert conversion.levels is not None  # noqa: S101 - codes are codes of levels
        self._levels = conversion.levels
        self._computed = np.dtype(dtype.numpy())
        super().__init__(weight, conversion, code_dtype or ir.DataType.from_numpy(self._levels.code_dtype))

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        for computed in self._computed_chunks(start, stop, self._computed):
            out = tuple(buffer[: computed[0].size] for buffer in buffers())
            for codes, conductances in zip(out, computed, strict=True):
                self._levels.codes(conductances, codes)
            yield out


class ConductanceTensor(StreamedTensor):
    """Conductances in µS, or codes of levels, of one device of every cell of a weight.

    `conductance_tensors` and `level_code_tensors` make them.

    Args:
        group: Those of all devices.
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
        """Conductances in µS, or codes, from element `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        buffers = [np.empty(min(CHUNK_ELEMENTS, stop - start), dtype) for dtype in self._group.dtypes]
        for devices in self._group.chunks(start, stop, lambda: buffers):
            yield devices[self._device]
