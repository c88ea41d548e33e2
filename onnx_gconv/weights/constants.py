"""Finds the constant values of a model, and the initializers and Constant nodes that they are computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.tensors.types import MAPPABLE_DTYPES
from onnx_gconv.weights.scopes import Scope

__all__ = [
    "Constant",
    "ConstantValues",
    "Leaves",
    "constant_tensor",
    "constants_of",
    "is_foldable",
    "leaves",
    "main_source",
]

# Ops that give another value on every run, even with constant inputs.
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

_DROPOUT_TRAINING = 2  # the index of the input `training_mode`

_MATRIX_RANK = 2

_NUMBER_DTYPES = MAPPABLE_DTYPES - {ir.DataType.INT32}


@dataclass(frozen=True, eq=False)
class Constant:
    """An initializer, or the output of a Constant node.

    Attributes:
        value: The value.
        tensor: The data of the value.
        scope: The graph that owns the value.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    scope: Scope


@dataclass(frozen=True)
class Leaves:
    """The values from which another value is computed in the end.

    Attributes:
        values: The values that no node computes, and the outputs of Constant nodes.
        ops: The op types of the nodes in between.
        is_foldable: Whether these nodes give the same value on every run, see `is_foldable`.
    """

    values: tuple[ir.Value, ...]
    ops: tuple[str, ...]
    is_foldable: bool


class ConstantValues:
    """The constants of the main graph and of bodies of If, Loop and Scan, and the values computed from them alone."""

    def __init__(self, model: ir.Model, all_scopes: Collection[Scope]) -> None:
        self._functions = model.functions
        self._owners = {scope.graph: scope.node for scope in all_scopes}
        self.constants: dict[ir.Value, Constant] = {
            item.value: item for scope in all_scopes for item in constants_of(scope)
        }
        self._known: dict[ir.Value, bool] = dict.fromkeys(self.constants, True)

    def owner(self, graph: ir.Graph) -> ir.Node | None:
        """The node that has a graph as its body; None for the main graph."""
        return self._owners.get(graph)

    def take_for_constants(self, values: Iterable[ir.Value]) -> None:
        """Treat values as constants that may be none, such as weights that are rebuilt with read noise in each run."""
        self._known.update(dict.fromkeys(values, True))

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value is computed from constants alone, by nodes without bodies that are no function calls."""
        waiting, entered = [value], set[ir.Value]()
        while waiting:
            current = waiting[-1]
            if current in self._known:
                waiting.pop()
                continue
            node = current.producer()
            if node is None or not is_foldable(node, self._functions):
                self._known[current] = False
                continue
            inputs = [item for item in node.inputs if item is not None]
            unknown = [item for item in inputs if item not in self._known]
            if unknown and current not in entered:
                entered.add(current)
                waiting.extend(unknown)
                continue
            # An input that is still unknown here depends on the value itself: the graph has a cycle.
            self._known[current] = not unknown and all(self._known[item] for item in inputs)
        return self._known[value]

    def sources(self, value: ir.Value) -> list[Constant]:
        """The constants that hold the numbers of a constant value, as opposed to shapes, indices and factors.

        Constants of the types of shapes and indices, and constants of one element and at most one axis, are left out,
        each unless nothing else is left.
        """
        found = leaves(value, self._functions)
        constants = [self.constants[leaf] for leaf in found.values if leaf in self.constants]
        numbers = [item for item in constants if item.tensor.dtype in _NUMBER_DTYPES]
        more = [item for item in numbers if item.tensor.size > 1 or len(item.tensor.shape) > 1]
        return more or numbers or constants

    def replaceable(self, value: ir.Value) -> list[ir.Value]:
        """The graph inputs with a default from which a constant value is computed: a caller may replace them."""
        return [leaf for leaf in leaves(value, self._functions).values if leaf.is_graph_input()]

    def ops(self, value: ir.Value) -> tuple[str, ...]:
        """The op types of the nodes that compute a constant value."""
        return leaves(value, self._functions).ops


def constants_of(scope: Scope) -> Iterator[Constant]:
    """The constants of one graph: initializers first, then Constant nodes in their order."""
    for value in scope.graph.initializers.values():
        if value.const_value is not None:
            yield Constant(value, value.const_value, scope)
    for node in scope.graph:
        if _is_dense_constant(node):
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None:
                yield Constant(node.outputs[0], tensor, scope)


def leaves(value: ir.Value, functions: Collection[tuple[str, str, str]]) -> Leaves:
    """Follow the computation of a value back to the values that no node computes."""
    found: dict[ir.Value, None] = {}
    ops: dict[str, None] = {}
    foldable = True
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        node = current.producer()
        if node is None or _is_dense_constant(node):
            found[current] = None
            continue
        ops[node.op_type] = None
        foldable = foldable and is_foldable(node, functions)
        for item in node.inputs:
            if item is not None and item not in seen:
                seen.add(item)
                waiting.append(item)
    return Leaves(tuple(found), tuple(ops), foldable)


def is_foldable(node: ir.Node, functions: Collection[tuple[str, str, str]]) -> bool:
    """Whether a node gives the same results for the same inputs on every run, without a body or a local function."""
    has_body = any(a.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for a in node.attributes.values())
    return not has_body and not _is_random(node) and node.op_identifier() not in functions


def _is_random(node: ir.Node) -> bool:
    """Whether a node draws random numbers; Dropout does so only if its third input says that it trains."""
    if node.op_type == "Dropout" and len(node.inputs) > _DROPOUT_TRAINING:
        training = node.inputs[_DROPOUT_TRAINING]
        said = None if training is None else constant_tensor(training)
        return training is not None and (said is None or bool(said.numpy().any()))
    return node.op_type in _RANDOM_OPS


def main_source(sources: Collection[Constant]) -> Constant | None:
    """The only matrix among some constants, or the only constant: the others are scales, zero points and shapes.

    None if there are several matrices, or several constants and no matrix.
    """
    matrices = [item for item in sources if len(item.tensor.shape.numpy()) >= _MATRIX_RANK]
    if len(matrices) == 1:
        return matrices[0]
    return next(iter(sources)) if len(sources) == 1 else None


def _is_dense_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain == "" and "sparse_value" not in node.attributes


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The data of an initializer or of the output of a Constant node; None for other values, and for sparse data.

    `onnx_ir.convenience.get_const_tensor` gives the tensor in a Constant node the name of the node's output. Looking at
    a model must not change what it is written as.
    """
    node = value.producer()
    if value.const_value is None and node is not None and node.op_type == "Constant" and node.domain == "":
        if "sparse_value" in node.attributes:
            return None
        attribute = node.attributes.get("value")
        if attribute is not None and not attribute.is_ref():
            # `as_tensor` checks each member of the tensor protocol, which takes longer than everything else here.
            is_tensor = attribute.type == ir.AttributeType.TENSOR
            found: ir.TensorProtocol = attribute.value if is_tensor else attribute.as_tensor()
            return found
    return ir.convenience.get_const_tensor(value)
