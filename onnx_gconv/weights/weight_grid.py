"""Which elements of a found weight share a scale."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.matrix_layout import IncommensurableShapeError
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.weights.rearrangement import node_label
from onnx_gconv.weights.records import Consumer, FoundWeight

__all__ = ["WeightGrid", "weight_grid"]


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """The groups of elements of a weight that share a scale.

    Attributes:
        grid: The groups.
        consumer: Index of the consumer whose matrix view they follow.
        note: What a user should know of it, or None.
    """

    grid: ScaleGrid
    consumer: int
    note: str | None


def weight_grid(weight: FoundWeight, granularity: Granularity) -> WeightGrid | None:
    """The groups of elements of a weight that share a scale; None if all do.

    They follow the matrix view of the first MVM op that reads the weight.

    Raises:
        UnmappableWeightError: If the weight is rearranged on its way to that op in a way that mixes its axes.
    """
    if granularity.kind == "tensor":
        return None
    views = [
        (index, consumer, consumer.view) for index, consumer in enumerate(weight.consumers) if consumer.view is not None
    ]
    index, consumer, view = views[0]
    grid = _grid(weight, consumer, view, granularity)
    others = [other for _, other, its_view in views[1:] if _differs(weight, other, its_view, granularity, grid)]
    note = None
    if others:
        note = (
            f"its scales follow {node_label(consumer.node)}; {node_label(others[0].node)} reads it otherwise, "
            "so that they cut across its channels or tiles"
        )
    return WeightGrid(grid, index, note)


def _grid(weight: FoundWeight, consumer: Consumer, view: MatrixView, granularity: Granularity) -> ScaleGrid:
    try:
        layout = view.layout(weight.shape, consumer.path)
    except IncommensurableShapeError as error:
        raise UnmappableWeightError(
            f"cannot have a scale for each {granularity.kind.replace('_', ' of a ')}: on its way to "
            f"{node_label(consumer.node)}, {error}; give it the granularity tensor"
        ) from None
    return ScaleGrid.of(layout, granularity, view.columns_per_channel)


def _differs(
    weight: FoundWeight, consumer: Consumer, view: MatrixView, granularity: Granularity, grid: ScaleGrid
) -> bool:
    try:
        return _grid(weight, consumer, view, granularity) != grid
    except UnmappableWeightError:
        return True
