"""Who reads a value."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["is_identity", "node_label", "readers"]


def readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """All nodes that read a value and the index of their input; Identity nodes are seen through.

    An Identity node that nobody reads, because it gives a graph output, counts as a reader.
    """
    waiting = [*value.uses()][::-1]
    while waiting:
        node, index = waiting.pop()
        if is_identity(node) and node.outputs[0].uses():
            waiting.extend([*node.outputs[0].uses()][::-1])
        else:
            yield node, index


def is_identity(node: ir.Node) -> bool:
    """Whether a node hands on its input as it is."""
    return node.op_type == "Identity" and node.domain == "" and bool(node.inputs) and node.inputs[0] is not None


def node_label(node: ir.Node) -> str:
    """A node for people: ``name (op_type)``, or the op type if it has no name."""
    return f"{node.name} ({node.op_type})" if node.name else node.op_type
