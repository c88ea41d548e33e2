"""What a mapping is going to do: every decision and every check, made before the model is touched."""

from __future__ import annotations

import concurrent.futures
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.configuration.settings import ConductanceDtype, SharedPolicy
from onnx_gconv.converters import (
    WeightStatistics,
    compute_dtype,
    is_half_precision,
    weight_statistics,
)
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.half_precision import in_half_precision
from onnx_gconv.schemes.clipping import abs_percentiles
from onnx_gconv.schemes.conversion import ConversionLoss, WeightConversion
from onnx_gconv.schemes.group_extremes import GroupExtremes
from onnx_gconv.schemes.parts import ColumnParts
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.schemes.scheme import LEVELS_OF_WEIGHT, MappingScheme
from onnx_gconv.tensors.external import is_absent
from onnx_gconv.tensors.streamed import element_chunks, worker_count
from onnx_gconv.weights import FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.opsets import OLDEST_NARROW_CODES
from onnx_gconv.weights.same_source import SameSource, SourceCandidate, same_sources
from onnx_gconv.weights.weight_grid import WeightGrid, weight_grid

__all__ = ["MappingPlan", "PlannedWeight", "make_plan"]

# A weight is scanned in parts of this many elements, so that one large weight keeps all workers busy.
_PART_ELEMENTS = 1 << 24

# What a weight loses is computed in ten arrays of so many elements, which then stay in the cache of the processor.
_LOSS_ELEMENTS = 1 << 15

_MOST_OF_FOUR_BITS = 1 << 4

# Integers come back exactly if they are off by less than this before they are rounded.
_ROUNDED_AWAY = 0.5


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight that is going to be mapped.

    Attributes:
        found: The weight and where it stands.
        scheme: How it is mapped.
        statistics: What the scan over its values gave.
        conversion: How its elements become conductances.
        compute_dtype: The type of the conductances, or of what their codes are decoded to.
        consumer: Index of the consumer whose matrix view its scales follow; None if all elements share one.
        parts: The parts of each matrix of that view, which share no scale; None for one.
        loss: What it loses by clipping and by rounding to levels; None if it is mapped without.
        notes: What a user should know of how it is mapped, one line each.
        same_source_as: The constants with the same values, of the same parameter or not.
        has_narrow_codes: Whether codes of levels are stored in four bits.
        is_limited: Whether it consists of integers that may come back as others, which are kept within their range.
    """

    found: FoundWeight
    scheme: MappingScheme
    statistics: WeightStatistics
    conversion: WeightConversion
    compute_dtype: np.dtype[Any]
    consumer: int | None = None
    parts: ColumnParts | None = None
    loss: ConversionLoss | None = None
    notes: tuple[str, ...] = ()
    same_source_as: tuple[SameSource, ...] = ()
    has_narrow_codes: bool = False
    is_limited: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the weight."""
        return np.dtype(self.found.tensor.dtype.numpy())


@dataclass(frozen=True)
class MappingPlan:
    """What `MapConductances` does with a model.

    Attributes:
        weights: The weights it maps.
        skipped: The weights it leaves as they are.
        refused: The weights whose values no conductance can hold, with the reason; one is enough to refuse the model.
        notes: What else changes in the model, one line each.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.
    """

    weights: tuple[PlannedWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    refused: tuple[tuple[FoundWeight, str], ...]
    notes: tuple[str, ...] = ()
    shared: SharedPolicy = "rebuild"

    def raise_if_refused(self) -> None:
        """Raise for the first refused weight.

        Raises:
            UnmappableWeightError: It names the weight, the value and the remedy.
        """
        if not self.refused:
            return
        weight, reason = self.refused[0]
        others = len(self.refused) - 1
        more = f" ({others} more weight{'s' if others > 1 else ''} cannot be mapped)" if others else ""
        raise UnmappableWeightError(
            f"the weight {weight.quoted} {reason}; correct it, or leave it out with exclude '{weight.name}'{more}"
        )

    def refused_as_skipped(self) -> MappingPlan:
        """The plan with refused weights among the skipped ones, for looking at it."""
        extra = (SkippedWeight.of(weight, SkipReason.REFUSED_VALUES, reason) for weight, reason in self.refused)
        return replace(self, skipped=(*self.skipped, *extra), refused=())


def make_plan(
    survey: WeightSurvey,
    schemes: Sequence[MappingScheme],
    progress: Callable[[int, int], None] | None = None,
    *,
    conductance_dtype: ConductanceDtype = "float32",
    shared: SharedPolicy = "rebuild",
    opset: int | None = None,
    allows_lossy_integers: bool = False,
) -> MappingPlan:
    """Scan the values of all found weights and give each its scale.

    Args:
        survey: The weights of a model.
        schemes: How each of them is mapped, in their order.
        progress: Called with the bytes scanned so far and in all.
        conductance_dtype: The type of the conductances of float16 and bfloat16 weights: float32, or that of the weight.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.
        opset: The version of the default domain, which says whether codes may have four bits; None if that is open.

        allows_lossy_integers: Whether integers may come back as near ones, where levels do not tell them apart.

    Raises:
        ModelError: If external data cannot be read.
    """
    candidates = [
        _candidate(weight, scheme, allows_lossy_integers)
        for weight, scheme in zip(survey.weights, schemes, strict=True)
    ]
    planned, refused = [], []
    for candidate, outcome in zip(candidates, _scan_all(candidates, progress), strict=True):
        weight = candidate.found
        try:
            if candidate.problem is not None:
                raise candidate.problem
            if isinstance(outcome, UnmappableWeightError):
                raise outcome
            half = _plan_half(candidate, outcome) if conductance_dtype == "weight" else None
            plan = _with_loss(_plan_weight(candidate, outcome) if half is None else half)
            planned.append(replace(plan, has_narrow_codes=_has_narrow_codes(plan, opset)))
        except UnmappableWeightError as error:
            refused.append((weight, str(error)))
    return _with_same_sources(MappingPlan(tuple(planned), survey.skipped, tuple(refused), shared=shared))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A weight, how it is to be mapped, and which of its elements are to share a scale; or why that cannot be.

    If the conductances of its integers are levels, the held integer is the one that the largest conductance stands for.
    It may lose if its integers may come back as near ones, where levels do not tell them apart.
    """

    found: FoundWeight
    scheme: MappingScheme
    weight_grid: WeightGrid | None
    problem: UnmappableWeightError | None = None
    held_integer: int | None = None
    may_lose: bool = False

    @property
    def grid(self) -> ScaleGrid | None:
        """The groups of elements that share a scale; None if all do."""
        grid = None if self.weight_grid is None else self.weight_grid.grid
        return None if grid is None or grid.form == "number" else grid

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.found.notes, *(() if self.weight_grid is None else self.weight_grid.notes))

    def chunks(
        self, start: int, stop: int, dtype: np.dtype[Any]
    ) -> Iterator[tuple[FloatArray, NDArray[np.intp] | None]]:
        """Elements and the numbers of their groups; None if all share a scale."""
        for elements in element_chunks(self.found.numbers, start, stop, dtype=dtype):
            yield elements, None if self.grid is None else self.grid.groups(start, start + elements.size)
            start += elements.size


def _candidate(weight: FoundWeight, scheme: MappingScheme, may_lose: bool) -> _Candidate:  # noqa: FBT001 - as asked for
    try:
        return _Candidate(weight, scheme, weight_grid(weight, scheme.granularity, scheme.parts), may_lose=may_lose)
    except UnmappableWeightError as problem:
        return _Candidate(weight, scheme, None, problem)


def _with_same_sources(plan: MappingPlan) -> MappingPlan:
    """Note at each weight which others have the same values, mapped or not."""
    weights = [
        SourceCandidate(
            name=item.found.name,
            graph_path=item.found.scope.path,
            tensor=item.found.stored,
            parameters=item.found.parameters or (item.found.name,),
            statistics=item.statistics,
        )
        for item in plan.weights
    ]
    constant = (None if item.value is None else constant_tensor(item.value) for item in plan.skipped)
    tensors = [None if tensor is None or is_absent(tensor) else tensor for tensor in constant]
    with_data = [number for number, tensor in enumerate(tensors) if tensor is not None]
    constants = [
        SourceCandidate(
            name=item.name,
            graph_path=item.graph_path,
            tensor=tensor,
            parameters=item.parameters or (item.name,),
            statistics=None,
        )
        for item, tensor in zip(plan.skipped, tensors, strict=True)
        if tensor is not None
    ]
    found = same_sources([*weights, *constants])
    skipped = list(plan.skipped)
    for number, others in zip(with_data, found[len(weights) :], strict=True):
        skipped[number] = replace(skipped[number], same_source_as=others)
    return replace(
        plan,
        weights=tuple(replace(item, same_source_as=others) for item, others in zip(plan.weights, found, strict=False)),
        skipped=tuple(skipped),
    )


def _plan_half(candidate: _Candidate, statistics: WeightStatistics) -> PlannedWeight | None:
    """A plan for conductances of half precision, for a weight of half precision.

    Returns:
        The plan; for a weight whose range does not fit, one in float32 with a note that says so; None for a weight of
        another type.
    """
    dtype = np.dtype(candidate.found.tensor.dtype.numpy())
    if not is_half_precision(dtype):
        return None
    wide = _plan_weight(candidate, statistics)
    half = in_half_precision(candidate.found, wide.conversion, statistics)
    if isinstance(half, str):
        return replace(wide, notes=(*wide.notes, f"conductances are {wide.compute_dtype.name}: {half}"))
    return replace(wide, conversion=half, compute_dtype=dtype, notes=candidate.notes)


def _plan_weight(candidate: _Candidate, statistics: WeightStatistics) -> PlannedWeight:
    """Choose the scale and the type of the conductances.

    Raises:
        UnmappableWeightError: If the converter cannot hold the values.
    """
    candidate = _with_levels(candidate, statistics)
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
    # Every float32 value, subnormal ones too, has room around it in float64; integers are looked at again.
    if weight.is_integer and (reason_again := _obstacle(wider, statistics)) is not None:
        raise UnmappableWeightError(reason_again)
    return replace(wider, notes=(*wider.notes, f"conductances are float64: it {reason}"))


def _has_narrow_codes(weight: PlannedWeight, opset: int | None) -> bool:
    """Whether codes of the levels that integers need are stored in four bits."""
    conversion = weight.conversion
    if not (weight.scheme.is_coded and conversion.has_integers_on_levels) or conversion.levels is None:
        return False
    return conversion.levels.count <= _MOST_OF_FOUR_BITS and opset is not None and opset >= OLDEST_NARROW_CODES


def _with_levels(candidate: _Candidate, statistics: WeightStatistics) -> _Candidate:
    """A weight with the levels that its integers need, if such levels are asked for.

    Raises:
        UnmappableWeightError: If there are no such levels.
    """
    scheme = candidate.scheme
    if scheme.levels != LEVELS_OF_WEIGHT:
        return candidate
    if not candidate.found.has_integers:
        what = "zero points that are no integers" if candidate.found.is_integer else "no integers"
        note = f"it has {what}, for which there are no levels: its conductances have any value"
        found = replace(candidate.found, notes=(*candidate.found.notes, note))
        return replace(candidate, found=found, scheme=scheme.without_levels())
    largest = int(np.max(statistics.max_abs))
    return replace(candidate, scheme=scheme.for_integers(largest), held_integer=largest)


def _on_given_levels(candidate: _Candidate, statistics: WeightStatistics) -> _Candidate | None:
    """A weight whose integers fall on levels of which there are enough; None if there are not, or they do not."""
    if not candidate.found.has_integers:
        return None
    held = candidate.scheme.integer_on_levels(int(np.max(statistics.max_abs)))
    return None if held is None else replace(candidate, held_integer=held)


def _planned_as(candidate: _Candidate, statistics: WeightStatistics, dtype: np.dtype[Any]) -> PlannedWeight:
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


def _held(candidate: _Candidate, statistics: WeightStatistics) -> WeightStatistics:
    """The range of weights that the range of conductances is to hold, for each group of elements.

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
        end = np.full_like(statistics.minimum, largest)  # a step between integers is then a step between levels
        low, high = (-end, end) if candidate.grid is not None else (-float(largest), float(largest))
        return WeightStatistics(minimum=low, maximum=high, count=statistics.count)
    if candidate.held_integer is not None:  # a step between integers is one between levels, for all groups
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
    """Whether integers come back as near ones, because levels do not tell them apart."""
    conversion = weight.conversion
    if not weight.found.is_integer or conversion.levels is None or conversion.is_clipped:
        return False
    bound = float(np.max(conversion.error_bound(statistics, weight.compute_dtype)))
    without = replace(conversion, levels=None).error_bound(statistics, weight.compute_dtype)
    return bound >= _ROUNDED_AWAY > float(np.max(without)) and weight.conversion.converter.largest_integer is None


def _obstacle(weight: PlannedWeight, statistics: WeightStatistics) -> str | None:
    """Why conductances of that type cannot hold the weight as they should, or None."""
    conversion, converter = weight.conversion, weight.conversion.converter
    if weight.found.is_integer:
        bound = float(np.max(conversion.error_bound(statistics, weight.compute_dtype)))
        if converter.largest_integer is not None:  # its steps are those between integers, which are on them already
            bound -= _ROUNDED_AWAY
        if bound >= _ROUNDED_AWAY or conversion.is_clipped:
            how, remedy = weight.compute_dtype.name, ""
            if conversion.is_clipped:
                how, remedy = "clipped", "; map it without clipping"
            elif conversion.levels is not None:
                how = f"{conversion.levels.count} levels of"
                remedy = f"; {_more_levels(weight)}, or accept the loss (--allow-lossy-integers)"
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


def _more_levels(weight: PlannedWeight) -> str:
    """With how many levels the integers of a weight would come back."""
    try:
        levels = (
            weight.scheme.for_integers(int(weight.statistics.max_abs)).levels if weight.found.has_integers else None
        )
    except UnmappableWeightError:
        levels = None
    if not isinstance(levels, ConductanceLevels):
        return "give it more levels"
    return f"give it {levels.count} levels or more (--levels weight gives each weight as many as it needs)"


def _with_loss(weight: PlannedWeight) -> PlannedWeight:
    """The plan with what the weight loses, if it is rounded or clipped on purpose."""
    if not weight.conversion.is_lossy:
        return weight
    dtype = np.dtype(np.float64) if weight.compute_dtype == np.float64 else np.dtype(np.float32)
    if weight.conversion.has_integers_on_levels and weight.conversion.grid is None:
        # Each element is one of a few integers, of which none loses anything if these do not.
        largest = float(weight.statistics.max_abs)
        integers: NDArray[Any] = np.arange(-largest, largest + 1).astype(dtype)
        loss = weight.conversion.loss(integers, 0, rounded=True)
        if not loss.rms_error:
            return replace(weight, loss=replace(loss, count=weight.found.tensor.size))

    def loss_of_part(start: int) -> ConversionLoss:
        stop = min(start + _PART_ELEMENTS, weight.found.tensor.size)
        total: ConversionLoss | None = None
        for chunk in element_chunks(weight.found.numbers, start, stop, dtype=dtype):
            for first in range(0, chunk.size, _LOSS_ELEMENTS):
                block = chunk[first : first + _LOSS_ELEMENTS]
                loss = weight.conversion.loss(block, start + first, rounded=weight.found.has_integers)
                total = loss if total is None else total | loss
            start += chunk.size
        assert total is not None  # noqa: S101 - a part has elements
        return total

    starts = range(0, weight.found.tensor.size, _PART_ELEMENTS)
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        losses = list(executor.map(loss_of_part, starts))
    return replace(weight, loss=functools.reduce(operator.or_, losses))


def _scan_all(
    candidates: Sequence[_Candidate], progress: Callable[[int, int], None] | None
) -> Iterator[WeightStatistics | UnmappableWeightError]:
    """The statistics of each weight, or why it cannot be mapped; parts of weights are scanned side by side."""
    parts = [
        (number, start)
        for number, candidate in enumerate(candidates)
        for start in range(0, candidate.found.tensor.size, _PART_ELEMENTS)
    ]
    tensors = [candidate.found.numbers for candidate in candidates]
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    outcomes: list[WeightStatistics | UnmappableWeightError | None] = [None] * len(candidates)
    extremes = [None if candidate.grid is None else GroupExtremes(candidate.grid) for candidate in candidates]
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_scan_part, candidates[number], extremes[number], start) for number, start in parts]
        try:
            for (number, start), job in zip(parts, jobs, strict=True):
                outcome, before = job.result(), outcomes[number]
                if before is None:
                    outcomes[number] = outcome
                elif isinstance(before, WeightStatistics):
                    outcomes[number] = before | outcome if isinstance(outcome, WeightStatistics) else outcome
                if progress is not None:
                    tensor = tensors[number]
                    done += min(_PART_ELEMENTS, tensor.size - start) * tensor.nbytes // tensor.size
                    progress(done, total)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    for result, found in zip(outcomes, extremes, strict=True):
        assert result is not None  # noqa: S101 - a found weight has elements
        if found is None or isinstance(result, UnmappableWeightError):
            yield result
        else:
            yield replace(result, minimum=found.minimum, maximum=found.maximum)


def _statistics_of_codes(weight: FoundWeight, start: int, stop: int) -> WeightStatistics | None:
    """The statistics of packed codes that all have one zero point, from the extremes of the codes; None for others."""
    points = weight.zero_point
    if weight.packed is None or points is None or points.values.size > 1:
        return None
    zero = np.float32(points.values.reshape(-1)[0])
    low, high = (float(np.float32(code) - zero) for code in weight.packed.codes.extremes(start, stop))
    return WeightStatistics(minimum=low, maximum=high, count=stop - start)


def _scan_part(
    candidate: _Candidate, extremes: GroupExtremes | None, start: int
) -> WeightStatistics | UnmappableWeightError:
    """The statistics of a part of a weight; those of groups of its elements go into `extremes`."""
    tensor = candidate.found.numbers
    dtype = compute_dtype(tensor.dtype.numpy())
    stop = min(start + _PART_ELEMENTS, tensor.size)
    if (found := _statistics_of_codes(candidate.found, start, stop)) is not None and extremes is None:
        return found
    try:
        chunks = element_chunks(tensor, start, stop, dtype=dtype)
        return weight_statistics(chunks if extremes is None else extremes.added(chunks, start), first_index=start)
    except UnmappableWeightError as error:
        return error
