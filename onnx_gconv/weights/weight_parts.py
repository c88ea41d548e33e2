"""Determines the parts of a weight that holds several matrices side by side, from the graph or from a setting."""

from __future__ import annotations

from onnx_gconv.schemes.parts import ColumnParts, PartsChoice
from onnx_gconv.weights.ops.mvm_ops import known_op
from onnx_gconv.weights.rearrangement import node_label
from onnx_gconv.weights.records import Consumer, FoundWeight

__all__ = ["parts_of", "wrong_parts"]


def parts_of(weight: FoundWeight, choice: PartsChoice) -> tuple[ColumnParts | None, str | None]:
    """The parts of a weight, None if it is undivided, and a note for the user, None if there is none.

    Parts are ranges of columns of the matrix view of the first MVM op that reads the weight. With the choice ``auto``,
    a weight that is one matrix has the parts that this op says, unless another reader says other ones.

    Args:
        weight: The weight.
        choice: ``none``, ``auto``, or the sizes of the parts, which have to fit, see `wrong_parts`.
    """
    said = list(dict.fromkeys(found for each in weight.consumers if (found := _said_by(each)) is not None))
    if not isinstance(choice, str):
        known = next((each for each in said if each.sizes == choice), None)
        return known or ColumnParts.numbered(choice), None
    first = _first_reader(weight)
    if choice == "none" or first is None or not said:
        return None, None
    if len(said) > 1:
        return None, f"it is mapped as one matrix: its readers split it into {_listed(said)}"
    found = _said_by(first)
    return (found, None) if first.view is not None and first.view.matrices == 1 else (None, None)


def wrong_parts(weight: FoundWeight, sizes: tuple[int, ...]) -> str | None:
    """The message why a weight cannot have parts of these numbers of outputs; None if it can."""
    reader = _first_reader(weight)
    if reader is None or reader.view is None:
        return None
    columns, channel = reader.view.columns, reader.view.columns_per_channel
    text = " + ".join(map(str, sizes))
    if sum(sizes) != columns:
        return (
            f"the parts {text} have {sum(sizes)} outputs, but the weight {weight.quoted} of {node_label(reader.node)} "
            f"has {columns}; correct them, or give them to other weights"
        )
    if any(size % channel for size in sizes):
        return (
            f"the parts {text} cut output channels of the weight {weight.quoted}, which have {channel} columns each in "
            f"{node_label(reader.node)}; give multiples of {channel}"
        )
    return None


def _first_reader(weight: FoundWeight) -> Consumer | None:
    """The first consumer with a matrix view; scales follow the same view. None if there is none."""
    return next((each for each in weight.consumers if each.view is not None), None)


def _said_by(consumer: Consumer) -> ColumnParts | None:
    """The parts that a consumer's op, or the nodes behind it, divide the weight into; None if they do not."""
    row = known_op(consumer.node.domain, consumer.node.op_type)
    slot = None if row is None else row.slot(consumer.slot)
    if slot is None or slot.parts is None or consumer.view is None:
        return None
    return slot.parts(consumer.node, consumer.view.columns)


def _listed(parts: list[ColumnParts]) -> str:
    return " and into ".join(" + ".join(map(str, each.sizes)) for each in parts)
