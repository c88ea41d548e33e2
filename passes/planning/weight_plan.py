"""Chooses the scale, the levels and the type of the conductances of one weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnx_gconv.converters import (
    WeightStatistics,
    compute_dtype,
    is_half_precision,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.planning.candidate import Candidate
from onnx_gconv.passes.planning.half_precision import in_half_precision
from onnx_gconv.passes.planning.planned_weight import PlannedWeight
from onnx_gconv.schemes.clipping import abs_percentiles
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.scheme import LEVELS_OF_WEIGHT
from onnx_gconv.tensors.streamed import element_chunks
from onnx_gconv.weights.opsets import OLDEST_NARROW_CODES

__all__ = ["has_narrow_codes", "plan_half", "plan_weight"]

_MOST_OF_FOUR_BITS = 1 << 4

# Integers are rebuilt exactly if their error before rounding is less than this.
_ROUNDED_AWAY = 0.5


def plan_half(candidate: Candidate, statistics: WeightStatistics) -> PlannedWeight | None:
    """A plan for conductances of float16 or bfloat16, for a weight of that type.

    Returns:
        The plan. If conductances of that type cannot hold the weight, a plan in float32 with a note that says why. None
        for a weight of another type.
    """
    dtype = np.dtype(candidate.found.tensor.dtype.numpy())
    if not is_half_precision(dtype):
        return None
    wide = plan_weight(candidate, statistics)
    half = in_half_precision(candidate.found, wide.conversion, statistics)
    if isinstance(half, str):
        return replace(wide, notes=(*wide.notes, f"conductances are {wide.compute_dtype.name}: {half}"))
    return replace(wide, conversion=half, compute_dtype=dtype, notes=candidate.notes)


def plan_weight(candidate: Candidate, statistics: WeightStatistics) -> PlannedWeight:
    """Choose the scale and the type of the conductances.

    Raises:
        UnmappableWeightError: If the converter cannot hold the values.
    """
    planned = _plan_in_wide_type(_with_levels(candidate, statistics), statistics)
    if (overflow := _overflow_of_cast(planned, statistics)) is not None:
        raise UnmappableWeightError(overflow)
    return planned


def _plan_in_wide_type(candidate: Candidate, statistics: WeightStatistics) -> PlannedWeight:
    """A plan in float32, or in float64 where float32 has no room."""
    weight = candidate.found
    dtype = compute_dtype(weight.numbers.dtype.numpy())
    planned = _planned_as(candidate, statistics, dtype)
    if weight.is_integer and _obstacle(planned, statistics) is not None:
        own = _on_given_levels(candidate, statistics)
        planned = planned if own is None else _planned_as(own, statistics, dtype)
    if candidate.may_lose and _loses_by_levels(planned, statistics):
        return replace(planned, is_limited=True)
    if (reason := _obstacle(planned, statistics)) is None:
        return planned
    double = np.dtype(np.float64)
    if dtype == double:
        raise UnmappableWeightError(reason)
    wider = _planned_as(candidate, statistics, double)
    # float64 holds every float32 weight, subnormal ones too, with room for rounding; only integers need a second check.
    if weight.is_integer and (reason_again := _obstacle(wider, statistics)) is not None:
        raise UnmappableWeightError(reason_again)
    return replace(wider, notes=(*wider.notes, f"conductances are float64: it {reason}"))


def has_narrow_codes(weight: PlannedWeight, opset: int | None) -> bool:
    """Whether the level codes of a weight of integers are stored in four bits."""
    conversion = weight.conversion
    if not (weight.scheme.is_coded and conversion.has_integers_on_levels) or conversion.levels is None:
        return False
    return conversion.levels.count <= _MOST_OF_FOUR_BITS and opset is not None and opset >= OLDEST_NARROW_CODES


def _with_levels(candidate: Candidate, statistics: WeightStatistics) -> Candidate:
    """A weight with as many levels as its integers need, if `LEVELS_OF_WEIGHT` is asked for.

    Raises:
        UnmappableWeightError: If devices cannot have so many levels.
    """
    scheme = candidate.scheme
    if scheme.levels != LEVELS_OF_WEIGHT:
        return candidate
    if not candidate.found.has_integers:
        what = "zero points that are no integers" if candidate.found.is_integer else "no integers"
        note = f"it has {what}, but only integers have levels of their own: its conductances are not rounded"
        found = replace(candidate.found, notes=(*candidate.found.notes, note))
        return replace(candidate, found=found, scheme=scheme.without_levels())
    largest = int(np.max(statistics.max_abs))
    return replace(candidate, scheme=scheme.for_integers(largest), held_integer=largest)


def _on_given_levels(candidate: Candidate, statistics: WeightStatistics) -> Candidate | None:
    """A weight whose integers fall on the given levels; None if it has no integers or there are too few levels."""
    if not candidate.found.has_integers:
        return None
    held = candidate.scheme.integer_on_levels(int(np.max(statistics.max_abs)))
    return None if held is None else replace(candidate, held_integer=held)


def _planned_as(candidate: Candidate, statistics: WeightStatistics, dtype: np.dtype[Any]) -> PlannedWeight:
    scheme = candidate.scheme
    conversion = WeightConversion(
        converter=scheme.converter,
        scaling=scheme.converter.scaling(_held(candidate, statistics), dtype),
        grid=candidate.grid,
        is_clipped=not scheme.clipping.is_at_maximum,
        levels=scheme.levels if isinstance(scheme.levels, ConductanceLevels) else None,
        has_integers_on_levels=candidate.held_integer is not None,
    )
    whole = WeightStatistics(
        minimum=float(np.min(statistics.minimum)),
        maximum=float(np.max(statistics.maximum)),
        count=statistics.count,
    )
    return PlannedWeight(
        found=candidate.found,
        scheme=scheme,
        statistics=whole,
        conversion=conversion,
        compute_dtype=dtype,
        consumer=None if candidate.grid is None or candidate.weight_grid is None else candidate.weight_grid.consumer,
        parts=None if candidate.weight_grid is None else candidate.weight_grid.parts,
        notes=candidate.notes,
    )


def _held(candidate: Candidate, statistics: WeightStatistics) -> WeightStatistics:
    """The range of weights that is mapped to the whole range of conductances, for each group of elements.

    Raises:
        UnmappableWeightError: If the converter cannot hold integers of that size, or if clipping leaves nothing.
    """
    scheme, found = candidate.scheme, candidate.found
    largest = scheme.converter.largest_integer
    if found.is_integer and largest is not None:
        if not found.has_integers:
            raise UnmappableWeightError(
                f"has zero points that are no integers, but the bits of {scheme.converter} hold integers; map it with "
                "another converter"
            )
        held = float(np.max(statistics.max_abs))
        if held > largest:
            raise UnmappableWeightError(
                f"consists of integers up to {held:g}, but the bits of {scheme.converter} hold them up to {largest}; "
                "give it more bits"
            )
        end = np.full_like(statistics.minimum, largest)  # then neighbouring integers are one level apart
        low, high = (-end, end) if candidate.grid is not None else (-float(largest), float(largest))
        return WeightStatistics(minimum=low, maximum=high, count=statistics.count)
    if candidate.held_integer is not None:  # neighbouring integers are one level apart, in all groups
        held = float(candidate.held_integer)
        end = np.full_like(statistics.minimum, held)
        low, high = (-end, end) if candidate.grid is not None else (-held, held)
        return WeightStatistics(minimum=low, maximum=high, count=statistics.count)
    clipping = scheme.clipping
    if clipping.is_at_maximum:
        return statistics
    percentiles = None
    if clipping.percentile is not None:
        dtype = compute_dtype(found.numbers.dtype.numpy())
        groups = 1 if candidate.grid is None else candidate.grid.count
        size = found.tensor.size
        flat = abs_percentiles(lambda: candidate.chunks(0, size, dtype), size, groups, clipping.percentile, dtype)
        percentiles = float(flat[0]) if candidate.grid is None else flat.reshape(candidate.grid.shape)
    return clipping.clipped(statistics, percentiles)


def _loses_by_levels(weight: PlannedWeight, statistics: WeightStatistics) -> bool:
    """Whether integers are rebuilt as nearby ones, because there are too few levels to tell them apart."""
    conversion = weight.conversion
    if not weight.found.is_integer or conversion.levels is None or conversion.is_clipped:
        return False
    bound = float(np.max(conversion.error_bound(statistics, weight.compute_dtype)))
    without = replace(conversion, levels=None).error_bound(statistics, weight.compute_dtype)
    return bound >= _ROUNDED_AWAY > float(np.max(without)) and weight.conversion.converter.largest_integer is None


def _obstacle(weight: PlannedWeight, statistics: WeightStatistics) -> str | None:
    """Why conductances of the planned type cannot hold the weight; None if they can."""
    conversion, converter = weight.conversion, weight.conversion.converter
    if weight.found.is_integer:
        bound = float(np.max(conversion.error_bound(statistics, weight.compute_dtype)))
        if converter.largest_integer is not None:  # integers are on levels already, so rounding to levels costs nothing
            bound -= _ROUNDED_AWAY
        if bound >= _ROUNDED_AWAY or conversion.is_clipped:
            how, remedy = weight.compute_dtype.name, ""
            if conversion.is_clipped:
                how, remedy = "clipped", "; map it without clipping"
            elif conversion.levels is not None:
                how = f"{conversion.levels.count} levels of"
                lossy = "map with --allow-lossy-integers (allow_lossy_integers=True)"
                remedy = f"; {_more_levels(weight)}, or accept the loss: {lossy}"
            return (
                f"consists of integers up to {weight.statistics.max_abs:g}, which {how} "
                f"conductances of {converter.g_min:g} to {converter.g_max:g} µS cannot tell apart{remedy}"
            )
    if (overflow := conversion.overflow(statistics, weight.compute_dtype)) is not None:
        return overflow
    if not converter.needs_check(conversion.scaling):
        return None
    start = 0
    for chunk in element_chunks(weight.found.numbers, dtype=weight.compute_dtype):
        scaling = conversion.scaling_at(start, start + chunk.size, weight.compute_dtype)
        if (reason := converter.check_chunk(chunk, scaling)) is not None:
            return reason
        start += chunk.size
    return None


def _overflow_of_cast(weight: PlannedWeight, statistics: WeightStatistics) -> str | None:
    """Why the Cast of the rebuilt weight to its own type might give infinity; None if it does not.

    Roundings to levels, codes of bit slices and tables can do that, in spite of a wide type of the conductances. A Cast
    to float8 gives the largest number instead of infinity.
    """
    own = np.dtype(weight.found.tensor.dtype.numpy())
    if weight.found.is_integer or own == weight.compute_dtype or not (own == np.float32 or is_half_precision(own)):
        return None
    overflow = weight.conversion.overflow(statistics, weight.compute_dtype, own)
    if overflow is None or not weight.conversion.is_lossy:
        return overflow
    return f"{overflow}, because its conductances are rounded; scale it down, or map it with more levels or bits"


def _more_levels(weight: PlannedWeight) -> str:
    """The remedy for integers that too few levels cannot tell apart: how many levels the weight needs."""
    try:
        levels = (
            weight.scheme.for_integers(int(weight.statistics.max_abs)).levels if weight.found.has_integers else None
        )
    except UnmappableWeightError:
        levels = None
    if not isinstance(levels, ConductanceLevels):
        return "give it more levels"
    return f"give it {levels.count} levels or more (mapped with --levels weight, each weight has as many as it needs)"
