"""New names that no value and no node of a model has yet, in any scope."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["UniqueNames"]


class UniqueNames:
    """Hands out new names; a taken one gets the suffix ``_1``, ``_2``, ...

    A name is unique over all scopes: a new name in the body of an If or a Loop that the graph around it has, too, would
    shadow that value. onnx-ir itself does not notice such clashes.
    """

    def __init__(self, model: ir.Model) -> None:
        self._taken = set(_names(model))

    def new(self, wanted: str) -> str:
        """`wanted`, or the first free name that starts with it."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def _names(model: ir.Model) -> Iterator[str]:
    in_functions = (graph for function in model.functions.values() for graph in (function.graph, *function.subgraphs()))
    for graph in (*model.graphs(), *in_functions):
        for value in (*graph.inputs, *graph.initializers.values()):
            yield value.name or ""
    nodes = [*model.graph.all_nodes()]
    for function in model.functions.values():
        nodes.extend(function.all_nodes())
    for node in nodes:
        yield node.name or ""
        for output in node.outputs:
            yield output.name or ""
