"""The unit of measured conductances: converts siemens, and says what to do if readings seem to be in another unit."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadingUnit", "in_microsiemens", "looks_like_siemens", "remedy_of_range", "remedy_of_small_readings"]

ReadingUnit: TypeAlias = Literal["uS", "S"]
"""The unit of measured arrays: µS, or siemens, which are converted. Tables are always in µS, as their column says."""

_US_PER_SIEMENS = 1e6

# Readings may be in siemens or millisiemens if the largest one is below this part of the largest target. In
# millisiemens, numbers are 1e-3 of those in µS, and the largest of many readings is above its target.
_LOOKS_LIKE_SIEMENS = 3e-3

# A later round may be of the few devices that cannot be programmed, and conduct next to nothing.
_LATER_LOOKS_LIKE_SIEMENS = 1e-4

_OPTION_US, _OPTION_S = "--unit uS (unit='uS')", "--unit S (unit='S')"


def in_microsiemens(values: NDArray[np.floating[Any]], unit: ReadingUnit | None) -> NDArray[np.floating[Any]]:
    """Values of a measured array in µS; siemens are converted to float64."""
    return values.astype(np.float64) * _US_PER_SIEMENS if unit == "S" else values


def looks_like_siemens(largest_reading_us: float, largest_target_us: float, *, is_later: bool = False) -> bool:
    """Whether the largest of several readings is so far below the largest target that it may be in siemens.

    Args:
        largest_reading_us: The largest reading, as it was taken, in µS.
        largest_target_us: The largest target of the cells with a reading, in µS.
        is_later: Whether the readings are those of a later round.
    """
    part = _LATER_LOOKS_LIKE_SIEMENS if is_later else _LOOKS_LIKE_SIEMENS
    return largest_reading_us < part * largest_target_us


def remedy_of_small_readings(unit: ReadingUnit | None, *, is_table: bool) -> str:
    """What to do about readings that are far below their targets, as readings in siemens are: a sentence.

    Args:
        unit: The unit that was given for arrays: ``S``, or None if none was.
        is_table: Whether these readings are in a table.
    """
    if is_table:
        return (
            f"If readings are in siemens or millisiemens, write µS into the table; if they are in µS, give {_OPTION_US}"
        )
    if unit == "S":
        return f"{_OPTION_S} has converted them from siemens; if the chip conducts so little, give µS and {_OPTION_US}"
    return (
        f"If readings are in siemens, give {_OPTION_S}; if they are in millisiemens, convert them; if they are in µS, "
        f"give {_OPTION_US}"
    )


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
