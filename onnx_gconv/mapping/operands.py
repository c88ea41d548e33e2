"""What nodes make of the initializers of a mapped weight before they compute with them.

Codes of levels are decoded to conductances, and the entries of a grid are expanded to one for each element.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnx_gconv.mapping.manifest import LevelsRecord, WeightRecord
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.streamed import all_elements

__all__ = ["BrokenMappingError", "decoded_conductance", "expanded_entries", "only_user", "scalar"]

_UNARY_OPS = frozenset({"Cast", "Round", "Floor", "Transpose"})

# Of opset 10 and of all since, an index of Gather may be one of these.
_GATHER_INDEX = ir.DataType.INT32


class BrokenMappingError(Exception):
    """What the graph has in place of a mapped weight; the message goes into the report of a check."""


def expanded_entries(value: ir.Value, grid: ScaleGrid | None) -> ir.Value:
    """What the nodes make of the entries of a grid: an entry for each element of the weight.

    Raises:
        BrokenMappingError: If they do something else.
    """
    if grid is None or grid.form != "tiles":
        return value
    shape = list(grid.stored_shape)
    for step in grid.gathers:
        gather = only_user(value, "Gather", 0)
        indices = gather.inputs[1].const_value if gather.inputs[1] is not None else None
        if gather.attributes.get_int("axis", 0) != step.axis or indices is None:
            raise BrokenMappingError(f"'{gather.name}' does not expand '{value.name}' along the axis {step.axis}")
        if not np.array_equal(all_elements(indices), step.indices):
            raise BrokenMappingError(f"'{gather.name}' expands '{value.name}' by other pieces than the manifest names")
        shape[step.axis : step.axis + 1] = step.indices.shape
        value = gather.outputs[0]
    if grid.permutation != tuple(range(len(grid.permutation))):
        transpose = only_user(value, "Transpose", 0)
        if tuple(transpose.attributes.get_ints("perm", ()) or ()) != grid.permutation:
            raise BrokenMappingError(f"'{transpose.name}' puts the axes of '{value.name}' into another order")
        shape = [shape[axis] for axis in grid.permutation]
        value = transpose.outputs[0]
    if tuple(shape) != grid.layout.shape:
        value = only_user(value, "Reshape", 0).outputs[0]
    return value


def decoded_conductance(stored: ir.Value, record: WeightRecord) -> ir.Value:
    """The conductance in µS that the nodes make of an initializer: itself, or what its codes are decoded to.

    Raises:
        BrokenMappingError: If the nodes do something else.
    """
    levels = record.levels_of_codes
    if levels is None:
        return stored
    return _decoded_from_table(stored, levels, record) if not levels.uniform else _dequantized(stored, levels, record)


def _dequantized(stored: ir.Value, levels: LevelsRecord, record: WeightRecord) -> ir.Value:
    number = np.dtype(record.compute_dtype).type
    step = float(number(levels.levels.step_us or 0.0))
    if [node.op_type for node, _ in stored.uses()] == ["Cast"]:
        node = only_user(only_user(stored, "Cast", 0).outputs[0], "Mul", 0)
    else:
        node = only_user(stored, "DequantizeLinear", 0)
    if any(item is not None for item in node.inputs[2:]):
        raise BrokenMappingError(f"'{node.name}', which decodes the codes '{stored.name}', has a zero point now")
    if (found := scalar(node.inputs[1])) != step:
        raise BrokenMappingError(f"the codes '{stored.name}' count steps of {found} µS, the manifest says {step}")
    value = node.outputs[0]
    if levels.g_min:
        add = only_user(value, "Add", 0)
        if (found := scalar(add.inputs[1])) != float(number(levels.g_min)):
            raise BrokenMappingError(f"the lowest level of '{stored.name}' is {found} µS, not {levels.g_min}")
        value = add.outputs[0]
    return value


def _decoded_from_table(stored: ir.Value, levels: LevelsRecord, record: WeightRecord) -> ir.Value:
    cast = only_user(stored, "Cast", 0)
    gather = only_user(cast.outputs[0], "Gather", 1)
    table = None if gather.inputs[0] is None else gather.inputs[0].const_value
    expected = levels.levels.values(np.dtype(record.compute_dtype))
    if cast.attributes.get_int("to", 0) != _GATHER_INDEX.value or gather.attributes.get_int("axis", 0) != 0:
        raise BrokenMappingError(f"the codes '{stored.name}' are not looked up in a table of levels")
    if table is None or not np.array_equal(all_elements(table), expected):
        raise BrokenMappingError(f"the codes '{stored.name}' are looked up in another table than the manifest has")
    return gather.outputs[0]


def only_user(value: ir.Value, op_type: str, slot: int) -> ir.Node:
    """The node that is the only reader of a value.

    Raises:
        BrokenMappingError: If there are none or several, or it is another op or reads it at another input.
    """
    uses = [(node.op_type, index) for node, index in value.uses()]
    if uses != [(op_type, slot)]:
        listed = ", ".join(f"{op}[{index}]" for op, index in uses) or "nothing"
        raise BrokenMappingError(f"'{value.name}' should be read by one {op_type} node (input {slot}), but by {listed}")
    node = next(iter(value.uses())).node
    operands = 1 if op_type in _UNARY_OPS else 2
    if len(node.inputs) < operands or not node.outputs:
        raise BrokenMappingError(f"the node '{node.name}' ({op_type}) lacks an input or an output")
    return node


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
