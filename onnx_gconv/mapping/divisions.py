"""Searches the graph of a mapped model for the division by the scale of a weight, or for why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from onnx_gconv.mapping.conductance_sum import ARITHMETIC_OPS
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.mapping.records.weight_record import WeightRecord

__all__ = ["FoldedMappingError", "divisions_of", "why_nothing_rebuilds"]

# The ops between conductances, or their level codes, and the division by the scale.
_BEFORE_DIVISION = frozenset({*ARITHMETIC_OPS, "Cast", "DequantizeLinear", "Gather", "Max", "Min"})

# The ops between that division and the rebuilt weight, and between the rebuilt weight and the nodes that read it.
_AFTER_DIVISION = frozenset(
    {"Add", "Round", "Floor", "Max", "Min", "Cast", "DequantizeLinear", "Sub", "Mul", "Concat", "ReduceSum"}
    | {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
)


class FoldedMappingError(BrokenMappingError):
    """Another tool has folded the nodes of a mapping: the weight is a plain initializer again."""


def divisions_of(record: WeightRecord, values: ModelValues) -> list[ir.Node]:
    """The divisions by the scale that may belong to a weight, the likeliest first.

    If all conductances are there under their names, the search goes forward from them. It finds several divisions if
    several weights share the conductances. If another tool has merged or renamed conductances, the search goes backward
    from the weight's name and from the nodes that read the weight.

    Raises:
        BrokenMappingError: If the conductances are there, but no division.
    """
    behind = [*_behind_readers(record, values), *_behind_names(record, values)]
    own = [values.initializers.get(item.name) for item in record.conductances]
    if not all(own):
        return list(dict.fromkeys(behind))
    ahead = _ahead(min((value for value in own if value is not None), key=lambda value: len(value.uses())))
    scale = values.initializers.get(record.scale.name)
    if not ahead and scale is not None and not any(node.op_type == "Div" and slot == 1 for node, slot in scale.uses()):
        uses = ", ".join(f"{node.op_type}[{index}]" for node, index in scale.uses()) or "nothing"
        raise BrokenMappingError(f"'{scale.name}' should be read by one Div node (input 1), but by {uses}")
    return list(dict.fromkeys([*(item for item in behind if item in ahead), *ahead])) or list(dict.fromkeys(behind))


def _ahead(value: ir.Value) -> list[ir.Node]:
    """The divisions whose dividend is computed from a conductance, or from its level codes, by ops of a mapping."""
    found: dict[ir.Node, None] = {}
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type == "Div" and index == 0:
                found[node] = None
            elif node.op_type in _BEFORE_DIVISION and node.domain == "":
                waiting.extend(output for output in node.outputs if output not in seen)
                seen.update(node.outputs)
    return list(found)


def _behind_readers(record: WeightRecord, values: ModelValues) -> Iterator[ir.Node]:
    """The divisions from which the weight slots of the nodes that the manifest names as consumers are computed."""
    for consumer in record.consumers:
        if consumer.reads == "digital" or not consumer.node:
            continue
        for node in values.nodes(consumer.node, consumer.op_type):
            if consumer.slot < len(node.inputs) and (division := _behind(node.inputs[consumer.slot])) is not None:
                yield division


def _behind_names(record: WeightRecord, values: ModelValues) -> Iterator[ir.Node]:
    for value in values.outputs.get(record.name, ()):
        if (division := _behind(value)) is not None:
            yield division


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The division that a value is computed from by ops that may follow it in a mapping; None if there is none."""
    seen = set[ir.Node]()
    while value is not None and (node := value.producer()) is not None and node.domain == "":
        if node.op_type == "Div":
            return node
        if node.op_type not in _AFTER_DIVISION or not node.inputs or node in seen:
            return None
        seen.add(node)
        value = node.inputs[0]
    return None


def why_nothing_rebuilds(record: WeightRecord, values: ModelValues) -> BrokenMappingError:
    """Why nothing in the graph rebuilds a weight."""
    gone = next((item.name for item in record.conductances if item.name not in values.initializers), record.scale.name)
    named, behind = values.initializers.get(record.name), next(_plain_behind_readers(record, values), None)
    plain = named or behind
    if plain is not None:
        kind = FoldedMappingError if named is None or _is_weight(named, record) else BrokenMappingError
        return kind(
            f"the mapping was folded away: '{plain.name}' is a plain initializer again and '{gone}' is gone; "
            "mapping has to be the last step, after all constant folding"
        )
    if record.name in values.outputs and record.scale.name not in values.initializers:
        return BrokenMappingError(f"'{gone}' is gone; another tool replaced what computes '{record.name}'")
    return BrokenMappingError(f"the initializer '{gone}' is gone; another tool removed or renamed it")


def _plain_behind_readers(record: WeightRecord, values: ModelValues) -> Iterator[ir.Value]:
    """The plain initializers that consumers read in place of the weight: another tool has folded or merged it."""
    for consumer in record.consumers:
        if consumer.reads == "digital" or not consumer.node or not consumer.is_mvm:
            continue
        for node in values.nodes(consumer.node, consumer.op_type):
            value = node.inputs[consumer.slot] if consumer.slot < len(node.inputs) else None
            is_rearranged = bool(consumer.path)
            if value is not None and value.is_initializer() and _is_weight(value, record, is_rearranged=is_rearranged):
                yield value


def _is_weight(value: ir.Value, record: WeightRecord, *, is_rearranged: bool = False) -> bool:
    """Whether an initializer has the type of a weight, and its shape, or only its size if it may be rearranged."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != record.ir_dtype:
        return False
    shape = tensor.shape.numpy()
    return shape == record.stored_shape or (is_rearranged and math.prod(shape) == math.prod(record.stored_shape))
