"""Elementwise building blocks of device formulas, computed by NumPy or, for large float32 arrays, by Numba.

Both give the same bits, see `compilation`. Where possible, results overwrite an argument or go to `scratch` or `out`:
the first write to new memory takes longer than the formula.
"""

from __future__ import annotations

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
    "polynomial",
    "unit_parts",
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
    result[...] = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result *= x
        result += coefficient
    return result


def fitted_polynomial(
    coefficients: Sequence[float], values: FloatArray, unit: float, factor: float, *, scratch: FloatArray
) -> FloatArray:
    """``factor * polynomial(max(values / unit, 0))``; the result is a row of `scratch`, [2, values]."""
    parts: FloatArray
    out: FloatArray
    parts, out = scratch
    compiled = compiled_formulas(values)
    if compiled is not None and len(coefficients) <= _MOST_COEFFICIENTS:
        compiled.fitted_polynomial(_padded(coefficients), values, np.float32(unit), np.float32(factor), out)
        return out
    polynomial(coefficients, unit_parts(values, unit, 0.0, parts), out)
    out *= out.dtype.type(factor)
    return out


def _padded(coefficients: Sequence[float]) -> NDArray[np.float32]:
    padded = np.zeros(_MOST_COEFFICIENTS, np.float32)
    padded[: len(coefficients)] = coefficients
    return padded


def _singles(numbers: Sequence[float]) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, numbers))


def unit_parts(values: FloatArray, unit: float, least: float, out: FloatArray) -> FloatArray:
    """``max(values / unit, least)``, written to `out`."""
    if (compiled := compiled_formulas(values)) is not None:
        compiled.unit_parts(values, np.float32(unit), np.float32(least), out)
        return out
    np.divide(values, values.dtype.type(unit), out=out)
    return np.maximum(out, least, out=out)


def line_between(x: FloatArray, line: Line) -> FloatArray:
    """``min(max(slope * x + offset, low), high)``; the result overwrites `x`."""
    if (compiled := compiled_formulas(x)) is not None:
        compiled.line_between(x, _singles(line))
        return x
    slope, offset, low, high = line
    x *= x.dtype.type(slope)
    x += offset
    return np.clip(x, low, high, out=x)


def lines_between(x: FloatArray, one: Line, other: Line, *, out: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`line_between` for two lines: the first result goes to `out`, the second overwrites `x`."""
    if (compiled := compiled_formulas(x)) is not None:
        compiled.lines_between(x, _singles(one), _singles(other), out)
        return out, x
    np.copyto(out, x)
    return line_between(out, one), line_between(x, other)


def add_errors(noise: FloatArray, sigma: FloatArray, scale: float, values: FloatArray) -> None:
    """``max(values + scale * sigma * noise, 0)``; the result overwrites `noise`."""
    if (compiled := compiled_formulas(noise)) is not None:
        compiled.add_errors(noise, sigma, np.float32(scale), values)
        return
    noise *= sigma
    noise *= scale
    noise += values
    np.maximum(noise, 0, out=noise)


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
    np.maximum(noise, 0, out=noise)
