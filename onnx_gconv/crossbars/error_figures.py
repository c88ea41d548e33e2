"""Statistics of the errors of measured conductances and of the weights they give, gathered tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ErrorHistogram", "ProgrammingErrors", "Tolerance", "WeightErrors"]

# Bins on either side of 0. Histograms of tiles are joined before the range of all errors is known. So bin widths are
# powers of two: two bins of one histogram are exactly one bin of the next coarser one.
_BINS_PER_SIDE = 32
_FINEST_EXPONENT = -40


@dataclass(frozen=True)
class Tolerance:
    """How far from its target a device may be when programming ends; the larger of two limits holds.

    Attributes:
        absolute_us: The absolute limit in µS; None for none.
        relative: The limit as a fraction of the target; None for none.
    """

    absolute_us: float | None
    relative: float | None

    def allowed(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """The largest allowed error of each device in µS, of the shape of `targets` (in µS)."""
        absolute = np.full(targets.shape, self.absolute_us or 0.0)
        allowed: NDArray[np.float64] = np.maximum(absolute, (self.relative or 0.0) * np.abs(targets))
        return allowed

    def __str__(self) -> str:
        absolute = [] if self.absolute_us is None else [f"{self.absolute_us:g} µS"]
        relative = [] if self.relative is None else [f"{self.relative * 100:g} % of the target"]
        return " or ".join((*absolute, *relative))


@dataclass(frozen=True, eq=False)
class ErrorHistogram:
    """A histogram of errors in 64 bins of one width, 32 on either side of 0.

    Attributes:
        exponent: The width of a bin is ``2**exponent`` µS.
        counts: Errors in each bin, [64], from the lowest to the highest. A bin includes its lower end; the last one
            includes both ends.
    """

    exponent: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, errors: NDArray[np.float64]) -> ErrorHistogram:
        """The histogram of finite errors in µS, with the narrowest bins in which all of them fit."""
        largest = max(float(errors.max()), -float(errors.min())) if errors.size else 0.0
        # Without an error other than 0, the narrowest bins leave the choice of the width to histograms joined later.
        exponent = max(math.frexp(largest / _BINS_PER_SIDE)[1], _FINEST_EXPONENT) if largest else _FINEST_EXPONENT
        # Dividing by a power of two does not round, so an error never lands in a neighbouring bin.
        bins = np.floor(np.ldexp(errors, -exponent)).astype(np.int64) + _BINS_PER_SIDE
        bins = np.minimum(bins, 2 * _BINS_PER_SIDE - 1).reshape(-1)
        return cls(exponent, np.bincount(bins, minlength=2 * _BINS_PER_SIDE))

    @property
    def width_us(self) -> float:
        """The width of a bin, in µS."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges_us(self) -> NDArray[np.float64]:
        """The edges of the bins in µS, [bins + 1]."""
        return np.ldexp(np.arange(-_BINS_PER_SIDE, _BINS_PER_SIDE + 1, dtype=np.float64), self.exponent)

    def __or__(self, other: ErrorHistogram) -> ErrorHistogram:
        """The histogram of the errors of both histograms, with the wider bins of the two."""
        exponent = max(self.exponent, other.exponent)
        return ErrorHistogram(exponent, self._counts_at(exponent) + other._counts_at(exponent))

    def _counts_at(self, exponent: int) -> NDArray[np.int64]:
        """The counts in bins of a larger width."""
        # After this many doublings of the width, one bin on each side holds all errors.
        joined = min(exponent - self.exponent, _BINS_PER_SIDE.bit_length())
        counts = self.counts
        for _ in range(joined):
            pairs = counts.reshape(-1, 2).sum(axis=1)
            counts = np.zeros_like(self.counts)
            middle = _BINS_PER_SIDE // 2
            counts[middle : middle + pairs.size] = pairs
        return counts

    def to_json(self) -> dict[str, Any]:
        """The histogram as JSON values."""
        edges = self.edges_us
        return {"lowest_us": float(edges[0]), "width_us": self.width_us, "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False)
class ProgrammingErrors:
    """Statistics of measured conductances against their targets; ``a | b`` joins those of two sets of cells.

    Attributes:
        cells: How many cells there are, over all devices.
        measured: How many cells have a valid measurement.
        failed: How many cells the chip's masks mark as failed.
        asked: How many cells belong to arrays with any measurement; `yielded` is a share of these.
        within: How many measured cells are within the tolerance; None without a tolerance.
        mean_us: Mean of measured minus target, in µS; 0 without measurements.
        squares: Sum of the squared distances of measured minus target from `mean_us`, in µS².
        largest_us: Largest |measured - target|, in µS.
        histogram: Histogram of measured minus target.
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
        """The statistics of one device over the cells of a tile.

        Args:
            targets: Targets in µS, [inputs, outputs].
            errors: Measured minus target, in µS, of the same shape, NaN where nothing was measured; None if the whole
                tile was not measured.
            failed: How many cells the mask marks as failed.
            tolerance: How far a device may be from its target; None if that is not known.
        """
        within = None
        if tolerance is not None:
            # NaN is never within.
            is_within = () if errors is None else np.abs(errors) <= tolerance.allowed(targets)
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
        """The statistics of the cells of both; means and squares by the formula of Chan, Golub and LeVeque (1979)."""
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
        """Standard deviation of measured minus target, in µS; None without measurements."""
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
        """Share of cells that did not fail, of the cells in arrays with any measurement; None if there are none."""
        return (self.asked - self.failed) / self.asked if self.asked else None

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON values."""
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
    """Statistics of ΔW, the weight that a chip holds minus the weight that its targets give; ``a | b`` joins two.

    Attributes:
        weights: How many weights there are.
        changed: How many of them have ΔW other than 0.
        largest: Largest |ΔW|, in units of weight.
        squares: Sum of ΔW².
    """

    weights: int
    changed: int
    largest: float
    squares: float

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> WeightErrors:
        """The statistics of differences ΔW, an array of any shape."""
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
        """Root mean square of ΔW, in units of weight."""
        return math.sqrt(self.squares / self.weights) if self.weights else 0.0

    def to_json(self, largest_weight: float) -> dict[str, Any]:
        """The statistics as JSON values.

        Args:
            largest_weight: max|W|; relative errors are fractions of it, and None if it is 0.
        """
        return {
            "changed": self.changed,
            "max_abs_error": self.largest,
            "rms_error": self.rms,
            "max_relative_error": self.largest / largest_weight if largest_weight else None,
            "rms_relative_error": self.rms / largest_weight if largest_weight else None,
        }
