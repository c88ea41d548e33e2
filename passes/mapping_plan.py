"""What a mapping is going to do: every decision and every check, made before the model is touched."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnx_gconv.conductance_tensor import conductance_tensors
from onnx_gconv.converters import (
    ConductanceConverter,
    WeightStatistics,
    compute_dtype,
    is_half_precision,
    narrowed_scale,
    weight_statistics,
)
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.shared_weights import SharedPolicy
from onnx_gconv.rebuilt_tensor import RebuiltTensor
from onnx_gconv.streamed_tensor import element_chunks, worker_count
from onnx_gconv.weights import FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.constant_tensor import constant_tensor
from onnx_gconv.weights.same_source import SameSource, SourceCandidate, same_sources

__all__ = ["ConductanceDtype", "MappingPlan", "PlannedWeight", "make_plan"]

ConductanceDtype: TypeAlias = Literal["float32", "weight"]

# A weight is scanned in parts of this many elements, so that one large weight keeps all workers busy.
_PART_ELEMENTS = 1 << 24

# Integers come back exactly if they are off by less than this before they are rounded.
_ROUNDED_AWAY = 0.5


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight that is going to be mapped.

    Attributes:
        found: The weight and where it stands.
        statistics: What the scan over its values gave.
        scale: µS per unit of weight.
        compute_dtype: The type of the conductances.
        notes: What a user should know of how it is mapped, one line each.
        same_source_as: The constants that hold the same parameter.
    """

    found: FoundWeight
    statistics: WeightStatistics
    scale: float
    compute_dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()
    same_source_as: tuple[SameSource, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the weight."""
        return np.dtype(self.found.tensor.dtype.numpy())


@dataclass(frozen=True)
class MappingPlan:
    """What `MapConductances` does with a model.

    Attributes:
        converter: The rule.
        weights: The weights it maps.
        skipped: The weights it leaves as they are.
        refused: The weights whose values no conductance can hold, with the reason; one is enough to refuse the model.
        notes: What else changes in the model, one line each.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.
    """

    converter: ConductanceConverter
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
        more = f" ({len(self.refused) - 1} more weights cannot be mapped)" if len(self.refused) > 1 else ""
        raise UnmappableWeightError(
            f"the weight '{weight.name}' {reason}; correct it, or leave it out with exclude '{weight.name}'{more}"
        )

    def refused_as_skipped(self) -> MappingPlan:
        """The plan with refused weights among the skipped ones, for looking at it."""
        extra = (SkippedWeight.of(weight, SkipReason.REFUSED_VALUES, reason) for weight, reason in self.refused)
        return replace(self, skipped=(*self.skipped, *extra), refused=())


def make_plan(
    survey: WeightSurvey,
    converter: ConductanceConverter,
    progress: Callable[[int, int], None] | None = None,
    *,
    conductance_dtype: ConductanceDtype = "float32",
    shared: SharedPolicy = "rebuild",
) -> MappingPlan:
    """Scan the values of all found weights and give each its scale.

    Args:
        survey: The weights of a model.
        converter: The rule.
        progress: Called with the bytes scanned so far and in all.
        conductance_dtype: The type of the conductances of float16 and bfloat16 weights: float32, or that of the weight.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.

    Raises:
        ModelError: If external data cannot be read.
    """
    planned, refused = [], []
    for weight, outcome in zip(survey.weights, _scan_all(survey.weights, progress), strict=True):
        try:
            if isinstance(outcome, UnmappableWeightError):
                raise outcome
            half = _plan_half(weight, outcome, converter) if conductance_dtype == "weight" else None
            planned.append(_plan_weight(weight, outcome, converter) if half is None else half)
        except UnmappableWeightError as error:
            refused.append((weight, str(error)))
    return _with_same_sources(MappingPlan(converter, tuple(planned), survey.skipped, tuple(refused), shared=shared))


def _with_same_sources(plan: MappingPlan) -> MappingPlan:
    """Note at each weight which others hold the same parameter, mapped or not."""
    weights = [
        SourceCandidate(
            name=item.found.name,
            graph_path=item.found.scope.path,
            tensor=item.found.tensor,
            parameters=item.found.parameters or (item.found.name,),
            statistics=item.statistics,
        )
        for item in plan.weights
    ]
    tensors = [None if item.value is None else constant_tensor(item.value) for item in plan.skipped]
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


def _plan_half(
    weight: FoundWeight, statistics: WeightStatistics, converter: ConductanceConverter
) -> PlannedWeight | None:
    """A plan for conductances of half precision, for a weight of half precision.

    Returns:
        The plan; for a weight whose range does not fit, one in float32 with a note that says so; None for a weight of
        another type.
    """
    dtype = np.dtype(weight.tensor.dtype.numpy())
    if not is_half_precision(dtype):
        return None
    wide = _plan_weight(weight, statistics, converter)
    scale = narrowed_scale(wide.scale, dtype)
    problem = f"its scale of {wide.scale:g} µS per unit does not fit {dtype.name}" if scale is None else None
    if scale is not None:
        half = replace(wide, scale=scale, compute_dtype=dtype, notes=weight.notes)
        problem = _half_obstacle(half, converter) if converter.is_exact else None
        if problem is None:
            return half
    return replace(wide, notes=(*wide.notes, f"conductances are {wide.compute_dtype.name}: {problem}"))


def _half_obstacle(weight: PlannedWeight, converter: ConductanceConverter) -> str | None:
    """Why conductances of half precision do not hold the weight exactly, or None."""
    tensors = conductance_tensors(
        weight.found.tensor,
        converter,
        weight.scale,
        dtype=weight.found.tensor.dtype,
        names=converter.device_names,
    )
    rebuilt = RebuiltTensor(
        tensors, converter.decoding(weight.scale), dtype=weight.found.tensor.dtype, name=weight.found.name
    )
    for ours, theirs in zip(rebuilt.chunks(), element_chunks(weight.found.tensor), strict=True):
        different = np.flatnonzero(ours != theirs)
        if different.size:
            value = float(theirs[int(different[0])])
            return f"{weight.compute_dtype.name} cannot hold the conductance of its value {value:g} exactly"
    return None


def _plan_weight(weight: FoundWeight, statistics: WeightStatistics, converter: ConductanceConverter) -> PlannedWeight:
    """Choose the scale and the type of the conductances.

    Raises:
        UnmappableWeightError: If the converter cannot hold the values.
    """
    dtype = compute_dtype(weight.numbers.dtype.numpy())
    planned = PlannedWeight(weight, statistics, converter.scale(statistics, dtype), dtype, weight.notes)
    if (reason := _obstacle(planned, converter)) is None:
        return planned
    double = np.dtype(np.float64)
    if dtype == double:
        raise UnmappableWeightError(reason)
    note = f"conductances are float64: it {reason}"
    wider = PlannedWeight(weight, statistics, converter.scale(statistics, double), double, (*weight.notes, note))
    # Every float32 value, subnormal ones too, has room below it in float64; integers are looked at again.
    if weight.is_integer and (reason := _obstacle(wider, converter)) is not None:
        raise UnmappableWeightError(reason)
    return wider


def _obstacle(weight: PlannedWeight, converter: ConductanceConverter) -> str | None:
    """Why conductances of that type cannot hold the weight as they should, or None."""
    if weight.found.is_integer:
        bound = converter.error_bound(weight.statistics, weight.compute_dtype)
        if bound >= _ROUNDED_AWAY:
            return (
                f"consists of integers up to {weight.statistics.max_abs:g}, which {weight.compute_dtype.name} "
                f"conductances of {converter.g_min:g} to {converter.g_max:g} µS cannot tell apart"
            )
    if not converter.needs_check(weight.scale):
        return None
    chunks = element_chunks(weight.found.numbers, dtype=weight.compute_dtype)
    return next((reason for chunk in chunks if (reason := converter.check_chunk(chunk, weight.scale))), None)


def _scan_all(
    weights: Sequence[FoundWeight], progress: Callable[[int, int], None] | None
) -> Iterator[WeightStatistics | UnmappableWeightError]:
    """The statistics of each weight, or why it cannot be mapped; parts of weights are scanned side by side."""
    parts = [
        (number, start)
        for number, weight in enumerate(weights)
        for start in range(0, weight.tensor.size, _PART_ELEMENTS)
    ]
    tensors = [weight.numbers for weight in weights]
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    outcomes: list[WeightStatistics | UnmappableWeightError | None] = [None] * len(weights)
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_scan_part, tensors[number], start) for number, start in parts]
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
    for result in outcomes:
        assert result is not None  # noqa: S101 - a found weight has elements
        yield result


def _scan_part(tensor: ir.TensorProtocol, start: int) -> WeightStatistics | UnmappableWeightError:
    stop = min(start + _PART_ELEMENTS, tensor.size)
    try:
        chunks = element_chunks(tensor, start, stop, dtype=compute_dtype(tensor.dtype.numpy()))
        return weight_statistics(chunks, first_index=start)
    except UnmappableWeightError as error:
        return error
