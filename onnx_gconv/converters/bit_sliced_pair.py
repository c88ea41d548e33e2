"""Integer codes whose magnitude is cut into slices of bits, with one conductance pair for each slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.bit_slices import BitSlicedConductanceConverter, highest_digits, slice_count
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.scaling import Scaling

__all__ = ["BitSlicedPairConductanceConverter"]


class BitSlicedPairConductanceConverter(BitSlicedConductanceConverter):
    """Maps the integer code of a weight to one conductance pair for each slice of its magnitude.

    With ``L = 2^(bits-1) - 1``, the base ``B = 2^slice_bits``, the step ``d = (g_max - g_min) / (B - 1)`` and
    ``scale = (1 / max(max|W|, 1e-7)) * d * L``, roundings in the type of the weight::

        code  = clip(round(W * scale / d), -L, L)    # ties away from zero
        |code| = sum_k B^k * digit_k                  # least significant slice first
        G+_k  = g_min + d * digit_k  if code > 0, else g_min
        G-_k  = g_min + d * digit_k  if code < 0, else g_min
        W     = sum_k B^k * (G+_k - G-_k) / scale

    This is the bit-sliced core of CrossSim 3.2.0 with balanced slices, in µS. CrossSim rounds ties to even; the only
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

    name = "bit-sliced-pair"

    @property
    def slices(self) -> int:
        """Number of slices of the magnitude of a code."""
        return slice_count(self.bits - 1, self.slice_bits)

    @property
    def device_names(self) -> tuple[str, ...]:
        """``g_plus_1`` and ``g_minus_1`` of the least significant slice, ``g_plus_2``, ..."""
        return tuple(f"g_{sign}_{number}" for number in range(1, self.slices + 1) for sign in ("plus", "minus"))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of the two devices of each pair; one device of each pair is always at `g_min`."""
        return tuple((2 * number, 2 * number + 1) for number in range(self.slices))

    @property
    def _highest_digits(self) -> list[int]:
        return [digit for digit in highest_digits(self.bits - 1, self.slice_bits) for _ in ("plus", "minus")]

    def decoding(self, scaling: Scaling) -> Decoding:
        """``W = (G+_1 - G-_1 + B * G+_2 - B * G-_2 + ...) / scale``."""
        powers = (float(self.natural_levels**number) for number in range(self.slices))
        coefficients = tuple(sign * power for power in powers for sign in (1.0, -1.0))
        return Decoding(coefficients=coefficients, offset_us=0.0, scale=scaling.scale, zero=0.0)

    def _write_codes(self, codes: NDArray[np.intp], out: Sequence[FloatArray]) -> None:
        self._write_digits(np.maximum(codes, 0), out[::2])
        np.negative(codes, out=codes)
        self._write_digits(np.maximum(codes, 0, out=codes), out[1::2])
