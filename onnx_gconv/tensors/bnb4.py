"""Decodes and encodes 4-bit weights as bitsandbytes stores them (QLoRA, Dettmers et al. 2023).

The flattened weight is cut into blocks. The scale of a block, absmax, is the largest magnitude of its elements. A code
is an index into a table of 16 numbers: ``W = table[code] * absmax[block]`` in float32. Two codes share a byte, the
first one in the high bits. Confirmed with MatMulBnb4 of ONNX Runtime 1.32 on the CPU, by multiplying identity matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, all_elements, element_chunks

__all__ = ["Bnb4Coding", "Bnb4Tensor", "EncodedBnb4", "encoded_bnb4"]

_HALF_A_BYTE = 4
_LOW_BITS = 0x0F

_FP4_MAGNITUDES = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_NORMAL_FLOATS = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""
_TABLES = {
    "FP4": np.array([*_FP4_MAGNITUDES, *(-number for number in _FP4_MAGNITUDES)], np.float32),
    "NF4": np.array(_NORMAL_FLOATS.split(), np.float32),
}


@dataclass(frozen=True)
class Bnb4Coding:
    """How a weight is encoded.

    Attributes:
        table: Name of the table of numbers for which the codes stand.
        block: How many neighbouring elements of the flattened weight share a scale.

    Raises:
        ModelError: If the table is unknown, or `block` is below 1.
    """

    table: Literal["NF4", "FP4"]
    block: int

    def __post_init__(self) -> None:
        if self.table not in _TABLES or self.block < 1:
            raise ModelError(f"weights are encoded in NF4 or FP4 in blocks of one or more, not in {self}")

    @property
    def numbers(self) -> NDArray[np.float32]:
        """The numbers for which the codes 0 to 15 stand at a scale of 1, [16]."""
        return _TABLES[self.table]

    def blocks(self, size: int) -> int:
        """How many blocks a weight of `size` elements has."""
        return math.ceil(size / self.block)

    def codes(self, weights: NDArray[np.floating], absmax: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The codes of the nearest numbers.

        Args:
            weights: The weights, of any shape.
            absmax: The scale of each weight, of the same shape.

        Returns:
            The codes, of the same shape. Only the weight -0 gets the code of -0, if the table has one.
        """
        order = np.argsort(self.numbers, kind="stable")
        order = order[np.append(True, np.diff(self.numbers[order]) > 0)]  # without the -0 of FP4, which equals 0
        numbers = self.numbers[order].astype(np.float64)
        scale = np.where(absmax > 0, absmax, 1).astype(np.float64)
        places = np.searchsorted((numbers[1:] + numbers[:-1]) / 2, weights.astype(np.float64) / scale)
        found: NDArray[np.uint8] = order.astype(np.uint8)[places]
        for negative_zero in np.flatnonzero((self.numbers == 0) & np.signbit(self.numbers)):
            found[(weights == 0) & np.signbit(weights)] = negative_zero
        return found


class Bnb4Tensor(StreamedTensor):
    """A float32 weight that is decoded from its bytes when it is read.

    Args:
        stored: The bytes, two codes in each.
        absmax: The scales of the blocks, float32.
        coding: How the weight is encoded.
        shape: Shape of the weight.

    Raises:
        ModelError: If the numbers of bytes and scales do not fit the shape.
    """

    def __init__(
        self, stored: ir.TensorProtocol, absmax: ir.TensorProtocol, coding: Bnb4Coding, shape: tuple[int, ...]
    ) -> None:
        super().__init__(ir.DataType.FLOAT, ir.Shape(shape), stored.name)
        needed = math.ceil(self.size / 2), coding.blocks(self.size)
        if (stored.size, absmax.size) != needed:
            raise ModelError(
                f"'{stored.name}' has {stored.size} bytes and {absmax.size} scales, but a weight of {list(shape)} in "
                f"blocks of {coding.block} needs {needed[0]} and {needed[1]}"
            )
        self.stored: ir.TensorProtocol = stored
        self.absmax: ir.TensorProtocol = absmax
        self.coding: Bnb4Coding = coding

    @property
    def last_code(self) -> int:
        """The code that fills the last byte if the number of elements is odd; else 0."""
        if self.size % 2 == 0:
            return 0
        last = np.concatenate(list(element_chunks(self.stored, self.stored.size - 1)))
        return int(last[-1]) & _LOW_BITS

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The bytes and the scales."""
        return self.stored, self.absmax

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The weights from `start` to `stop`, in row-major order."""
        stop = self.size if stop is None else stop
        absmax, numbers = all_elements(self.absmax).reshape(-1), self.coding.numbers
        for first in range(start, stop, CHUNK_ELEMENTS):
            last = min(first + CHUNK_ELEMENTS, stop)
            parts = [part.copy() for part in element_chunks(self.stored, first // 2, (last + 1) // 2)]
            packed = np.concatenate(parts).view(np.uint8)
            codes = np.stack([packed >> _HALF_A_BYTE, packed & _LOW_BITS], axis=-1).reshape(-1)
            codes = codes[first % 2 : first % 2 + last - first]
            yield numbers[codes] * absmax[np.arange(first, last) // self.coding.block]


class _EncodedTensor(StreamedTensor):
    """The bytes of a weight, which is encoded when they are read."""

    def __init__(
        self, weight: ir.TensorProtocol, absmax: NDArray[np.float32], coding: Bnb4Coding, name: str, last_code: int
    ) -> None:
        super().__init__(ir.DataType.UINT8, ir.Shape([math.ceil(weight.size / 2)]), name)
        self._weight, self._absmax, self._coding, self._last_code = weight, absmax, coding, last_code

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The weight."""
        return (self._weight,)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The bytes from `start` to `stop`."""
        stop = self.size if stop is None else stop
        for first in range(start, stop, CHUNK_ELEMENTS // 2):
            last = min(first + CHUNK_ELEMENTS // 2, stop)
            begin, end = 2 * first, min(2 * last, self._weight.size)
            weights = np.concatenate([part.copy() for part in element_chunks(self._weight, begin, end)])
            codes = self._coding.codes(weights, self._absmax[np.arange(begin, end) // self._coding.block])
            if codes.size % 2:
                codes = np.append(codes, np.uint8(self._last_code))
            yield (codes[::2] << np.uint8(_HALF_A_BYTE)) | codes[1::2]


@dataclass(frozen=True, eq=False)
class EncodedBnb4:
    """A weight as bytes and scales.

    Attributes:
        coding: How the weight is encoded.
        stored: The bytes; they are encoded when they are read.
        absmax: The scales of the blocks, [blocks].
        error: The largest difference between the weight and the weight that the bytes decode to.
    """

    coding: Bnb4Coding
    stored: StreamedTensor
    absmax: NDArray[np.float32]
    error: float


def encoded_bnb4(
    weight: ir.TensorProtocol, coding: Bnb4Coding, name: str, *, last_code: int = 0, tolerance: float = 0.0
) -> EncodedBnb4 | None:
    """Encode a weight that `Bnb4Tensor` has decoded.

    The scale of each block is its largest magnitude, as in bitsandbytes.

    Args:
        weight: The weight, float32.
        coding: How the weight was encoded.
        name: Name of the tensor of bytes.
        last_code: The code that fills the last byte if the number of elements is odd.
        tolerance: Largest allowed difference between the weight and the weight that the bytes decode to.

    Returns:
        The encoded weight; None if an element would differ by more than the tolerance.
    """
    error, absmax = 0.0, np.zeros(coding.blocks(weight.size), np.float32)
    for first, weights in _whole_blocks(weight, coding.block):
        found = np.maximum.reduceat(np.abs(weights), np.arange(0, weights.size, coding.block))
        absmax[first // coding.block :][: found.size] = found
        of_each = np.repeat(found, coding.block)[: weights.size]
        decoded = coding.numbers[coding.codes(weights, of_each)] * of_each
        off = float(np.max(np.abs(decoded.astype(np.float64) - weights)))
        if not off <= tolerance:  # also refuses NaN
            return None
        error = max(error, off)
    return EncodedBnb4(coding, _EncodedTensor(weight, absmax, coding, name, last_code), absmax, error)


def _whole_blocks(weight: ir.TensorProtocol, block: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield the weight in parts of whole blocks: the flat index of the first element of the part, and its elements."""
    step = block * max(CHUNK_ELEMENTS // block, 1)
    for first in range(0, weight.size, step):
        last = min(first + step, weight.size)
        yield first, np.concatenate([part.copy() for part in element_chunks(weight, first, last)])
