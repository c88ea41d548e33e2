"""Weights that other nodes than MVM ops read too: who reads the rebuilt weight, and who a digital copy of it."""

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
        uses: Inputs that take the weight itself, as node and index: of the readers, or of nodes that rearrange it.
        readers: The readers behind them, as node and index. None of them has the weight in a weight slot.
    """

    uses: tuple[tuple[ir.Node, int], ...]
    readers: frozenset[tuple[ir.Node, int]]


def digital_uses(weight: FoundWeight) -> DigitalUses:
    """The uses of a weight that serve no weight slot.

    A node that rearranges the weight for a weight slot and for others as well stays with the rebuilt weight.
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
    """Let the given uses read an initializer that holds the weight as it was.

    Args:
        weight: The weight.
        uses: Those of its uses that are to read the copy.
        name: Name of the copy.

    Returns:
        The copy, which is not yet among the initializers of its graph. Its data are those of the weight; nothing is
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
    """The readers that an input leads to: the node, or those behind it if the weight is seen through it."""
    if not behind_node(node, index, passed):
        yield node, index
        return
    for value in handed_on(node, index):
        yield from readers(value, passed)
