"""Outputs of a language model, position by position: where in a text two models begin to differ."""

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
    """The comparison of an output, with one for each position; itself if it has none.

    An output has positions if it is of floats and [batch, sequence, ...], as the tokens are.

    Args:
        comparison: That of the whole output.
        reference: The original's outputs.
        found: Those of the mapped model.
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
    """At how many positions the largest scores are the same.

    Attributes:
        same: Those at which they are, in all texts.
        count: All of them.
        last: The share of texts whose last position has the same one.
    """

    same: int
    count: int
    last: float


def agreement_of_positions(positions: Sequence[PositionComparison]) -> PositionAgreement | None:
    """How far scores agree; None if there are none."""
    shares = [item.argmax_agreement for item in positions if item.argmax_agreement is not None]
    if not shares or len(shares) != len(positions):
        return None
    return PositionAgreement(sum(share == 1 for share in shares), len(shares), shares[-1])
