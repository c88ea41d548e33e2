"""Removes nodes that nobody reads any more, such as those that computed a weight, and what only they read."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

__all__ = ["remove_unused"]


def remove_unused(nodes: Iterable[ir.Node]) -> None:
    """Remove nodes whose outputs nobody reads, then the nodes and initializers that only they read.

    Args:
        nodes: The nodes to start with. A node whose outputs are read stays, and so does everything that it reads.
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
