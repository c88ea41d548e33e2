"""Compares outputs of language models position by position, to show where in a text two models begin to differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_gconv.runtime.comparison import OutputComparison, Outputs, PositionComparison, argmax_agreement, sqnr_db

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PositionAgreement", "agreement_of_positions", "with_positions"]

_RANK = 3


def with_positions(
    comparison: OutputComparison, reference: Outputs, found: Outputs, tokens: tuple[int, ...] | None
) -> OutputComparison:
    """Return the comparison of an output with a comparison at each position; unchanged if it has no positions.

    An output has positions if it is a float tensor [batch, sequence, ...] with the batch and sequence of the tokens.

    Args:
        comparison: The comparison of the whole output.
        reference: The original's outputs.
        found: The mapped model's outputs.
        tokens: The shape of the input of tokens; None if the model has none.
    """
    one, other = reference.get(comparison.name), found.get(comparison.name)
    if one is None or other is None or tokens is None or comparison.tolerance is None or one.shape != other.shape:
        return comparison
    if one.ndim != _RANK or one.shape[:2] != tokens[:2] or comparison.is_random:
        return comparison
    count = one.shape[1]
    positions = tuple(_compared(position, one[:, position], other[:, position]) for position in range(count))
    return replace(comparison, positions=positions)


def _compared(position: int, reference: NDArray[Any], found: NDArray[Any]) -> PositionComparison:
    one, other = reference.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    with np.errstate(over="ignore"):
        errors = other[finite] - one[finite]
    error = float(np.abs(errors).max(initial=0.0))
    return PositionComparison(
        position,
        error if np.isfinite(error) else None,
        sqnr_db(one[finite], errors),
        argmax_agreement(one, other),
    )


@dataclass(frozen=True)
class PositionAgreement:
    """At how many positions both models give the largest score to the same token.

    Attributes:
        same: The number of positions at which they do in all texts.
        count: The number of all positions.
        last: The share of texts in which they do at the last position.
    """

    same: int
    count: int
    last: float


def agreement_of_positions(positions: Sequence[PositionComparison]) -> PositionAgreement | None:
    """Return at how many positions the largest scores agree; None if there are no positions with scores."""
    shares = [item.argmax_agreement for item in positions if item.argmax_agreement is not None]
    if not shares or len(shares) != len(positions):
        return None
    return PositionAgreement(sum(share == 1 for share in shares), len(shares), shares[-1])
