"""Constants that a node of any op computes, by the rule of the opset of the model."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np

from onnx_gconv.weights.evaluation.evaluated_ops import EVALUATED_OPS, EvaluationError, evaluated_op
from tests.generated.graph_builder import ELEMENT_TYPES, GraphBuilder
from tests.weights.compared_nodes import ComparedNode, nodes_of, run
from tests.weights.evaluated_cases import CASES

__all__ = ["OpConstant", "any_op", "constants_of_opset"]

_LARGEST = 1e3
_FLOAT32 = np.dtype(np.float32)


class OpConstant:
    """What a node gives that computes from constants alone.

    Args:
        node: The node, with what it reads.
    """

    def __init__(self, node: ComparedNode) -> None:
        self._node = node

    @property
    def op(self) -> tuple[str, int]:
        """The op and its version."""
        return self._node.case.op_type, self._node.version

    @property
    def is_rounded(self) -> bool:
        """Whether its result has other last places in each runtime."""
        return EVALUATED_OPS[self._node.case.op_type].precision == "rounded"

    @functools.cached_property
    def value(self) -> np.ndarray[Any, Any] | None:
        """What ONNX Runtime computes, as float32; None if it is no weight, or the runtime cannot compute it."""
        results = run([self._node], [self._node.evaluated()])[0]
        if results is None or not isinstance(results[0], np.ndarray):
            return None
        value = results[0].astype(np.float32)
        return value if value.size and np.isfinite(value).all() and np.abs(value).max() < _LARGEST else None

    def emit(self, graph: GraphBuilder) -> tuple[str, list[tuple[str, np.ndarray[Any, Any]]]]:
        """Append the node and its constants.

        Returns:
            The name of its first output, as float32, and its constants.
        """
        case, constants = self._node.case, []
        inputs = [self._input(graph, value, constants) for value in self._node.values]
        outputs = [graph.new_name("v") for _ in range(case.outputs)]
        result = graph.node(case.op_type, inputs, outputs=outputs, **case.attributes)
        if case.op_type == "Optional":
            result = graph.node("OptionalGetElement", [result])
        return graph.cast(result, _FLOAT32), constants

    def _input(self, graph: GraphBuilder, value: Any, constants: list[tuple[str, np.ndarray[Any, Any]]]) -> str:
        if value is None:
            return ""
        if isinstance(value, list):
            return graph.node("SequenceConstruct", [self._input(graph, item, constants) for item in value])
        name = graph.initializer(value, "c")
        constants.append((name, value))
        return graph.node("Optional", [name]) if self._node.case.op_type == "OptionalGetElement" else name


def constants_of_opset(opset: int) -> list[OpConstant]:
    """All that nodes give which an opset has; some of it is no weight."""
    return [constant for constants in _constants(opset).values() for constant in constants]


def any_op(choices: random.Random, opset: int) -> OpConstant | None:
    """A constant that any op computes which the opset has; None if it is no weight.

    Args:
        choices: Draws it.
        opset: The opset of the model.
    """
    known = _constants(opset)
    found = choices.choice(known[choices.choice(list(known))])
    return None if found.value is None else found


@functools.cache
def _constants(opset: int) -> dict[str, list[OpConstant]]:
    """What the nodes give of each op that an opset has."""
    found = {}
    for op_type in EVALUATED_OPS:
        try:
            version = evaluated_op("", op_type, opset)[1].since_version
        except EvaluationError:
            continue
        if constants := _constants_of(op_type, version):
            found[op_type] = constants
    return found


@functools.cache
def _constants_of(op_type: str, version: int) -> list[OpConstant]:
    return [OpConstant(node) for node in nodes_of(CASES, op_type, version) if _can_be_built(node)]


def _can_be_built(node: ComparedNode) -> bool:
    arrays = [item for value in node.values for item in (value if isinstance(value, list) else [value])]
    return node.dtype in {None, _FLOAT32} and all(item is None or item.dtype in ELEMENT_TYPES for item in arrays)
