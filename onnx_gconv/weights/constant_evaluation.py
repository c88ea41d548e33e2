"""Computes what the constant part of a graph gives: weights behind nodes that do more than rearrange them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, all_elements
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.evaluated_ops import EVALUATED_OPS, EvaluationError
from onnx_gconv.weights.node_evaluation import NodeValue, added_bytes, evaluate_node
from onnx_gconv.weights.opsets import default_opset

__all__ = ["MOST_EVALUATED_BYTES", "ConstantEvaluator", "EvaluatedTensor", "EvaluationError"]

# What may be in memory at one moment while one value is computed: its sources, its intermediate values, itself.
MOST_EVALUATED_BYTES = 4 << 30

# Results up to this size in all are kept, and the last one in any case: weights are read part by part.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class _Step:
    """A node, and the values it reads and gives. Values are counted; None is an input left out."""

    node: onnx.NodeProto
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Computation:
    """The computation of a value, on its own: the nodes may be removed from the graph."""

    constants: dict[int, ir.TensorProtocol]
    steps: tuple[_Step, ...]
    result: int


class ConstantEvaluator:
    """Computes constant values of a model, node by node, each by the rule of the opset that the model imports.

    ONNX Runtime computes the same, bit for bit, where an operation is exact or rounded once: a cast, a slice, a
    concatenation, a product, a dequantization. Others, see `rounded_ops`, differ in the last places.

    Args:
        model: The model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._opset = default_opset(model)
        self._kept: OrderedDict[_Computation, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def evaluate(self, value: ir.Value) -> NDArray[Any]:
        """The value of a constant.

        Raises:
            EvaluationError: If a node cannot be computed, or it would take too much memory.
            ModelError: If external data cannot be read.
        """
        return self.record(value)[1]

    def record(self, value: ir.Value) -> tuple[_Computation, NDArray[Any]]:
        """The computation of a constant, and its value.

        Raises:
            EvaluationError: If a node cannot be computed, or it would take too much memory.
            ModelError: If external data cannot be read.
        """
        nodes = _nodes_before(value)
        numbers: dict[ir.Value, int] = {}
        constants: dict[int, ir.TensorProtocol] = {}
        for item in (value, *(item for node in nodes for item in (*node.inputs, *node.outputs))):
            if item is None or item in numbers:
                continue
            numbers[item] = len(numbers)
            if (tensor := constant_tensor(item)) is not None:
                constants[numbers[item]] = tensor
            elif _computing_node(item) is None:
                raise EvaluationError(f"'{item.name}' is sparse or not constant")
        steps = tuple(
            _Step(
                _detached(node),
                tuple(None if item is None else numbers[item] for item in node.inputs),
                tuple(numbers[item] for item in node.outputs),
            )
            for node in nodes
        )
        computation = _Computation(constants, steps, numbers[value])
        return computation, self.run(computation)

    def run(self, computation: _Computation) -> NDArray[Any]:
        """The result of a computation; the latest ones are kept.

        Raises:
            EvaluationError: If a node cannot be computed, or it would take too much memory.
            ModelError: If external data cannot be read.
        """
        with self._lock:
            if computation not in self._kept:
                self._kept[computation] = self._compute(computation)
            self._kept.move_to_end(computation)
            while len(self._kept) > 1 and sum(array.nbytes for array in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[computation]

    def _compute(self, computation: _Computation) -> NDArray[Any]:
        uses = Counter(number for step in computation.steps for number in step.inputs if number is not None)
        uses[computation.result] += 1
        known: dict[int, NodeValue] = {}

        def value_of(number: int) -> NodeValue:
            if number not in known:
                tensor = computation.constants[number]
                _require_memory(tensor.nbytes + sum(map(_bytes, known.values())))
                known[number] = all_elements(tensor)
            return known[number]

        for step in computation.steps:
            inputs = [None if number is None else value_of(number) for number in step.inputs]
            _require_memory(added_bytes(step.node, inputs) + sum(map(_bytes, known.values())))
            known.update(zip(step.outputs, evaluate_node(step.node, inputs, self._opset), strict=False))
            _require_memory(sum(map(_bytes, known.values())))
            uses.subtract(number for number in step.inputs if number is not None)
            for number in {*step.inputs, *step.outputs}:
                if number is not None and not uses[number]:
                    known.pop(number, None)
        result = value_of(computation.result)
        if not isinstance(result, np.ndarray):
            raise EvaluationError("it is a sequence or an optional value, no tensor")
        return result


class EvaluatedTensor(StreamedTensor):
    """A constant that nodes compute; it is computed when it is read. The nodes may be removed meanwhile.

    Args:
        evaluator: Computes it.
        value: The value.

    Raises:
        EvaluationError: If it cannot be computed.
        ModelError: If external data cannot be read.
    """

    def __init__(self, evaluator: ConstantEvaluator, value: ir.Value) -> None:
        self._computation, array = evaluator.record(value)
        super().__init__(ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape), value.name)
        self._evaluator = evaluator

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The constants that it is computed from."""
        return tuple(self._computation.constants.values())

    @property
    def rounded_ops(self) -> tuple[str, ...]:
        """The op types among the nodes whose results have other last places in each runtime."""
        ops = dict.fromkeys(step.node.op_type for step in self._computation.steps)
        return tuple(op for op in ops if EVALUATED_OPS[op].precision == "rounded")

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
        """The elements from `start` to `stop`, in row-major order."""
        try:
            flat = self._evaluator.run(self._computation).reshape(-1)
        except EvaluationError as error:
            raise ModelError(f"'{self.name}': {error}") from error
        stop = self.size if stop is None else stop
        for first in range(start, stop, CHUNK_ELEMENTS):
            yield flat[first : min(first + CHUNK_ELEMENTS, stop)]


def _nodes_before(root: ir.Value) -> list[ir.Node]:
    """The nodes that compute a value, each after those it reads from. Constant nodes are no computation."""
    order: dict[ir.Node, None] = {}
    waiting: list[tuple[ir.Node, bool]] = [(node, False)] if (node := _computing_node(root)) is not None else []
    while waiting:
        node, is_ready = waiting.pop()
        if node in order:
            continue
        if is_ready:
            order[node] = None
            continue
        waiting.append((node, True))
        before = [_computing_node(value) for value in node.inputs if value is not None]
        waiting.extend((item, False) for item in before if item is not None and item not in order)
    return list(order)


def _computing_node(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    return None if node is None or (node.op_type == "Constant" and node.domain == "") else node


def _detached(node: ir.Node) -> onnx.NodeProto:
    """A node with inputs and outputs that are named by their places; outputs that nobody names keep their place."""
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if value is None else f"i{number}" for number, value in enumerate(node.inputs))
    proto.output.extend(f"o{number}" for number in range(len(node.outputs)))
    return proto


def _bytes(value: NodeValue) -> int:
    """How much memory a tensor takes, or the tensors of a sequence."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return 0 if value is None else sum(map(_bytes, value))


def _require_memory(needed: int) -> None:
    if needed > MOST_EVALUATED_BYTES:
        raise EvaluationError(
            f"computing it takes {needed / 2**30:.1f} GiB at once, more than {MOST_EVALUATED_BYTES / 2**30:g} GiB"
        )
