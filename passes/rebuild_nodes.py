"""The nodes that rebuild a weight from its conductances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_gconv.converters import Decoding
from onnx_gconv.integer_weight import ZeroPoint
from onnx_gconv.passes.unique_names import UniqueNames

__all__ = ["ROLE_KEY", "UNIT_KEY", "WEIGHT_KEY", "IntegerCodes", "RebuiltWeight", "rebuild_nodes"]

WEIGHT_KEY = "onnx_gconv.weight"
ROLE_KEY = "onnx_gconv.role"
UNIT_KEY = "onnx_gconv.unit"


_ROLES = {"Div": "rebuild", "Round": "round", "Floor": "round", "Cast": "cast"}


@dataclass(frozen=True, eq=False)
class IntegerCodes:
    """How a weight of integer codes is rebuilt.

    Attributes:
        zero_point: The zero points; None for 0.
        zero_point_name: The name of their initializer.
        has_round: Whether the opset has the op Round (since 11).
    """

    zero_point: ZeroPoint | None
    zero_point_name: str | None
    has_round: bool


@dataclass(frozen=True, eq=False)
class RebuiltWeight:
    """What replaces a weight in the graph.

    Attributes:
        initializers: The conductances, the scale, and further constants if the decoding has them.
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
) -> RebuiltWeight:
    """Build the nodes for ``W = (sum_k c_k * G_k - b) / scale + w0``.

    A single pair has c = (+1, -1) and b = w0 = 0::

        Sub(W.g_plus, W.g_minus)       -> W.g_difference
        Div(W.g_difference, W.g_scale) -> W

    Other coefficients add Mul and Add nodes, b a Sub, w0 an Add, integer codes a Round and an Add of their zero points,
    and a weight of another type than its conductances a Cast. `Decoding.decode` computes the same in the same order.
    Every value carries its type and shape; without them ONNX Runtime does not fold the nodes.

    Args:
        name: Name of the weight.
        conductances: One tensor for each coefficient, named, of one shape and of type FLOAT or DOUBLE.
        decoding: c, b, scale and w0.
        dtype: Type of the weight.
        scale_name: Name of the scale.
        names: Gives the names of everything else.
        codes: For a weight of integer codes, how they are rebuilt.
    """
    return _Emitter(name, conductances, decoding, dtype, names).emit(scale_name, codes)


class _Emitter:
    def __init__(
        self,
        name: str,
        conductances: Sequence[ir.TensorProtocol],
        decoding: Decoding,
        dtype: ir.DataType,
        names: UniqueNames,
    ) -> None:
        self._name = name
        self._conductances = conductances
        self._decoding = decoding
        self._dtype = dtype
        self._compute = conductances[0].dtype
        self._shape = conductances[0].shape.numpy()
        self._names = names
        self._initializers: list[ir.Value] = []
        self._nodes: list[ir.Node] = []

    def emit(self, scale_name: str, codes: IntegerCodes | None) -> RebuiltWeight:
        devices = [self._initializer(tensor, tensor.name or "", "conductance", "uS") for tensor in self._conductances]
        scale = self._constant(scale_name, "scale", self._decoding.scale, "uS per unit of weight")
        total = self._weighted_sum(devices)
        if self._decoding.offset_us:
            offset = self._constant(self._new("g_offset"), "offset", self._decoding.offset_us, "uS")
            total = self._node("Sub", [total, offset], "difference")
        steps: list[tuple[str, ir.Value | None]] = [("Div", scale)]
        if self._decoding.zero:
            zero = self._constant(self._new("g_zero"), "zero", self._decoding.zero, "unit of weight")
            steps.append(("Add", zero))
        if codes is not None:
            steps.extend(self._integer_steps(codes))
        if self._dtype != self._compute:
            steps.append(("Cast", None))
        for number, (op_type, operand) in enumerate(steps):
            is_last = number == len(steps) - 1
            role = _ROLES[op_type] if operand is None or op_type == "Div" else operand.metadata_props[ROLE_KEY]
            total = self._node(op_type, [total, operand] if operand else [total], role, is_weight=is_last)
        return RebuiltWeight(tuple(self._initializers), scale, tuple(self._nodes), total)

    def _integer_steps(self, codes: IntegerCodes) -> Iterator[tuple[str, ir.Value | None]]:
        if codes.has_round:
            yield "Round", None
        else:  # the same for numbers that are near to integers
            yield "Add", self._constant(self._new("g_half"), "half", 0.5, "")
            yield "Floor", None
        if codes.zero_point is not None:
            name = codes.zero_point_name or ""
            array = codes.zero_point.values.astype(self._compute.numpy())
            yield "Add", self._initializer(ir.tensor(array, name=name), name, "zero_point", "")

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

    def _node(self, op_type: str, inputs: Sequence[ir.Value], role: str, *, is_weight: bool = False) -> ir.Value:
        """Append a node; its result bears the weight's name if it is the weight."""
        suffix = {"rebuild": "quotient", "zero": "sum", "zero_point": "code", "half": "raised"}.get(role, role)
        output = ir.Value(
            name=self._name if is_weight else self._new(f"g_{suffix}"),
            type=ir.TensorType(self._dtype if op_type == "Cast" else self._compute),
            shape=ir.Shape(self._shape),
        )
        attributes = [ir.AttrInt64("to", self._dtype.value)] if op_type == "Cast" else []
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
