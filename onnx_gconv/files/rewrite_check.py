"""Whether a model that was rewritten is one that others can load: its names, its inputs and outputs, and onnx.checker.

Only the model without its weights is looked at, so that it takes as long for gigabytes as for bytes.
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

# Smaller tensors stay in what is checked: the shapes and axes among them say which shapes nodes give.
_LARGEST_KEPT_BYTES = 256

_LONGEST_REASON = 300


class RewriteCheck:
    """What a model has to keep when it is rewritten, taken before and asked for afterwards.

    Names are defined once in each graph, but for those that were defined twice before, as some exporters list an input
    twice, which ONNX Runtime lets pass; inputs and outputs of the model stay, but for inputs that were defaults of
    initializers; and if onnx.checker accepts the model before, it does so afterwards, with its inference of types and
    shapes if that accepts it, too.

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
        """Take what onnx.checker says from the model as it is now, which another tool has rewritten meanwhile."""
        skeleton = _Skeleton(model)
        if self._refusal is None:
            self._is_typed = skeleton.refusal(with_types=True) is None
            self._refusal = None if self._is_typed else skeleton.refusal(with_types=False)

    @property
    def note(self) -> str | None:
        """That onnx.checker refuses the model already before, and why; None if it does not."""
        return None if self._refusal is None else f"onnx.checker refuses the model as it was given: {self._refusal}"

    def require_sound(self, model: ir.Model) -> None:
        """Refuse a rewritten model that nobody could load.

        Args:
            model: The model as it is going to be written.

        Raises:
            ModelError: If it has lost something; the message names it, and says that the fault is ours.
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
    """A model without its weights, in whose place stand inputs of the main graph, of their types and shapes.

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
        """An input of the main graph like a tensor, and its name, which no exporter gives."""
        name = f"weight {len(self._main.input)}" if name is None else name
        self._main.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return name

    def refusal(self, *, with_types: bool) -> str | None:
        """Why onnx.checker refuses it, in a line; None if it does not."""
        try:
            onnx.checker.check_model(self.proto, full_check=with_types)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            return " ".join(str(error).split())[:_LONGEST_REASON]
        return None


def _without_data(model: ir.Model) -> onnx.ModelProto:
    """A model whose large constants only say that they are elsewhere; those of functions stay."""
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
        except ir.serde.SerdeError as error:  # in which onnx-ir wraps what happens while a small weight is computed
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
    """The names of all values that a graph defines; an initializer that is the default of an input counts once."""
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
    """How inputs or outputs differ."""
    if [name for name, _ in before] != [name for name, _ in after]:
        old_names, new_names = (", ".join(f"'{name}'" for name, _ in items) or "none" for items in (before, after))
        yield f"its {what}s were {old_names}, but would be {new_names}"
    else:
        for (name, old), (_, new) in zip(before, after, strict=True):
            if old != new:
                yield f"its {what} '{name}' would have another type or shape"
