"""The conductances of a weight, computed while they are written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import is_half_precision
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors.codes import EffectiveIntegerTensor
from onnx_gconv.tensors.packed import BlockZeroPoint, UnpackedTensor
from onnx_gconv.tensors.packed_levels import LEVEL_BITS, PackedLevels
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

    @functools.cached_property
    def tables(self) -> tuple[NDArray[Any], ...] | None:
        """For each device what stands for each value of a byte, [zero points, 256]; None if elements are no bytes."""
        if not isinstance(self.weight, EffectiveIntegerTensor) or self._conversion.grid is not None:
            return None
        numbers = self.weight.numbers_of_bytes
        if numbers is None:
            return None
        computed = self._computed_of(numbers.reshape(-1).astype(self._computing_dtype))
        return tuple(self._stored_of(array).astype(self.dtype.numpy()).reshape(numbers.shape) for array in computed)

    @property
    def _computing_dtype(self) -> np.dtype[Any]:
        """The type in which conductances are computed."""
        return np.dtype(self.dtype.numpy())

    def _computed_of(self, numbers: NDArray[Any]) -> list[NDArray[Any]]:
        """The conductances of all devices of a few elements, as they are computed."""
        computed = [np.empty_like(numbers) for _ in self._conversion.converter.device_names]
        self._conversion.convert(numbers, 0, computed)
        return computed

    def _stored_of(self, conductances: NDArray[Any]) -> NDArray[Any]:
        """What is stored of conductances: themselves."""
        return conductances

    def _looked_up(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]], tables: Sequence[NDArray[Any]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        assert isinstance(self.weight, EffectiveIntegerTensor)  # noqa: S101 - others have no tables
        flat = [table.reshape(-1) for table in tables]
        for codes in element_chunks(self.weight.codes, start, stop):
            out = tuple(buffer[: codes.size] for buffer in buffers())
            index, rows = codes.view(np.uint8), self.weight.rows_of_numbers(start, codes.size)
            if rows is not None:
                index = rows.astype(np.uint16) << np.uint16(8) | index
            for array, table in zip(out, flat, strict=True):
                np.take(table, index, out=array, mode="clip")  # the fastest; no index is beyond the end
            start += codes.size
            yield out

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        return (np.dtype(self.dtype.numpy()),) * len(self._conversion.converter.device_names)

    def chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        dtype = self.dtypes[0]
        if self.tables is not None:
            yield from self._looked_up(start, stop, buffers, self.tables)
            return
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
        if self.tables is not None:
            yield from self._looked_up(start, stop, buffers, self.tables)
            return
        for computed in self._computed_chunks(start, stop, self._computed):
            out = tuple(buffer[: computed[0].size] for buffer in buffers())
            for codes, conductances in zip(out, computed, strict=True):
                self._levels.codes(conductances, codes)
            yield out

    @property
    def _computing_dtype(self) -> np.dtype[Any]:
        return self._computed

    def _stored_of(self, conductances: NDArray[Any]) -> NDArray[Any]:
        return self._levels.codes(conductances)

    @functools.cached_property
    def _packed(self) -> PackedLevels | None:
        """The codes in bytes, for whole bytes of packed codes; None if that is not possible."""
        numbers = self.weight
        if (
            self.tables is None
            or self.dtype.bitwidth != LEVEL_BITS
            or not isinstance(numbers, EffectiveIntegerTensor)
            or not isinstance(numbers.codes, UnpackedTensor)
            or numbers.codes.packing.bits > LEVEL_BITS
        ):
            return None
        points = numbers.zero_point
        if not isinstance(points, BlockZeroPoint) or not numbers.codes.packing.is_bytewise(points):
            return None
        highest = numbers.codes.packing.highest
        tables = [table.view(np.uint8)[:, : highest + 1] for table in self.tables]
        return PackedLevels(numbers.codes, points, tables)

    def stored_chunks(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        if self._packed is None:
            return super().stored_chunks(start, stop, buffers)
        return self._packed.chunks(start, stop, buffers)


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

    def _stored_chunks(self) -> Iterator[NDArray[Any]]:
        buffers = self._buffers(self.size)
        for devices in self._group.stored_chunks(0, self.size, lambda: buffers):
            yield devices[self._device]

    def _buffers(self, count: int) -> list[NDArray[Any]]:
        return [np.empty(min(CHUNK_ELEMENTS, count), dtype) for dtype in self._group.dtypes]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Conductances in µS, or codes, from element `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        buffers = self._buffers(stop - start)
        for devices in self._group.chunks(start, stop, lambda: buffers):
            yield devices[self._device]
