"""Copies of models, which can be changed while the model of the caller stays unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.files.model_checks import first_cause
from onnx_gconv.tensors.streamed import StreamedTensor

__all__ = ["own_copy", "own_tensors"]


def own_copy(model: ir.Model) -> ir.Model:
    """Return a copy of a model. It shares only the elements of tensors; names and metadata of tensors are its own.

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
    """Return which node stands before the producer of its input, and the remedy; None if nodes are in order."""
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
    """Replace the tensors of a model by its own ones, which share the elements of the old ones.

    onnx-ir renames a tensor together with its value, so renaming a value of a copy would change the original.
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
    """Yield all values that may hold a constant tensor."""
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
    """Whether an attribute is a tensor whose metadata onnx-ir (1.1) would write twice: its own and the protobuf's."""
    if attribute.type != ir.AttributeType.TENSOR or attribute.is_ref():
        return False
    tensor = attribute.as_tensor()
    return isinstance(tensor, ir.serde.TensorProtoTensor) and bool(tensor.raw.metadata_props)


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor that shares the elements, but has its own name, doc string and metadata."""
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
    """Return a copy of a string tensor; strings are small, so their elements are copied, too."""
    is_of_proto = isinstance(tensor, ir.serde.TensorProtoTensor)
    elements = tensor.raw.string_data if is_of_proto else tensor.string_data()  # type: ignore[attr-defined]
    return ir.StringTensor(
        list(elements),
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
