"""Integer codes that are shifted to be positive and cut into slices of bits, with one device for each slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.bit_slices import BitSlicedConductanceConverter, highest_digits, slice_count
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.scaling import Scaling

__all__ = ["BitSlicedOffsetConductanceConverter"]


class BitSlicedOffsetConductanceConverter(BitSlicedConductanceConverter):
    """Maps the integer code of a weight, shifted by ``2^(bits-1)``, to one device for each of its slices.

    With ``L = 2^(bits-1) - 1``, the base ``B = 2^slice_bits``, the step ``d = (g_max - g_min) / (B - 1)`` and
    ``scale = (1 / max(max|W|, 1e-7)) * d * L``, roundings in the type of the weight::

        code = clip(round(W * scale / d), -L, L)     # ties away from zero
        code + 2^(bits-1) = sum_k B^k * digit_k      # least significant slice first
        G_k  = g_min + d * digit_k
        W    = (sum_k B^k * G_k - b) / scale,  b = sum_k B^k * g_min + d * 2^(bits-1)

    This is the bit-sliced core of CrossSim 3.2.0 with offset slices, in µS. CrossSim rounds ties to even; the only
    weight that is an exact tie, max|W| / 2, it also rounds away from zero. float16, bfloat16 and integer weights are
    computed and returned in float32.

    Args:
        bits: Bits of a code, including its sign.
        slice_bits: Bits that a device holds.
        g_max: Upper end of the devices' range, in µS. Default 25.
        g_min: Lower end of the devices' range, in µS. Default 0.

    Raises:
        ConfigError: (a ValueError) If `bits` is not a whole number from 2 to 16, `slice_bits` is not a whole number
            from 1 to 8 or is above `bits`, or the range is negative, empty or not finite.
    """

    name = "bit-sliced-offset"

    @property
    def slices(self) -> int:
        """Number of slices of a shifted code."""
        return slice_count(self.bits, self.slice_bits)

    @property
    def device_names(self) -> tuple[str, ...]:
        """``g_1`` of the least significant slice, ``g_2``, ..."""
        return tuple(f"g_{number}" for number in range(1, self.slices + 1))

    @property
    def _highest_digits(self) -> list[int]:
        return highest_digits(self.bits, self.slice_bits)

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G_1 + B * G_2 + ... - b) / scale``."""
        coefficients = tuple(float(self.natural_levels**number) for number in range(self.slices))
        offset_us = sum(coefficients) * self._g_min + self._step_us * self._shift
        return Decoding(coefficients=coefficients, offset_us=offset_us, scale=scaling.scale, zero=0.0)

    def _write_codes(self, codes: NDArray[np.intp], out: Sequence[FloatArray]) -> None:
        self._write_digits(np.add(codes, self._shift, out=codes), out)

    @property
    def _shift(self) -> int:
        """The number that is added to make all codes positive."""
        return 1 << (self.bits - 1)
