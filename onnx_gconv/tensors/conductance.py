"""The conductances of a weight as tensors that are computed when they are written."""

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
    """The conductances of a weight in µS: for each device a tensor of the shape of the weight.

    Args:
        weight: The weight. Its data must not change until the conductances are written.
        conversion: How elements of the weight become conductances.
        dtype: Type of the conductances: FLOAT, DOUBLE, FLOAT16 or BFLOAT16. The last two are computed in float32 and
            rounded.
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
    """The conductances of a weight as level codes: for each device a tensor of the shape of the weight.

    Args:
        weight: The weight. Its data must not change until the codes are written.
        conversion: How elements of the weight become conductances; it must have levels.
        dtype: Type in which conductances are computed: FLOAT or DOUBLE.
        names: Names of the tensors, one for each of the converter's `device_names`.
        code_dtype: Type of the codes; None for the smallest type that holds the number of levels.
    """
    group = _LevelCodes(weight, conversion, dtype, code_dtype)
    return tuple(ConductanceTensor(group, device, name) for device, name in enumerate(names))


class _Conductances(TensorGroup):
    """The conductances of all devices of a weight, computed chunk by chunk so that the weight is read only once."""

    def __init__(self, weight: ir.TensorProtocol, conversion: WeightConversion, dtype: ir.DataType) -> None:
        self.weight = weight
        self.dtype = dtype
        self._conversion = conversion

    @functools.cached_property
    def tables(self) -> tuple[NDArray[Any], ...] | None:
        """For each device the stored element for each value of a byte of the weight, [zero points, 256].

        None if elements of the weight are no bytes, or if conductances also depend on their place (scales of groups).
        """
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
        """The conductances in µS of all devices for a few elements of the weight."""
        computed = [np.empty_like(numbers) for _ in self._conversion.converter.device_names]
        self._conversion.convert(numbers, 0, computed)
        return computed

    def _stored_of(self, conductances: NDArray[Any]) -> NDArray[Any]:
        """The stored form of conductances: here, the conductances themselves."""
        return conductances

    def _looked_up(
        self, start: int, stop: int, buffers: Callable[[], Sequence[NDArray[Any]]], tables: Sequence[NDArray[Any]]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        assert isinstance(self.weight, EffectiveIntegerTensor)  # noqa: S101 - only this class has tables
        flat = [table.reshape(-1) for table in tables]
        for codes in element_chunks(self.weight.codes, start, stop):
            out = tuple(buffer[: codes.size] for buffer in buffers())
            index, rows = codes.view(np.uint8), self.weight.rows_of_numbers(start, codes.size)
            if rows is not None:
                index = rows.astype(np.uint16) << np.uint16(8) | index
            for array, table in zip(out, flat, strict=True):
                np.take(table, index, out=array, mode="clip")  # no index exceeds the table; "clip" is the fastest mode
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
        """Yield conductances of half precision, which are computed in float32 and rounded."""
        for computed in self._computed_chunks(start, stop, np.dtype(np.float32)):
            out = tuple(buffer[: computed[0].size] for buffer in buffers())
            for rounded, array in zip(out, computed, strict=True):
                rounded[:] = array
            yield out

    def _computed_chunks(self, start: int, stop: int, dtype: np.dtype[Any]) -> Iterator[list[NDArray[Any]]]:
        """Yield conductances of type `dtype` in new arrays, which stay valid until the next ones are requested."""
        arrays = [np.empty(min(CHUNK_ELEMENTS, stop - start), dtype) for _ in self.dtypes]
        for weights in element_chunks(self.weight, start, stop, dtype=dtype):
            computed = [array[: weights.size] for array in arrays]
            self._conversion.convert(weights, start, computed)
            start += weights.size
            yield computed


class _LevelCodes(_Conductances):
    """The level codes of all devices of a weight."""

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
        """Computes level codes from whole bytes of a packed weight; None if the weight or the codes do not allow it."""
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
    """Conductances in µS, or level codes, of one device for every element of a weight.

    `conductance_tensors` and `level_code_tensors` make these tensors.

    Args:
        group: The conductances or codes of all devices of the weight.
        device: Index of the device.
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
        """The conductances of all devices of the weight, and the index of this tensor's device."""
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
