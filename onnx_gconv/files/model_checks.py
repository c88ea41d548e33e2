"""Checks of a model file before it is used: complete, unambiguous, and without parts that would get lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx.defs
import onnx.helper
import onnx_ir as ir

from onnx_gconv.errors import GconvError, ModelError
from onnx_gconv.files.graph_names import first_that_is_no_text, problem_of_names
from onnx_gconv.files.graph_order import first_cycle

__all__ = ["first_cause", "first_problem", "unwritable"]

_PACKED_BITS = 8

# The largest number of axes of an array in NumPy 2.
_MOST_AXES = 64

# The largest number of nodes of a cycle that a message names.
_MOST_NODES = 4

_OWN_DOMAINS = frozenset({"", "ai.onnx"})

_OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional

# onnx looks opset versions up as 32-bit integers.
_NEWEST_OPSET = (1 << 31) - 1

_LONGEST_SHOWN = 40


def first_cause(error: BaseException) -> BaseException:
    """Return the first error in the chain of causes of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def unwritable(error: ir.serde.SerdeError) -> Exception:
    """Return the error to report if onnx-ir cannot write a model.

    That is our own error, raised while a weight was computed, or a `ModelError` with the reason that onnx-ir gives. An
    error of any other cause is a fault of this package and is returned unchanged.
    """
    cause = first_cause(error)
    if isinstance(cause, GconvError):
        return cause
    if isinstance(cause, (TypeError, ValueError)):  # what onnx-ir raises
        return ModelError(f"onnx-ir cannot write the model again: {cause}; export the model again")
    return error


def first_problem(proto: onnx.ModelProto) -> str | None:
    """Return why a model cannot be used, with the remedy; None if it can.

    onnx-ir (1.1) silently drops sparse initializers, training information and opaque types, and keeps only one of two
    initializers of the same name.
    """
    return next(_problems(proto), None)


def _problems(proto: onnx.ModelProto) -> Iterator[str]:
    if not proto.HasField("graph") or not proto.opset_import or not proto.ir_version:
        yield "is not an ONNX model, or it is truncated (no graph, IR version or opset); export or copy it again"
    if (text := first_that_is_no_text(proto)) is not None:
        yield f"has the text {text[:_LONGEST_SHOWN]!r}, which is no UTF-8; export or copy the model again"
    if proto.training_info:
        yield "has training information, which would be lost; export the model for inference"
    for opset in (opset for owner in (proto, *proto.functions) for opset in owner.opset_import):
        if not (opset.domain in _OWN_DOMAINS) <= opset.version <= _NEWEST_OPSET:  # ONNX's own opsets start at 1
            yield f"has the opset {opset.version} of '{opset.domain}', which does not exist; export the model again"
    yield from _problems_of_graphs(proto)
    for tensor in _tensors(proto):
        if (problem := _tensor_problem(tensor)) is not None:
            yield f"has a damaged tensor: tensor '{tensor.name}' {problem}; export or copy the model again"


def _problems_of_graphs(proto: onnx.ModelProto) -> Iterator[str]:
    for nodes, opsets in _nodes(proto):
        for node in nodes:
            if (problem := _node_problem(node, opsets)) is not None:
                yield f"has the node {_label(node)} {problem}; export the model again"
    yield from filter(None, map(_graph_problem, _graphs(proto.graph)))
    for problem in map(problem_of_names, (proto.graph, *proto.functions)):
        if problem is not None:
            yield f"{problem}; export the model again"


def _nodes(proto: onnx.ModelProto) -> Iterator[tuple[Sequence[onnx.NodeProto], Mapping[str, int]]]:
    """Yield the nodes of each graph and function, with the opset version of each domain there."""
    for graph in _graphs(proto.graph):
        yield graph.node, _opsets(proto)
    for function in proto.functions:
        opsets = _opsets(function)
        yield function.node, opsets
        for node in function.node:
            for body in _bodies(node):
                yield body.node, opsets


def _opsets(owner: onnx.ModelProto | onnx.FunctionProto) -> Mapping[str, int]:
    """Return the opset version of each domain; ONNX's own domain is listed under both of its names."""
    found = {item.domain: item.version for item in owner.opset_import}
    for name, other in (("", "ai.onnx"), ("ai.onnx", "")):
        if name in found:
            found.setdefault(other, found[name])
    return found


def _label(node: onnx.NodeProto) -> str:
    """Return a text that identifies a node for people: its name, or an output if it has no name."""
    name = node.name or next((f"of '{name}'" for name in node.output if name), "without outputs")
    return f"'{node.name}' ({node.op_type})" if node.name else f"{node.op_type} {name}"


def _node_problem(node: onnx.NodeProto, opsets: Mapping[str, int]) -> str | None:
    """Return what a node lacks, or which attribute has the wrong type; None if nothing is wrong."""
    if node.domain in _OWN_DOMAINS and node.domain not in opsets:
        return "of ONNX's own ops, for which the model imports no opset"
    known: Mapping[str, onnx.defs.OpSchema.Attribute] = {}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    except (KeyError, onnx.defs.SchemaError):  # an op of another domain, or one that the opset does not have
        pass
    else:
        known = schema.attributes
        if schema.min_output and not node.output:
            return f"without the {schema.min_output} outputs that it should have"
        needed = (place for place, item in enumerate(schema.inputs[: schema.min_input]) if item.option != _OPTIONAL)
        if len(node.input) < schema.min_input or not all(node.input[place] for place in needed):
            return f"without the {schema.min_input} inputs that it should have"
    if node.op_type == "Constant" and node.domain in _OWN_DOMAINS:
        return _constant_problem(node, known) or _attribute_problem(node, known)
    return _attribute_problem(node, known)


def _constant_problem(node: onnx.NodeProto, known: Mapping[str, onnx.defs.OpSchema.Attribute]) -> str | None:
    """Return why a Constant node gives no tensor; None if it gives one."""
    if len(node.attribute) != 1:
        return f"with {len(node.attribute)} attributes, of which it should have one"
    name = node.attribute[0].name
    if name == "sparse_value":
        return "whose value is sparse, which onnx-ir does not read; make it dense"
    return None if name in known or not known else f"with the attribute '{name}', which holds no value"


def _attribute_problem(node: onnx.NodeProto, known: Mapping[str, onnx.defs.OpSchema.Attribute]) -> str | None:
    names = set[str]()
    for attribute in node.attribute:
        if attribute.name in names:
            return f"with two attributes '{attribute.name}', of which one would be lost"
        names.add(attribute.name)
        found = onnx.AttributeProto.AttributeType.Name(attribute.type)
        wanted = None if attribute.name not in known else str(known[attribute.name].type).rpartition(".")[2]
        if found == "UNDEFINED" or (wanted is not None and found != wanted):
            expected = f"is {found}" if wanted is None else f"is {found}, but should be {wanted}"
            return f"whose attribute '{attribute.name}' {expected}"
        if wanted in {"STRING", "STRINGS"} and not all(map(_is_text, (attribute.s, *attribute.strings))):
            return f"whose attribute '{attribute.name}' is no UTF-8"
    return None


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _graph_problem(graph: onnx.GraphProto) -> str | None:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        return f"has the sparse initializer '{name}', which would be lost; make it dense first"
    for value in (*graph.input, *graph.output, *graph.value_info):
        if (problem := _type_problem(value.type)) is not None:
            return f"has the value '{value.name}' {problem}"
    if cycle := first_cycle(graph):
        listed = ", ".join(map(_label, cycle[:_MOST_NODES])) + (" and others" if len(cycle) > _MOST_NODES else "")
        what = "nodes need the outputs of each other" if len(cycle) > 1 else "a node needs its own output"
        return f"has a cycle, in which {what}: {listed}; export the model again"
    names: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name:
            return f"has an initializer without a name in graph '{graph.name}'; export the model again"
        if tensor.name in names:
            return f"has two initializers named '{tensor.name}' in graph '{graph.name}'; rename one"
        names.add(tensor.name)
    return None


def _type_problem(kind: onnx.TypeProto) -> str | None:
    """Return what is wrong with the type of a value, as a phrase that follows the value's name; None if nothing is."""
    if (opaque := _opaque(kind)) is not None:
        return f"of the opaque type '{opaque}', which would be lost; cut the nodes that give or read it off the model"
    if _has_map(kind):
        return (
            "that is made of maps, as ZipMap gives them: valid, but not supported, since onnx-ir knows no maps; export "
            "it without them (skl2onnx: options={'zipmap': False}), or cut that output off the model"
        )
    return None


def _opaque(kind: onnx.TypeProto) -> str | None:
    """Return the name of a type that is opaque, or of an opaque type inside it; None if there is none."""
    which = kind.WhichOneof("value")
    if which == "opaque_type":
        return ".".join(part for part in (kind.opaque_type.domain, kind.opaque_type.name) if part)
    if which == "map_type":
        return _opaque(kind.map_type.value_type)
    return _opaque(getattr(kind, which).elem_type) if which in {"sequence_type", "optional_type"} else None


def _has_map(kind: onnx.TypeProto) -> bool:
    """Whether a type is a map or contains one."""
    which = kind.WhichOneof("value")
    if which == "map_type":
        return True
    return which in {"sequence_type", "optional_type"} and _has_map(getattr(kind, which).elem_type)


def _tensor_problem(tensor: onnx.TensorProto) -> str | None:
    """Return what is wrong with the type, the shape or the data of a tensor; None if nothing is."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return f"has the unknown element type {tensor.data_type}"
    if dtype == ir.DataType.UNDEFINED:
        return "has no element type"
    if any(size < 0 for size in tensor.dims) or len(tensor.dims) > _MOST_AXES:
        return f"has the shape {list(tensor.dims)}; sizes must be 0 or more, and axes {_MOST_AXES} or fewer"
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
    """Return how many values the protobuf field for a tensor's type holds; other fields do not count."""
    is_known = tensor.data_type in onnx.helper.get_all_tensor_dtypes()  # older releases of onnx lack the newest types
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type) if is_known else "int32_data"
    return len(getattr(tensor, field))


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
        if attribute.ref_attr_name:  # an attribute of a function; its calls give the tensor
            continue
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == onnx.AttributeProto.TENSORS:
            yield from attribute.tensors
