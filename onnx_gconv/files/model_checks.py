"""What a model file must be before it is trusted: complete, unambiguous, and without parts that would get lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir

__all__ = ["first_problem"]

_PACKED_BITS = 8


def first_problem(proto: onnx.ModelProto) -> str | None:
    """Why a model cannot be used, with the remedy, or None.

    onnx-ir (1.1) drops sparse initializers, training information and opaque types without a word, and keeps one of two
    initializers of the same name.
    """
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        return "is not an ONNX model, or it is truncated (no graph, IR version or opset); export or copy it again"
    if proto.training_info:
        return "has training information, which would be lost; export the model for inference"
    for graph in _graphs(proto.graph):
        if (problem := _graph_problem(graph)) is not None:
            return problem
    for tensor in _tensors(proto):
        if (problem := _tensor_problem(tensor)) is not None:
            return f"has a damaged tensor: tensor '{tensor.name}' {problem}; export or copy the model again"
    return None


def _graph_problem(graph: onnx.GraphProto) -> str | None:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        return f"has the sparse initializer '{name}', which would be lost; make it dense first"
    for value in (*graph.input, *graph.output, *graph.value_info):
        if (kind := _opaque(value.type)) is not None:
            return (
                f"has the value '{value.name}' of the opaque type '{kind}', which would be lost; cut the nodes that "
                "give or read it off the model"
            )
    names: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name:
            return f"has an initializer without a name in graph '{graph.name}'; export the model again"
        if tensor.name in names:
            return f"has two initializers named '{tensor.name}' in graph '{graph.name}'; rename one"
        names.add(tensor.name)
    return None


def _opaque(kind: onnx.TypeProto) -> str | None:
    """The name of an opaque type, or of one that a type is made of; None if there is none."""
    which = kind.WhichOneof("value")
    if which == "opaque_type":
        return ".".join(part for part in (kind.opaque_type.domain, kind.opaque_type.name) if part)
    if which == "map_type":
        return _opaque(kind.map_type.value_type)
    return _opaque(getattr(kind, which).elem_type) if which in {"sequence_type", "optional_type"} else None


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    """What is wrong with the type, the shape or the data of a tensor."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return f"has the unknown element type {tensor.data_type}"
    if dtype == ir.DataType.UNDEFINED:
        return "has no element type"
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external_problem(tensor, dtype)
    count = math.prod(tensor.dims)
    if dtype == ir.DataType.STRING:
        found, needed = len(tensor.string_data), count
    elif tensor.HasField("raw_data"):
        found, needed = len(tensor.raw_data), math.ceil(dtype.bitwidth * count / 8)
    else:
        found, needed = _typed_elements(tensor), _needed_typed_elements(dtype, count)
    if found != needed:
        return f"has {found} values or bytes of data, but {dtype.name} {list(tensor.dims)} needs {needed}"
    return None


def _external_problem(tensor: onnx.TensorProto, dtype: ir.DataType) -> str | None:
    if dtype == ir.DataType.STRING:
        return "has strings in external data"
    for entry in tensor.external_data:
        if entry.key in {"offset", "length"} and not (entry.value.isascii() and entry.value.isdigit()):
            return f"has external data with the {entry.key} '{entry.value}'"
    return None


def _typed_elements(tensor: onnx.TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return max(len(field) for field in fields)


def _needed_typed_elements(dtype: ir.DataType, count: int) -> int:
    if dtype in {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128}:
        return 2 * count
    if dtype.bitwidth < _PACKED_BITS and dtype.bitwidth in {2, 4}:
        return math.ceil(count * dtype.bitwidth / _PACKED_BITS)
    return count


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _bodies(node)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from _graphs(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                yield from _graphs(graph)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All initializers and all tensors in attributes."""
    for graph in _graphs(proto.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from _attribute_tensors(node)
    for function in proto.functions:
        for node in function.node:
            yield from _attribute_tensors(node)
            for graph in _bodies(node):
                yield from graph.initializer
                for inner in graph.node:
                    yield from _attribute_tensors(inner)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == onnx.AttributeProto.TENSORS:
            yield from attribute.tensors
