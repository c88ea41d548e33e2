"""Who reads a value, directly or rearranged."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from onnx_gconv.weights.rearrangement import is_rearranging

__all__ = ["node_label", "readers"]


def readers(value: ir.Value, passed: Collection[ir.Node] = ()) -> Iterator[tuple[ir.Node, int]]:
    """All nodes that read a value and the index of their input; nodes that only rearrange it are seen through.

    A rearranging node that nobody reads, because it gives a graph output, counts as a reader.

    Args:
        value: The value.
        passed: Further nodes that are seen through.
    """
    waiting = [*value.uses()][::-1]
    while waiting:
        node, index = waiting.pop()
        is_seen_through = node in passed or (index == 0 and is_rearranging(node))
        if is_seen_through and node.outputs[0].uses():
            waiting.extend([*node.outputs[0].uses()][::-1])
        else:
            yield node, index


def node_label(node: ir.Node) -> str:
    """A node for people: ``name (op_type)``, or the op type if it has no name."""
    return f"{node.name} ({node.op_type})" if node.name else node.op_type
