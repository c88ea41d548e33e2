"""Removes what a mapping leaves without a reader: the nodes that computed a weight, and what only they read."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

__all__ = ["remove_unused"]


def remove_unused(nodes: Iterable[ir.Node]) -> None:
    """Remove nodes whose outputs nobody reads, then the nodes and initializers that only they read.

    Args:
        nodes: Where to begin. A node that is still needed stays, with everything before it.
    """
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        inputs = [value for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        for value in inputs:
            if (producer := value.producer()) is not None:
                waiting.append(producer)
            elif value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                graph = value.graph
                if graph is not None and value.name is not None:
                    del graph.initializers[value.name]
