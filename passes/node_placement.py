"""Chooses the places of the nodes that rebuild weights: before the first reader, and outside of loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.weights import FoundWeight, Scope
from onnx_gconv.weights.scopes import outermost_node

__all__ = ["Place", "Placement"]

_LOOPS = frozenset({"Loop", "Scan"})


@dataclass(frozen=True, eq=False)
class Place:
    """A place in a model.

    Attributes:
        scope: The graph that the new nodes go to.
        before: The node of that graph before which they are inserted.
    """

    scope: Scope
    before: ir.Node


class Placement:
    """Finds the places for rebuilding weights, in a model in which no weight is mapped yet.

    Args:
        scopes: All graphs of the model.
    """

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._scope_of = {scope.graph: scope for scope in scopes}
        self._positions = {node: number for scope in scopes for number, node in enumerate(scope.graph)}
        self._scopes_of_name: dict[str, list[Scope]] = {}
        for scope in scopes:
            for name in _names(scope.graph):
                self._scopes_of_name.setdefault(name, []).append(scope)

    def of(self, weight: FoundWeight) -> Place:
        """The place for the nodes that rebuild a weight.

        The nodes go into the graph that owns the weight. If a loop repeats that graph, they go into the graph around
        the outermost loop, so that the weight is not rebuilt in each iteration. They stay inside in three cases:

        - another value of the model has the weight's name;
        - the weight is an output of the loop's body;
        - a DequantizeLinear node reads the weight. ONNX Runtime (1.32) fuses it with a MatMul, and fails if the codes
          are not in the same graph.
        """
        scope = self._outside_of_loops(weight)
        if scope is weight.scope and (producer := weight.value.producer()) is not None:
            return Place(scope, producer)  # the producer stands before all readers of the weight
        outermost = [outermost_node(node, scope.graph, self._scope_of) for node, _ in weight.value.uses()]
        return Place(scope, min(outermost, key=self._positions.__getitem__))

    def is_shadowed(self, weight: FoundWeight) -> bool:
        """Whether a graph around the weight's graph, or a body inside of it, has another value of the weight's name.

        ONNX Runtime allows an initializer to share its name with an initializer of a body, but not the output of a
        node. The rebuilt weight is the output of a node, so it needs another name then.

        Raises:
            ModelError: If the weight is an output of its graph: renaming it would change the interface of the graph.
        """
        own = self._scope_of[weight.scope.graph]
        others = [scope for scope in self._scopes_of_name[weight.name] if scope is not own]
        related = [scope for scope in others if _is_within(scope, own) or _is_within(own, scope)]
        if related and weight.value.is_graph_output():
            raise ModelError(
                f"the weight {weight.quoted} is a graph output, and the graph '{related[0].path or 'around it'}' has "
                "another value of that name; rename one of them"
            )
        return bool(related)

    def _outside_of_loops(self, weight: FoundWeight) -> Scope:
        found, scope = weight.scope, weight.scope
        while scope.parent is not None and scope.node is not None:
            if scope.node.op_type in _LOOPS and scope.node.domain == "":
                found = scope.parent
            scope = scope.parent
        is_dequantized = any(node.op_type == "DequantizeLinear" for node in weight.passed)
        is_unique = len(self._scopes_of_name[weight.name]) == 1
        is_movable = is_unique and not weight.value.is_graph_output() and not is_dequantized
        return found if is_movable else weight.scope


def _is_within(inner: Scope, outer: Scope) -> bool:
    current: Scope | None = inner
    while current is not None and current is not outer:
        current = current.parent
    return current is outer


def _names(graph: ir.Graph) -> set[str]:
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    return {value.name for value in values if value.name}
