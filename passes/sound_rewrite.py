"""Whether a graph that was rewritten is still one: what it takes and gives, its names, and the order of its nodes.

That looks at each node twice, and at nothing of the size of a weight. What `onnx.checker` says takes as long as the
mapping itself: operations on files ask for that, too (`onnx_gconv.files.rewrite_check`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnx_gconv.errors import ModelError

__all__ = ["DamagedModelError", "SoundRewrite"]


class DamagedModelError(ModelError, ir.passes.PostconditionError):
    """A `ModelError` that onnx-ir knows as a postcondition of a pass, and hands on as it is."""


class SoundRewrite:
    """What a model has to keep when a pass rewrites it, taken before and asked for afterwards.

    Its inputs and outputs stay, but for inputs that were defaults of initializers. If each name was defined once in its
    graph, and each value before it was used, so they are afterwards.

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
            DamagedModelError: If it has lost something; the message names it, and says that the fault is ours.
        """
        if (problem := next(self._problems(model), None)) is not None:
            raise DamagedModelError(
                f"the model is damaged by the rewrite: {problem}; this is a fault of onnx_gconv, please report it with "
                "the model, and do not use what it is now"
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
    """Whether something that was known of a value is different.

    What was not known may have been found out, and another number of axes put right: exporters write none where they
    mean any.
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
    """What is wrong with the names and the order of a graph and its bodies.

    Args:
        graph: The graph.
        around: The values that are there already, of each graph around it.
    """
    there = {*graph.inputs, *graph.initializers.values()}
    visible = (there, *around)
    names = {value.name for value in graph.inputs} | set(graph.initializers)
    for node in graph:
        for value in node.inputs:
            if value is not None and not any(value in scope for scope in visible):
                yield f"node '{node.name}' ({node.op_type}) reads '{value.name}', which is not there before it"
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
