"""What `formulas` and `normal_numbers` compute in single precision, compiled by Numba: one pass each through memory.

Each function gives the bits that NumPy gives. Sums, products, quotients and roots are rounded as IEEE 754 says, one by
one: Numba joins no product with a sum unless ``fastmath`` is asked for. Logarithms and other functions whose last bit
depends on who computes them are not here; they stay NumPy's.

This module needs Numba. `compilation` decides whether it is used.
"""

# ruff: noqa: FURB136, PLR0917 - max() and min() would change which bits a comparison with NaN gives; the functions have
# all that they need as arguments

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
    "normal_from_logarithms",
    "polynomial",
    "uniform_of_sfc64",
    "unit_parts",
]

_Floats = NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_ZERO, _HALF, _MINUS_TWO = np.float32(0), np.float32(0.5), np.float32(-2)
_ONE, _3, _11, _24, _32, _40 = (np.uint64(each) for each in (1, 3, 11, 24, 32, 40))


if config.DISABLE_JIT:  # loops of Python would take a thousand times as long as NumPy
    raise ImportError("NUMBA_DISABLE_JIT is set")


def _compiled(function: _Function) -> _Function:
    """A function that is compiled when it is called first, and kept on disk for other processes if there is a place.

    Other threads run meanwhile. A division by 0 gives what IEEE 754 says, as in NumPy.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("_Function", njit(cache=True, **options)(function))
    except RuntimeError:  # neither the folder of this file nor the user's cache can be written to
        return cast("_Function", njit(**options)(function))


@_compiled
def uniform_of_sfc64(
    state: NDArray[np.uint64], radii: _Floats, angles: _Floats, unit: np.float32, turn: np.float32
) -> None:
    """As `normal_numbers.uniform`, of the state of NumPy's SFC64, [4], which goes on by a word of 64 bits a pair.

    The low half of each word comes first, as on a little-endian machine. Source of the generator: C. Doty-Humphrey,
    PractRand, SFC64; here as in NumPy, whose words it gives.
    """
    half = radii.size
    words = np.empty(2 * half, np.uint32)
    a, b, c, count = state[0], state[1], state[2], state[3]
    for i in range(half):
        word = a + b + count
        count += _ONE
        a = b ^ (b >> _11)
        b = c + (c << _3)
        c = ((c << _24) | (c >> _40)) + word
        words[2 * i] = np.uint32(word)
        words[2 * i + 1] = np.uint32(word >> _32)
    state[0], state[1], state[2], state[3] = a, b, c, count
    for i in range(half):
        radii[i] = (np.float32(words[i]) + _HALF) * unit
    for i in range(half):
        angles[i] = np.float32(np.int32(words[half + i])) * turn


@_compiled
def normal_from_logarithms(logarithms: _Floats, cosines: _Floats, sines: _Floats) -> None:
    """As `normal_numbers.normal_from_logarithms`."""
    for i in range(cosines.size):
        logarithms[i] = np.sqrt(logarithms[i] * _MINUS_TWO)
        cosines[i] *= logarithms[i]
    for i in range(sines.size):
        sines[i] *= logarithms[i]


@_compiled
def polynomial(coefficients: _Floats, x: _Floats, out: _Floats) -> None:
    """As `formulas.polynomial`, of five coefficients; those that follow the last one are 0 and change no bit."""
    c0, c1, c2, c3, c4 = coefficients[0], coefficients[1], coefficients[2], coefficients[3], coefficients[4]
    for i in range(x.size):
        out[i] = (((c4 * x[i] + c3) * x[i] + c2) * x[i] + c1) * x[i] + c0


@_compiled
def fitted_polynomial(
    coefficients: _Floats, values: _Floats, unit: np.float32, factor: np.float32, out: _Floats
) -> None:
    """As `formulas.fitted_polynomial`, of five coefficients."""
    c0, c1, c2, c3, c4 = coefficients[0], coefficients[1], coefficients[2], coefficients[3], coefficients[4]
    for i in range(values.size):
        x = values[i] / unit
        x = _ZERO if x <= _ZERO else x
        out[i] = ((((c4 * x + c3) * x + c2) * x + c1) * x + c0) * factor


@_compiled
def unit_parts(values: _Floats, unit: np.float32, least: np.float32, out: _Floats) -> None:
    """As `formulas.unit_parts`."""
    for i in range(values.size):
        part = values[i] / unit
        out[i] = least if part < least else part


@_compiled
def line_between(
    x: _Floats, slope: np.float32, offset: np.float32, low: np.float32, high: np.float32, out: _Floats
) -> None:
    """As `formulas.line_between`."""
    for i in range(x.size):
        y = x[i] * slope + offset
        y = low if y < low else y
        out[i] = high if y > high else y


@_compiled
def add_errors(noise: _Floats, sigma: _Floats, scale: np.float32, values: _Floats) -> None:
    """As `formulas.add_errors`."""
    for i in range(noise.size):
        found = noise[i] * sigma[i] * scale + values[i]
        noise[i] = _ZERO if found <= _ZERO else found


@_compiled
def drift_exponents(noise: _Floats, mean: _Floats, spread: _Floats, factor: np.float32) -> None:
    """As `formulas.drift_exponents`."""
    for i in range(noise.size):
        noise[i] = abs(noise[i] * spread[i] + mean[i]) * factor


@_compiled
def add_noise_of_reading(noise: _Floats, share: _Floats, scale: np.float32, values: _Floats) -> None:
    """As `formulas.add_noise_of_reading`."""
    for i in range(noise.size):
        found = noise[i] * share[i] * scale * values[i] + values[i]
        noise[i] = _ZERO if found <= _ZERO else found
