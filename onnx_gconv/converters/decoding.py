"""The formula that rebuilds weights from conductances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, operand

__all__ = ["Decoding"]


@dataclass(frozen=True)
class Decoding:
    """The formula that rebuilds weights: ``W = (sum_k c_k * G_k - b) / scale + w0``.

    Attributes:
        coefficients: c_k, one for each conductance of the weight, without unit.
        offset_us: b, in µS.
        scale: µS per unit of weight; positive and finite. A number, or an array that broadcasts to the conductances.
        zero: w0, in units of weight. A number, or an array that broadcasts to the conductances.
    """

    coefficients: tuple[float, ...]
    offset_us: float
    scale: FloatOrArray
    zero: FloatOrArray

    def decode(self, conductances: Iterable[FloatArray], dtype: np.dtype[Any]) -> FloatArray:
        """Rebuild weights by the same operations in the same order as the nodes of the graph.

        Args:
            conductances: Arrays in µS, all of one shape, one for each coefficient.
            dtype: The type in which the graph computes.

        Returns:
            Weights of that shape and type, bit-identical to what the emitted nodes compute.
        """
        total: FloatArray | None = None
        for coefficient, conductance in zip(self.coefficients, conductances, strict=True):
            if total is None:
                total = conductance if coefficient == 1.0 else conductance * dtype.type(coefficient)
            elif coefficient == -1.0:
                total = total - conductance
            elif coefficient == 1.0:
                total = total + conductance
            else:
                total = total + conductance * dtype.type(coefficient)
        assert total is not None  # noqa: S101 - every converter has at least one device
        if self.offset_us:
            total = total - dtype.type(self.offset_us)
        weights: FloatArray = total / operand(self.scale, dtype)
        if isinstance(self.zero, np.ndarray) or self.zero:
            weights = weights + operand(self.zero, dtype)
        return weights
