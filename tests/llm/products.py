"""Which constants of a model are factors of products: a walk over its protobuf that knows nothing of onnx_gconv."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["Factor", "factors", "factors_of_file"]

# The inputs of products in which a matrix may stand; None for all of them.
_PRODUCTS: dict[str, tuple[int, ...] | None] = {
    "Attention": (1,),  # of com.microsoft; that of ONNX has no weights
    "Conv": (1,),
    "ConvInteger": (1,),
    "DynamicQuantizeMatMul": (1,),
    "Einsum": None,
    "FusedMatMul": None,
    "Gemm": (0, 1),
    "MatMul": None,
    "MatMulBnb4": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (1,),
    "MatMulNBits": (1,),
    "MoE": (2, 4, 6),
    "QAttention": (1,),
    "QGemm": (3,),
    "QLinearMatMul": (0, 3),
    "QMoE": (2, 5, 8),
}

# What moves, copies, chooses or stores elements in another way, and computes nothing with them.
_MOVES = frozenset(
    {
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Pad",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
_ALL_INPUTS_ARE_MOVED = frozenset({"Concat", "Where"})
_SMALLEST_MATRIX = 2


@dataclass(frozen=True)
class Factor:
    """A constant that is a factor of a product.

    Attributes:
        name: Its name.
        shape: Its shape.
        parameters: How many parameters it stands for; bytes of packed ones hold several.
        readers: The op types of the products.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    readers: frozenset[str]


def factors(model: ModelProto) -> dict[str, Factor]:
    """All constants that reach the matrix of a product unchanged, by name. Vectors and single numbers are none."""
    found: dict[str, Factor] = {}
    _walk(model.graph, {}, {}, found)
    return found


def _walk(
    graph: GraphProto, outer: dict[str, NodeProto], known: dict[str, TensorProto], found: dict[str, Factor]
) -> None:
    """Walk a graph and the bodies in it, which also see what is outside of them."""
    makers = outer | {output: node for node in graph.node for output in node.output}
    constants = known | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        slots = _PRODUCTS.get(node.op_type, ())
        if node.op_type == "Attention" and node.domain != "com.microsoft":
            slots = ()
        for slot, name in enumerate(node.input):
            if slots is None or slot in slots:
                for tensor in _sources(name, makers, constants):
                    is_matrix = sum(size > 1 for size in tensor.dims) >= _SMALLEST_MATRIX
                    if is_matrix or node.op_type == "MatMulBnb4":  # which has its matrix in one row of bytes
                        before = found.get(tensor.name)
                        readers = frozenset({node.op_type}) | (frozenset() if before is None else before.readers)
                        shape, count = tuple(tensor.dims), _parameters(node, tensor)
                        found[tensor.name] = Factor(tensor.name, shape, count, readers)
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                _walk(body, makers, constants, found)


def _parameters(node: NodeProto, tensor: TensorProto) -> int:
    """How many parameters a constant stands for that this product reads."""
    numbers = {item.name: item.i for item in node.attribute}
    if node.op_type in {"MatMulNBits", "MatMulBnb4"}:
        return numbers["K"] * numbers["N"]
    if node.op_type == "QMoE":
        return math.prod(tensor.dims) * 8 // numbers.get("expert_weight_bits", 4)
    return math.prod(tensor.dims)


def _sources(name: str, makers: dict[str, NodeProto], constants: dict[str, TensorProto]) -> Iterator[TensorProto]:
    """The constants that a value is made of by moving elements alone."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        if name in constants and name not in makers:
            yield constants[name]
            continue
        node = makers.get(name)
        if node is None:
            continue
        if node.op_type == "Constant":
            tensor = next((item.t for item in node.attribute if item.name == "value"), None)
            if tensor is not None:
                named = TensorProto()
                named.CopyFrom(tensor)
                named.name = name
                yield named
        elif node.op_type in _MOVES:
            waiting.extend(node.input if node.op_type in _ALL_INPUTS_ARE_MOVED else node.input[:1])


def factors_of_file(path: Path) -> dict[str, Factor]:
    """Those of a model in a file, of which no values are read."""
    return factors(onnx.load(path, load_external_data=False))
