"""Digital copies of weights: for nodes that read a mapped weight, but not as the weight of an MVM op."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.mapping.nodes import ROLE_KEY, WEIGHT_KEY
from onnx_gconv.mapping.value_uses import hand_over_use
from onnx_gconv.weights import FoundWeight
from onnx_gconv.weights.rearrangement import behind_node, handed_on, readers

__all__ = ["DigitalUses", "digital_uses", "split_off"]


@dataclass(frozen=True, eq=False)
class DigitalUses:
    """The uses of a weight that can read a digital copy instead.

    Attributes:
        uses: The inputs that take the weight itself, as node and index: inputs of readers, or of nodes that rearrange
            the weight for readers.
        readers: The inputs of these readers, as node and index. None of them is a weight slot.
    """

    uses: tuple[tuple[ir.Node, int], ...]
    readers: frozenset[tuple[ir.Node, int]]


def digital_uses(weight: FoundWeight) -> DigitalUses:
    """Return the uses of a weight that lead to no weight slot.

    A node that rearranges the weight for a weight slot and for other readers, too, keeps reading the rebuilt weight.
    """
    slots = {(consumer.node, consumer.slot) for consumer in weight.consumers if consumer.is_mvm}
    uses: list[tuple[ir.Node, int]] = []
    behind: set[tuple[ir.Node, int]] = set()
    for node, index in weight.value.uses():
        found = set(_readers_behind(node, index, weight.passed))
        if not found & slots:
            uses.append((node, index))
            behind |= found
    return DigitalUses(tuple(uses), frozenset(behind))


def split_off(weight: FoundWeight, uses: DigitalUses, name: str) -> ir.Value:
    """Let the given uses read a new initializer that holds the original weight.

    Args:
        weight: The weight.
        uses: The uses that read the copy from now on.
        name: Name of the copy.

    Returns:
        The copy, which the caller has to add to the initializers of its graph. It shares the tensor of the weight; no
        data is read or copied.
    """
    old = weight.value
    copy = ir.Value(
        name=name,
        type=ir.TensorType(weight.stored.dtype),
        shape=ir.Shape(weight.stored.shape.numpy()),
        const_value=weight.stored,
        metadata_props={**old.metadata_props, WEIGHT_KEY: weight.name, ROLE_KEY: "digital"},
    )
    for node, index in uses.uses:
        hand_over_use(node, index, copy)
    return copy


def _readers_behind(node: ir.Node, index: int, passed: Collection[ir.Node]) -> Iterator[tuple[ir.Node, int]]:
    """Yield the readers behind an input: the node itself, or the readers of its output if it rearranges the weight."""
    if not behind_node(node, index, passed):
        yield node, index
        return
    for value in handed_on(node, index):
        yield from readers(value, passed)
