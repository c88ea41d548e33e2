"""Says what a name stands for that is not the name of a mapped weight: a bias, another constant, an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnx_gconv.crossbars.bias import FoundBias, find_bias
from onnx_gconv.crossbars.checked_weights import CheckedWeight
from onnx_gconv.mapping import WeightRecord
from onnx_gconv.weights.names import parameters_of
from onnx_gconv.weights.ops.mvm_ops import known_op
from onnx_gconv.weights.scopes import nodes_in_order

__all__ = ["what_else_it_is"]

_REMEDY = "'onnx-gconv inspect' lists the weights"


def what_else_it_is(name: str, model: ir.Model, weights: Sequence[CheckedWeight]) -> str | None:
    """Return what the value of a name is, and why it has no conductances; None if the model has no such value.

    Args:
        name: The name of the value, or the parameter of the exported program that it holds.
        model: The mapped model.
        weights: Its weights.
    """
    for record, bias in _biases(weights):
        if name in _names(bias.value):
            rows = "; 'handoff --bias-rows' can put it into rows of the arrays" if bias.slot.in_rows else ""
            return (
                f"'{name}' is a bias: {_described(bias.node)} adds it to the product with the weight {record.quoted}. "
                f"It is not mapped, since it multiplies no input{rows}; name the weight instead"
            )
    if name in (value.name for value in model.graph.inputs if value.const_value is None):
        return f"'{name}' is an input of the model, not a weight: its values are given at run time; {_REMEDY}"
    for node in nodes_in_order(model.graph):
        for value in node.inputs:
            if value is not None and _is_constant(value) and name in _names(value):
                return (
                    f"'{name}' is a constant that {_described(node)} reads. It is not mapped, since it is not the "
                    f"matrix of an MVM op; {_REMEDY}"
                )
        if name in (value.name for value in node.outputs) and node.op_type != "Constant":
            return f"'{name}' is no weight: {_described(node)} computes it at run time; {_REMEDY}"
    return None


def _biases(weights: Sequence[CheckedWeight]) -> Iterator[tuple[WeightRecord, FoundBias]]:
    """The bias of each node that multiplies by a mapped weight and adds a constant."""
    for weight in weights:
        if weight.mapped is None:
            continue
        for consumer in weight.record.consumers:
            op = known_op(consumer.domain, consumer.op_type)
            bias = None if op is None else find_bias(weight.mapped.value, consumer, op)
            if bias is not None:
                yield weight.record, bias


def _names(value: ir.Value) -> set[str]:
    return {value.name or "", *parameters_of(value)}


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _described(node: ir.Node) -> str:
    return f"the node '{node.name}' ({node.op_type})" if node.name else f"a node {node.op_type}"
