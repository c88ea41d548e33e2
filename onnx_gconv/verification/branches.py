"""Finds the If nodes of a model, and the inputs that choose their branches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.weights.rearrangement import node_label

__all__ = ["Branching", "branchings"]

# Ops that pass a single bool on, or its opposite: the two values of such an input lead to the two branches.
_GIVES_IT_ON = frozenset({"Cast", "Flatten", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Branching:
    """An If node, and the input that chooses its branch.

    Attributes:
        node: The name of the node, for people.
        chosen_by: The input of the model that chooses the branch; None if the condition is computed.
    """

    node: str
    chosen_by: str | None


def branchings(model: ir.Model) -> tuple[Branching, ...]:
    """Return all If nodes of a model, also those in bodies."""
    inputs = {value for value in model.graph.inputs if value.dtype == ir.DataType.BOOL}
    nodes = (node for node in model.graph.all_nodes() if node.op_type == "If")
    return tuple(Branching(node_label(node), _chooser(node.inputs[0], inputs)) for node in nodes)


def _chooser(condition: ir.Value | None, inputs: Collection[ir.Value]) -> str | None:
    value = condition
    while value is not None and value not in inputs:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _GIVES_IT_ON and node.domain == "" else None
    return None if value is None else value.name
