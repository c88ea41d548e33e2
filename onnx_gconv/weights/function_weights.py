"""Weights that local functions use: Constant nodes in their bodies, and arguments of their calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.weights.constant_values import Constant, constants_of, leaves, main_source
from onnx_gconv.weights.mvm_ops import mvm_op
from onnx_gconv.weights.readers import node_label
from onnx_gconv.weights.scopes import Scope
from onnx_gconv.weights.skip_reasons import SkipReason
from onnx_gconv.weights.weight_records import SkippedWeight

__all__ = ["FunctionWeights"]

_Identifier: TypeAlias = tuple[str, str, str]


class FunctionWeights:
    """What the local functions of a model do with weights."""

    def __init__(self, model: ir.Model) -> None:
        self._functions = model.functions
        self._weight_arguments: dict[_Identifier, frozenset[int]] = {}

    def weight_arguments(self, node: ir.Node) -> frozenset[int]:
        """Indices of the inputs of a node that end in a weight slot if the node calls a local function."""
        identifier = node.op_identifier()
        if identifier not in self._functions:
            return frozenset()
        if identifier not in self._weight_arguments:
            self._weight_arguments[identifier] = frozenset()  # ends the recursion of a function that calls itself
            inputs = list(self._functions[identifier].inputs)
            found: set[int] = set()
            for _, value in self._weight_operands(self._functions[identifier]):
                found.update(inputs.index(leaf) for leaf in leaves(value, self._functions).values if leaf in inputs)
            self._weight_arguments[identifier] = frozenset(found)
        return self._weight_arguments[identifier]

    def constants(self) -> Iterator[SkippedWeight]:
        """The constants inside of functions that feed a weight slot there."""
        for function in self._functions.values():
            graphs = [function.graph, *function.subgraphs()]
            scope = f"function {function.domain}.{function.name}"
            constants = {item.value: item for graph in graphs for item in constants_of(Scope(graph, scope, None, None))}
            found: dict[ir.Value, SkippedWeight] = {}
            for node, value in self._weight_operands(function):
                start = leaves(value, self._functions)
                if not start.is_foldable or not all(leaf in constants for leaf in start.values):
                    continue
                source = main_source([constants[leaf] for leaf in start.values])
                key = source.value if source else value
                known = found.setdefault(key, _skipped(key, source, scope, function.name))
                found[key] = replace(known, consumers=(*known.consumers, node_label(node)))
            yield from found.values()

    def _weight_operands(self, function: ir.Function) -> Iterator[tuple[ir.Node, ir.Value]]:
        """The values in weight slots of a function's body, and in arguments that end in one."""
        for node in function.all_nodes():
            row = mvm_op(node)
            slots = [slot.index for slot in row.slots] if row is not None else sorted(self.weight_arguments(node))
            for index in slots:
                if index < len(node.inputs) and (value := node.inputs[index]) is not None:
                    yield node, value


def _skipped(value: ir.Value, source: Constant | None, scope: str, function: str) -> SkippedWeight:
    return SkippedWeight(
        name=value.name or "",
        shape=tuple(source.tensor.shape.numpy()) if source else None,
        graph_path=scope,
        reason=SkipReason.INSIDE_FUNCTION,
        detail=f"a Constant in function {function}",
        is_mvm=True,
    )
