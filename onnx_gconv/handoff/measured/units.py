"""The unit of measured conductances: converts siemens, and says what to do if readings seem to be in another unit."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadingUnit", "in_microsiemens", "looks_like_siemens", "remedy_of_range", "remedy_of_small_readings"]

ReadingUnit: TypeAlias = Literal["uS", "S"]
"""The unit of measured arrays: µS, or siemens, which are converted. Tables are always in µS, as their column says."""

_US_PER_SIEMENS = 1e6

# Readings may be in siemens if the largest one is below this part of the largest target. In siemens, numbers are 1e-6
# of those in µS; 1e-3 leaves room for a device that conducts far less than its target.
_LOOKS_LIKE_SIEMENS = 1e-3

_OPTION_US, _OPTION_S = "--unit uS (unit='uS')", "--unit S (unit='S')"


def in_microsiemens(values: NDArray[np.floating[Any]], unit: ReadingUnit | None) -> NDArray[np.floating[Any]]:
    """Values of a measured array in µS; siemens are converted to float64."""
    return values.astype(np.float64) * _US_PER_SIEMENS if unit == "S" else values


def looks_like_siemens(largest_reading_us: float, largest_target_us: float) -> bool:
    """Whether the largest of several readings is so far below the largest target that it may be in siemens."""
    return largest_reading_us < _LOOKS_LIKE_SIEMENS * largest_target_us


def remedy_of_small_readings(unit: ReadingUnit | None, *, has_arrays: bool, has_tables: bool) -> str:
    """What to do about readings that are far below their targets, as readings in siemens are: a sentence.

    Args:
        unit: The unit that was given for arrays: ``S``, or None if none was.
        has_arrays: Whether some of these readings are in arrays.
        has_tables: Whether some of them are in tables.
    """
    if unit == "S":
        converted = [f"{_OPTION_S} has converted arrays from siemens already"] if has_arrays else []
        tables = ["tables are not converted: write µS into them"] if has_tables else []
        what = "; ".join([*converted, *tables])
        return f"{what[0].upper()}{what[1:]}. If the chip conducts so little, give readings in µS, and {_OPTION_US}"
    remedies = [f"give {_OPTION_S}"] if has_arrays else []
    remedies += ["write µS into tables"] if has_tables else []
    return f"If readings are in siemens, {' and '.join(remedies)}; if they are in µS, give {_OPTION_US}"


def remedy_of_range(largest_us: float, limits: tuple[float, float], unit: ReadingUnit | None, *, is_table: bool) -> str:
    """What to do about readings out of range.

    Args:
        largest_us: The largest reading out of range, as it was taken, in µS.
        limits: The lowest and the highest conductance that is accepted, in µS.
        unit: The unit that was given.
        is_table: Whether the reading is in a table.
    """
    wider = "a wider range with --limits LOW..HIGH (limits=(low, high))"
    if unit == "S" and not is_table:
        if _is_plausible(largest_us / _US_PER_SIEMENS, limits):
            return f"{_OPTION_S} has converted it from siemens; if the file is in µS, give {_OPTION_US}"
        return f"{_OPTION_S} has converted it from siemens; give conductances in siemens, or {wider}"
    if unit is None and _is_plausible(largest_us * _US_PER_SIEMENS, limits):
        siemens = "write µS into the table" if is_table else f"give {_OPTION_S}"
        return f"if readings are in siemens, {siemens}; else give {wider}"
    return f"give conductances in µS, or {wider}"


def _is_plausible(largest_us: float, limits: tuple[float, float]) -> bool:
    """Whether the largest of several readings is in range, and not far smaller than the range."""
    low, high = limits
    return low <= largest_us <= high and not looks_like_siemens(largest_us, high)
