"""Computes weights that nodes compute from constants by more than rearranging them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.streamed import CHUNK_ELEMENTS, StreamedTensor, all_elements
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.evaluation.evaluated_ops import EVALUATED_OPS, EvaluationError, evaluated_op
from onnx_gconv.weights.evaluation.node_evaluation import NodeValue, added_bytes, evaluate_node
from onnx_gconv.weights.opsets import default_opset
from onnx_gconv.weights.stack_parts import STACK_OPS, part_outputs

__all__ = ["MOST_EVALUATED_BYTES", "ConstantEvaluator", "EvaluatedTensor", "EvaluationError"]

# The limit of memory, in bytes, for the sources, the intermediate values and the result of one value.
MOST_EVALUATED_BYTES = 4 << 30

# Weights are read in parts, so results are cached: the last one, and older ones up to this total size in bytes.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class _Step:
    """A node, with the numbers of the values that it reads and computes; None stands for an omitted input."""

    node: onnx.NodeProto
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Computation:
    """The computation of a value as a copy of its own: it stays valid when the nodes are removed from the graph."""

    constants: dict[int, ir.TensorProtocol]
    steps: tuple[_Step, ...]
    result: int


class ConstantEvaluator:
    """Computes constant values of a model, node by node, by the rules of the opset that the model imports.

    ONNX Runtime computes the same bits where an operation is exact or rounded once: a cast, a slice, a concatenation, a
    product, a dequantization. The results of other ops, see `EvaluatedTensor.rounded_ops`, differ in the last bits.

    Args:
        model: The model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._opset = default_opset(model)
        self._kept: OrderedDict[_Computation, NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0
        self._stack: tuple[ir.TensorProtocol, ir.TensorProtocol] | None = None
        self._lock = threading.Lock()

    def evaluate(self, value: ir.Value) -> NDArray[Any]:
        """The array of a constant value.

        Raises:
            EvaluationError: If a node cannot be computed, or the computation would take too much memory.
            ModelError: If external data cannot be read.
        """
        tensor = constant_tensor(value)
        return self.record(value)[1] if tensor is None else all_elements(tensor)

    def record(self, value: ir.Value) -> tuple[_Computation, NDArray[Any]]:
        """The computation of a constant value, and its array.

        Raises:
            EvaluationError: If a node cannot be computed, or the computation would take too much memory.
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
        """The result of a computation, from the cache if it is there.

        Raises:
            EvaluationError: If a node cannot be computed, or the computation would take too much memory.
            ModelError: If external data cannot be read.
        """
        with self._lock:
            if computation not in self._kept:
                self._kept[computation] = self._compute(computation)
                self._kept_bytes += self._kept[computation].nbytes
            self._kept.move_to_end(computation)
            while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return self._kept[computation]

    def _as_array(self, stack: ir.TensorProtocol) -> ir.TensorProtocol:
        """A stack that can be read in parts: external data as it is, other tensors as one array in memory.

        A protobuf tensor would copy all of its data at each access.
        """
        if isinstance(stack, (ir.ExternalTensor, StreamedTensor)):
            return stack
        if self._stack is None or self._stack[0] is not stack:
            self._stack = stack, ir.Tensor(all_elements(stack), dtype=stack.dtype, name=stack.name)
        return self._stack[1]

    def _compute(self, computation: _Computation) -> NDArray[Any]:
        run = _Run(computation, self._opset, self._as_array)
        for step in computation.steps:
            run.take(step)
        result = run.value(computation.result)
        if not isinstance(result, np.ndarray):
            raise EvaluationError("it is a sequence or an optional value, no tensor")
        return result


class _Run:
    """One run of a computation; it keeps each value in memory only until the last step that reads it."""

    def __init__(
        self,
        computation: _Computation,
        opset: int | None,
        as_array: Callable[[ir.TensorProtocol], ir.TensorProtocol],
    ) -> None:
        self._constants = computation.constants
        self._as_array = as_array
        self._opset = opset
        self._uses = Counter(number for step in computation.steps for number in step.inputs if number is not None)
        self._uses[computation.result] += 1
        self._known: dict[int, NodeValue] = {}

    def value(self, number: int) -> NodeValue:
        """The array of a value that has been computed, or of a constant, which is read now."""
        if number not in self._known:
            tensor = self._constants[number]
            _require_memory(tensor.nbytes + self._bytes)
            self._known[number] = all_elements(tensor)
        return self._known[number]

    def take(self, step: _Step) -> None:
        """Compute a step, and drop the values that no later step reads."""
        results: Sequence[NodeValue] | None = self._part_of_stack(step)
        if results is None:
            inputs = self._inputs(step.inputs)
            _require_memory(added_bytes(step.node, inputs) + self._bytes)
            results = evaluate_node(step.node, inputs, self._opset)
        self._known.update(zip(step.outputs, results, strict=False))
        _require_memory(self._bytes)
        self._uses.subtract(number for number in step.inputs if number is not None)
        for number in {*step.inputs, *step.outputs}:
            if number is not None and not self._uses[number]:
                self._known.pop(number, None)

    def _part_of_stack(self, step: _Step) -> list[NDArray[Any] | None] | None:
        """The outputs of a node that passes on a small part of a constant, read without the rest; None for others."""
        stack = step.inputs[0] if step.inputs else None
        if step.node.op_type not in STACK_OPS or stack is None or stack in self._known or stack not in self._constants:
            return None
        evaluated_op(step.node.domain, step.node.op_type, self._opset)  # raises if the op is not supported
        others = [item for item in self._inputs(step.inputs[1:]) if not isinstance(item, list)]
        found = self._as_array(self._constants[stack])
        return part_outputs(step.node, found, others, [self._uses[item] > 0 for item in step.outputs])

    def _inputs(self, numbers: Sequence[int | None]) -> list[NodeValue]:
        return [None if number is None else self.value(number) for number in numbers]

    @property
    def _bytes(self) -> int:
        return sum(map(_bytes, self._known.values()))


class EvaluatedTensor(StreamedTensor):
    """A constant value that nodes compute, computed whenever it is read, even after the nodes have been removed.

    Args:
        evaluator: The evaluator that computes the value.
        value: The value.

    Raises:
        EvaluationError: If the value cannot be computed.
        ModelError: If external data cannot be read.
    """

    def __init__(self, evaluator: ConstantEvaluator, value: ir.Value) -> None:
        self._computation, array = evaluator.record(value)
        super().__init__(ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape), value.name)
        self._evaluator = evaluator

    @property
    def sources(self) -> tuple[ir.TensorProtocol, ...]:
        """The constants that the value is computed from."""
        return tuple(self._computation.constants.values())

    @property
    def rounded_ops(self) -> tuple[str, ...]:
        """The op types among the nodes whose results differ between runtimes in the last bits."""
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
    """The nodes that compute a value, without Constant nodes, in topological order."""
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
    """A copy of a node whose inputs and outputs are named by their positions, so that unnamed outputs keep theirs."""
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if value is None else f"i{number}" for number, value in enumerate(node.inputs))
    proto.output.extend(f"o{number}" for number in range(len(node.outputs)))
    return proto


def _bytes(value: NodeValue) -> int:
    """The bytes of a tensor, or of all tensors of a sequence."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return 0 if value is None else sum(map(_bytes, value))


def _require_memory(needed: int) -> None:
    if needed > MOST_EVALUATED_BYTES:
        raise EvaluationError(
            f"computing it takes {needed / 2**30:.1f} GiB at once, more than {MOST_EVALUATED_BYTES / 2**30:g} GiB"
        )
