"""The bytes of a packed weight, rebuilt from its conductances; from 4-bit level codes a whole byte at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.tensors.packed import PackedTensor, Packing
from onnx_gconv.tensors.packed_levels import LEVEL_BITS
from onnx_gconv.tensors.rebuilt import LevelSteps, RebuiltTensor
from onnx_gconv.tensors.streamed import byte_chunks

__all__ = ["RebuiltBytesTensor"]

_HIGHEST = (1 << LEVEL_BITS) - 1
_MOST_OF_A_BYTE = 255


class RebuiltBytesTensor(PackedTensor):
    """The bytes of packed codes that are rebuilt from conductances, bit-identical to the nodes of a mapped model.

    If weight and level codes have four bits and `RebuiltTensor.level_steps` gives integer arithmetic, two codes of a
    byte are computed at a time. All other weights are computed by `RebuiltTensor` and packed.

    Args:
        codes: The rebuilt codes.
        packing: How the codes are packed.
        padding: The padding of each row, [rows, padding]; None for zeros.
    """

    def __init__(self, codes: RebuiltTensor, packing: Packing, padding: NDArray[np.uint8] | None = None) -> None:
        super().__init__(codes, packing, padding)
        self._rebuilt = codes

    @functools.cached_property
    def _steps(self) -> LevelSteps | None:
        """The integer arithmetic of the codes; None if there is none, or if it needs more than a byte for a code."""
        packing = self._packing
        if packing.bits != LEVEL_BITS or packing.padding or (found := self._rebuilt.level_steps) is None:
            return None
        if any(codes.dtype.bitwidth != LEVEL_BITS for codes in found.codes) or not packing.is_bytewise(found.points):
            return None
        # Bytes wrap around at 256. Within this bound, a sum that is negative or too large for a code never wraps around
        # to a valid code, so `_bytes` detects it.
        farthest = (found.count - 1) * sum(abs(step) for step in found.steps) + abs(found.constant) + _HIGHEST
        return found if farthest <= _MOST_OF_A_BYTE - _HIGHEST else None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """Bytes from `start` to `stop`, in row-major order.

        Raises:
            ModelError: If codes are out of their range.
        """
        stop, steps = self.size if stop is None else stop, self._steps
        if steps is None:
            yield from super().chunks(start, stop)
            return
        readers = [byte_chunks(codes, start, stop) for codes in steps.codes]
        for parts in zip(*readers, strict=True):
            size = parts[0].size
            points = steps.points.codes_chunk(start, size, self._packing.per_byte)
            rebuilt = _bytes(parts, points + np.uint8(steps.constant % 256), steps)
            if rebuilt is None:  # a code is out of range: the slower way raises the error that names it
                yield from super().chunks(start, start + size)
            else:
                yield rebuilt
            start += size


def _bytes(parts: Sequence[NDArray[np.uint8]], added: NDArray[np.uint8], steps: LevelSteps) -> NDArray[np.uint8] | None:
    """Compute the bytes of codes in integer arithmetic.

    Args:
        parts: The bytes of the level codes of each device.
        added: Zero point plus constant of each byte, modulo 256, [bytes] or [1].
        steps: The arithmetic.

    Returns:
        The bytes; None if a code is out of range, or a level code is not below the number of levels.
    """
    total, plane, code = (np.empty_like(parts[0]) for _ in range(3))
    for shift in (np.uint8(0), np.uint8(LEVEL_BITS)):
        code[:] = added
        for part, step in zip(parts, steps.steps, strict=True):
            if shift:
                np.right_shift(part, shift, out=plane)
            else:
                np.bitwise_and(part, np.uint8(_HIGHEST), out=plane)
            if steps.count <= _HIGHEST and plane.max() >= steps.count:
                return None
            if step == -1:
                np.subtract(code, plane, out=code)
                continue
            if step != 1:
                np.multiply(plane, np.uint8(step % 256), out=plane)
            np.add(code, plane, out=code)
        if code.max() > _HIGHEST:
            return None
        if shift:
            np.multiply(code, np.uint8(1 << LEVEL_BITS), out=code)  # a shift of bytes takes ten times as long
            np.bitwise_or(total, code, out=total)
        else:
            total, code = code, total
    return total
