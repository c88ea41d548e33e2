"""What a mapping is going to do: every decision and every check, made before the model is touched."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_gconv.converters import ConductanceConverter, WeightStatistics, compute_dtype, weight_statistics
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.shared_weights import SharedPolicy
from onnx_gconv.streamed_tensor import element_chunks, worker_count
from onnx_gconv.weights import FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.same_source import SameSource, SourceCandidate, same_sources

__all__ = ["MappingPlan", "PlannedWeight", "make_plan"]

# A weight is scanned in parts of this many elements, so that one large weight keeps all workers busy.
_PART_ELEMENTS = 1 << 24


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
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.
    """

    converter: ConductanceConverter
    weights: tuple[PlannedWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    refused: tuple[tuple[FoundWeight, str], ...]
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
    shared: SharedPolicy = "rebuild",
) -> MappingPlan:
    """Scan the values of all found weights and give each its scale.

    Args:
        survey: The weights of a model.
        converter: The rule.
        progress: Called with the bytes scanned so far and in all.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op.

    Raises:
        ModelError: If external data cannot be read.
    """
    planned, refused = [], []
    for weight, outcome in zip(survey.weights, _scan_all(survey.weights, progress), strict=True):
        try:
            if isinstance(outcome, UnmappableWeightError):
                raise outcome
            planned.append(_plan_weight(weight, outcome, converter))
        except UnmappableWeightError as error:
            refused.append((weight, str(error)))
    return _with_same_sources(MappingPlan(converter, tuple(planned), survey.skipped, tuple(refused), shared))


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
    tensors = [None if item.value is None else ir.convenience.get_const_tensor(item.value) for item in plan.skipped]
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


def _plan_weight(weight: FoundWeight, statistics: WeightStatistics, converter: ConductanceConverter) -> PlannedWeight:
    """Choose the scale and the type of the conductances.

    Raises:
        UnmappableWeightError: If the converter cannot hold the values.
    """
    dtype = compute_dtype(weight.tensor.dtype.numpy())
    scale = converter.scale(statistics, dtype)
    reason = _first_reason(weight, converter, scale, dtype)
    if reason is None:
        return PlannedWeight(weight, statistics, scale, dtype)
    double = np.dtype(np.float64)
    if dtype == double:
        raise UnmappableWeightError(reason)
    # Every float32 value, subnormal ones too, has room below it in float64.
    note = f"conductances are float64: it {reason}"
    return PlannedWeight(weight, statistics, converter.scale(statistics, double), double, (note,))


def _first_reason(
    weight: FoundWeight, converter: ConductanceConverter, scale: float, dtype: np.dtype[Any]
) -> str | None:
    if not converter.needs_check(scale):
        return None
    chunks = element_chunks(weight.tensor, dtype=dtype)
    return next((reason for chunk in chunks if (reason := converter.check_chunk(chunk, scale))), None)


def _scan_all(
    weights: Sequence[FoundWeight], progress: Callable[[int, int], None] | None
) -> Iterator[WeightStatistics | UnmappableWeightError]:
    """The statistics of each weight, or why it cannot be mapped; parts of weights are scanned side by side."""
    parts = [
        (number, start)
        for number, weight in enumerate(weights)
        for start in range(0, weight.tensor.size, _PART_ELEMENTS)
    ]
    total = sum(weight.tensor.nbytes for weight in weights)
    done = 0
    outcomes: list[WeightStatistics | UnmappableWeightError | None] = [None] * len(weights)
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_scan_part, weights[number].tensor, start) for number, start in parts]
        try:
            for (number, start), job in zip(parts, jobs, strict=True):
                outcome, before = job.result(), outcomes[number]
                if before is None:
                    outcomes[number] = outcome
                elif isinstance(before, WeightStatistics):
                    outcomes[number] = before | outcome if isinstance(outcome, WeightStatistics) else outcome
                if progress is not None:
                    tensor = weights[number].tensor
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
