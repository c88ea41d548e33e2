"""Figures of how far measured conductances are from their targets, gathered tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ErrorHistogram", "ProgrammingErrors", "Tolerance", "WeightErrors"]

# On either side of 0. Figures of several tiles are joined without knowing their range before, so that widths are powers
# of two: two bins of one histogram are one bin of the next coarser one.
_BINS_PER_SIDE = 32
_FINEST_EXPONENT = -40


@dataclass(frozen=True)
class Tolerance:
    """How far from its target a device may be when programming ends: the larger of the two.

    Attributes:
        absolute_us: In µS; None for none.
        relative: As a part of the target; None for none.
    """

    absolute_us: float | None
    relative: float | None

    def allowed(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """The largest error of each device, in µS."""
        absolute = np.full(targets.shape, self.absolute_us or 0.0)
        allowed: NDArray[np.float64] = np.maximum(absolute, (self.relative or 0.0) * np.abs(targets))
        return allowed

    def __str__(self) -> str:
        absolute = [] if self.absolute_us is None else [f"{self.absolute_us:g} µS"]
        relative = [] if self.relative is None else [f"{self.relative * 100:g} % of the target"]
        return " or ".join((*absolute, *relative))


@dataclass(frozen=True, eq=False)
class ErrorHistogram:
    """How many errors fall into bins of one width, as many on either side of 0.

    Attributes:
        exponent: The width is two to the power of it, in µS.
        counts: From the lowest to the highest bin; a bin holds its lower end, the last one both.
    """

    exponent: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, errors: NDArray[np.float64]) -> ErrorHistogram:
        """The histogram of finite errors in µS, as fine as all of them fit."""
        largest = max(float(errors.max()), -float(errors.min())) if errors.size else 0.0
        # Without an error above 0 any bins do, so that the finest ones leave the width to the errors that are joined.
        exponent = max(math.frexp(largest / _BINS_PER_SIDE)[1], _FINEST_EXPONENT) if largest else _FINEST_EXPONENT
        # Powers of two divide without rounding, so that an error is counted in its bin and no neighbour of it.
        bins = np.floor(np.ldexp(errors, -exponent)).astype(np.int64) + _BINS_PER_SIDE
        bins = np.minimum(bins, 2 * _BINS_PER_SIDE - 1).reshape(-1)
        return cls(exponent, np.bincount(bins, minlength=2 * _BINS_PER_SIDE))

    @property
    def width_us(self) -> float:
        """The width of a bin, in µS."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges_us(self) -> NDArray[np.float64]:
        """The ends of all bins, in µS."""
        return np.ldexp(np.arange(-_BINS_PER_SIDE, _BINS_PER_SIDE + 1, dtype=np.float64), self.exponent)

    def __or__(self, other: ErrorHistogram) -> ErrorHistogram:
        """The histogram of all errors of both."""
        exponent = max(self.exponent, other.exponent)
        return ErrorHistogram(exponent, self._counts_at(exponent) + other._counts_at(exponent))

    def _counts_at(self, exponent: int) -> NDArray[np.int64]:
        """The counts in bins of a larger width."""
        joined = min(exponent - self.exponent, _BINS_PER_SIDE.bit_length())  # by then, one bin a side holds all
        counts = self.counts
        for _ in range(joined):
            pairs = counts.reshape(-1, 2).sum(axis=1)
            counts = np.zeros_like(self.counts)
            middle = _BINS_PER_SIDE // 2
            counts[middle : middle + pairs.size] = pairs
        return counts

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        edges = self.edges_us
        return {"lowest_us": float(edges[0]), "width_us": self.width_us, "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False)
class ProgrammingErrors:
    """What was measured of a number of cells, against their targets; joined with ``|``.

    Attributes:
        cells: How many there are, over all devices.
        measured: How many have a measurement that counts.
        failed: How many the chip's masks call failed.
        asked: How many belong to arrays of which anything was measured: what yield refers to.
        within: How many of the measured are within the tolerance; None without one.
        mean_us: Mean of measured minus target, in µS; 0 without measurements.
        squares: Sum of squared distances from the mean.
        largest_us: Largest |measured - target|, in µS.
        histogram: Of measured minus target.
    """

    cells: int
    measured: int
    failed: int
    asked: int
    within: int | None
    mean_us: float
    squares: float
    largest_us: float
    histogram: ErrorHistogram

    @classmethod
    def of(
        cls,
        targets: NDArray[Any],
        errors: NDArray[np.float64] | None,
        failed: int,
        tolerance: Tolerance | None,
    ) -> ProgrammingErrors:
        """The figures of one device of the cells of a tile.

        Args:
            targets: In µS, [inputs, outputs].
            errors: Measured minus target, in µS, of the same shape, NaN where nothing was measured; None if nothing was
                at all.
            failed: How many cells the mask calls failed.
            tolerance: How far a device may be from its target; None if that is not known.
        """
        within = None
        if tolerance is not None:
            is_within = () if errors is None else np.abs(errors) <= tolerance.allowed(targets)  # NaN is not
            within = int(np.count_nonzero(is_within))
        found = np.empty(0) if errors is None else errors.reshape(-1)
        if np.isnan(found.sum()):
            found = found[~np.isnan(found)]
        mean = float(found.mean()) if found.size else 0.0
        distances = found - mean
        return cls(
            cells=targets.size,
            measured=found.size,
            failed=failed,
            asked=0 if errors is None else targets.size,
            within=within,
            mean_us=mean,
            squares=float(np.einsum("i,i", distances, distances)),
            largest_us=max(float(found.max()), -float(found.min())) if found.size else 0.0,
            histogram=ErrorHistogram.of(found),
        )

    def __or__(self, other: ProgrammingErrors) -> ProgrammingErrors:
        """The figures of all cells of both, by the formula of Chan, Golub and LeVeque for means and squares."""
        measured = self.measured + other.measured
        distance = other.mean_us - self.mean_us
        share = other.measured / measured if measured else 0.0
        return ProgrammingErrors(
            cells=self.cells + other.cells,
            measured=measured,
            failed=self.failed + other.failed,
            asked=self.asked + other.asked,
            within=None if self.within is None or other.within is None else self.within + other.within,
            mean_us=self.mean_us + distance * share,
            squares=self.squares + other.squares + distance**2 * self.measured * share,
            largest_us=max(self.largest_us, other.largest_us),
            histogram=self.histogram | other.histogram,
        )

    @property
    def std_us(self) -> float | None:
        """Standard deviation of measured minus target, over all measured cells, in µS; None without any."""
        return math.sqrt(self.squares / self.measured) if self.measured else None

    @property
    def rms_us(self) -> float | None:
        """Root mean square of measured minus target, in µS; None without measurements."""
        return math.sqrt(self.squares / self.measured + self.mean_us**2) if self.measured else None

    @property
    def within_tolerance(self) -> float | None:
        """Share of the measured cells within the tolerance; None without a tolerance or measurements."""
        return None if self.within is None or not self.measured else self.within / self.measured

    @property
    def yielded(self) -> float | None:
        """Share of the cells that did not fail, in arrays of which anything was measured; None if there are none."""
        return (self.asked - self.failed) / self.asked if self.asked else None

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        has_any = self.measured > 0
        return {
            "cells": self.cells,
            "measured": self.measured,
            "failed": self.failed,
            "kept_targets": self.cells - self.measured,
            "yield": self.yielded,
            "mean_error_us": self.mean_us if has_any else None,
            "std_error_us": self.std_us,
            "rms_error_us": self.rms_us,
            "max_abs_error_us": self.largest_us if has_any else None,
            "within_tolerance": self.within_tolerance,
            "histogram": self.histogram.to_json() if has_any else None,
        }


@dataclass(frozen=True)
class WeightErrors:
    """How far weights are from what their targets give, in units of weight; joined with ``|``.

    Attributes:
        weights: How many there are.
        changed: How many of them are another number.
        largest: Largest |ΔW|.
        squares: Sum of ΔW².
    """

    weights: int
    changed: int
    largest: float
    squares: float

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> WeightErrors:
        """The figures of the weights of a tile."""
        flat = differences.reshape(-1)
        largest = max(float(flat.max()), -float(flat.min())) if flat.size else 0.0
        return cls(flat.size, int(np.count_nonzero(flat)), largest, float(np.einsum("i,i", flat, flat)))

    def __or__(self, other: WeightErrors) -> WeightErrors:
        return WeightErrors(
            self.weights + other.weights,
            self.changed + other.changed,
            max(self.largest, other.largest),
            self.squares + other.squares,
        )

    @property
    def rms(self) -> float:
        """Root mean square of ΔW."""
        return math.sqrt(self.squares / self.weights) if self.weights else 0.0

    def to_json(self, largest_weight: float) -> dict[str, Any]:
        """Everything, as JSON values; relative errors are parts of max|W|, and None if that is 0."""
        return {
            "changed": self.changed,
            "max_abs_error": self.largest,
            "rms_error": self.rms,
            "max_relative_error": self.largest / largest_weight if largest_weight else None,
            "rms_relative_error": self.rms / largest_weight if largest_weight else None,
        }
