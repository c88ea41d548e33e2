"""Checks whether the nodes of a graph can be put in order: a model in which a node needs its own output cannot run."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

__all__ = ["first_cycle"]


def first_cycle(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a cycle in a graph, each of which needs the output of the one before it; empty if none.

    A value that a body of a node reads from outside counts as an input of the node. Cycles inside bodies are not
    searched.
    """
    producers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    needs = [sorted({producers[name] for name in _read_by(node) if name in producers}) for node in graph.node]
    waiting_for = [len(found) for found in needs]
    needed_by: list[list[int]] = [[] for _ in needs]
    for number, found in enumerate(needs):
        for other in found:
            needed_by[other].append(number)
    ready = [number for number, count in enumerate(waiting_for) if not count]
    while ready:
        for number in needed_by[ready.pop()]:
            waiting_for[number] -= 1
            if not waiting_for[number]:
                ready.append(number)
    start = next((number for number, count in enumerate(waiting_for) if count), None)
    if start is None:
        return []
    way: list[int] = []
    while start not in way:  # every remaining node needs another remaining node
        way.append(start)
        start = next(number for number in needs[start] if waiting_for[number])
    return [graph.node[number] for number in reversed(way[way.index(start) :])]


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, also in its bodies."""
    yield from node.input
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own.update(name for inner in graph.node for name in inner.output)
            yield from (name for inner in graph.node for name in _read_by(inner) if name not in own)
            yield from (value.name for value in graph.output if value.name not in own)
