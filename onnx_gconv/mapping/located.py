"""Finds the nodes and initializers that a manifest describes in the graph of a mapped model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping.conductance_sum import conductance_terms
from onnx_gconv.mapping.divisions import divisions_of, why_nothing_rebuilds
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.model_values import ModelValues, tensor_of
from onnx_gconv.mapping.nodes import ROLE_KEY
from onnx_gconv.mapping.operands import BrokenMappingError, block_lookup, entries_behind, only_user, scalar
from onnx_gconv.mapping.packed_codes import FoundPacking, found_packing
from onnx_gconv.mapping.records.scheme_records import ZeroRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.tensors.streamed import all_elements
from onnx_gconv.tensors.types import type_name

__all__ = ["locate"]

_HALF = 0.5
_OPERANDS = 2


def locate(record: WeightRecord, values: ModelValues) -> MappedWeight:
    """Find the conductances, the scale and the nodes of a mapped weight, and check that they compute what they should.

    The search for the division by the scale starts from the names in the manifest: the conductances, the weight, or a
    node that reads the weight. From there on the edges of the graph count, not names: other tools may rename the values
    in between, and may merge several equal initializers that the manifest names into one.

    Raises:
        BrokenMappingError: If something is missing or computes something else.
    """
    divisions = divisions_of(record, values)
    if not divisions:
        raise why_nothing_rebuilds(record, values)
    problem: BrokenMappingError | None = None
    for division in divisions:
        try:
            return _located(division, record, values)
        except BrokenMappingError as error:
            problem = problem or error
    assert problem is not None  # noqa: S101 - there was a division
    raise problem


def _located(div: ir.Node, record: WeightRecord, values: ModelValues) -> MappedWeight:
    """The mapped weight whose division by the scale is `div`.

    Raises:
        BrokenMappingError: If the nodes compute something else than the manifest says.
    """
    dtype, grid = record.ir_dtype, record.grid
    if len(div.inputs) < _OPERANDS or not div.outputs:
        raise BrokenMappingError(f"the node '{div.name}' (Div) lacks an input or an output")
    terms = conductance_terms(div, record, values.initializers)
    scale = _named_or_joined(entries_behind(div.inputs[1], grid), record.scale.name, "it is divided by", values)
    nodes, leaves = _expression(div)
    value = div.outputs[0]
    after: list[ir.Node] = []
    added = _zero(value, record, values)
    if added is not None:
        add, _ = added
        after.append(add)
        more_nodes, more_leaves = _expression(add)
        before = {*nodes, add}
        nodes.extend(node for node in more_nodes if node not in before)
        leaves.extend(leaf for leaf in more_leaves if leaf not in leaves)
        value = add.outputs[0]
    zero_point: ir.Value | None = None
    packing: FoundPacking | None = None
    if record.packing is not None:
        packing = found_packing(value, record)
        for operand, name, what in packing.named(record):
            _named_or_joined(operand, name, what, values)
        after.extend(packing.nodes)
        leaves.extend(leaf for leaf in packing.leaves if leaf not in leaves)
        value, zero_point = packing.value, packing.points
    elif record.rounded:
        value, zero_point = _rounded(value, record, values, after, leaves)
    if record.saturation_limits is not None and packing is None:
        value = _saturated(value, record.saturation_limits, after, leaves)
    if record.dtype != record.compute_dtype:
        cast = only_user(value, "Cast", 0)
        if (target := cast.attributes.get_int("to", 0)) != dtype.value:
            raise BrokenMappingError(f"it is cast to {type_name(ir.DataType(target))}, not to {record.dtype}")
        after.append(cast)
        value = cast.outputs[0]
    is_cast = record.dtype != record.compute_dtype
    limited_use = packing.limited_use if packing is not None else (after[-1], 0) if is_cast else None
    known = {*(term.stored for term in terms), scale}
    return MappedWeight(
        record=record,
        terms=tuple(terms),
        scale=scale,
        zero=None if added is None else added[1],
        zero_point_value=zero_point,
        constants=tuple(dict.fromkeys(leaf for leaf in leaves if leaf not in known)),
        nodes=(*reversed(after), *nodes),
        value=value,
        limited_use=limited_use,
        packing=packing,
    )


def _named_or_joined(value: ir.Value, name: str, what: str, values: ModelValues) -> ir.Value:
    """Check that a value is the initializer of a name; another one is accepted if no initializer has that name.

    Raises:
        BrokenMappingError: If the value is no initializer, or another one while one of that name exists.
    """
    if not value.is_initializer() or value.const_value is None:
        raise BrokenMappingError(f"{what} '{value.name}', which is no initializer")
    if value.name != name and name in values.initializers:
        raise BrokenMappingError(f"{what} '{value.name}', but the manifest names '{name}'")
    return value


def _zero(value: ir.Value, record: WeightRecord, values: ModelValues) -> tuple[ir.Node, ir.Value] | None:
    """The node that adds the zero to the quotient, and the initializer of the zero; None if there is none.

    Raises:
        BrokenMappingError: If another zero is added than the manifest says.
    """
    if isinstance(record.zero, ZeroRecord):
        add = only_user(value, "Add", 0)
        entries = entries_behind(add.inputs[1], record.grid)
        return add, _named_or_joined(entries, record.zero.name, "the zero added to it is", values)
    if not record.zero:
        if any(node.metadata_props.get(ROLE_KEY) == "zero" for node, _ in value.uses()):
            raise BrokenMappingError("a zero is added to it, but the manifest names none")
        return None
    add = only_user(value, "Add", 0)
    constant, number = add.inputs[1], np.dtype(record.compute_dtype).type
    if (found := scalar(constant)) != float(number(record.zero)) or constant is None:
        raise BrokenMappingError(f"{found} is added to it, the manifest says {record.zero}")
    return add, constant


def _rounded(
    value: ir.Value, record: WeightRecord, values: ModelValues, after: list[ir.Node], leaves: list[ir.Value]
) -> tuple[ir.Value, ir.Value | None]:
    """Follow the nodes that round the quotient to integer codes and add the zero points.

    Returns:
        The codes, and the initializer of the zero points; None for zero points of 0.
    """
    if [node.op_type for node, _ in value.uses()] == ["Add"]:  # before opset 11, Floor(x + 0.5) stands for Round
        add = only_user(value, "Add", 0)
        if (half := scalar(add.inputs[1])) != _HALF:
            raise BrokenMappingError(f"{half} is added to it before it is rounded down, instead of {_HALF}")
        after.append(add)
        leaves.extend(item for item in add.inputs[1:] if item is not None)
        rounding = only_user(add.outputs[0], "Floor", 0)
    else:
        rounding = only_user(value, "Round", 0)
    after.append(rounding)
    value = rounding.outputs[0]
    if record.zero_point is None:
        return value, None
    add = only_user(value, "Add", 0)
    if add.inputs[1] is None:
        raise BrokenMappingError(f"the node '{add.name}' (Add) lacks an input")
    operand: ir.Value | None = add.inputs[1]
    if record.zero_point_blocks is not None:
        gather = block_lookup(add.inputs[1], record.zero_point_blocks.blocks, record.shape)
        operand = gather.inputs[0]
        after.append(gather)
        leaves.extend(item for item in gather.inputs[1:] if item is not None)
    assert operand is not None  # noqa: S101 - `block_lookup` has seen it
    operand = _named_or_joined(operand, record.zero_point, "the zero points added to it are", values)
    points = all_elements(tensor_of(operand)).astype(np.float64)
    low, high = record.ir_dtype.min, record.ir_dtype.max
    is_code = (np.rint(points) == points) & (points >= low) & (points <= high)
    if not is_code.all():
        wrong = float(points.reshape(-1)[np.flatnonzero(~is_code)[0]])
        raise BrokenMappingError(
            f"one of its zero points, '{operand.name}', is {wrong:.9g}, which is no integer from {low} to {high}"
        )
    after.append(add)
    leaves.append(operand)
    return add.outputs[0], operand


def _saturated(value: ir.Value, limits: tuple[float, float], after: list[ir.Node], leaves: list[ir.Value]) -> ir.Value:
    """Follow the nodes that keep a weight within the range of its type."""
    for op_type, limit in zip(("Max", "Min"), limits, strict=True):
        node = only_user(value, op_type, 0)
        if len(node.inputs) != _OPERANDS or scalar(node.inputs[1]) != limit:
            raise BrokenMappingError(f"'{node.name}' should keep it within {limits[0]:g} to {limits[1]:g}")
        after.append(node)
        leaves.extend(item for item in node.inputs[1:] if item is not None)
        value = node.outputs[0]
    return value


def _expression(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """The node `root` and all nodes that it is computed from, `root` first, and the initializers that they read."""
    nodes, leaves, waiting = [], [], [root]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            if producer is None:
                leaves.append(value)
            elif producer not in nodes and producer not in waiting:
                waiting.append(producer)
    return nodes, leaves
