"""The errors of a weight on a simulated chip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatOrArray
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.simulation.chips.chip_weight import SLICE, difference_us, slices

__all__ = ["WeightErrors", "weight_errors"]


@dataclass(frozen=True)
class WeightErrors:
    """The errors of a weight on a chip: the weight that the chip gives, less the weight that the targets give.

    Both are compared before weights are rounded to integer codes or cast to the type of the model.

    Attributes:
        max_abs: The largest absolute error, in units of weight.
        rms: The root mean square of the errors, in units of weight.
        sqnr_db: Ratio of the power of the weight to the power of the errors, in dB; None if either power is 0.
    """

    max_abs: float
    rms: float
    sqnr_db: float | None


def weight_errors(
    mapped: MappedWeight,
    pieces: Iterable[tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]],
    factor: FloatOrArray,
) -> WeightErrors:
    """The errors of a weight on a chip.

    Args:
        mapped: The weight, with the scale of its targets.
        pieces: The weight piece by piece: for the same elements the targets, and the conductances on the chip, both in
            µS with an array for each device of an element.
        factor: The factor that compensates drift, as `drift_factor` gives it.
    """
    grid = mapped.record.grid
    scales = np.asarray(mapped.decoding.scale, np.float64)
    sums = _ErrorSums(mapped.record, scales, np.asarray(factor, np.float64))
    for targets, found in pieces:
        sums.add(targets, found)
    largest, squared_errors, squared_weights = sums.largest, sums.squared_errors, sums.squared_weights
    if grid is None:  # with a single scale, figures are in µS up to here
        scale_of_all = float(scales.reshape(-1)[0])
        largest /= scale_of_all
        squared_errors /= scale_of_all**2
        squared_weights /= scale_of_all**2
    ratio = squared_weights / squared_errors if squared_errors else 0.0
    return WeightErrors(
        max_abs=largest,
        rms=math.sqrt(squared_errors / max(sums.elements, 1)),
        sqnr_db=10 * math.log10(ratio) if ratio > 0 else None,
    )


class _ErrorSums:
    """Sums over the elements of a weight, in units of weight; in µS if the weight has a single scale.

    Attributes:
        elements: Number of elements so far.
        largest: The largest absolute error.
        squared_errors: The sum of the squared errors.
        squared_weights: The sum of the squared weights.

    Args:
        record: The weight.
        scales: The scale, or one scale for each group of elements.
        factors: The factor that compensates drift, or one factor for each group.
    """

    def __init__(self, record: WeightRecord, scales: NDArray[np.float64], factors: NDArray[np.float64]) -> None:
        self.elements = 0
        self.largest = self.squared_errors = self.squared_weights = 0.0
        self._record = record
        self._grid = record.grid
        self._scales = scales
        self._factors = factors
        self._memory = np.empty((2, SLICE))
        is_pair = sorted(item.coefficient for item in record.conductances) == [-1, 1] and not record.offset_us
        self._is_plain = is_pair and self._grid is None and not factors.ndim and factors == 1

    def add(self, targets: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> None:
        """Add the next elements: targets and conductances on the chip in µS, an array for each device of an element."""
        first, stop = self.elements, self.elements + targets[0].size
        self.elements = stop
        if self._is_plain and all(each.dtype == np.float32 for each in (*targets, *found)):
            for part in slices(targets[0].size):
                self._sum(*self._of_plain_pair([each[part] for each in targets], [each[part] for each in found]))
            return
        scale = None if self._grid is None else self._grid.expanded(self._scales, first, stop)
        factors = self._factors
        by = factors if self._grid is None or not factors.ndim else self._grid.expanded(factors, first, stop)
        for part in slices(targets[0].size):
            weights = difference_us(self._record, [each[part] for each in targets], self._memory[0])
            errors = difference_us(self._record, [each[part] for each in found], self._memory[1])
            if by.ndim or by != 1:
                errors *= by[part] if by.ndim else by
            errors -= weights
            if scale is not None:
                weights /= scale[part]
                errors /= scale[part]
            self._sum(weights, errors)

    def _of_plain_pair(
        self, targets: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights, up to their sign, and errors of a pair in single precision, in µS.

        Each device is compared with its own target first, since the difference of close numbers is hardly rounded. So
        an error is right to 1e-7 of the errors of its devices, in less than half of the time of double precision.
        """
        memory = self._memory.view(np.float32)[:, : targets[0].size]
        errors, weights = memory
        np.subtract(found[0], targets[0], out=errors)
        np.subtract(found[1], targets[1], out=weights)
        errors -= weights
        return np.subtract(targets[0], targets[1], out=weights), errors

    def _sum(self, weights: NDArray[np.floating[Any]], errors: NDArray[np.floating[Any]]) -> None:
        self.largest = max(self.largest, float(errors.max(initial=0)), -float(errors.min(initial=0)))
        self.squared_errors += float(np.einsum("i,i->", errors, errors))
        self.squared_weights += float(np.einsum("i,i->", weights, weights))
