"""Numbers with a bound of how far float32 arithmetic may end from them: running error analysis.

A value is computed in float64. Beside it goes a bound of the distance of what a runtime gets that does the same sums in
float32, in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 3.3). So the tolerance of a
comparison follows from lengths, sizes and the unit roundoff.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

UNIT = 2.0**-24  # the unit roundoff of float32

# ONNX Runtime approximates exp, tanh and the logistic function by quotients of polynomials: about 20 operations, each
# with a unit roundoff. `test_simulated_tiles.py` checks that they stay below.
FUNCTION_ERROR = 20 * UNIT


def growth(operations: int) -> float:
    """The largest relative error of so many operations in a row."""
    return operations * UNIT / (1 - operations * UNIT)


@dataclass(frozen=True, eq=False)
class Rounded:
    """An array, and how far float32 arithmetic may be from it.

    Attributes:
        value: In float64.
        error: Of the same shape.
    """

    value: np.ndarray
    error: np.ndarray

    @classmethod
    def exact(cls, array) -> Rounded:
        """An array that a runtime has as it is."""
        value = np.asarray(array, np.float64)
        return cls(value, np.zeros(value.shape))

    @classmethod
    def stack(cls, parts: Sequence[Rounded], axis: int = 0) -> Rounded:
        """Arrays of one shape along a new axis."""
        return cls(np.stack([part.value for part in parts], axis), np.stack([part.error for part in parts], axis))

    @classmethod
    def concatenate(cls, parts: Sequence[Rounded], axis: int = 0) -> Rounded:
        """Arrays along an axis that they have."""
        return cls(
            np.concatenate([part.value for part in parts], axis), np.concatenate([part.error for part in parts], axis)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.value.shape

    @property
    def size(self) -> np.ndarray:
        """The largest magnitude that each element may have."""
        return np.abs(self.value) + self.error

    def rearranged(self, rearrange: Callable[[np.ndarray], np.ndarray]) -> Rounded:
        """What a function does that only moves or leaves out elements."""
        return Rounded(rearrange(self.value), rearrange(self.error))

    def reshape(self, *shape: int) -> Rounded:
        """The same elements in another shape."""
        return self.rearranged(lambda array: array.reshape(shape))

    def transpose(self, *axes: int) -> Rounded:
        """The same elements with axes in another order, the reverse one if none is given."""
        return self.rearranged(lambda array: array.transpose(axes or None))

    def __getitem__(self, index) -> Rounded:
        return Rounded(self.value[index], self.error[index])

    def __add__(self, other: Rounded) -> Rounded:
        value, error = self.value + other.value, self.error + other.error
        return Rounded(value, error + UNIT * (np.abs(value) + error))

    def __sub__(self, other: Rounded) -> Rounded:
        return self + Rounded(-other.value, other.error)

    def __mul__(self, other: Rounded) -> Rounded:
        value = self.value * other.value
        error = self.size * other.size - np.abs(value)
        return Rounded(value, error + UNIT * self.size * other.size)

    def __matmul__(self, other: Rounded) -> Rounded:
        value, size = self.value @ other.value, self.size @ other.size
        carried = size - np.abs(self.value) @ np.abs(other.value)
        return Rounded(value, np.maximum(carried, 0) + growth(self.shape[-1]) * size)

    def relu(self) -> Rounded:
        """The positive part."""
        return Rounded(np.maximum(self.value, 0), self.error)

    def tanh(self) -> Rounded:
        """The hyperbolic tangent, which rises by 1 at most."""
        return Rounded(np.tanh(self.value), self.error + FUNCTION_ERROR)

    def sigmoid(self) -> Rounded:
        """The logistic function, which rises by 1/4 at most."""
        return Rounded(1 / (1 + np.exp(-self.value)), self.error / 4 + FUNCTION_ERROR)

    def softmax(self) -> Rounded:
        """exp(x) / sum(exp(x)) over the last axis: an error d of each x is a factor of exp(2 d) at most."""
        shifted = self.value - self.value.max(-1, keepdims=True)
        powers = np.exp(shifted)
        value = powers / powers.sum(-1, keepdims=True)
        distance = self.error + UNIT * np.abs(shifted)
        factor = np.expm1(2 * distance.max(-1, keepdims=True)) + 2 * FUNCTION_ERROR + growth(self.shape[-1] + 1)
        return Rounded(value, value * factor)


def sum_at_places(parts: Sequence[tuple[tuple[slice | int, ...], Rounded]], shape: Sequence[int]) -> Rounded:
    """Arrays added at places of an array of zeros, which may overlap."""
    value, error, size = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for place, part in parts:
        value[place] += part.value
        error[place] += part.error
        size[place] += part.size
    return Rounded(value, error + growth(len(parts)) * size)
