"""Determines which elements of a weight share a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.matrix_layout import IncommensurableShapeError
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.schemes.parts import ColumnParts, PartsChoice
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.weights.rearrangement import node_label
from onnx_gconv.weights.records import Consumer, FoundWeight
from onnx_gconv.weights.weight_parts import parts_of

__all__ = ["WeightGrid", "weight_grid"]


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """The groups of elements of a weight that share a scale.

    Attributes:
        grid: The groups; None if all elements share a scale.
        consumer: Index of the consumer whose matrix view the groups follow.
        notes: Remarks for the user, a line each.
        parts: The parts of each matrix of that view, which do not share a scale; None for an undivided matrix.
    """

    grid: ScaleGrid | None
    consumer: int
    notes: tuple[str, ...] = ()
    parts: ColumnParts | None = None


def weight_grid(weight: FoundWeight, granularity: Granularity, choice: PartsChoice = "none") -> WeightGrid:
    """The groups of elements of a weight that share a scale.

    The groups follow the matrix view of the first MVM op that reads the weight.

    Args:
        weight: The weight.
        granularity: What shares a scale, within each part of a weight that is in parts.
        choice: The parts of the weight, or how to find them.

    Raises:
        UnmappableWeightError: If the weight is rearranged on its way to that op in a way that mixes its axes.
    """
    parts, of_parts = parts_of(weight, choice)
    notes = () if of_parts is None else (of_parts,)
    views = [
        (index, consumer, consumer.view) for index, consumer in enumerate(weight.consumers) if consumer.view is not None
    ]
    index, consumer, view = views[0]
    if granularity.kind == "tensor" and choice == "auto" and not _has_whole_axes(weight, consumer, view):
        parts = None
    if granularity.kind == "tensor" and parts is None:
        return WeightGrid(None, index, notes)
    found = WeightGrid(_grid(weight, consumer, view, granularity, parts), index, notes, parts)
    others = [other for _, other, its_view in views[1:] if _differs(weight, other, its_view, granularity, found)]
    if others:
        across = "parts" if granularity.kind == "tensor" else "channels or tiles"
        note = (
            f"its scales follow {node_label(consumer.node)}; {node_label(others[0].node)} reads it otherwise, "
            f"so that they cut across its {across}"
        )
        return replace(found, notes=(*notes, note))
    return found


def _has_whole_axes(weight: FoundWeight, consumer: Consumer, view: MatrixView) -> bool:
    """Whether the axes of a weight stay separate on the way to a consumer, so that its columns can be told apart."""
    try:
        view.layout(weight.shape, consumer.path)
    except IncommensurableShapeError:
        return False
    return True


def _grid(
    weight: FoundWeight, consumer: Consumer, view: MatrixView, granularity: Granularity, parts: ColumnParts | None
) -> ScaleGrid:
    try:
        layout = view.layout(weight.shape, consumer.path)
    except IncommensurableShapeError as error:
        of_parts = granularity.kind == "tensor"
        remedy = "take it for one matrix (parts none)" if of_parts else "give it the granularity tensor"
        raise UnmappableWeightError(
            f"cannot have a scale for each {'part' if of_parts else granularity.kind.replace('_', ' of a ')}: on its "
            f"way to {node_label(consumer.node)}, {error}; {remedy}"
        ) from None
    return ScaleGrid.of(layout, granularity, view.columns_per_channel, parts)


def _differs(
    weight: FoundWeight, consumer: Consumer, view: MatrixView, granularity: Granularity, found: WeightGrid
) -> bool:
    """Whether the groups of `found` differ from the channels, tiles or parts of another consumer's matrix view."""
    parts = found.parts
    own = parts if parts is not None and parts.columns == view.columns else None
    if granularity.kind == "tensor" and own is None:
        return True
    try:
        return _grid(weight, consumer, view, granularity, own) != found.grid
    except (UnmappableWeightError, ValueError):
        return True
