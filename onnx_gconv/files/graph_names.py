"""Checks that all texts of a model are UTF-8 and that each name stands for one value, as all runtimes require."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

__all__ = ["first_that_is_no_text", "problem_of_names"]


def problem_of_names(graph: onnx.GraphProto | onnx.FunctionProto, outer: Sequence[set[str]] = ()) -> str | None:
    """Return what is wrong with the names of values in a graph and in its bodies; None if nothing is.

    Args:
        graph: A graph, or a function.
        outer: The names that each graph around it defines.
    """
    if isinstance(graph, onnx.FunctionProto):
        own, outputs = set(graph.input), list(graph.output)
    else:
        own = {item.name for item in (*graph.input, *graph.initializer)}  # an initializer may be an input, too
        outputs = [value.name for value in graph.output]
    for name in (name for node in graph.node for name in node.output if name):
        if name in own:
            return f"gives the value '{name}' twice"
        own.add(name)
    known = (*outer, own)
    for node in graph.node:
        if (problem := _problem_of_node(node, known)) is not None:
            return problem
    missing = next((name for name in outputs if not _is_known(name, known)), None)
    return None if missing is None else f"has the output '{missing}', which nothing gives"


def _problem_of_node(node: onnx.NodeProto, known: Sequence[set[str]]) -> str | None:
    for name in node.input:
        if name and not _is_known(name, known):
            return f"reads the value '{name}', which nothing gives, in the node {_label(node)}"
    bodies = (problem_of_names(body, known) for attribute in node.attribute for body in _bodies(attribute))
    return next((problem for problem in bodies if problem is not None), None)


def _is_known(name: str, known: Sequence[set[str]]) -> bool:
    return any(name in names for names in known)


def _label(node: onnx.NodeProto) -> str:
    return f"'{node.name}' ({node.op_type})" if node.name else node.op_type


def _bodies(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    if attribute.type == onnx.AttributeProto.GRAPH:
        return (attribute.g,)
    return attribute.graphs if attribute.type == onnx.AttributeProto.GRAPHS else ()


def first_that_is_no_text(model: onnx.ModelProto) -> bytes | None:
    """Return the first text of a model that is not UTF-8, which protobuf gives as bytes; None if all texts are."""
    return next((text for text in _texts(model) if isinstance(text, bytes)), None)


def _texts(model: onnx.ModelProto) -> Iterator[str | bytes]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    yield from (opset.domain for opset in model.opset_import)
    yield from _entries(model.metadata_props)
    yield from _texts_of_graph(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, function.overload, function.doc_string)
        yield from (*function.input, *function.output, *function.attribute)
        yield from (opset.domain for opset in function.opset_import)
        yield from _entries(function.metadata_props)
        yield from _texts_of_values(function.value_info)
        yield from _texts_of_nodes(function.node)


def _texts_of_graph(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    yield from (graph.name, graph.doc_string)
    yield from _entries(graph.metadata_props)
    for values in (graph.input, graph.output, graph.value_info):
        yield from _texts_of_values(values)
    for tensor in graph.initializer:
        yield from _texts_of_tensor(tensor)
    for annotation in graph.quantization_annotation:
        yield annotation.tensor_name
        yield from _entries(annotation.quant_parameter_tensor_names)
    yield from _texts_of_nodes(graph.node)


def _texts_of_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[str | bytes]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, node.doc_string)
        yield from node.input
        yield from node.output
        yield from _entries(node.metadata_props)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string)
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield from _texts_of_tensor(attribute.t)
            for body in _bodies(attribute):
                yield from _texts_of_graph(body)


def _texts_of_tensor(tensor: onnx.TensorProto) -> Iterator[str | bytes]:
    yield from (tensor.name, tensor.doc_string)
    yield from _entries(tensor.external_data)
    yield from _entries(tensor.metadata_props)


def _texts_of_values(values: Sequence[onnx.ValueInfoProto]) -> Iterator[str | bytes]:
    for value in values:
        yield from (value.name, value.doc_string)
        yield from _entries(value.metadata_props)
        yield from _texts_of_type(value.type)


def _texts_of_type(kind: onnx.TypeProto) -> Iterator[str | bytes]:
    yield kind.denotation
    which = kind.WhichOneof("value")
    if which in {"tensor_type", "sparse_tensor_type"}:
        for size in getattr(kind, which).shape.dim:
            yield from (size.dim_param, size.denotation)
    elif which in {"sequence_type", "optional_type"}:
        yield from _texts_of_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        yield from _texts_of_type(kind.map_type.value_type)


def _entries(entries: Sequence[onnx.StringStringEntryProto]) -> Iterator[str | bytes]:
    for entry in entries:
        yield from (entry.key, entry.value)
