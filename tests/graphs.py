"""ONNX models from their parts: a model of nodes, chains of products, and weights that lie in other files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSETS = {"": 17, "ai.onnx.ml": 3, "custom": 1}


def value(name: str, element_type: int = TensorProto.FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    """An input or output; without a shape, of any."""
    return helper.make_tensor_value_info(name, element_type, shape)


def tensors(weights: dict[str, Any]) -> list[onnx.TensorProto]:
    """Initializers by their names."""
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]


def model(
    nodes: Iterable[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Iterable[onnx.TensorProto] = (),
    *,
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    """A model of opset 17 that ONNX Runtime of the last years runs."""
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid(domain, _OPSETS[domain]) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def chain(
    names: Iterable[str], *, op_type: str = "MatMul", first: str = "x0", last: str | None = None
) -> list[onnx.NodeProto]:
    """Nodes ``node_NAME`` that read one weight each, from the value `first` by ``x1`` and so on to `last`."""
    names = list(names)
    values = [first, *(f"x{number + 1}" for number in range(len(names)))]
    if last is not None:
        values[-1] = last
    return [
        helper.make_node(op_type, [values[number], name], [values[number + 1]], name=f"node_{name}")
        for number, name in enumerate(names)
    ]


def chain_model(*initializers: onnx.TensorProto, op_type: str = "MatMul") -> onnx.ModelProto:
    """A model that is a chain of nodes, each with one of the weights."""
    nodes = chain([tensor.name for tensor in initializers], op_type=op_type)
    element = initializers[0].data_type
    ends = ([value("x0", element)], [value(f"x{len(initializers)}", element)])
    return model(nodes, *ends, initializers)


def external_tensor(
    name: str, shape: Sequence[int], location: str, offset: int = 0, length: int | None = None
) -> onnx.TensorProto:
    """A tensor of float32 whose data is said to lie in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    size = 4 * math.prod(shape) if length is None else length
    for key, entry in {"location": location, "offset": offset, "length": size}.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor
