"""Checks that other tools can load a rewritten model: its names, its inputs and outputs, and onnx.checker.

The weights are left out of the check, so its time does not depend on their size.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.files.model_checks import unwritable

__all__ = ["RewriteCheck"]

# Smaller tensors are part of the check: they include shapes and axes, which shape inference needs.
_LARGEST_KEPT_BYTES = 256

_LONGEST_REASON = 300


class RewriteCheck:
    """Records a model before it is rewritten, and checks afterwards what has to be the same.

    - No name is defined twice in a graph. Names that were defined twice before are accepted: some exporters list an
      input twice, and ONNX Runtime accepts that.
    - The inputs and outputs of the model stay, except inputs with a default.
    - If onnx.checker accepts the original, it accepts the rewritten model; the same holds for its inference of types
      and shapes.

    Args:
        model: The model before it is rewritten. It is not changed, and no weight is read.
    """

    def __init__(self, model: ir.Model) -> None:
        skeleton = _Skeleton(model)
        self._inputs = [_label(value) for value in skeleton.proto.graph.input[: len(model.graph.inputs)]]
        self._outputs = [_label(value) for value in skeleton.proto.graph.output]
        self._defaults = {value.name for value in model.graph.inputs if value.name in model.graph.initializers}
        self._defined_twice = set(_defined_twice(skeleton.proto.graph, "the main graph"))
        self._is_typed = skeleton.refusal(with_types=True) is None
        self._refusal = None if self._is_typed else skeleton.refusal(with_types=False)

    def renew(self, model: ir.Model) -> None:
        """Run onnx.checker again for the reference, on the model as another tool has rewritten it."""
        skeleton = _Skeleton(model)
        if self._refusal is None:
            self._is_typed = skeleton.refusal(with_types=True) is None
            self._refusal = None if self._is_typed else skeleton.refusal(with_types=False)

    @property
    def note(self) -> str | None:
        """Return a note on why onnx.checker refuses the model before the rewrite; None if it accepts it."""
        return None if self._refusal is None else f"onnx.checker refuses the model as it was given: {self._refusal}"

    def require_sound(self, model: ir.Model) -> None:
        """Refuse a rewritten model that other tools could not load.

        Args:
            model: The model that is going to be written.

        Raises:
            ModelError: If a check fails; the message names the problem, and asks to report the fault.
        """
        problem = next(self._problems(model), None)
        if problem is not None:
            raise ModelError(
                f"the model that would be written is damaged, so that nothing was written: {problem}; this is a fault "
                "of onnx_gconv, please report it with the model"
            )

    def _problems(self, model: ir.Model) -> Iterator[str]:
        skeleton = _Skeleton(model)
        found = _defined_twice(skeleton.proto.graph, "the main graph")
        yield from (problem for problem in found if problem not in self._defined_twice)
        inputs = [_label(value) for value in skeleton.proto.graph.input[: len(model.graph.inputs)]]
        kept = [item for item in self._inputs if item in inputs or item[0] not in self._defaults]
        yield from _differences("input", kept, inputs)
        yield from _differences("output", self._outputs, [_label(value) for value in skeleton.proto.graph.output])
        if self._refusal is None:
            refusal = skeleton.refusal(with_types=self._is_typed)
            if refusal is not None:
                yield f"onnx.checker refuses it: {refusal}"


class _Skeleton:
    """A model in which each weight is replaced by an input of the main graph of the same type and shape.

    In bodies, and in place of Constant nodes, an Identity node gives such an input the name of the weight.
    """

    def __init__(self, model: ir.Model) -> None:
        self.proto = _without_data(model)
        self._main = self.proto.graph
        for graph in _graphs(self._main):
            for node in graph.node:
                if node.op_type == "Constant" and _is_elsewhere(node.attribute[0].t):
                    source = self._input_for(node.attribute[0].t)
                    node.op_type = "Identity"
                    node.input.append(source)
                    del node.attribute[:]
            self._take_initializers_out(graph)

    def _take_initializers_out(self, graph: onnx.GraphProto) -> None:
        own = {item.name for item in graph.input}
        kept = [item for item in graph.initializer if not _is_elsewhere(item)]
        taken = [item for item in graph.initializer if _is_elsewhere(item) and item.name not in own]
        if graph is self._main:
            for tensor in taken:
                self._input_for(tensor, tensor.name)
        elif taken:
            given = [onnx.helper.make_node("Identity", [self._input_for(item)], [item.name]) for item in taken]
            nodes = [*given, *graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _input_for(self, tensor: onnx.TensorProto, name: str | None = None) -> str:
        """Add an input with the type and shape of a tensor; return its name, which contains a space to be unique."""
        name = f"weight {len(self._main.input)}" if name is None else name
        self._main.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return name

    def refusal(self, *, with_types: bool) -> str | None:
        """Return why onnx.checker refuses the model, in a line; None if it accepts it."""
        try:
            onnx.checker.check_model(self.proto, full_check=with_types)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            return " ".join(str(error).split())[:_LONGEST_REASON]
        return None


def _without_data(model: ir.Model) -> onnx.ModelProto:
    """Return the protobuf of a model with large constants marked as external data, except constants of functions."""
    with contextlib.ExitStack() as undo:
        for graph in model.graphs():
            for value in graph.initializers.values():
                if (tensor := value.const_value) is not None and _is_large(tensor):
                    undo.callback(setattr, value, "const_value", tensor)
                    value.const_value = _placeholder(tensor, value.name)
            for node in graph:
                if _is_constant(node) and _is_large(constant := node.attributes["value"].as_tensor()):
                    undo.callback(node.attributes.add, node.attributes["value"])
                    node.attributes.add(ir.AttrTensor("value", _placeholder(constant, node.outputs[0].name)))
        try:
            return ir.to_proto(model)
        except ir.serde.SerdeError as error:  # onnx-ir wraps errors that are raised while a small weight is computed
            reason = unwritable(error)
            raise reason from (None if reason is error else error)


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain == "" and "value" in node.attributes


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes > _LARGEST_KEPT_BYTES


def _placeholder(tensor: ir.TensorProtocol, name: str | None) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name or "")


def _is_elsewhere(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                yield from _graphs(body)


def _definitions(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all values that a graph defines; an input and its default, an initializer, count once."""
    inputs = [item.name for item in graph.input]
    yield from inputs
    yield from (item.name for item in graph.initializer if item.name not in inputs)
    yield from (name for node in graph.node for name in node.output if name)


def _defined_twice(graph: onnx.GraphProto, where: str) -> Iterator[str]:
    counted = Counter(_definitions(graph))
    for name in (name for name, number in counted.items() if number > 1):
        yield f"the name '{name}' is defined twice in {where}"
    for node in graph.node:
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                yield from _defined_twice(body, f"the {attribute.name} of node '{node.name}' ({node.op_type})")


def _label(value: onnx.ValueInfoProto) -> tuple[str, bytes]:
    return value.name, value.type.SerializeToString(deterministic=True)


def _differences(what: str, before: list[tuple[str, bytes]], after: list[tuple[str, bytes]]) -> Iterator[str]:
    """Yield how inputs or outputs differ, given as pairs of name and serialized type."""
    if [name for name, _ in before] != [name for name, _ in after]:
        old_names, new_names = (", ".join(f"'{name}'" for name, _ in items) or "none" for items in (before, after))
        yield f"its {what}s were {old_names}, but would be {new_names}"
    else:
        for (name, old), (_, new) in zip(before, after, strict=True):
            if old != new:
                yield f"its {what} '{name}' would have another type or shape"
