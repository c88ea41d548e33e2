"""Elementwise building blocks of device formulas, computed by NumPy or, for large float32 arrays, by Numba.

Both give the same bits, see `compilation`. Where possible, results overwrite an argument or go to `scratch` or `out`:
the first write to new memory takes longer than the formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.devices.compilation import compiled_formulas

__all__ = [
    "FloatArray",
    "add_errors",
    "add_noise_of_reading",
    "drift_exponents",
    "fitted_polynomial",
    "line_between",
    "lines_between",
    "logarithm_of_at_least",
    "polynomial",
]

FloatArray: TypeAlias = NDArray[np.floating[Any]]

Line: TypeAlias = tuple[float, float, float, float]
"""A line and its limits: slope, offset, the lowest and the highest value."""

_MOST_COEFFICIENTS = 5  # the compiled polynomials have so many


def polynomial(coefficients: Sequence[float], x: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """The sum of ``coefficients[i] * x**i`` in the type of `x`.

    Args:
        coefficients: The coefficients, the constant one first.
        x: Finite numbers, [any shape].
        out: Where the result goes, of the shape and type of `x`; None for a new array.
    """
    result = np.empty_like(x) if out is None else out
    compiled = compiled_formulas(x)
    if compiled is not None and len(coefficients) <= _MOST_COEFFICIENTS:
        compiled.polynomial(_padded(coefficients), x.reshape(-1), result.reshape(-1))
        return result
    *lower, highest = coefficients
    if not lower:
        result[...] = highest
        return result
    np.multiply(x, x.dtype.type(highest), out=result)
    for coefficient in reversed(lower[1:]):
        result += coefficient
        result *= x
    result += lower[0]
    return result


def fitted_polynomial(
    coefficients: Sequence[float], values: FloatArray, unit: float, factor: float, *, scratch: FloatArray
) -> FloatArray:
    """``factor * polynomial(values / unit)``; the result is a row of `scratch`, [2, values]."""
    parts: FloatArray
    out: FloatArray
    parts, out = scratch
    scaled = [coefficient * factor for coefficient in coefficients]
    compiled = compiled_formulas(values)
    if compiled is not None and len(coefficients) <= _MOST_COEFFICIENTS:
        compiled.fitted_polynomial(_padded(scaled), values, np.float32(unit), out)
        return out
    np.divide(values, values.dtype.type(unit), out=parts)
    return polynomial(scaled, parts, out)


def _padded(coefficients: Sequence[float]) -> NDArray[np.float32]:
    padded = np.zeros(_MOST_COEFFICIENTS, np.float32)
    padded[: len(coefficients)] = coefficients
    return padded


def _singles(numbers: Sequence[float]) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, numbers))


def logarithm_of_at_least(values: FloatArray, least: float, out: FloatArray) -> FloatArray:
    """``ln(max(values, least))``, written to `out`."""
    if (compiled := compiled_formulas(values)) is not None:
        compiled.at_least(values, np.float32(least), out)
    else:
        np.clip(values, least, math.inf, out=out)  # takes less time than the maximum
    return np.log(out, out=out)


def line_between(x: FloatArray, line: Line) -> FloatArray:
    """``min(max(slope * x + offset, low), high)``; the result overwrites `x`."""
    if (compiled := compiled_formulas(x)) is not None:
        compiled.line_between(x, _singles(line))
        return x
    return _line_between(x, line, x)


def lines_between(x: FloatArray, one: Line, other: Line, *, out: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`line_between` for two lines: the first result goes to `out`, the second overwrites `x`."""
    if (compiled := compiled_formulas(x)) is not None:
        compiled.lines_between(x, _singles(one), _singles(other), out)
        return out, x
    return _line_between(x, one, out), _line_between(x, other, x)


def _line_between(x: FloatArray, line: Line, out: FloatArray) -> FloatArray:
    slope, offset, low, high = line
    np.multiply(x, x.dtype.type(slope), out=out)
    out += offset
    return np.clip(out, low, high, out=out)


def add_errors(noise: FloatArray, sigma: FloatArray, scale: float, values: FloatArray) -> None:
    """``max(values + scale * sigma * noise, 0)``; the result overwrites `noise`."""
    if (compiled := compiled_formulas(noise)) is not None:
        compiled.add_errors(noise, sigma, np.float32(scale), values)
        return
    noise *= sigma
    if scale != 1:
        noise *= scale
    noise += values
    np.clip(noise, 0, math.inf, out=noise)


def drift_exponents(noise: FloatArray, mean: FloatArray, spread: FloatArray, factor: float) -> None:
    """``factor * |mean + spread * noise|``; the result overwrites `noise`."""
    if (compiled := compiled_formulas(noise)) is not None:
        compiled.drift_exponents(noise, mean, spread, np.float32(factor))
        return
    noise *= spread
    noise += mean
    np.abs(noise, out=noise)
    noise *= factor


def add_noise_of_reading(noise: FloatArray, share: FloatArray, scale: float, values: FloatArray) -> None:
    """``max(values + values * scale * share * noise, 0)``; the result overwrites `noise`."""
    if (compiled := compiled_formulas(noise)) is not None:
        compiled.add_noise_of_reading(noise, share, np.float32(scale), values)
        return
    noise *= share
    noise *= scale
    noise *= values
    noise += values
    np.clip(noise, 0, math.inf, out=noise)
