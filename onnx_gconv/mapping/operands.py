"""Follows the nodes that prepare the initializers of a mapped weight, back to these initializers.

Such nodes decode level codes to conductances, and expand the entries of a grid of scales to the elements of the weight.
They are followed backwards, from their results to their inputs, and not by the names of initializers: another tool may
have merged several equal initializers into one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping.records.scheme_records import LevelsRecord
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.codes import Blocks
from onnx_gconv.tensors.streamed import all_elements

__all__ = [
    "BrokenMappingError",
    "block_lookup",
    "constant_tensor",
    "entries_behind",
    "integers",
    "only_user",
    "scalar",
    "stored_behind",
]

_UNARY_OPS = frozenset({"Cast", "Round", "Floor", "Transpose"})

# The type of the indices of Gather that look up a table of levels; every opset allows it.
_GATHER_INDEX = ir.DataType.INT32


class BrokenMappingError(Exception):
    """The graph does not rebuild a weight as its manifest says.

    The message says what the graph has instead, and goes into the report of `CheckMapping`.
    """


def entries_behind(value: ir.Value | None, grid: ScaleGrid | None) -> ir.Value:
    """The value with one entry for each group of a grid that Gather, Transpose and Reshape nodes expand to `value`.

    Args:
        value: The scale or the zero, expanded to the elements of the weight.
        grid: Which elements share an entry; None if all do, and nothing is expanded.

    Raises:
        BrokenMappingError: If the nodes expand the entries in another way than the grid says.
    """
    if value is None:
        raise BrokenMappingError("a node that rebuilds the weight lacks an input")
    if grid is None or grid.form != "tiles":
        return value
    shape = tuple(grid.expanded_shape[axis] for axis in grid.permutation)
    if shape != grid.layout.shape:
        reshape = _producer(value, "Reshape")
        if integers(reshape.inputs[1]) != grid.layout.shape:
            raise BrokenMappingError(f"'{reshape.name}' does not give '{value.name}' the shape of the weight")
        value = _first(reshape)
    if grid.permutation != tuple(range(len(grid.permutation))):
        transpose = _producer(value, "Transpose")
        if tuple(transpose.attributes.get_ints("perm", ()) or ()) != grid.permutation:
            raise BrokenMappingError(f"'{transpose.name}' puts the axes of '{value.name}' into another order")
        value = _first(transpose)
    for step in reversed(grid.gathers):
        gather = _producer(value, "Gather")
        indices = None if gather.inputs[1] is None else constant_tensor(gather.inputs[1])
        if gather.attributes.get_int("axis", 0) != step.axis or indices is None:
            raise BrokenMappingError(f"'{gather.name}' does not expand '{_first(gather).name}' along axis {step.axis}")
        if not np.array_equal(all_elements(indices), step.indices):
            raise BrokenMappingError(
                f"'{gather.name}' expands '{_first(gather).name}' by other pieces than the manifest names"
            )
        value = _first(gather)
    return value


def block_lookup(value: ir.Value, blocks: Blocks, shape: tuple[int, ...]) -> ir.Node:
    """The Gather node that repeats the zero points of blocks for each index along their axis of the weight.

    Args:
        value: The output of the node.
        blocks: The blocks.
        shape: The shape of the weight.

    Raises:
        BrokenMappingError: If no Gather node computes the value, or it looks up other blocks.
    """
    gather = _producer(value, "Gather")
    indices = None if gather.inputs[1] is None else constant_tensor(gather.inputs[1])
    is_axis = gather.attributes.get_int("axis", 0) == blocks.axis
    if not is_axis or indices is None or not np.array_equal(all_elements(indices), blocks.of_each(shape)):
        raise BrokenMappingError(
            f"'{gather.name}' does not look up zero points of blocks of {blocks.size} along axis {blocks.axis}"
        )
    return gather


def stored_behind(value: ir.Value, record: WeightRecord) -> ir.Value | None:
    """The initializer that holds a conductance in µS, or its level codes; None if the value is no conductance.

    Args:
        value: The value that may be a conductance in µS.
        record: The weight's record, which says how its conductances are stored.

    Raises:
        BrokenMappingError: If level codes are decoded in another way than the manifest says.
    """
    levels = record.levels_of_codes
    if levels is None:
        return value if value.is_initializer() and value.const_value is not None else None
    return _behind_table(value, levels, record) if not levels.uniform else _behind_steps(value, levels, record)


def _behind_steps(value: ir.Value, levels: LevelsRecord, record: WeightRecord) -> ir.Value | None:
    number = np.dtype(record.compute_dtype).type
    step, add = float(number(levels.levels.step_us or 0.0)), None
    node = value.producer()
    if levels.g_min:
        if node is None or node.op_type != "Add" or scalar(_second(node)) is None:
            return None
        add, node = node, _first(node).producer()
    if node is None or (stored := _counted(node)) is None:
        return None
    if any(item is not None for item in node.inputs[2:]):
        raise BrokenMappingError(f"'{node.name}', which decodes the codes '{stored.name}', has a zero point now")
    if (found := scalar(node.inputs[1])) != step:
        raise BrokenMappingError(f"the codes '{stored.name}' count steps of {found} µS, the manifest says {step}")
    if add is not None and (found := scalar(add.inputs[1])) != float(number(levels.g_min)):
        raise BrokenMappingError(f"the lowest level of '{stored.name}' is {found} µS, not {levels.g_min}")
    return stored


def _counted(node: ir.Node) -> ir.Value | None:
    """The level codes that a DequantizeLinear, or a Mul after a Cast, multiplies by a step; None for other nodes."""
    if node.domain != "" or _second(node) is None:
        return None
    if node.op_type == "DequantizeLinear":
        return _initializer_or_none(_first(node))
    cast = _first(node).producer()
    is_counted = node.op_type == "Mul" and cast is not None and cast.op_type == "Cast"
    return _initializer_or_none(_first(cast)) if is_counted and cast is not None else None


def _behind_table(value: ir.Value, levels: LevelsRecord, record: WeightRecord) -> ir.Value | None:
    gather = value.producer()
    if gather is None or gather.op_type != "Gather" or (index := _second(gather)) is None:
        return None
    cast = index.producer()
    if cast is None or cast.op_type != "Cast" or (stored := _initializer_or_none(_first(cast))) is None:
        return None
    table = constant_tensor(_first(gather))
    expected = levels.levels.values(np.dtype(record.compute_dtype))
    if cast.attributes.get_int("to", 0) != _GATHER_INDEX.value or gather.attributes.get_int("axis", 0) != 0:
        raise BrokenMappingError(f"the codes '{stored.name}' are not looked up in a table of levels")
    if table is None or not np.array_equal(all_elements(table), expected):
        raise BrokenMappingError(f"the codes '{stored.name}' are looked up in another table than the manifest has")
    return stored


def _initializer_or_none(value: ir.Value) -> ir.Value | None:
    return value if value.is_initializer() and value.const_value is not None else None


def _producer(value: ir.Value, op_type: str) -> ir.Node:
    """The node that computes a value.

    Raises:
        BrokenMappingError: If there is none, or it is another op or lacks inputs.
    """
    node = value.producer()
    if node is None and value.is_initializer():
        raise BrokenMappingError(
            f"a part of the mapping was folded away: '{value.name}' is an initializer now, no output of a {op_type} "
            "node; mapping has to be the last step, after all constant folding"
        )
    if node is None or node.op_type != op_type or node.domain != "":
        found = "no node does" if node is None else f"{node.op_type} does"
        raise BrokenMappingError(f"'{value.name}' should be given by a {op_type} node, but {found}")
    if len(node.inputs) < _operands(op_type) or node.inputs[0] is None:
        raise BrokenMappingError(f"the node '{node.name}' ({op_type}) lacks an input")
    return node


def _first(node: ir.Node) -> ir.Value:
    """The first input of a node.

    Raises:
        BrokenMappingError: If it has none.
    """
    value = node.inputs[0] if node.inputs else None
    if value is None:
        raise BrokenMappingError(f"the node '{node.name}' ({node.op_type}) lacks an input")
    return value


def _second(node: ir.Node) -> ir.Value | None:
    return node.inputs[1] if len(node.inputs) > 1 else None


def only_user(value: ir.Value, op_type: str, slot: int) -> ir.Node:
    """The node that is the only reader of a value.

    Raises:
        BrokenMappingError: If the value has no reader or several, or the reader is another op or reads it at another
            input.
    """
    uses = [(node.op_type, index) for node, index in value.uses()]
    if uses != [(op_type, slot)]:
        listed = ", ".join(f"{op}[{index}]" for op, index in uses) or "nothing"
        raise BrokenMappingError(f"'{value.name}' should be read by one {op_type} node (input {slot}), but by {listed}")
    node = next(iter(value.uses())).node
    if len(node.inputs) < _operands(op_type) or not node.outputs:
        raise BrokenMappingError(f"the node '{node.name}' ({op_type}) lacks an input or an output")
    return node


def _operands(op_type: str) -> int:
    return 1 if op_type in _UNARY_OPS else 2


def scalar(value: ir.Value | None) -> float | None:
    """The value of a scalar initializer, None for everything else."""
    if (
        value is None
        or not value.is_initializer()
        or value.const_value is None
        or value.const_value.shape.numpy() != ()
    ):
        return None
    return float(all_elements(value.const_value))


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The data of an initializer, or of a Constant node that holds a tensor; None for everything else."""
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "" or "value" not in node.attributes:
        return None
    return node.attributes["value"].as_tensor()


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """The integers of a one-dimensional constant; None for everything else."""
    tensor = None if value is None else constant_tensor(value)
    if tensor is None or not tensor.dtype.is_integer() or len(tensor.shape.numpy()) != 1:
        return None
    return tuple(int(number) for number in all_elements(tensor))
