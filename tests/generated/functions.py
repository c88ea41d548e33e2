"""Layers in local functions: their weights are nodes in the body, or arguments of the calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
from onnx import helper

from tests.generated.graph_builder import Activation, GraphBuilder
from tests.generated.layers import MICROSOFT, LayerContext
from tests.generated.weight_store import WeightStore

__all__ = ["LOCAL", "in_a_function"]

LOCAL = "local"


def in_a_function(
    c: LayerContext, build: Callable[[LayerContext], Activation], functions: list[onnx.FunctionProto], opset: int
) -> Activation:
    """A layer in a function that is called once or twice; the sum of both results is the result.

    Args:
        c: Where the calls stand.
        build: Builds the layer.
        functions: The functions so far; another one is appended.
        opset: The opset of the function.
    """
    body = GraphBuilder(f"Function{len(functions)}", opset, c.choices, is_function=True)
    inner = replace(c, graph=body, store=WeightStore(c.choices, c.store.numbers), feeds={}, trunk=None, slots=[])
    y = build(inner)
    inputs = [value.name for value in body.inputs]
    functions.append(_function(body, inputs, y))
    c.store.computing_ops |= inner.store.computing_ops
    arguments = {name: c.graph.initializer(array) for name, array in body.arguments.items()}
    result = _call(c, inner, inputs, arguments, y)
    if c.maybe(0.4) and y.dtype.kind == "f":
        again = _call(c, inner, inputs, arguments, y)
        result = replace(result, name=c.graph.node("Add", [result.name, again.name]))
    return result


def _function(body: GraphBuilder, inputs: list[str], y: Activation) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", body.opset)]
    if any(node.domain == MICROSOFT for node in body.nodes) or _mentions_microsoft(body):
        imports.append(helper.make_opsetid(MICROSOFT, 1))
    return helper.make_function(LOCAL, body.name, inputs, [y.name], body.nodes, imports)


def _mentions_microsoft(body: GraphBuilder) -> bool:
    graphs = [attribute.g for node in body.nodes for attribute in node.attribute if attribute.HasField("g")]
    return any(MICROSOFT.encode() in graph.SerializeToString() for graph in graphs)


def _call(
    c: LayerContext, inner: LayerContext, inputs: list[str], arguments: dict[str, str], y: Activation
) -> Activation:
    """A node that calls the function with new inputs of the model, and with the weights that are its arguments."""
    given = []
    for name in inputs:
        if name not in arguments:
            array = inner.feeds[name]
            new = c.graph.enclosing()[0].input(array.dtype, array.shape)
            c.feeds[new] = array
            given.append(new)
        else:
            given.append(arguments[name])
    known = {"graph": c.graph.name, "is_in_function": True, "is_renamed": True, "may_stay": inner.opset != c.opset}
    c.slots += [replace(slot, **known) for slot in inner.slots]
    name = c.graph.node(inner.graph.name, given, domain=LOCAL, outputs=[c.graph.new_name("y")])
    return replace(y, name=name)
