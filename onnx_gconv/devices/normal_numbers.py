"""Normally distributed float32 numbers, three times as fast as those of NumPy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.devices.compilation import compiled_formulas
from onnx_gconv.devices.recycled_memory import empty

__all__ = ["MOST_SIDE_BY_SIDE", "SideBySide", "from_normal", "normal"]

# Arrays are computed in pieces of this size, whose intermediate values stay in the cache. With half of it, two threads
# take a fifth to a third more time: between shorter steps, they wait for the interpreter lock more often.
_PIECE = 1 << 17

MOST_SIDE_BY_SIDE = 1 << 16
"""The largest total number of elements of the arrays of one `SideBySide`."""

_UNIT = np.float32(2.0**-32)

# sqrt(2) sin(pi x / 4) = x (c0 + c1 x^2 + c2 x^4) for x from -1 to 1, to 1.6e-6: a least-squares fit whose weights were
# changed until the largest errors were equal.
_SINE = tuple(map(np.float32, (1.1107192, -0.11416271, 0.0034451645)))
_EIGHTH = np.float32(2.0**-31)

# SplitMix64: the increment of the counter, and the factors and shifts that mix its bits.
_STEP = 0x9E3779B97F4A7C15
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class SideBySide:
    """One generator for each of several small arrays that are concatenated and computed together.

    Each array gets the same numbers as if it were computed alone. Computing them together saves function calls, which
    cost more than the arithmetic of a small array.

    Attributes:
        sizes: How many elements each array has; at most `MOST_SIDE_BY_SIDE` in total.
        generator: Returns the generator of an array, by its number; called only if numbers are drawn.

    Raises:
        ValueError: If the arrays have too many elements in total.
    """

    sizes: tuple[int, ...]
    generator: Callable[[int], np.random.Generator]

    def __post_init__(self) -> None:
        if sum(self.sizes) > MOST_SIDE_BY_SIDE:
            raise ValueError(f"arrays side by side have {MOST_SIDE_BY_SIDE} elements at most, not {sum(self.sizes)}")


def normal(like: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """Draw standard normal numbers of the shape and type of an array.

    In float64 they are those of `numpy.random.Generator.standard_normal`. In float32 they are computed for many
    elements at once from 32-bit uniform numbers: G. E. P. Box and M. E. Muller, A note on the generation of random
    normal deviates, Annals of Mathematical Statistics 29, 1958. Their magnitude is at most 6.8; a true normal number
    exceeds that once in 1e11. The last bit may differ between processors, because NumPy's logarithm does.

    Args:
        like: An array of float32 or float64, [any shape].
        rng: The generator; in float32 it only draws a key for SplitMix64.

    Returns:
        An array of the same shape and type, without a unit.
    """
    return from_normal(lambda *_: None, rng, like)


def from_normal(
    change: Callable[..., None],
    rng: np.random.Generator | SideBySide,
    *arrays: NDArray[np.floating[Any]],
) -> NDArray[np.floating[Any]]:
    """Compute a function of standard normal numbers and arrays, piece by piece so that all stays in the cache.

    Args:
        change: Called for each piece with normal numbers, [n], scratch memory, [2, n], and the same elements of each
            array, [n]. It overwrites the normal numbers with the result, and must not draw normal numbers itself.
        rng: Draws the numbers; `SideBySide` in float32 only.
        arrays: The arrays that `change` gets; at least one. All have one type, float32 or float64, and one shape.

    Returns:
        The results, an array of the shape and type of the arrays.

    Raises:
        TypeError: If `rng` is `SideBySide` and the arrays are float64.
    """
    like, is_single = arrays[0], arrays[0].dtype == np.float32
    flat = [each.reshape(-1) for each in arrays]
    found: NDArray[np.floating[Any]]
    if is_single:
        found = empty(like.size)
    elif isinstance(rng, SideBySide):
        raise TypeError(f"generators stand side by side in single precision only, not in {like.dtype}")
    else:
        found = rng.standard_normal(like.shape, like.dtype.type).reshape(-1)
    scratch = _scratch_of_thread() if is_single else np.empty((2, min(_PIECE, found.size)), found.dtype)
    fill = _filling(rng) if is_single else None
    for first in range(0, found.size, _PIECE):
        piece = slice(first, first + _PIECE)
        numbers = found[piece]
        if fill is not None:
            fill(numbers, scratch, first)
        change(numbers, scratch[:, : numbers.size], *(each[piece] for each in flat))
    return found.reshape(like.shape)


class _Memory(threading.local):
    scratch: NDArray[np.float32] | None = None
    words: NDArray[np.uint64] | None = None


_memory = _Memory()


def _scratch_of_thread() -> NDArray[np.float32]:
    """Scratch memory of this thread that is used again and again, [2, _PIECE]."""
    if _memory.scratch is None:
        # 64 elements of padding: rows that are whole pages apart would compete for the same lines of the cache.
        _memory.scratch = np.empty((2, _PIECE + 64), np.float32)[:, :_PIECE]
    return _memory.scratch


def _words_of_thread(count: int) -> NDArray[np.uint64]:
    """Scratch memory of this thread for words, which give two numbers each, and for mixing them, [2, count]."""
    if _memory.words is None or _memory.words.shape[1] < count:
        _memory.words = np.empty((2, max(count, _PIECE // 2) + 32), np.uint64)
    return _memory.words[:, :count]


def _filling(
    rng: np.random.Generator | SideBySide,
) -> Callable[[NDArray[np.float32], NDArray[np.float32], int], None]:
    """A function that writes the normal numbers of a piece, given the piece, scratch memory and its first index."""
    if isinstance(rng, SideBySide):
        return lambda piece, *_: _fill_side_by_side(piece, rng)
    return functools.partial(_fill, _key(rng))


def _key(rng: np.random.Generator) -> int:
    """A word of 64 bits of a generator."""
    bits = rng.bit_generator
    # The same bits as those of `bytes` of a new generator, in a twentieth of the time.
    return bits.random_raw() if isinstance(bits, np.random.SFC64) else int.from_bytes(rng.bytes(8), "little")


def _fill(key: int, piece: NDArray[np.float32], scratch: NDArray[np.float32], first: int) -> None:
    """Write normal numbers to a piece: each pair of uniform numbers gives one number in either half of it."""
    half, pairs = -(-piece.size // 2), _pairs(piece.size)
    radii, memory = scratch[0, :pairs], scratch[:, _PIECE - pairs :]
    turns = uniform(radii, (key + first // 2 * _STEP) & _MASK)
    np.log(radii, out=radii)
    normal_from_logarithms(radii[:half], turns[:half], tuple(memory[:, :half]), piece[:half], piece[half:])


def _fill_side_by_side(piece: NDArray[np.float32], generators: SideBySide) -> None:
    """Do what `_fill` does for each of several arrays that are concatenated in `piece`."""
    pairs = tuple(map(_pairs, generators.sizes))
    keys = np.array([_key(generators.generator(number)) for number in range(len(pairs))], np.uint64)
    radii, cosines, sines, *memory = np.empty((5, sum(pairs)), np.float32)
    turns = _mixed(_counters(pairs), np.tile(np.repeat(keys, [count // 2 for count in pairs]), 2), radii)
    np.log(radii, out=radii)
    normal_from_logarithms(radii, turns, memory, cosines, sines)
    start = pair = 0
    for size, count in zip(generators.sizes, pairs, strict=True):
        array, half = piece[start : start + size], -(-size // 2)
        array[:half] = cosines[pair : pair + half]
        array[half:] = sines[pair : pair + size - half]
        start, pair = start + size, pair + count


def _pairs(size: int) -> int:
    """How many pairs of uniform numbers are drawn for `size` normal ones: an even number, because a word gives two."""
    return -(-size // 4) * 2


def uniform(radii: NDArray[np.float32], key: int) -> NDArray[np.int32]:
    """Uniform numbers for Box and Muller, see `normal_from_logarithms`.

    Args:
        radii: Where the numbers u go whose -2 ln u are squared radii, from 2^-33 to 1, [an even number].
        key: The counter of SplitMix64 at the first word.

    Returns:
        Integers of 32 bits that become angles, of the same size. The next call of this thread overwrites them.
    """
    if (compiled := compiled_formulas(radii)) is not None:
        words = _words_of_thread(radii.size)[0]
        compiled.uniform_of_splitmix64(np.uint64(key), radii, words, words.view(np.uint32), _UNIT)
        turns: NDArray[np.int32] = words.view(np.int32)[radii.size :]
        return turns
    return _mixed(_counters((_PIECE // 2,))[: radii.size], np.uint64(key), radii)


@functools.lru_cache(maxsize=16)
def _counters(pairs: tuple[int, ...]) -> NDArray[np.uint64]:
    """The increment of the counter at each word, for the radii of all streams, then for the angles of all streams.

    Args:
        pairs: How many pairs of numbers each stream gives.
    """
    halves = [count // 2 for count in pairs]
    of_radii = [np.arange(half, dtype=np.uint64) for half in halves]
    of_angles = [np.arange(half, 2 * half, dtype=np.uint64) for half in halves]
    return np.concatenate(of_radii + of_angles) * np.uint64(_STEP)


def _mixed(
    counters: NDArray[np.uint64],
    keys: np.uint64 | NDArray[np.uint64],
    radii: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Compute the words of SplitMix64, write the first half to `radii`, and return the other half as integers."""
    words, scratch = _words_of_thread(counters.size)
    np.add(counters, keys, out=words)
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        words ^= np.right_shift(words, shift, out=scratch)
        if factor is not None:
            words *= factor
    np.copyto(radii, words.view(np.uint32)[: radii.size], casting="unsafe")
    radii += np.float32(0.5)
    radii *= _UNIT
    turns: NDArray[np.int32] = words.view(np.int32)[radii.size :]
    return turns


def normal_from_logarithms(
    logarithms: NDArray[np.float32],
    turns: NDArray[np.int32],
    memory: Sequence[NDArray[np.float32]],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
) -> None:
    """Write cosines and sines of random angles, times radii ``sqrt(-2 * logarithms)``.

    An angle is twice ``pi / 4 * turns / 2^31``, from -pi / 2 to pi / 2. The lowest bit of `turns` decides about the
    sign of the cosine, so that all angles are possible. Let s be sqrt(2) times the sine of half of the angle: then its
    cosine is 1 - s^2, and its sine is s * sqrt(2 - s^2). Neither needs a function whose last bit depends on the
    processor.

    Args:
        logarithms: Logarithms of uniform numbers, [n]. They are overwritten.
        turns: Random integers of 32 bits, [n].
        memory: Two arrays for the computation, [n] each.
        cosines: Where the cosines go, [n].
        sines: Where the sines go, [n] or [n - 1].
    """
    if (compiled := compiled_formulas(logarithms)) is not None:
        compiled.normal_from_logarithms(logarithms, turns, (_EIGHTH, *_SINE), cosines, sines)
        return
    one, other = memory
    np.copyto(one, turns, casting="unsafe")
    one *= _EIGHTH
    squares = np.multiply(one, one, out=cosines)
    *lower, highest = _SINE
    np.multiply(squares, highest, out=other)
    for coefficient in reversed(lower[1:]):
        other += coefficient
        other *= squares
    other += lower[0]
    one *= other
    squares = np.multiply(one, one, out=other)
    np.subtract(np.float32(1), squares, out=cosines)
    np.subtract(np.float32(2), squares, out=other)
    one *= np.sqrt(other, out=other)
    signs = np.left_shift(turns.view(np.uint32), np.uint32(31), out=other.view(np.uint32))
    cosines.view(np.uint32)[...] ^= signs
    logarithms *= np.float32(-2)
    np.sqrt(logarithms, out=logarithms)
    cosines *= logarithms
    np.multiply(one[: sines.size], logarithms[: sines.size], out=sines)
