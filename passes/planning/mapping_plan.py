"""The plan of a mapping: how each weight of a model is mapped, or why it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx_gconv.configuration.settings import ConductanceDtype, SharedPolicy
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.planning.candidate import candidate_of
from onnx_gconv.passes.planning.loss import with_loss
from onnx_gconv.passes.planning.planned_weight import PlannedWeight
from onnx_gconv.passes.planning.scan import scan_all
from onnx_gconv.passes.planning.weight_plan import has_narrow_codes, plan_half, plan_weight
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.external import is_absent
from onnx_gconv.weights import FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.same_source import SourceCandidate, same_sources

__all__ = ["MappingPlan", "PlannedWeight", "make_plan"]


@dataclass(frozen=True)
class MappingPlan:
    """The changes that `MapConductances` is going to make to a model.

    Attributes:
        weights: The weights that are mapped.
        skipped: The weights that stay as they are, with reasons.
        refused: The weights whose values no conductance can hold, with the reason; one is enough to refuse the model.
        notes: Notes on other changes of the model, one line each.
        shared: How weights are treated that nodes read in another way than as the weight of an MVM op.
    """

    weights: tuple[PlannedWeight, ...]
    skipped: tuple[SkippedWeight, ...]
    refused: tuple[tuple[FoundWeight, str], ...]
    notes: tuple[str, ...] = ()
    shared: SharedPolicy = "rebuild"

    def raise_if_refused(self) -> None:
        """Raise for the first refused weight.

        Raises:
            UnmappableWeightError: If a weight is refused; the message names the weight, the value and the remedy.
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
        """The plan with refused weights among the skipped ones, for a preview that lists them."""
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
        schemes: The scheme of each weight, in the same order.
        progress: Called with the bytes that have been scanned, and the bytes of all weights.
        conductance_dtype: The type of the conductances of float16 and bfloat16 weights: float32, or the weight's.
        shared: How weights are treated that nodes read in another way than as the weight of an MVM op.
        opset: The version of the default domain, which determines whether level codes may have four bits; None if the
            model imports none.
        allows_lossy_integers: Whether integers may be rebuilt as nearby ones if there are too few levels to tell them
            apart.

    Raises:
        ModelError: If external data cannot be read.
    """
    candidates = [
        candidate_of(weight, scheme, may_lose=allows_lossy_integers)
        for weight, scheme in zip(survey.weights, schemes, strict=True)
    ]
    planned, refused = [], []
    for candidate, outcome in zip(candidates, scan_all(candidates, progress), strict=True):
        weight = candidate.found
        try:
            if candidate.problem is not None:
                raise candidate.problem
            if isinstance(outcome, UnmappableWeightError):
                raise outcome
            half = plan_half(candidate, outcome) if conductance_dtype == "weight" else None
            plan = with_loss(plan_weight(candidate, outcome) if half is None else half)
            planned.append(replace(plan, has_narrow_codes=has_narrow_codes(plan, opset)))
        except UnmappableWeightError as error:
            refused.append((weight, str(error)))
    return _with_same_sources(MappingPlan(tuple(planned), survey.skipped, tuple(refused), shared=shared))


def _with_same_sources(plan: MappingPlan) -> MappingPlan:
    """Add to each weight the other constants that have the same values, mapped or not."""
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
