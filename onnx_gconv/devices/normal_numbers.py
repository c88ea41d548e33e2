"""Normally distributed numbers in single precision, three times as fast as NumPy's own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.devices.compilation import compiled_formulas

__all__ = ["MOST_SIDE_BY_SIDE", "SideBySide", "from_normal", "normal"]

_PIECE = 1 << 16  # elements whose intermediate values stay in the cache

MOST_SIDE_BY_SIDE = _PIECE
"""How many elements arrays have together at most of which each has a stream of its own."""

_UNIT = np.float32(2.0**-32)
_TURN = np.float32(2 * math.pi * 2.0**-32)


@dataclass(frozen=True)
class SideBySide:
    """The streams of several arrays that stand side by side in one, in place of one generator for all of them.

    Each array gets the numbers that it would get alone, but they are computed together: for small arrays calls take
    more time than what they compute.

    Attributes:
        sizes: How many elements each array has; `MOST_SIDE_BY_SIDE` together at most.
        stream: The random bits of an array, by its number; called only if numbers are drawn.
    """

    sizes: Sequence[int]
    stream: Callable[[int], np.random.SFC64]


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
    return from_normal(lambda *_: None, rng, like)


def from_normal(
    change: Callable[..., None],
    rng: np.random.Generator | SideBySide,
    *arrays: NDArray[np.floating[Any]],
) -> NDArray[np.floating[Any]]:
    """What becomes of the numbers that `normal` gives, piece by piece while they are in the cache.

    Args:
        change: Called with some numbers, memory for what it computes on the way, [2, as many], and the same elements of
            each array; puts the result in place of the numbers. It draws no other normal numbers.
        rng: Draws the numbers; several streams only in single precision.
        arrays: What the result is computed from; at least one. All have one type, float32 or float64, and one shape.

    Returns:
        An array of that shape and type.
    """
    like, is_single = arrays[0], arrays[0].dtype == np.float32
    flat = [each.reshape(-1) for each in arrays]
    found: NDArray[np.floating[Any]]
    if is_single:
        found = np.empty(like.size, np.float32)
    elif isinstance(rng, SideBySide):
        raise TypeError(f"streams stand side by side in single precision only, not in {like.dtype}")
    else:
        found = rng.standard_normal(like.shape, like.dtype.type).reshape(-1)
    scratch = _scratch_of_thread() if is_single else np.empty((2, min(_PIECE, found.size)), found.dtype)
    for first in range(0, found.size, _PIECE):
        piece = slice(first, first + _PIECE)
        numbers = found[piece]
        if is_single:
            _fill(numbers, scratch, rng)
        change(numbers, scratch[:, : numbers.size], *(each[piece] for each in flat))
    return found.reshape(like.shape)


class _Memory(threading.local):
    scratch: NDArray[np.float32] | None = None


_memory = _Memory()


def _scratch_of_thread() -> NDArray[np.float32]:
    """Memory that this thread has written to before, [2, elements of a piece]."""
    if _memory.scratch is None:
        # Rows that are whole pages apart would compete for the same lines of the cache.
        _memory.scratch = np.empty((2, _PIECE + 64), np.float32)[:, :_PIECE]
    return _memory.scratch


def _fill(piece: NDArray[np.float32], scratch: NDArray[np.float32], rng: np.random.Generator | SideBySide) -> None:
    """Write the two numbers of each pair of uniform ones into the two halves of a piece, or of each array in it."""
    if isinstance(rng, SideBySide):
        _fill_side_by_side(piece, scratch, rng)
        return
    half = -(-piece.size // 2)
    cosines, sines = piece[:half], piece[half:]
    radii, angles = scratch[:, :half]
    uniform(radii, angles, rng)
    np.log(radii, out=radii)
    np.cos(angles, out=cosines)
    np.sin(angles[: sines.size], out=sines)
    normal_from_logarithms(radii, cosines, sines)


def _fill_side_by_side(piece: NDArray[np.float32], scratch: NDArray[np.float32], streams: SideBySide) -> None:
    pairs = [-(-size // 2) for size in streams.sizes]
    radii, angles = scratch[:, : sum(pairs)]
    for number, part in enumerate(_parts(pairs)):
        _split(streams.stream(number).random_raw(pairs[number]), radii[part], angles[part])
    _scale(radii, angles)
    np.log(radii, out=radii)
    cosines = np.cos(angles)
    sines = np.sin(angles, out=angles)
    normal_from_logarithms(radii, cosines, sines)
    for part, target in zip(_parts(pairs), _parts(streams.sizes), strict=True):
        array = piece[target]
        half = part.stop - part.start
        array[:half] = cosines[part]
        array[half:] = sines[part][: array.size - half]


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    """Where arrays are that stand side by side."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def uniform(radii: NDArray[np.float32], angles: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Write uniform numbers: as many squared radii as there are pairs, from 2^-33 to 1, and as many angles."""
    compiled = compiled_formulas(radii)
    if compiled is not None and isinstance(bits := rng.bit_generator, np.random.SFC64):
        with bits.lock:
            state = bits.state
            compiled.uniform_of_sfc64(state["state"]["state"], radii, angles, _UNIT, _TURN)
            bits.state = state
        return
    _split(_words(radii.size, rng), radii, angles)
    _scale(radii, angles)


def _words(count: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Words of 64 random bits."""
    bits = rng.bit_generator
    if isinstance(bits, np.random.SFC64):  # which takes less time
        found: NDArray[np.uint64] = bits.random_raw(count)
        return found
    return rng.integers(0, 2**64 - 1, count, np.uint64, endpoint=True)


def _split(words: NDArray[np.uint64], radii: NDArray[np.float32], angles: NDArray[np.float32]) -> None:
    """Write the halves of words as numbers, which are still to be scaled."""
    halves = words.view(np.uint32)
    radii[...] = halves[: radii.size]
    angles[...] = halves[radii.size :].view(np.int32)


def _scale(radii: NDArray[np.float32], angles: NDArray[np.float32]) -> None:
    radii += np.float32(0.5)
    radii *= _UNIT
    angles *= _TURN


def normal_from_logarithms(
    logarithms: NDArray[np.float32], cosines: NDArray[np.float32], sines: NDArray[np.float32]
) -> None:
    """Multiply cosines and sines with the radii, of whose squares these are the logarithms, which are overwritten."""
    if (compiled := compiled_formulas(logarithms)) is not None:
        compiled.normal_from_logarithms(logarithms, cosines, sines)
        return
    logarithms *= np.float32(-2)
    np.sqrt(logarithms, out=logarithms)
    cosines *= logarithms
    sines *= logarithms[: sines.size]
