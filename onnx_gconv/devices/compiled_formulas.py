"""The float32 functions of `formulas` and `normal_numbers`, compiled by Numba; each passes through memory once.

Each function gives the same bits as NumPy. Sums, products, quotients and roots are rounded one by one, as IEEE 754
requires: without ``fastmath``, Numba never fuses a product with a sum. Logarithms and other functions whose last bit
depends on the library are not here; NumPy computes them.

This module needs Numba. `compilation` decides whether it is used.
"""

# ruff: noqa: FURB136 - max() and min() would give other bits for NaN than NumPy does

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

__all__ = [
    "add_errors",
    "add_noise_of_reading",
    "drift_exponents",
    "fitted_polynomial",
    "line_between",
    "lines_between",
    "normal_from_logarithms",
    "polynomial",
    "uniform_of_splitmix64",
    "unit_parts",
]

_Floats = NDArray[np.float32]
_Line = tuple[np.float32, np.float32, np.float32, np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_ZERO, _HALF, _MINUS_TWO = np.float32(0), np.float32(0.5), np.float32(-2)
_STEP, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_27, _30, _31, _32, _LOW = (np.uint64(each) for each in (27, 30, 31, 32, 0xFFFFFFFF))


if config.DISABLE_JIT:  # without compilation, these loops take a thousand times as long as NumPy
    raise ImportError("NUMBA_DISABLE_JIT is set")


def _compiled(function: _Function) -> _Function:
    """Compile a function at its first call, and cache the result on disk for other processes if that is possible.

    The function releases the interpreter lock. A division by 0 gives infinity or NaN, as in NumPy.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("_Function", njit(cache=True, **options)(function))
    except RuntimeError:  # neither the folder of this file nor the user's cache can be written to
        return cast("_Function", njit(**options)(function))


@_compiled
def _word(counter: np.uint64) -> np.uint64:
    """The pseudorandom word of SplitMix64 for a counter."""
    word = (counter ^ (counter >> _30)) * _FIRST
    word = (word ^ (word >> _27)) * _SECOND
    return word ^ (word >> _31)


@_compiled
def uniform_of_splitmix64(key: np.uint64, radii: _Floats, angles: _Floats, unit: np.float32, turn: np.float32) -> None:
    """Compiled form of `normal_numbers.uniform`; the lower half of a word comes first, as on little-endian machines."""
    words = radii.size // 2
    for i in range(words):
        word = np.uint64(_word(key + np.uint64(i) * _STEP))
        radii[2 * i] = (np.float32(word & _LOW) + _HALF) * unit
        radii[2 * i + 1] = (np.float32(word >> _32) + _HALF) * unit
    for i in range(words):
        signed = np.uint64(_word(key + np.uint64(words + i) * _STEP)).view(np.int64)
        angles[2 * i] = np.float32((signed << 32) >> 32) * turn
        angles[2 * i + 1] = np.float32(signed >> 32) * turn


@_compiled
def normal_from_logarithms(logarithms: _Floats, cosines: _Floats, sines: _Floats) -> None:
    """Compiled form of `normal_numbers.normal_from_logarithms`."""
    for i in range(cosines.size):
        logarithms[i] = np.sqrt(logarithms[i] * _MINUS_TWO)
        cosines[i] *= logarithms[i]
    for i in range(sines.size):
        sines[i] *= logarithms[i]


@_compiled
def polynomial(coefficients: _Floats, x: _Floats, out: _Floats) -> None:
    """Compiled form of `formulas.polynomial` for five coefficients; missing ones are 0, which changes no bit."""
    c0, c1, c2, c3, c4 = coefficients[0], coefficients[1], coefficients[2], coefficients[3], coefficients[4]
    for i in range(x.size):
        out[i] = (((c4 * x[i] + c3) * x[i] + c2) * x[i] + c1) * x[i] + c0


@_compiled
def fitted_polynomial(
    coefficients: _Floats, values: _Floats, unit: np.float32, factor: np.float32, out: _Floats
) -> None:
    """Compiled form of `formulas.fitted_polynomial` for five coefficients."""
    c0, c1, c2, c3, c4 = coefficients[0], coefficients[1], coefficients[2], coefficients[3], coefficients[4]
    for i in range(values.size):
        x = values[i] / unit
        x = _ZERO if x <= _ZERO else x
        out[i] = ((((c4 * x + c3) * x + c2) * x + c1) * x + c0) * factor


@_compiled
def unit_parts(values: _Floats, unit: np.float32, least: np.float32, out: _Floats) -> None:
    """Compiled form of `formulas.unit_parts`."""
    for i in range(values.size):
        part = values[i] / unit
        out[i] = least if part < least else part


@_compiled
def line_between(x: _Floats, line: _Line) -> None:
    """Compiled form of `formulas.line_between`."""
    for i in range(x.size):
        y = x[i] * line[0] + line[1]
        y = line[2] if y < line[2] else y
        x[i] = line[3] if y > line[3] else y


@_compiled
def lines_between(x: _Floats, one: _Line, other: _Line, out: _Floats) -> None:
    """Compiled form of `formulas.lines_between`."""
    for i in range(x.size):
        y = x[i] * one[0] + one[1]
        y = one[2] if y < one[2] else y
        out[i] = one[3] if y > one[3] else y
        y = x[i] * other[0] + other[1]
        y = other[2] if y < other[2] else y
        x[i] = other[3] if y > other[3] else y


@_compiled
def add_errors(noise: _Floats, sigma: _Floats, scale: np.float32, values: _Floats) -> None:
    """Compiled form of `formulas.add_errors`."""
    for i in range(noise.size):
        found = noise[i] * sigma[i] * scale + values[i]
        noise[i] = _ZERO if found <= _ZERO else found


@_compiled
def drift_exponents(noise: _Floats, mean: _Floats, spread: _Floats, factor: np.float32) -> None:
    """Compiled form of `formulas.drift_exponents`."""
    for i in range(noise.size):
        noise[i] = abs(noise[i] * spread[i] + mean[i]) * factor


@_compiled
def add_noise_of_reading(noise: _Floats, share: _Floats, scale: np.float32, values: _Floats) -> None:
    """Compiled form of `formulas.add_noise_of_reading`."""
    for i in range(noise.size):
        found = noise[i] * share[i] * scale * values[i] + values[i]
        noise[i] = _ZERO if found <= _ZERO else found
