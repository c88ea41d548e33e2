"""The discrete conductance levels of a device, and their codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError

__all__ = ["MOST_LEVELS", "ConductanceLevels"]

_FloatArray: TypeAlias = NDArray[np.floating[Any]]
_Codes: TypeAlias = NDArray[np.unsignedinteger[Any]]

MOST_LEVELS = 1 << 16
"""The largest number of levels: their codes have at most 16 bits."""

_MOST_OF_A_BYTE = 1 << 8
_FEWEST = 2

# float32 ends at 3.4e38; sums of several levels must not exceed it.
_HIGHEST_US = 1e38

# Arrays are computed in blocks that stay in the cache of a core.
_BLOCK_ELEMENTS = 1 << 15


class ConductanceLevels:
    """Conductance levels in ascending order; the code of a level is its index, from 0 on.

    Make instances with `uniform` or `of_table`.

    Args:
        values: The levels in µS, ascending.
        is_uniform: Whether the levels are equally spaced.

    Raises:
        ConfigError: If float32 cannot tell two of them apart.
    """

    def __init__(self, values: Sequence[float] | NDArray[np.floating[Any]], *, is_uniform: bool) -> None:
        self._values = np.array(values, np.float64)
        self._values.setflags(write=False)
        self._is_uniform = is_uniform
        in_float32 = self.values(np.float32)
        if (same := np.flatnonzero(np.diff(in_float32) <= 0)).size:
            raise ConfigError(
                f"levels {same[0]} and {same[0] + 1} are both {in_float32[same[0]]} µS in float32; use fewer levels"
            )

    @classmethod
    def uniform(cls, count: int, g_min: float, g_max: float) -> ConductanceLevels:
        """Equally spaced levels from one end of the device's range to the other, both included.

        Args:
            count: How many levels, 2 to 65536.
            g_min: The lowest level, in µS.
            g_max: The highest level, in µS.

        Raises:
            ConfigError: If the number is too small or too large, or the range is negative, empty or not finite.
        """
        if isinstance(count, bool) or not _FEWEST <= count <= MOST_LEVELS or int(count) != count:
            raise ConfigError(f"the number of levels is an integer from {_FEWEST} to {MOST_LEVELS}, but it is {count}")
        if not (math.isfinite(g_min) and math.isfinite(g_max) and 0 <= g_min < g_max):
            raise ConfigError(f"levels rise from g_min >= 0 to a larger g_max, but these are {g_min} and {g_max} µS")
        _check_highest(g_max)
        steps = np.arange(int(count)) * ((g_max - g_min) / (int(count) - 1)) + g_min
        steps[-1] = g_max
        return cls(steps, is_uniform=True)

    @classmethod
    def of_table(cls, values: Sequence[float]) -> ConductanceLevels:
        """Levels from a table; its first and last entry are the ends of the device's range.

        Args:
            values: The levels in µS, in ascending order, 2 to 65536 of them.

        Raises:
            ConfigError: If there are too few or too many, or one is negative, not finite, or not above the one before.
        """
        table = np.asarray(values, np.float64)
        if table.ndim != 1 or not _FEWEST <= table.size <= MOST_LEVELS:
            raise ConfigError(f"a table has {_FEWEST} to {MOST_LEVELS} levels, but this one has {table.size}")
        wrong = np.flatnonzero(~(np.isfinite(table) & (table >= 0)))
        if wrong.size:
            raise ConfigError(f"level {wrong[0]} of the table is {table[wrong[0]]} µS, no conductance")
        wrong = np.flatnonzero(np.diff(table) <= 0)
        if wrong.size:
            low, high = table[wrong[0]], table[wrong[0] + 1]
            raise ConfigError(f"levels of a table ascend, but after {low:g} µS comes {high:g} µS")
        _check_highest(float(table[-1]))
        return cls(table, is_uniform=False)

    @property
    def count(self) -> int:
        """Number of levels."""
        return int(self._values.size)

    @property
    def is_uniform(self) -> bool:
        """Whether the levels are equally spaced."""
        return self._is_uniform

    @property
    def g_min(self) -> float:
        """The lowest level, in µS."""
        return float(self._values[0])

    @property
    def g_max(self) -> float:
        """The highest level, in µS."""
        return float(self._values[-1])

    @property
    def step_us(self) -> float | None:
        """The distance of equally spaced neighbouring levels, in µS; None for a table."""
        return (self.g_max - self.g_min) / (self.count - 1) if self._is_uniform else None

    @property
    def largest_gap_us(self) -> float:
        """The largest distance of neighbouring levels, in µS."""
        return float(np.diff(self._values).max())

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The type of codes: uint8 for up to 256 levels, else uint16."""
        return np.dtype(np.uint8 if self.count <= _MOST_OF_A_BYTE else np.uint16)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConductanceLevels):
            return NotImplemented
        return self._is_uniform == other._is_uniform and np.array_equal(self._values, other._values)

    def __hash__(self) -> int:
        return hash((self._is_uniform, self._values.tobytes()))

    def __repr__(self) -> str:
        if self._is_uniform:
            return f"ConductanceLevels.uniform({self.count}, {self.g_min!r}, {self.g_max!r})"
        return f"ConductanceLevels.of_table({self._values.tolist()!r})"

    def manifest(self) -> dict[str, Any]:
        """The levels as JSON values, conductances in µS; `values` is null for equally spaced levels."""
        return {
            "count": self.count,
            "uniform": self._is_uniform,
            "g_min": self.g_min,
            "g_max": self.g_max,
            "values": None if self._is_uniform else self._values.tolist(),
        }

    @classmethod
    def from_manifest(cls, document: Mapping[str, Any]) -> ConductanceLevels:
        """The levels that a result of `manifest` describes.

        Raises:
            ConfigError: If the document describes no valid levels.
        """
        if document["uniform"]:
            return cls.uniform(document["count"], document["g_min"], document["g_max"])
        return cls.of_table(document["values"] or ())

    # Conductances and codes

    def values(self, dtype: np.dtype[Any] | type) -> _FloatArray:
        """The conductance of each code in µS, [count], with the roundings of the nodes of a mapped model.

        Equally spaced levels are ``code * step + g_min``, with step and g_min rounded to `dtype`, and product and sum
        rounded too; there is no addition if g_min is 0. The levels of a table are rounded to `dtype`.

        Args:
            dtype: float32 or float64.
        """
        return self._values_of_type[np.dtype(dtype)]

    @cached_property
    def _values_of_type(self) -> dict[np.dtype[Any], _FloatArray]:
        return {dtype: self._computed_values(dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}

    def _computed_values(self, dtype: np.dtype[Any]) -> _FloatArray:
        if self.step_us is None:
            values = self._values.astype(dtype)
        else:
            values = np.arange(self.count).astype(dtype) * dtype.type(self.step_us)
            if self.g_min:
                values += dtype.type(self.g_min)
        values.setflags(write=False)
        return values

    def codes(self, conductances: _FloatArray, out: _Codes | None = None) -> _Codes:
        """The code of the level nearest to each conductance; conductances beyond the range get the code of its end.

        A conductance halfway between two equally spaced levels gets the even code: ``rint((G - g_min) / step)``, as in
        CrossSim. Halfway between two levels of a table, it gets the lower code.

        Args:
            conductances: Conductances in µS, float32 or float64, any shape.
            out: Where the codes go, of type `code_dtype` and the same shape; None for a new array.
        """
        if out is None:
            out = np.empty(conductances.shape, self.code_dtype)
        flat, flat_out = conductances.reshape(-1), out.reshape(-1)
        for start in range(0, flat.size, _BLOCK_ELEMENTS):
            block = slice(start, start + _BLOCK_ELEMENTS)
            flat_out[block] = self._indices(flat[block])
        return out

    def _indices(self, conductances: _FloatArray) -> NDArray[Any]:
        """The code of the level nearest to each conductance, as numbers of any type."""
        if self.step_us is None:
            return np.searchsorted(self._midpoints, conductances)
        number = conductances.dtype.type
        steps = conductances - number(self.g_min) if self.g_min else conductances.copy()
        steps /= number(self.step_us)
        np.rint(steps, out=steps)
        return np.clip(steps, 0, self.count - 1, out=steps)

    @cached_property
    def _midpoints(self) -> NDArray[np.float64]:
        return (self._values[1:] + self._values[:-1]) / 2

    def decode(self, codes: _Codes, dtype: np.dtype[Any]) -> _FloatArray:
        """The conductance of the level of each code in µS; NaN for a code without a level.

        Args:
            codes: Unsigned integers, any shape.
            dtype: Type of the conductances: float32 or float64.
        """
        values = self.values(dtype)
        if codes.dtype.kind != "u":  # uint4 of ml_dtypes, which NumPy does not count as unsigned integers
            codes = codes.astype(np.uint8)
        if values.size <= np.iinfo(codes.dtype).max:
            values = np.concatenate([values, np.full(1, np.nan, dtype)])
        return np.asarray(values[np.minimum(codes, self.count)] if values.size > self.count else values[codes])

    def round_chunk(self, conductances: _FloatArray, out: _FloatArray) -> None:
        """Write the nearest level of each conductance, in µS, to `out`, which may be the same array.

        Args:
            conductances: Conductances in µS, float32 or float64, one axis.
            out: An array of the same shape and type.
        """
        number = conductances.dtype.type
        values = self.values(conductances.dtype)
        for start in range(0, conductances.size, _BLOCK_ELEMENTS):
            block = slice(start, start + _BLOCK_ELEMENTS)
            indices = self._indices(conductances[block])
            if self.step_us is None:
                out[block] = values[indices]
                continue
            np.multiply(indices, number(self.step_us), out=out[block])
            if self.g_min:
                out[block] += number(self.g_min)

    def first_between(self, conductances: _FloatArray) -> int | None:
        """The flat index of the first conductance that equals none of `values`; None if all are levels."""
        flat = conductances.reshape(-1)
        for start in range(0, flat.size, _BLOCK_ELEMENTS):
            block = flat[start : start + _BLOCK_ELEMENTS]
            rounded = np.empty_like(block)
            self.round_chunk(block, rounded)
            wrong = np.flatnonzero(rounded != block)
            if wrong.size:
                return start + int(wrong[0])
        return None

    def error_bound_us(self, dtype: np.dtype[Any]) -> float:
        """Largest possible ``|rounded - G|`` for G from g_min to g_max, in µS.

        It is half of the largest gap, plus roundings. Let u be half an ulp of 1. The roundings of the difference from
        g_min and of the quotient move the place where the code changes by at most 3u of the range. The roundings of
        step, product, g_min and sum move a level by at most 5u g_max. The roundings of a table and of the conductances
        compared with it are within the same bound.
        """
        unit = float(np.finfo(dtype).eps) / 2
        return self.largest_gap_us / 2 + 8 * unit * self.g_max * (1 + 16 * unit)


def _check_highest(level: float) -> None:
    """Refuse levels that are too large for float32.

    Raises:
        ConfigError: If the highest level, in µS, is too large.
    """
    if level > _HIGHEST_US:
        raise ConfigError(f"levels are at most {_HIGHEST_US:g} µS, but the highest one is {level:g}")
