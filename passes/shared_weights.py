"""Weights that are read by other nodes than MVM ops, too: splits off a digital copy for these nodes."""

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
    """The uses of a weight that a digital copy can serve.

    Attributes:
        uses: The inputs that take the weight itself, as (node, index): inputs of the readers, or of nodes that
            rearrange the weight for them.
        readers: The inputs of the readers, as (node, index). None of them is a weight slot.
    """

    uses: tuple[tuple[ir.Node, int], ...]
    readers: frozenset[tuple[ir.Node, int]]


def digital_uses(weight: FoundWeight) -> DigitalUses:
    """The uses of a weight that lead to no weight slot.

    A node that rearranges the weight for a weight slot and for other readers keeps reading the rebuilt weight.
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
    """Let the given uses read an initializer with the original weight.

    Args:
        weight: The weight.
        uses: The uses of the weight that are to read the copy.
        name: Name of the copy.

    Returns:
        The copy, which is not yet among the initializers of its graph. It shares the tensor of the weight; no data is
        read.
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
    """The readers that an input leads to: the node itself, or the readers behind it if it only passes the weight on."""
    if not behind_node(node, index, passed):
        yield node, index
        return
    for value in handed_on(node, index):
        yield from readers(value, passed)
