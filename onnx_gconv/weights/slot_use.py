"""A weight slot that a constant feeds: how the constant arrives there, as which matrices, and how it is dequantized."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.weights.choices import StackOnItsWay
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.ops.mvm_ops import WeightSlot, mvm_op
from onnx_gconv.weights.ops.packed_ops import WrongPackingError
from onnx_gconv.weights.rearrangement import Evaluate, Rearrangement, node_label
from onnx_gconv.weights.records import Dequantization
from onnx_gconv.weights.weight_path import WeightPath
from onnx_gconv.weights.zero_points import Subtracted, axis_before

__all__ = ["SlotUse"]


@dataclass(frozen=True, eq=False)
class SlotUse:
    """A weight slot that a constant feeds, and the path to it."""

    node: ir.Node
    slot: WeightSlot
    path: WeightPath

    def view(
        self, shape: tuple[int, ...], evaluate: Evaluate, *, is_packed: bool
    ) -> tuple[tuple[Rearrangement, ...], MatrixView]:
        """The rearrangements of a constant of that shape, and the matrix view of the result.

        Args:
            shape: The shape of the constant.
            evaluate: Returns the array of a constant value.
            is_packed: Whether the constant has the type of bytes. If the op reads packed codes, the view is that of the
                codes.

        Raises:
            EvaluationError: If a shape or an axis of a rearrangement cannot be computed.
            IndexError: If the shape does not fit the op.
            ValueError: If the shape does not fit the op or a node on the path.
        """
        assert self.slot.view is not None  # noqa: S101 - ops without a view are skipped before
        if is_packed and self.slot.packed is not None:
            layout = self.slot.packed.layout(self.node, self.packed_shape(shape, evaluate))
            return (), self.slot.view(self.node, layout.packing.shape)
        way = self.path.arrival(shape, evaluate)
        view = self.slot.view(self.node, way.shape)
        if self.path.choosers:
            _require_matrices(view, way, self.node)
        return tuple(way.steps), view.of_stack(way.hidden)

    def dequantization(self, shape: tuple[int, ...], evaluate: Evaluate) -> Dequantization | None:
        """How nodes dequantize codes of that shape; None if that is not known.

        Raises:
            EvaluationError: If a shape or an axis of a rearrangement cannot be computed.
        """
        way = StackOnItsWay(shape)
        for node, way in self.path.along(shape, evaluate):
            if node.op_type == "DequantizeLinear" or (node.op_type == "Mul" and self.path.is_dequantized):
                return self._of_node(node, way)
        scale, zero_point = (_named_input(self.node, index) for index in (self.slot.scale, self.slot.zero_point))
        axes = self.slot.zero_point_axes_of(self.node)
        if scale is None and self.slot.scale is None:
            scale = _scale_behind(self.node)
        if scale is None:
            return None if zero_point is None else Dequantization(None, zero_point.name)
        axis = axes[-1] % len(way.shape) if axes and math.prod(_shape(scale)) > 1 else None
        return _dequantization(scale, zero_point, axis_before(way, axis), self.slot.block_of(self.node))

    def _of_node(self, node: ir.Node, way: StackOnItsWay) -> Dequantization | None:
        """How a DequantizeLinear or a Mul on the path dequantizes codes; `way` is the state in which it reads them."""
        shape = way.shape
        if node.op_type == "Mul":
            scale = next((value for value in node.inputs if value is not None and not _is_way(value, self.path)), None)
            zero_point = next((said.value for said in self.path.zero_points.values()), None)
            axis = None if scale is None else _only_axis(scale, shape)
            return None if scale is None else _dequantization(scale, zero_point, axis_before(way, axis), 1)
        scale, zero_point = _named_input(node, 1), _named_input(node, 2)
        if scale is None:
            return None
        axis = node.attributes.get_int("axis", 1) % max(len(shape), 1) if math.prod(_shape(scale)) > 1 else None
        block = node.attributes.get_int("block_size", 0) or 1
        return _dequantization(scale, zero_point, axis_before(way, axis), block)

    def packed_shape(self, shape: tuple[int, ...], evaluate: Evaluate) -> tuple[int, ...]:
        """The shape in which the bytes of packed codes arrive at the slot.

        Raises:
            EvaluationError: If a shape or an axis of a rearrangement cannot be computed.
            WrongPackingError: (a ValueError) If the bytes are chosen, transposed or dequantized on the path.
        """
        way = self.path.arrival(shape, evaluate)
        if self.path.choosers:
            raise WrongPackingError(f"{node_label(self.node)} reads bytes that are chosen while the model runs")
        if self.path.is_dequantized or any(step.op == "transpose" for step in way.steps):
            raise WrongPackingError(f"{node_label(self.node)} reads the bytes in another order, or as numbers")
        return way.shape

    def zero_point(self, shape: tuple[int, ...], evaluate: Evaluate) -> ZeroPoint | None:
        """The zero points of codes of that shape, or None if they do not follow the axes of the codes.

        Raises:
            EvaluationError: If a zero point is not constant or cannot be computed.
        """
        value = _named_input(self.node, self.slot.zero_point)
        at_slot = None
        if value is not None:
            at_slot = Subtracted(value, self.slot.zero_point_axes_of(self.node), self.slot.point_block_of(self.node))
        return self.path.zero_point(shape, evaluate, at_slot=at_slot)


def _scale_behind(node: ir.Node) -> ir.Value | None:
    """The scale of the weight of an integer product, as ONNX Runtime's dynamic quantization writes it.

    The scale stands behind the op: ``Cast(y) * scale``, or ``Cast(y) * (scale of the activations * scale)``. None if
    the nodes behind the op are others.
    """
    value = node.outputs[0]
    for op_type in ("Cast", "Mul"):
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type != op_type or users[0].domain:
            return None
        before, value = value, users[0].outputs[0]
    product = value.producer()
    assert product is not None  # noqa: S101 - it is the Mul
    other = next((item for item in product.inputs if item is not before), None)
    if other is None or constant_tensor(other) is not None:
        return other
    scales = other.producer()
    if scales is None or scales.op_type != "Mul" or scales.domain:
        return None
    constants = [item for item in scales.inputs if item is not None and constant_tensor(item) is not None]
    return constants[0] if len(constants) == 1 else None


def _dequantization(scale: ir.Value, zero_point: ir.Value | None, axis: int | None, block: int) -> Dequantization:
    named = None if zero_point is None else zero_point.name
    return Dequantization(scale.name, named, axis, None if axis is None else block)


def _require_matrices(view: MatrixView, way: StackOnItsWay, node: ir.Node) -> None:
    """Require that nodes choose whole matrices: not vectors, and not rows or columns of one matrix.

    Raises:
        ValueError: If they choose something else.
    """
    row = mvm_op(node)
    is_convolution = row is not None and row.convolution is not None
    channels = way.shape[:2]  # a size of 1 here is an axis of indices, which would choose channels
    if min(view.rows, view.columns) == 1 or (is_convolution and way.has_indices and min(channels) == 1):
        raise ValueError("no whole matrices are chosen")


def _only_axis(scale: ir.Value, shape: tuple[int, ...]) -> int | None:
    """The only axis of a shape along which a scale that broadcasts to it varies; None for none or several."""
    sizes = _shape(scale)
    axes = [len(shape) - len(sizes) + place for place, size in enumerate(sizes) if size > 1]
    return axes[0] if len(axes) == 1 else None


def _shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value; the empty shape if it is not known."""
    if (tensor := constant_tensor(value)) is not None:
        return tuple(tensor.shape.numpy())
    return value.shape.numpy() if value.shape is not None and value.shape.is_static() else ()


def _is_way(value: ir.Value, path: WeightPath) -> bool:
    """Whether a value is the weight of a path, or the output of one of its nodes."""
    return value is path.root or value.producer() in path.nodes


def _named_input(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None
