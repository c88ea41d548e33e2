"""The graphs of a model: the main graph and the bodies of If, Loop and Scan, each with a path that names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Scope", "bodies", "nodes_in_order", "outermost_node", "scopes"]


@dataclass(frozen=True, eq=False)
class Scope:
    """A graph, and its place in the model.

    Attributes:
        graph: The graph.
        path: Empty for the main graph, else ``node.attribute`` for each level, joined by ``/``, e.g.
            ``If_0.else_branch/Loop_2.body``. A node without a name, or with a name that is not unique in its graph, is
            written as ``OpType#k``: the k-th node with a body in its graph, counted from 0.
        node: The node whose attribute the graph is; None for the main graph.
        parent: The scope of that node; None for the main graph.
    """

    graph: ir.Graph
    path: str
    node: ir.Node | None
    parent: Scope | None


def scopes(model: ir.Model) -> list[Scope]:
    """All graphs of a model except for function bodies, outer graphs before inner ones."""
    found: list[Scope] = []
    waiting = [Scope(model.graph, "", None, None)]
    while waiting:
        scope = waiting.pop()
        found.append(scope)
        waiting.extend(reversed(list(_inner_scopes(scope))))
    return found


def _inner_scopes(scope: Scope) -> Iterator[Scope]:
    owners = [node for node in scope.graph if any(True for _ in bodies(node))]
    names = Counter(node.name for node in owners)
    for number, node in enumerate(owners):
        label = node.name if node.name and names[node.name] == 1 else f"{node.op_type}#{number}"
        for attribute, graph in bodies(node):
            path = f"{label}.{attribute}"
            yield Scope(graph, f"{scope.path}/{path}" if scope.path else path, node, scope)


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs in the attributes of a node, each with the name of its attribute."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for number, graph in enumerate(attribute.as_graphs()):
                yield f"{attribute.name}[{number}]", graph


def nodes_in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """All nodes of a graph in their order; the nodes of a body follow the node that has the body."""
    waiting = [iter(graph)]
    while waiting:
        node = next(waiting[-1], None)
        if node is None:
            waiting.pop()
            continue
        yield node
        waiting.extend(iter(body) for _, body in reversed(list(bodies(node))))


def outermost_node(node: ir.Node, graph: ir.Graph, scope_of: dict[ir.Graph, Scope]) -> ir.Node:
    """The node of `graph` that is `node` or has it in its body."""
    while node.graph is not graph:
        assert node.graph is not None  # noqa: S101 - nodes of a model stand in graphs
        owner = scope_of[node.graph].node
        assert owner is not None  # noqa: S101 - `graph` encloses the node
        node = owner
    return node
