"""Builds the nodes that compute a weight from its conductances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import Decoding
from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.mapping.packed_codes import AXES_AS_INPUT, PackedWeight, block_shape, place_values
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.codes import ZeroPoint

__all__ = ["ROLE_KEY", "UNIT_KEY", "WEIGHT_KEY", "IntegerCodes", "LevelCodes", "RebuiltWeight", "rebuild_nodes"]

WEIGHT_KEY = "onnx_gconv.weight"
ROLE_KEY = "onnx_gconv.role"
UNIT_KEY = "onnx_gconv.unit"


_ROLES = {"Div": "rebuild", "Round": "round", "Floor": "round", "Cast": "cast"}

# The suffixes of the results of the nodes that keep codes within their range.
_LIMITED = {"Max": "not_below", "Min": "not_above"}

_SCALE_UNIT = "uS per unit of weight"
_WEIGHT_UNIT = "unit of weight"

# The oldest opset whose DequantizeLinear takes codes of a type, and the newest whose DequantizeLinear ONNX Runtime has.
_OLDEST_DEQUANTIZATION = {ir.DataType.UINT4: 21, ir.DataType.UINT8: 10, ir.DataType.UINT16: 21}
_NEWEST_DEQUANTIZATION = 27


@dataclass(frozen=True, eq=False)
class IntegerCodes:
    """How a weight of integer codes is rebuilt.

    Attributes:
        zero_point: The zero points; None for 0.
        zero_point_name: The name of their initializer.
        has_round: Whether the opset has the op Round (since 11).
        packed: How the codes are packed into bytes, with their zero points; None if they are not packed.
        limits: The lowest and the highest code: Max and Min nodes clip the rebuilt codes to this range. None if no code
            can be outside of it.
    """

    zero_point: ZeroPoint | None
    zero_point_name: str | None
    has_round: bool
    packed: PackedWeight | None = None
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class LevelCodes:
    """How conductances that are stored as level codes are decoded.

    Attributes:
        levels: The levels.
        dtype: The type in which conductances are decoded: FLOAT or DOUBLE.
        opset: The version of the default domain.
        names: Names of the decoded conductances.
        is_folded: Whether ONNX Runtime has to fold the decoding nodes into constants. It does not fold
            DequantizeLinear, so Cast and Mul nodes take its place. Ops that read packed codes need this: their kernels
            compute differently if the codes are no constants.
    """

    levels: ConductanceLevels
    dtype: ir.DataType
    opset: int
    names: tuple[str, ...]
    is_folded: bool = False


@dataclass(frozen=True, eq=False)
class RebuiltWeight:
    """What replaces a weight in the graph.

    Attributes:
        initializers: The conductances, the scale, and all other constants of the nodes.
        scale: The scale initializer.
        nodes: The nodes, in order.
        value: The rebuilt weight, with the name, type and shape of the weight.
    """

    initializers: tuple[ir.Value, ...]
    scale: ir.Value
    nodes: tuple[ir.Node, ...]
    value: ir.Value


def rebuild_nodes(
    name: str,
    conductances: Sequence[ir.TensorProtocol],
    decoding: Decoding,
    *,
    dtype: ir.DataType,
    scale_name: str,
    names: UniqueNames,
    codes: IntegerCodes | None = None,
    grid: ScaleGrid | None = None,
    zero_name: str | None = None,
    level_codes: LevelCodes | None = None,
    shapes_in_nodes: bool = True,
) -> RebuiltWeight:
    """Build the nodes for ``W = (sum_k c_k * G_k - b) / scale + w0``.

    A single pair has c = (+1, -1) and b = w0 = 0::

        Sub(W.g_plus, W.g_minus)       -> W.g_difference
        Div(W.g_difference, W.g_scale) -> W

    Other coefficients need Mul and Add nodes, b needs a Sub, w0 an Add, integer codes a Round and an Add of their zero
    points, and a weight of another type than its conductances a Cast. Level codes are decoded first: uniform levels by
    DequantizeLinear and an Add of the lowest level unless that is 0, a table of levels by Cast and Gather. Scales that
    differ from tile to tile are expanded to the shape of the weight by Gather nodes, one for the columns and one for
    the rows, and a Transpose::

        Gather(W.g_scale, W.g_column_tile) -> Gather(W.g_row_tile) -> Transpose -> W.g_scale_expanded

    `Decoding.decode` computes the same in the same order. Every value carries its type and shape; without them ONNX
    Runtime does not fold the nodes.

    Args:
        name: Name of the weight.
        conductances: One named tensor for each coefficient, all of the weight's shape: conductances in µS of type FLOAT
            or DOUBLE, or their level codes.
        decoding: c, b, scale and w0; scale and w0 are numbers, or arrays of the shape of `grid`.
        dtype: Type of the weight.
        scale_name: Name of the scale.
        names: Provides the names of everything else.
        codes: How the integer codes are rebuilt; None if the weight has none.
        grid: Which elements share a scale; None if all do.
        zero_name: Name of w0; a new one if None.
        level_codes: How level codes are decoded; None if conductances are stored in µS.
        shapes_in_nodes: Whether shapes are stored in Constant nodes, which can hold integers since opset 9, or in
            initializers. ONNX Runtime refuses initializers in external data as shapes.
    """
    emitter = _Emitter(
        name,
        conductances,
        decoding,
        dtype=dtype,
        names=names,
        grid=grid,
        level_codes=level_codes,
        shapes_in_nodes=shapes_in_nodes,
    )
    return emitter.emit(scale_name, zero_name, codes)


class _Emitter:
    def __init__(
        self,
        name: str,
        conductances: Sequence[ir.TensorProtocol],
        decoding: Decoding,
        *,
        dtype: ir.DataType,
        names: UniqueNames,
        grid: ScaleGrid | None,
        level_codes: LevelCodes | None,
        shapes_in_nodes: bool,
    ) -> None:
        self._name = name
        self._conductances = conductances
        self._decoding = decoding
        self._dtype = dtype
        self._compute = conductances[0].dtype if level_codes is None else level_codes.dtype
        self._shape = conductances[0].shape.numpy()
        self._names = names
        self._grid = grid
        self._level_codes = level_codes
        self._shapes_in_nodes = shapes_in_nodes
        self._initializers: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._indices: list[ir.Value] = []

    def emit(self, scale_name: str, zero_name: str | None, codes: IntegerCodes | None) -> RebuiltWeight:
        role = "conductance" if self._level_codes is None else "level_code"
        unit = "uS" if self._level_codes is None else ""
        devices = [self._initializer(tensor, tensor.name or "", role, unit) for tensor in self._conductances]
        scale = self._entries(scale_name, "scale", self._decoding.scale, _SCALE_UNIT)
        if self._level_codes is not None:
            devices = list(self._decoded(devices, self._level_codes))
        total = self._weighted_sum(devices)
        if self._decoding.offset_us:
            offset = self._constant(self._new("g_offset"), "offset", self._decoding.offset_us, "uS")
            total = self._node("Sub", [total, offset], "difference")
        steps: list[tuple[str, ir.Value | None]] = [("Div", self._expanded(scale, "scale"))]
        if not isinstance(self._decoding.zero, float) or self._decoding.zero:
            zero = self._entries(zero_name or self._new("g_zero"), "zero", self._decoding.zero, _WEIGHT_UNIT)
            steps.append(("Add", self._expanded(zero, "zero")))
        packed = None if codes is None else codes.packed
        if codes is not None and packed is None:
            steps.extend(self._integer_steps(codes))
        if self._dtype != self._compute and packed is None:
            steps.append(("Cast", None))
        for number, (op_type, operand) in enumerate(steps):
            is_last = number == len(steps) - 1 and packed is None
            role = _ROLES[op_type] if operand is None or op_type == "Div" else self._role_of(operand)
            attributes = [ir.AttrInt64("to", self._dtype.value)] if op_type == "Cast" else []
            total = self._node(
                op_type,
                [total, operand] if operand else [total],
                role,
                attributes,
                dtype=self._dtype if op_type == "Cast" else None,
                suffix=_LIMITED.get(op_type),
                is_weight=is_last,
            )
        if codes is not None and packed is not None:
            total = self._packed(total, codes, packed)
        return RebuiltWeight(tuple(self._initializers), scale, tuple(self._nodes), total)

    @staticmethod
    def _role_of(operand: ir.Value) -> str:
        producer = operand.producer()
        if producer is None:
            return operand.metadata_props[ROLE_KEY]
        return "zero_point" if producer.metadata_props[ROLE_KEY] == "zero_point" else "zero"

    def _entries(self, name: str, role: str, entries: float | FloatArray, unit: str) -> ir.Value:
        """Add the initializer of a scale or a zero: one number, or one for each group of elements that share it."""
        if isinstance(entries, float):
            return self._constant(name, role, entries, unit)
        assert self._grid is not None  # noqa: S101 - an array of entries comes with the grid of its groups
        array = np.ascontiguousarray(self._grid.stored(entries).astype(self._compute.numpy()))
        return self._initializer(ir.tensor(array, name=name), name, role, unit)

    def _expanded(self, entries: ir.Value, role: str) -> ir.Value:
        """Expand the entries of a scale or a zero to a value that broadcasts to the shape of the weight."""
        grid = self._grid
        if grid is None or grid.form != "tiles":
            return entries
        if not self._indices:
            for step in grid.gathers:
                name = self._new(f"g_{step.role}_tile" if step.role != "matrix" else "g_matrix")
                self._indices.append(self._integers(name, step.indices, "tile"))
        value, shape = entries, list(grid.stored_shape)
        for step, indices in zip(grid.gathers, self._indices, strict=True):
            shape[step.axis : step.axis + 1] = step.indices.shape
            axis = ir.AttrInt64("axis", step.axis)
            value = self._node("Gather", [value, indices], "expand", [axis], shape=shape, suffix=f"{role}_tiles")
        if grid.permutation != tuple(range(len(grid.permutation))):
            shape = [shape[axis] for axis in grid.permutation]
            perm = ir.AttrInt64s("perm", grid.permutation)
            value = self._node("Transpose", [value], "expand", [perm], shape=shape, suffix=f"{role}_expanded")
        if tuple(shape) != self._shape:
            value = self._node("Reshape", [value, self._target_shape()], "expand", suffix=f"{role}_expanded")
        return value

    def _target_shape(self) -> ir.Value:
        """Add a constant with the shape of the weight."""
        return self._sizes(self._new("g_shape"), self._shape)

    def _sizes(self, name: str, integers: Sequence[int]) -> ir.Value:
        """Add a constant of integers, such as a shape or axes, as a Constant node or an initializer."""
        sizes = np.array(integers, np.int64)
        if not self._shapes_in_nodes:
            return self._integers(name, sizes, "shape")
        shape, rank = ir.AttrTensor("value", ir.tensor(sizes, name=name)), len(integers)
        return self._node("Constant", [], "shape", [shape], dtype=ir.DataType.INT64, shape=[rank], name=name)

    def _decoded(self, devices: Sequence[ir.Value], codes: LevelCodes) -> Iterator[ir.Value]:
        """Decode level codes to conductances in µS."""
        levels = codes.levels
        if levels.step_us is None:
            table = levels.values(self._compute.numpy())
            name = self._new("g_levels")
            values = self._initializer(ir.tensor(table, name=name), name, "levels", "uS")
            for device, name in zip(devices, codes.names, strict=True):
                to = ir.AttrInt64("to", ir.DataType.INT32.value)
                index = self._node("Cast", [device], "decode", [to], dtype=ir.DataType.INT32, suffix="index")
                yield self._node("Gather", [values, index], "decode", name=name)
            return
        step = self._constant(self._new("g_step"), "step", levels.step_us, "uS")
        lowest = self._constant(self._new("g_lowest"), "lowest", levels.g_min, "uS") if levels.g_min else None
        oldest = _OLDEST_DEQUANTIZATION[devices[0].dtype or ir.DataType.UNDEFINED]
        has_op = self._compute == ir.DataType.FLOAT and oldest <= codes.opset <= _NEWEST_DEQUANTIZATION
        for device, name in zip(devices, codes.names, strict=True):
            last = name if lowest is None else None
            if has_op and not codes.is_folded:
                value = self._node("DequantizeLinear", [device, step], "decode", name=last, suffix="above_lowest")
            else:
                to = ir.AttrInt64("to", self._compute.value)
                number = self._node("Cast", [device], "decode", [to], suffix="level")
                value = self._node("Mul", [number, step], "decode", name=last, suffix="above_lowest")
            yield value if lowest is None else self._node("Add", [value, lowest], "decode", name=name)

    def _packed(self, total: ir.Value, codes: IntegerCodes, packed: PackedWeight) -> ir.Value:
        """Pack codes into bytes, by the nodes that the module `packed_codes` describes."""
        packing = packed.packing
        if packed.padding_name is not None:
            padding = self._array(packed.padding_name, packed.padding_numbers, "padding")
            axis = len(packing.shape) - 1
            shape = (*packing.shape[:-1], packing.row_codes)
            concat = ir.AttrInt64("axis", axis)
            total = self._node("Concat", [total, padding], "pack", [concat], shape=shape, suffix="padded")
        shape = block_shape(packing, packed.blocks)
        if shape != total.shape:
            sizes = self._sizes(self._new("g_shape"), shape)
            total = self._node("Reshape", [total, sizes], "pack", shape=shape, suffix="blocks")
        points = self._array(codes.zero_point_name or "", packed.points, "zero_point")
        total = self._node("Add", [total, points], "zero_point", shape=shape)
        if codes.has_round:
            total = self._node("Round", [total], "round", shape=shape)
        else:
            half = self._constant(self._new("g_half"), "half", 0.5, "")
            total = self._node("Add", [total, half], "half", shape=shape)
            total = self._node("Floor", [total], "round", shape=shape)
        for op_type, limit in self._limits(codes):
            total = self._node(op_type, [total, limit], "limit", shape=shape, suffix=_LIMITED[op_type])
        if packing.per_byte > 1:
            places = self._array(self._new("g_place"), place_values(packing), "place")
            total = self._node("Mul", [total, places], "pack", shape=shape, suffix="placed")
            shape = shape[:-1]
            total = self._sum(total, shape, packed.opset)
        if shape != packing.stored:
            sizes = self._sizes(self._new("g_shape"), packing.stored)
            total = self._node("Reshape", [total, sizes], "pack", shape=packing.stored, suffix="bytes")
        to = ir.AttrInt64("to", self._dtype.value)
        return self._node("Cast", [total], "cast", [to], dtype=self._dtype, shape=packing.stored, is_weight=True)

    def _sum(self, total: ir.Value, shape: tuple[int, ...], opset: int) -> ir.Value:
        """Sum along the last axis; `shape` is the shape of the result."""
        inputs, attributes, axis = [total], [ir.AttrInt64("keepdims", 0)], len(shape)
        if opset < AXES_AS_INPUT:
            attributes.append(ir.AttrInt64s("axes", [axis]))
        else:
            inputs.append(self._sizes(self._new("g_axis"), (axis,)))
        return self._node("ReduceSum", inputs, "pack", attributes, shape=shape, suffix="byte")

    def _array(self, name: str, numbers: NDArray[np.floating] | NDArray[np.int64], role: str) -> ir.Value:
        """Add an initializer of the type in which weights are rebuilt."""
        array = np.array(numbers, self._compute.numpy(), order="C")
        return self._initializer(ir.tensor(array, name=name), name, role, "")

    def _integer_steps(self, codes: IntegerCodes) -> Iterator[tuple[str, ir.Value | None]]:
        if codes.has_round:
            yield "Round", None
        else:  # equals Round for numbers near integers, as rebuilt codes are
            yield "Add", self._constant(self._new("g_half"), "half", 0.5, "")
            yield "Floor", None
        if codes.zero_point is not None:
            name = codes.zero_point_name or ""
            yield "Add", self._zero_points(self._array(name, codes.zero_point.values, "zero_point"), codes.zero_point)
        yield from self._limits(codes)

    def _zero_points(self, points: ir.Value, said: ZeroPoint) -> ir.Value:
        """Expand zero points so that they broadcast to the weight; a Gather repeats each zero point over its block."""
        if said.blocks is None:
            return points
        axis = said.blocks.axis
        of_each = self._integers(self._new("g_block"), said.blocks.of_each(said.shape), "zero_point_block")
        shape = (*said.values.shape[:axis], said.shape[axis], *said.values.shape[axis + 1 :])
        attributes, suffix = [ir.AttrInt64("axis", axis)], "zero_point_blocks"
        return self._node("Gather", [points, of_each], "zero_point", attributes, shape=shape, suffix=suffix)

    def _limits(self, codes: IntegerCodes) -> Iterator[tuple[str, ir.Value]]:
        """The Max and Min ops that keep codes within their range, with their limits."""
        names = ("Max", "lowest_code"), ("Min", "highest_code")
        for (op_type, suffix), limit in zip(names, codes.limits or (), strict=codes.limits is not None):
            yield op_type, self._constant(self._new(f"g_{suffix}"), "limit", limit, "")

    def _weighted_sum(self, devices: Sequence[ir.Value]) -> ir.Value:
        total: ir.Value | None = None
        for coefficient, device in zip(self._decoding.coefficients, devices, strict=True):
            term, op_type = device, "Add"
            if coefficient == -1.0 and total is not None:
                op_type = "Sub"
            elif coefficient != 1.0:
                factor = self._constant(self._new("g_factor"), "factor", coefficient, "")
                term = self._node("Mul", [device, factor], "product")
            total = term if total is None else self._node(op_type, [total, term], "difference")
        assert total is not None  # noqa: S101 - a converter has at least one device
        return total

    def _new(self, suffix: str) -> str:
        return self._names.new(f"{self._name}.{suffix}")

    def _constant(self, name: str, role: str, number: float, unit: str) -> ir.Value:
        return self._initializer(ir.tensor(np.array(number, self._compute.numpy()), name=name), name, role, unit)

    def _integers(self, name: str, array: NDArray[np.int64], role: str) -> ir.Value:
        return self._initializer(ir.tensor(array.copy(order="C"), name=name), name, role, "")

    def _initializer(self, tensor: ir.TensorProtocol, name: str, role: str, unit: str) -> ir.Value:
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
            metadata_props={WEIGHT_KEY: self._name, ROLE_KEY: role, **({UNIT_KEY: unit} if unit else {})},
        )
        self._initializers.append(value)
        return value

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        role: str,
        attributes: Sequence[ir.Attr] = (),
        *,
        dtype: ir.DataType | None = None,
        shape: Sequence[int] | None = None,
        name: str | None = None,
        suffix: str | None = None,
        is_weight: bool = False,
    ) -> ir.Value:
        """Append a node and return its result.

        By default, the result has the type in which weights are rebuilt and the shape of the weight. It has the
        weight's name if `is_weight`.
        """
        short = {"rebuild": "quotient", "zero": "sum", "zero_point": "code", "half": "raised"}.get(role, role)
        if is_weight:
            name = self._name
        output = ir.Value(
            name=self._new(f"g_{suffix or short}") if name is None else name,
            type=ir.TensorType(self._compute if dtype is None else dtype),
            shape=ir.Shape(self._shape if shape is None else shape),
        )
        node = ir.Node(
            "",
            op_type,
            inputs,
            attributes,
            outputs=[output],
            name=self._names.new(f"{self._name}/gconv_{op_type}"),
            metadata_props={WEIGHT_KEY: self._name, ROLE_KEY: role},
        )
        self._nodes.append(node)
        return output
