"""Linear interpolation of several tables at once, between equally spaced points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand
from onnx_gconv.converters.scaling import Scaling, pieces

__all__ = ["EvenInterpolation"]


class EvenInterpolation:
    """Interpolates tables with the same bits as `numpy.interp`, but faster: one search of intervals for all tables.

    If rounding moves a result out of the range of its table, it is clipped to that range.

    The points are `grid` divided by a scale, which may differ between elements. Apart from roundings, the points are
    equally spaced. So the interval of an element x follows from x * scale; only elements very near to a point need a
    closer look. Elements beyond the points get the values of the ends.

    Args:
        grid: P points from -U to U, equally spaced apart from roundings, float32 or float64.
        tables: One row of P values for each table, [tables, P].
    """

    def __init__(self, grid: FloatArray, tables: NDArray[np.float64]) -> None:
        self.grid = grid
        self._tables = tables
        # From the last point on, all tables are constant: a last interval that ends at infinity.
        self._next = np.append(grid[1:], grid.dtype.type(np.inf))
        self._ends = [(grid.dtype.type(table.min()), grid.dtype.type(table.max())) for table in tables]
        self._rises = np.append(np.diff(tables, axis=1), np.zeros((len(tables), 1)), axis=1)

    def __call__(self, elements: FloatArray, scale: FloatOrArray, out: Sequence[FloatArray]) -> None:
        """Write the values of all tables at `elements` to `out`.

        Args:
            elements: Numbers of the type of the grid, any shape.
            scale: The divisor of the grid; a number or an array of the shape of `elements`.
            out: For each table an array of that shape and type.
        """
        interpolate, memory = None, None
        for part, scaling, arrays in pieces(elements, Scaling(scale), out):
            if isinstance(scaling.scale, np.ndarray):
                self._interpolate_groups(part, scaling.scale, arrays)
                continue
            if interpolate is None or memory is None:
                interpolate, memory = self._at_scale(scaling.scale), _Memory.of(part)
            interpolate(part, memory.for_part(part), arrays)

    def _at_scale(self, scale: float) -> Callable[[FloatArray, _Memory, Sequence[FloatArray]], None]:
        """A function that interpolates with the same points for all elements."""
        points = self._points(self.grid, self.grid.dtype.type(scale))
        wide = points.astype(np.float64)
        lengths = _lengths(wide, np.append(wide[1:], wide[-1]))
        slopes, shortest = self._rises / lengths, lengths[:-1].min()

        def interpolate(elements: FloatArray, memory: _Memory, out: Sequence[FloatArray]) -> None:
            interval = self._guess(elements, scale, memory)
            distance, product, value = memory.distance, memory.product, memory.value
            np.copyto(distance, elements)
            np.subtract(distance, np.take(wide, interval, out=value, mode="clip"), out=distance)
            # Guesses are rarely wrong, so checking the extremes first is cheaper than comparing each element.
            if distance.size and (distance.min() < 0 or distance.max() >= shortest):
                wrong = (distance < 0) | (distance >= shortest)
                inside = np.clip(elements[wrong], points[0], points[-1])
                interval[wrong] = found = np.searchsorted(points, inside, side="right") - 1
                distance[wrong] = inside.astype(np.float64) - wide[found]
            for slope, table, ends, array in zip(slopes, self._tables, self._ends, out, strict=True):
                np.multiply(np.take(slope, interval, out=product, mode="clip"), distance, out=product)
                np.add(product, np.take(table, interval, out=value, mode="clip"), out=product)
                np.copyto(array, product, casting="same_kind")
                _clip_if_needed(array, *ends)

        return interpolate

    def _interpolate_groups(self, elements: FloatArray, scale: FloatArray, out: Sequence[FloatArray]) -> None:
        """Interpolate with a different scale, and so different points, for each element."""
        inside = np.clip(elements, self._points(self.grid[0], scale), self._points(self.grid[-1], scale))
        interval = np.clip(self._guess(inside, scale, _Memory.of(elements)), 0, self.grid.size - 1)
        interval -= inside < self._points(self.grid[interval], scale)
        interval += inside >= self._points(self._next[interval], scale)
        lower = self._points(_take(self.grid, interval), scale).astype(np.float64)
        lengths = _lengths(lower, self._points(_take(self._next, interval), scale).astype(np.float64))
        distance = inside.astype(np.float64) - lower
        for rise, table, ends, array in zip(self._rises, self._tables, self._ends, out, strict=True):
            array[...] = _take(rise, interval) / lengths * distance + _take(table, interval)
            _clip_if_needed(array, *ends)

    def _points(self, grid: Any, scale: Any) -> Any:  # noqa: ANN401 - scalars or arrays
        """Points of the grid in units of the elements."""
        with np.errstate(over="ignore"):
            points = grid / scale
        # Infinite points would make differences NaN. No element is beyond the largest number of the type.
        largest = np.finfo(self.grid.dtype).max
        return np.clip(points, -largest, largest)

    def _guess(self, elements: FloatArray, scale: FloatOrArray, memory: _Memory) -> NDArray[np.intp]:
        """The interval of each element, or the neighbouring one if the element is within rounding of a point."""
        dtype, last = self.grid.dtype, self.grid.size - 1
        intervals_per_us = last / (2 * float(self.grid[-1]))
        # Elements far beyond the points may overflow and get a wrong interval, which the caller corrects.
        with np.errstate(under="ignore", over="ignore", invalid="ignore"):
            place = np.multiply(elements, operand(scale * intervals_per_us, dtype), out=memory.place)
            np.add(place, dtype.type(last / 2), out=place)
            np.copyto(memory.interval, place, casting="unsafe")
        return memory.interval


@dataclass(frozen=True, eq=False)
class _Memory:
    """Arrays for intermediate results, reused for each piece because allocating new memory takes time."""

    place: FloatArray
    interval: NDArray[np.intp]
    distance: NDArray[np.float64]
    product: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, elements: FloatArray) -> _Memory:
        """Arrays for elements of this shape and type."""
        wide = (np.empty(elements.shape) for _ in range(3))
        return cls(np.empty(elements.shape, elements.dtype), np.empty(elements.shape, np.intp), *wide)

    def for_part(self, elements: FloatArray) -> _Memory:
        """The arrays, cut to the number of elements of a shorter piece."""
        if elements.shape == self.place.shape:
            return self
        return _Memory(*(array[: elements.size] for array in vars(self).values()))


def _clip_if_needed(array: FloatArray, lowest: Any, highest: Any) -> None:  # noqa: ANN401 - scalars of its type
    """Clip an array; first check whether it is needed at all, which is rare and cheaper to find out."""
    if array.size and (array.min() < lowest or array.max() > highest):
        np.clip(array, lowest, highest, out=array)


def _lengths(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lengths of intervals; 1 for empty intervals, which occur at the last point and at the largest number."""
    lengths = upper - lower
    lengths[lengths <= 0] = 1.0
    return lengths


def _take(table: NDArray[Any], indices: NDArray[np.intp]) -> Any:  # noqa: ANN401 - an array of the type of `table`
    """The entries of a table at valid indices; mode "clip" saves the check of each index."""
    return np.take(table, indices, mode="clip")
