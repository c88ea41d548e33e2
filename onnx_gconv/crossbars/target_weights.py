"""The mapped weights of a model that can be programmed into a chip: as the manifest says, and not measured yet."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnx_gconv.crossbars.checked_weights import checked_weights, unlisted_weights
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import UnknownConverterError, WeightRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.preconditions import require_mapped

__all__ = ["target_weights"]


def target_weights(
    model: ir.Model,
    deed: str,
    call: str,
    other_problem: Callable[[WeightRecord], str | None] | None = None,
) -> tuple[MappedWeight, ...]:
    """All mapped weights of a model, in the order of its manifest.

    Args:
        model: The model.
        deed: What the caller does with the model, as a participle for messages: ``handed off``.
        call: The same as an imperative: ``hand off``.
        other_problem: A further check of a weight. It returns the problem in one line, or None.

    Raises:
        ModelError: If the model is not mapped, another tool has damaged its mapping, a weight fails `other_problem`, or
            its conductances are measured or simulated ones instead of targets.
    """
    weights = []
    checked = checked_weights(require_mapped(model), model)
    for item in checked:
        record, problem = item.record, item.problem
        if record.measured is not None:
            raise ModelError(
                f"the weight {record.quoted} has conductances {record.measured.origin}, no targets; take the model "
                f"that was {'mapped' if record.measured.simulated else 'handed off'}"
            )
        try:
            record.converter.converter()
        except UnknownConverterError as error:
            raise ModelError(f"the weight {record.quoted} {error.what}") from None
        except ModelError as error:
            problem = str(error)
        if problem is None and other_problem is not None:
            problem = other_problem(record)
        if problem is not None or item.mapped is None:
            raise ModelError(
                f"the weight {record.quoted} cannot be {deed}: {problem}; {call} the model as it was mapped"
            )
        weights.append(item.mapped)
    if (unlisted := next(unlisted_weights(checked, model), None)) is not None:
        raise ModelError(f"the model cannot be {deed}: {unlisted}; {call} the model as it was mapped")
    return tuple(weights)
