"""Finds constants that are, or may be, multiplied with activations, but that no path leads to from an MVM op.

They are listed as skipped, so that a report never says that 100 % of a model are mapped while some are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_gconv.visible_text import listed
from onnx_gconv.weights.constants import Constant, ConstantValues, constants_of, leaves
from onnx_gconv.weights.ops.mvm_ops import mvm_op
from onnx_gconv.weights.ops.unlisted_ops import attribute_matrices, is_compiled, is_known, product_inputs
from onnx_gconv.weights.opsets import default_opset
from onnx_gconv.weights.rearrangement import node_label
from onnx_gconv.weights.records import SkippedWeight, SkipReason
from onnx_gconv.weights.run_time_ways import RunTimeWays, Way
from onnx_gconv.weights.scopes import Scope

__all__ = ["UnmappedProducts", "is_matrix_of_numbers"]

_MATRIX_RANK = 2

# The types of indices, masks and texts; neither weights nor packed codes have them.
_NO_WEIGHTS = frozenset(
    {
        ir.DataType.INT64,
        ir.DataType.UINT64,
        ir.DataType.BOOL,
        ir.DataType.STRING,
        ir.DataType.COMPLEX64,
        ir.DataType.COMPLEX128,
    }
)


# The types of packed codes along one axis, and their least number; zero points of channels are fewer.
_CODES = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8})
_FEWEST_FLAT_CODES = 1024


@dataclass
class _Uses:
    """The uses of a constant. Dicts are ordered sets.

    Attributes:
        slots: The weight slots that the constant reaches, as ``name (op_type)[slot]``.
        choosers: The op types that choose or change its elements on the way there.
        unlisted: The ops that read it and have no row in the table of MVM ops.
        readers: The nodes of these ops.
        is_compiled: Whether all of these nodes hold a compiled model.
        is_unknown: Whether one of these ops is in no table at all.
    """

    slots: dict[str, None] = field(default_factory=dict)
    choosers: dict[str, None] = field(default_factory=dict)
    unlisted: dict[str, None] = field(default_factory=dict)
    readers: dict[str, None] = field(default_factory=dict)
    is_compiled: bool = True
    is_unknown: bool = False


class UnmappedProducts:
    """The constants that are, or may be, multiplied with activations, though no path leads to them from an MVM op.

    Args:
        model: The model.
        all_scopes: The graphs of the model.
        values: The constant values in these graphs.
    """

    def __init__(self, model: ir.Model, all_scopes: Collection[Scope], values: ConstantValues) -> None:
        self._functions = model.functions
        self._function_names = {function.name for function in model.functions.values()}
        self._values = values
        self._ways = RunTimeWays(model, values, default_opset(model))
        self._function_scopes = [
            Scope(graph, f"function {function.domain}.{function.name}", None, None)
            for function in model.functions.values()
            for graph in (function.graph, *function.subgraphs())
        ]
        self._uses: dict[ir.Value, _Uses] = {}
        self._in_attributes: list[SkippedWeight] = []
        for scope in (*all_scopes, *self._function_scopes):
            for node in scope.graph:
                self._visit(node)
                self._in_attributes.extend(_in_attributes(node, scope))

    def skipped(self, constant: Constant) -> SkippedWeight | None:
        """The record of a constant that feeds such a product, with the reason why it is skipped; None for others."""
        uses = self._uses.get(constant.value)
        if uses is None:
            return None
        are_flat_codes = uses.is_unknown and _are_flat_codes(constant.tensor)
        if not is_matrix_of_numbers(constant.tensor) and not are_flat_codes:
            return None
        if uses.slots and uses.choosers and uses.choosers.keys() <= self._function_names:
            reason, consumers = SkipReason.INSIDE_FUNCTION, tuple(uses.slots)
            detail = f"function {'/'.join(uses.choosers)}"
        elif uses.slots:
            reason, consumers = SkipReason.CHOSEN_AT_RUN_TIME, tuple(uses.slots)
            through = f"through {'/'.join(uses.choosers)} " if uses.choosers else ""
            detail = f"{through}to {listed(consumers)}"
        else:
            reason = SkipReason.COMPILED if uses.is_compiled else SkipReason.UNLISTED_OP
            consumers = tuple(uses.readers)
            behind = f", behind {'/'.join(uses.choosers)}" if uses.choosers else ""
            detail = f"read by {listed(tuple(uses.unlisted))}{behind}"
        return SkippedWeight(
            name=constant.value.name or "",
            shape=None if are_flat_codes else tuple(constant.tensor.shape.numpy()),
            graph_path=constant.scope.path,
            reason=reason,
            detail=detail,
            is_mvm=True,
            consumers=consumers,
            value=constant.value,
        )

    def others(self) -> Iterator[SkippedWeight]:
        """The records of such constants in local functions, and of matrices in attributes of nodes."""
        for scope in self._function_scopes:
            for constant in constants_of(scope):
                if (skipped := self.skipped(constant)) is not None:
                    yield skipped
        yield from self._in_attributes

    def _visit(self, node: ir.Node) -> None:
        if node.op_identifier() in self._functions:  # the nodes of the function's body are visited instead
            return
        row = mvm_op(node)
        for slot in () if row is None else row.slots:
            value, other = _input(node, slot.index), _input(node, slot.activation)
            if value is not None and not self._is_constant(value) and not self._is_constant(other):
                for leaf, choosers in (self._ways.way(value) or {}).items():
                    uses = self._uses.setdefault(leaf, _Uses())
                    uses.slots[f"{node_label(node)}[{slot.index}]"] = None
                    uses.choosers.update(choosers)
        for index in product_inputs(node):
            value = _input(node, index)
            for leaf, choosers in (self._way(value) if value is not None else {}).items():
                uses = self._uses.setdefault(leaf, _Uses())
                uses.unlisted[f"'{node.op_type}' of domain '{node.domain or 'ai.onnx'}'"] = None
                uses.readers[node_label(node)] = None
                uses.is_compiled = uses.is_compiled and is_compiled(node)
                uses.is_unknown = uses.is_unknown or is_compiled(node) or not is_known(node)
                uses.choosers.update(choosers)

    def _way(self, value: ir.Value) -> Way:
        if self._is_constant(value):
            return {leaf: {} for leaf in leaves(value, self._functions).values}
        return self._ways.way(value) or {}

    def _is_constant(self, value: ir.Value | None) -> bool:
        return value is not None and self._values.is_constant(value)


def is_matrix_of_numbers(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor has at least two axes, is not empty, and has a type that weights may have."""
    return len(tensor.shape.numpy()) >= _MATRIX_RANK and tensor.dtype not in _NO_WEIGHTS and tensor.size > 0


def _are_flat_codes(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor may hold packed codes along one axis: many integers of at most eight bits."""
    return len(tensor.shape.numpy()) == 1 and tensor.dtype in _CODES and tensor.size >= _FEWEST_FLAT_CODES


def _in_attributes(node: ir.Node, scope: Scope) -> Iterator[SkippedWeight]:
    for matrix in attribute_matrices(node):
        what = f"attribute '{matrix.name}' of " if matrix.name else ""
        yield SkippedWeight(
            name=".".join(part for part in (node.name or node.op_type, matrix.name) if part),
            shape=matrix.shape,
            graph_path=scope.path,
            reason=SkipReason.IN_ATTRIBUTE if matrix.name else SkipReason.COMPILED,
            detail=f"{what}'{node.op_type}' of domain '{node.domain or 'ai.onnx'}'",
            is_mvm=True,
            consumers=(node_label(node),),
        )


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
