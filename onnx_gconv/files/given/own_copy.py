"""Copies of models that may be changed, while the model of the caller stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.files.model_checks import first_cause
from onnx_gconv.tensors.streamed import StreamedTensor

__all__ = ["own_copy", "own_tensors"]


def own_copy(model: ir.Model) -> ir.Model:
    """A copy of a model. Elements of tensors are shared; all else may be changed, names and metadata of tensors too.

    Raises:
        ModelError: If the model cannot be copied.
    """
    try:
        copied = model.clone()
    except (RuntimeError, KeyError, ValueError) as error:
        problem = _first_out_of_order(model) or f"onnx-ir cannot copy it: {first_cause(error)}; export it again"
        raise ModelError(problem) from error
    own_tensors(copied)
    return copied


def _first_out_of_order(model: ir.Model) -> str | None:
    """The first node that stands before one whose output it reads, and what to do about it; None if there is none."""
    for graph in model.graphs():
        seen: set[ir.Node] = set()
        for node in graph:
            for value in node.inputs:
                producer = None if value is None else value.producer()
                if value is not None and producer is not None and producer.graph is graph and producer not in seen:
                    return (
                        f"its node '{node.name}' ({node.op_type}) stands before the one that gives '{value.name}', "
                        "which it reads; onnx_ir.passes.common.TopologicalSortPass()(model) puts nodes in order"
                    )
            seen.add(node)
    return None


def own_tensors(model: ir.Model) -> None:
    """Give a model tensors of its own in place of those that it shares. Their elements stay where they are.

    onnx-ir renames a tensor with its value, and with that of a copy the tensor of the original.
    """
    for value in _values(model):
        if value.const_value is not None:
            value.const_value = _own(value.const_value)
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        for node in root.all_nodes():
            for attribute in list(node.attributes.values()):
                if _has_texts(attribute):
                    own = ir.AttrTensor(attribute.name, _own(attribute.as_tensor()), attribute.doc_string)
                    node.attributes.add(own)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """All values that may have a constant."""
    for graph in model.graphs():
        yield from graph.initializers.values()
    for function in model.functions.values():
        for subgraph in function.subgraphs():
            yield from subgraph.initializers.values()
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        for node in root.all_nodes():
            yield from node.outputs


def _has_texts(attribute: ir.Attr) -> bool:
    """Whether an attribute is a tensor with metadata that onnx-ir (1.1) would write twice: its own, and the proto's."""
    if attribute.type != ir.AttributeType.TENSOR or attribute.is_ref():
        return False
    tensor = attribute.as_tensor()
    return isinstance(tensor, ir.serde.TensorProtoTensor) and bool(tensor.raw.metadata_props)


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor with the same elements and a name, a text and metadata of its own."""
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=tensor.base_dir,
        )
    if isinstance(tensor, StreamedTensor):
        own = copy.copy(tensor)
        own.metadata_props, own.raw = dict(tensor.metadata_props), own
        return own
    if tensor.dtype == ir.DataType.STRING:
        return _own_strings(tensor)
    return ir.LazyTensor(
        lambda: tensor,
        tensor.dtype,
        ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _own_strings(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Strings are small: they are copied."""
    is_of_proto = isinstance(tensor, ir.serde.TensorProtoTensor)
    elements = tensor.raw.string_data if is_of_proto else tensor.string_data()  # type: ignore[attr-defined]
    return ir.StringTensor(
        list(elements),
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
