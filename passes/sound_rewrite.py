"""Checks that a rewritten graph is still valid: its inputs and outputs, its names, and the order of its nodes.

The check visits each node twice and reads no data of weights. `onnx.checker` takes as long as the mapping itself, so
only operations on files run it as well (`onnx_gconv.files.rewrite_check`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnx_gconv.errors import ModelError

__all__ = ["DamagedModelError", "SoundRewrite"]


class DamagedModelError(ModelError, ir.passes.PostconditionError):
    """A `ModelError` that is also onnx-ir's `PostconditionError`, so that onnx-ir raises it unchanged from a pass."""


class SoundRewrite:
    """The properties that a model has to keep when a pass rewrites it, recorded before and checked afterwards.

    The inputs and outputs have to stay, except for inputs whose defaults are initializers. If each name was defined
    once in its graph and each value was computed before it was read, both have to be so afterwards.

    Args:
        model: The model before it is rewritten.
    """

    def __init__(self, model: ir.Model) -> None:
        defaults = {value.name for value in model.graph.inputs if value.is_initializer()}
        self._inputs = {value.name: _type(value) for value in model.graph.inputs if value.name not in defaults}
        self._outputs = [(value.name, _type(value)) for value in model.graph.outputs]
        self._was_sound = next(_flaws(model.graph), None) is None

    def require(self, model: ir.Model) -> None:
        """Refuse a model that was rewritten wrongly.

        Raises:
            DamagedModelError: If a property was lost; the message names it, and says that the fault is onnx_gconv's.
        """
        if (problem := next(self._problems(model), None)) is not None:
            raise DamagedModelError(
                f"the model is damaged by the rewrite: {problem}; this is a fault of onnx_gconv, please report it with "
                "the model, and do not use the rewritten model"
            )

    def _problems(self, model: ir.Model) -> Iterator[str]:
        inputs = {value.name: value for value in model.graph.inputs}
        for name, before in self._inputs.items():
            if name not in inputs:
                yield f"it has lost its input '{name}'"
            elif _differ(before, _type(inputs[name])):
                yield f"its input '{name}' has another type or shape"
        outputs = model.graph.outputs
        if [value.name for value in outputs] != [name for name, _ in self._outputs]:
            yield f"its outputs are {_listed(outputs)} now"
        for (name, before), value in zip(self._outputs, outputs, strict=False):
            if _differ(before, _type(value)):
                yield f"its output '{name}' has another type or shape"
        if self._was_sound:
            yield from _flaws(model.graph)


_Type = tuple[ir.TypeProtocol | None, ir.Shape | None]


def _type(value: ir.Value) -> _Type:
    return value.type, None if value.shape is None else value.shape.copy()


def _differ(before: _Type, now: _Type) -> bool:
    """Whether a type or shape that was known before has changed.

    A type or shape that was unknown may have been inferred, and another number of axes is allowed: exporters write a
    shape without axes where they mean any shape.
    """
    (old_type, old_shape), (new_type, new_shape) = before, now
    if old_type is not None and old_type != new_type:
        return True
    if old_shape is None or new_shape is None:
        return False
    return len(old_shape) == len(new_shape) and old_shape != new_shape


def _listed(values: Iterable[ir.Value]) -> str:
    return ", ".join(f"'{value.name}'" for value in values) or "none"


def _flaws(graph: ir.Graph, around: tuple[set[ir.Value], ...] = ()) -> Iterator[str]:
    """Yield what is wrong with the names and the order of a graph and its bodies.

    Args:
        graph: The graph.
        around: For each graph around it, the values that are computed before it.
    """
    there = {*graph.inputs, *graph.initializers.values()}
    visible = (there, *around)
    names = {value.name for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        for value in node.inputs:
            if value is not None and not any(value in scope for scope in visible):
                yield f"node '{node.name}' ({node.op_type}) reads '{value.name}', which is not defined before it"
        for attribute in node.attributes.values():
            for body in _bodies(attribute):
                yield from _flaws(body, visible)
        for value in node.outputs:
            if value.name in names and value.name:
                yield f"the name '{value.name}' is defined twice"
            names.add(value.name)
            there.add(value)
    for value in graph.outputs:
        if not any(value in scope for scope in visible):
            yield f"nothing gives the output '{value.name}'"


def _bodies(attribute: ir.Attr) -> Iterator[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        yield attribute.as_graph()
    elif attribute.type == ir.AttributeType.GRAPHS:
        yield from attribute.as_graphs()
