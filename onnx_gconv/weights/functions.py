"""Finds the weights of local functions: Constant nodes in their bodies, and constant arguments of their calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.weights.constants import Constant, ConstantValues, constants_of, is_foldable, leaves, main_source
from onnx_gconv.weights.ops.mvm_ops import mvm_op
from onnx_gconv.weights.rearrangement import node_label
from onnx_gconv.weights.records import SkippedWeight, SkipReason
from onnx_gconv.weights.scopes import Scope, scopes
from onnx_gconv.weights.weight_path import path_to

__all__ = ["FunctionWeights", "functions_with_weights"]

_Identifier: TypeAlias = tuple[str, str, str]


class FunctionWeights:
    """The weights of the local functions of a model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._functions = model.functions
        self._weight_arguments: dict[_Identifier, tuple[frozenset[int], ...]] = {}

    def weight_arguments(self, node: ir.Node) -> tuple[frozenset[int], ...]:
        """The inputs of a call of a local function that feed the weight slots in its body.

        Returns:
            For each weight slot, the indices of the node's inputs that it is computed from, or the index of the input
            from which nodes in the body choose a matrix for it. The slot holds a weight if all of these inputs are
            constant. Empty if the node calls no local function.
        """
        identifier = node.op_identifier()
        if identifier not in self._functions:
            return ()
        if identifier not in self._weight_arguments:
            self._weight_arguments[identifier] = ()  # ends the recursion if a function calls itself
            inputs = list(self._functions[identifier].inputs)
            found: dict[frozenset[int], None] = {}
            for _, operands in self._weight_operands(self._functions[identifier]):
                starts = [leaves(value, self._functions) for value in operands]
                indices = frozenset(inputs.index(leaf) for start in starts for leaf in start.values if leaf in inputs)
                if indices and all(start.is_foldable for start in starts):
                    found[indices] = None
            found.update((frozenset({index}), None) for index in self._stacks(self._functions[identifier]))
            self._weight_arguments[identifier] = tuple(found)
        return self._weight_arguments[identifier]

    def _stacks(self, function: ir.Function) -> Iterator[int]:
        """The indices of a function's inputs from which nodes of its body choose a matrix for a weight slot."""
        inputs = list(function.inputs)
        values = ConstantValues(self._model, [Scope(function.graph, "", None, None)])
        for node, operands in self._weight_operands(function):
            for path in (path_to(value, values) for value in operands if node.graph is function.graph):
                if path.choosers and path.root in inputs:
                    yield inputs.index(path.root)

    def constants(self) -> Iterator[SkippedWeight]:
        """The constants inside of functions that feed a weight slot there."""
        for function in self._functions.values():
            yield from self.constants_in(function)

    def constants_in(self, function: ir.Function) -> Iterator[SkippedWeight]:
        """The constants inside of one function that feed a weight slot there, or in a function that it calls.

        They include Constant nodes whose data is an attribute of the calls; the shape of these is not known.
        """
        graphs = [function.graph, *function.subgraphs()]
        scope = f"function {function.domain}.{function.name}"
        constants = {item.value: item for graph in graphs for item in constants_of(Scope(graph, scope, None, None))}
        found: dict[ir.Value, SkippedWeight] = {}
        for node, operands in self._weight_operands(function):
            starts = [leaves(value, self._functions) for value in operands]
            values = dict.fromkeys(leaf for start in starts for leaf in start.values)
            known_values = [constants[leaf] for leaf in values if leaf in constants]
            are_constant = all(leaf in constants or _is_attribute_of_calls(leaf) for leaf in values)
            if not are_constant or not all(start.is_foldable for start in starts):
                continue
            source = main_source(known_values) if len(known_values) == len(values) else None
            key = source.value if source else operands[0]
            known = found.setdefault(key, _skipped(key, source, scope, function.name))
            found[key] = replace(known, consumers=(*known.consumers, node_label(node)))
        yield from found.values()

    def _weight_operands(self, function: ir.Function) -> Iterator[tuple[ir.Node, list[ir.Value]]]:
        """For each weight slot in a function's body, and in the functions it calls: the values that feed it."""
        for node in function.all_nodes():
            row = mvm_op(node)
            slots = [{slot.index} for slot in row.slots] if row is not None else self.weight_arguments(node)
            for indices in slots:
                values = [node.inputs[index] for index in sorted(indices) if index < len(node.inputs)]
                if operands := [value for value in values if value is not None]:
                    yield node, operands


def _is_attribute_of_calls(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and any(attribute.is_ref() for attribute in node.attributes.values())


def _skipped(value: ir.Value, source: Constant | None, scope: str, function: str) -> SkippedWeight:
    return SkippedWeight(
        name=value.name or "",
        shape=tuple(source.tensor.shape.numpy()) if source else None,
        graph_path=scope,
        reason=SkipReason.INSIDE_FUNCTION,
        detail=f"a Constant in function {function}",
        is_mvm=True,
    )


def _functions_before(node: ir.Node, model: ir.Model, values: ConstantValues) -> set[ir.OperatorIdentifier]:
    """The functions that compute the value in a weight slot of a node from constants alone."""
    row = mvm_op(node)
    found: set[ir.OperatorIdentifier] = set()
    for slot in () if row is None or not model.functions else row.slots:
        if slot.index < len(node.inputs) and (value := node.inputs[slot.index]) is not None:
            found |= _calls_on_the_way(value, model, values)
    return found


def _calls_on_the_way(value: ir.Value, model: ir.Model, values: ConstantValues) -> set[ir.OperatorIdentifier]:
    """The functions that take part in computing a value; none if it is computed from anything but constants."""
    found: set[ir.OperatorIdentifier] = set()
    waiting, seen = [value], {value}
    while waiting:
        current = waiting.pop()
        if values.is_constant(current):
            continue
        node = current.producer()
        if node is None:
            return set()
        function = model.functions.get(node.op_identifier())
        nodes = [node] if function is None else function.all_nodes()
        if not all(is_foldable(item, ()) for item in nodes):
            return set()
        if function is not None:
            found.add(node.op_identifier())
        new = [item for item in node.inputs if item is not None and item not in seen]
        seen.update(new)
        waiting.extend(new)
    return found


def functions_with_weights(model: ir.Model) -> frozenset[ir.OperatorIdentifier]:
    """The functions that have to be inlined before their weights can be mapped.

    A function has to be inlined if a constant in its body feeds a weight slot, there or in a function that it calls; if
    a graph of the model calls it with a constant for a weight slot; or if it computes the value in a weight slot from
    constants.
    """
    functions, all_scopes = FunctionWeights(model), scopes(model)
    values = ConstantValues(model, all_scopes)
    found = {item for item, function in model.functions.items() if any(True for _ in functions.constants_in(function))}
    for scope in all_scopes:
        for node in scope.graph:
            found |= _functions_before(node, model, values)
            for indices in functions.weight_arguments(node):
                arguments = [node.inputs[index] for index in sorted(indices) if index < len(node.inputs)]
                given = [value for value in arguments if value is not None]
                if given and all(values.is_constant(value) for value in given):
                    found.add(node.op_identifier())
    return frozenset(found)
