"""The path from a weight to a weight slot, through nodes that rearrange its elements, dequantize or choose them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx.defs
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.tensors.codes import Blocks, ZeroPoint
from onnx_gconv.tensors.types import INTEGER_DTYPES, WIDENING_CASTS
from onnx_gconv.weights.choices import PART_OPS, StackOnItsWay, choice_of, choosing_step
from onnx_gconv.weights.constants import ConstantValues, constant_tensor
from onnx_gconv.weights.ops.mvm_ops import WeightSlot, mvm_op
from onnx_gconv.weights.ops.packed_ops import WrongPackingError
from onnx_gconv.weights.rearrangement import (
    Evaluate,
    Rearrangement,
    handed_on,
    is_rearranging,
    node_label,
)
from onnx_gconv.weights.records import Dequantization

__all__ = ["SlotUse", "WeightPath", "path_to", "reached_inputs"]

# The ops that `path_to` goes back through, besides nodes that rearrange.
_PASSED_OPS = frozenset({"Cast", "DequantizeLinear", "Gather", "GatherND", "Mul", "Scan", "Slice", "Split", "Sub"})


@dataclass(frozen=True, eq=False)
class Subtracted:
    """The zero point that a node subtracts from integer codes.

    Attributes:
        value: The value that holds the zero point.
        axes: The axes of the weight along which the zero point varies, if it has fewer axes than the weight; or the
            axis of its blocks.
        block: The number of neighbours along that axis that share a zero point with as many axes as the weight; 0 if
            zero points do not belong to blocks.
    """

    value: ir.Value
    axes: tuple[int, ...] = ()
    block: int = 0

    def points(
        self, found: NDArray[np.generic], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64] | None, Blocks | None]:
        """The zero points with as many axes as `shape`, and their blocks.

        The zero points are None if they are no integers or do not fit the shape. The blocks are None if the zero points
        broadcast to the shape.

        Args:
            found: The array of the value.
            shape: The shape of the codes.
        """
        if not self.block or len(self.axes) != 1 or not -len(shape) <= self.axes[0] < len(shape):
            return _broadcastable(found, self.axes, shape), None
        blocks = Blocks(self.axes[0] % len(shape), self.block)
        points = _broadcastable(found, (), blocks.shape(shape))
        return points, None if points is None or points.size == 1 else blocks


@dataclass(frozen=True, eq=False)
class WeightPath:
    """The nodes between a weight and a weight slot.

    Attributes:
        root: The weight.
        nodes: The nodes, from the weight to the slot.
        zero_points: The zero points that nodes of the path subtract from integer codes, by node.
        is_dequantized: Whether nodes of the path dequantize integer codes.
        choosers: The nodes of the path that choose matrices from a stack while the model runs, each with the index of
            the input that takes the stack.
    """

    root: ir.Value
    nodes: tuple[ir.Node, ...]
    zero_points: dict[ir.Node, Subtracted]
    is_dequantized: bool
    choosers: Mapping[ir.Node, int] = field(default_factory=dict)

    def along(self, shape: tuple[int, ...], evaluate: Evaluate) -> Iterator[tuple[ir.Node, StackOnItsWay]]:
        """Yield each node with the state of a weight of that shape as the node reads it.

        The state is one object that changes with each step: look at it before taking the next one.

        Raises:
            EvaluationError: If a new shape or an axis cannot be computed.
            ValueError: If the shape does not fit a node.
        """
        way = StackOnItsWay(shape)
        for node in self.nodes:
            yield node, way
            if node in self.choosers:
                way.choose(choice_of(node, self.choosers[node], len(way.shape)))
            elif node.op_type in PART_OPS:
                way.take_part()
            elif is_rearranging(node):
                way.rearrange(node, evaluate)

    def arrival(self, shape: tuple[int, ...], evaluate: Evaluate) -> StackOnItsWay:
        """The rearrangements of a weight of that shape, and the shape in which it arrives at the slot.

        Args:
            shape: The shape of the weight.
            evaluate: Returns the array of a constant value.

        Raises:
            EvaluationError: If a new shape or an axis cannot be computed.
            ValueError: If the shape does not fit a node.
        """
        way = StackOnItsWay(shape)
        for node, way in self.along(shape, evaluate):
            if node.op_type in {"Mul", "Sub"}:
                _require_no_broadcast(node, way.shape)
        return way

    def zero_point(
        self,
        shape: tuple[int, ...],
        evaluate: Evaluate,
        *,
        at_slot: Subtracted | None = None,
    ) -> ZeroPoint | None:
        """The zero points that the nodes of the path, and the op behind it, subtract from codes of that shape.

        Args:
            shape: The shape of the codes.
            evaluate: Returns the array of a constant value.
            at_slot: The zero point that the op behind the path subtracts.

        Returns:
            Integers with as many axes as the codes. None if the zero points cannot be written so: they are no integers,
            do not fit, or a reshape stands between them and the codes.

        Raises:
            EvaluationError: If a zero point cannot be computed.
        """
        points, way = _Points(np.zeros((1,) * len(shape), np.int64)), StackOnItsWay(shape)
        for node, way in self.along(shape, evaluate):
            said = self.zero_points.get(node)
            if said is not None and not points.add(*said.points(evaluate(said.value), way.shape), way):
                return None
        if at_slot is not None and not points.add(*at_slot.points(evaluate(at_slot.value), way.shape), way):
            return None
        return ZeroPoint(points.total, shape, points.blocks)


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
        return _dequantization(scale, zero_point, _axis_before(way, axis), self.slot.block_of(self.node))

    def _of_node(self, node: ir.Node, way: StackOnItsWay) -> Dequantization | None:
        """How a DequantizeLinear or a Mul on the path dequantizes codes; `way` is the state in which it reads them."""
        shape = way.shape
        if node.op_type == "Mul":
            scale = next((value for value in node.inputs if value is not None and not _is_way(value, self.path)), None)
            zero_point = next((said.value for said in self.path.zero_points.values()), None)
            axis = None if scale is None else _only_axis(scale, shape)
            return None if scale is None else _dequantization(scale, zero_point, _axis_before(way, axis), 1)
        scale, zero_point = _named_input(node, 1), _named_input(node, 2)
        if scale is None:
            return None
        axis = node.attributes.get_int("axis", 1) % max(len(shape), 1) if math.prod(_shape(scale)) > 1 else None
        block = node.attributes.get_int("block_size", 0) or 1
        return _dequantization(scale, zero_point, _axis_before(way, axis), block)

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
        value = None if self.slot.zero_point is None else _input(self.node, self.slot.zero_point)
        at_slot = None
        if value is not None:
            at_slot = Subtracted(value, self.slot.zero_point_axes_of(self.node), self.slot.point_block_of(self.node))
        return self.path.zero_point(shape, evaluate, at_slot=at_slot)


@dataclass
class _Points:
    """The sum of the zero points that the nodes of a path have subtracted so far.

    Attributes:
        total: Integers with as many axes as the weight.
        blocks: The blocks that share a zero point each; None if the integers broadcast to the weight.
    """

    total: NDArray[np.int64]
    blocks: Blocks | None = None

    def add(self, found: NDArray[np.int64] | None, blocks: Blocks | None, way: StackOnItsWay) -> bool:
        """Add the zero points that a node subtracts from the rearranged weight.

        Returns:
            False if the sum cannot be written for the axes of the weight.
        """
        back = _before(way, found, self.total.ndim)
        if back is None:
            return False
        if not back.any():
            return True
        if self.blocks is not None or (blocks is not None and self.total.any()):
            return False
        axis = None if blocks is None else _axis_before(way, blocks.axis)
        if blocks is not None and axis is not None:
            self.total, self.blocks = back, Blocks(axis, blocks.size)
        else:
            self.total = self.total + back
        return True


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


def _axis_before(way: StackOnItsWay, axis: int | None) -> int | None:
    """The axis of a weight that became `axis` of the rearranged weight; None if a reshape may have merged it."""
    axis = None if axis is None else axis + len(way.hidden)
    for step in reversed(way.steps):
        if axis is None or step.op != "transpose":
            return None
        axis = step.argument[axis]
    return axis


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
    return None if index is None else _input(node, index)


def path_to(value: ir.Value, values: ConstantValues, *, through_codes: bool = True) -> WeightPath:
    """The path to a value, followed back as far as nodes only pass a weight on.

    Such nodes rearrange the weight, cast it to a type that keeps all values, dequantize integer codes, or choose from a
    stack of matrices while the model runs. The path starts at the first value that another node computes, or that no
    node computes. That value is a weight only if it is constant.

    Args:
        value: The value, such as the input in a weight slot.
        values: The constant values of the model.
        through_codes: Whether to go back through dequantizing nodes. If not, their result is the weight.
    """
    nodes: list[ir.Node] = []
    zero_points: dict[ir.Node, Subtracted] = {}
    choosers: dict[ir.Node, int] = {}
    is_dequantized = False
    while True:
        if (step := choosing_step(value, values)) is not None:
            nodes.append(step.node)
            choosers.update(step.choosers)
            value = step.source
        elif (node := value.producer()) is None:
            break
        elif is_rearranging(node) or _is_widening(node):
            nodes.append(node)
            value = _first(node)
        elif not through_codes:
            break
        elif node.op_type == "DequantizeLinear" and _other_inputs_are_constant(node, values):
            nodes.append(node)
            is_dequantized = True
            if (zero_point := _input(node, 2)) is not None:
                block = node.attributes.get_int("block_size", 0)
                zero_points[node] = Subtracted(zero_point, (node.attributes.get_int("axis", 1),), block)
            value = _first(node)
        elif (chain := _scaled_codes(node, values)) is not None:
            nodes.extend(chain.nodes)
            is_dequantized = True
            zero_points.update(chain.zero_points)
            value = chain.root
        else:
            break
    return WeightPath(value, tuple(reversed(nodes)), zero_points, is_dequantized, choosers)


def reached_inputs(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The nodes that a weight reaches through nodes of a `WeightPath`, with the index of the input, the nearest first.

    The search does not go on behind products and other nodes, so that the searches from all weights of a model together
    visit hardly more nodes than the model has.
    """
    waiting, seen = deque([value]), {value}
    while waiting:
        for node, index in waiting.popleft().uses():
            yield node, index
            if is_rearranging(node) or node.op_type in _PASSED_OPS:
                new = [item for item in handed_on(node, index) if item not in seen]
                seen.update(new)
                waiting.extend(new)


def _scaled_codes(node: ir.Node, values: ConstantValues) -> WeightPath | None:
    """The path of ``Cast(codes) * scale`` or ``(Cast(codes) - zero point) * scale``, its last node first; else None."""
    if node.domain != "" or node.op_type != "Mul":
        return None
    for start in (0, 1):
        value, scale = _input(node, start), _input(node, 1 - start)
        if value is None or scale is None or not values.is_constant(scale):
            continue
        nodes = [node]
        zero_points: dict[ir.Node, Subtracted] = {}
        while (before := value.producer()) is not None:
            if is_rearranging(before):
                value = _first(before)
            elif before.op_type == "Sub" and before.domain == "" and not zero_points:
                zero_point = _input(before, 1)
                if zero_point is None or not values.is_constant(zero_point):
                    break
                zero_points[before] = Subtracted(zero_point)
                value = _first(before)
            elif before.op_type == "Cast" and before.domain == "" and _dtype(_first(before)) in INTEGER_DTYPES:
                return WeightPath(_first(before), (*nodes, before), zero_points, is_dequantized=True)
            else:
                break
            nodes.append(before)
    return None


def _is_widening(node: ir.Node) -> bool:
    if node.op_type != "Cast" or node.domain != "":
        return False
    target = _cast_target(node)
    return _dtype(_first(node)) in WIDENING_CASTS.get(target, ())


def _cast_target(node: ir.Node) -> ir.DataType:
    """The type that a Cast gives; UNDEFINED if its attribute is no number of a type."""
    try:
        return ir.DataType(node.attributes.get_int("to", 0))
    except ValueError:
        return ir.DataType.UNDEFINED


def _dtype(value: ir.Value) -> ir.DataType | None:
    """The type of a value, also if only the nodes that compute it tell; None if they do not."""
    while value.dtype is None:
        tensor = constant_tensor(value)
        if tensor is not None:
            return tensor.dtype
        node = value.producer()
        if node is not None and node.op_type == "Cast":
            return _cast_target(node)
        source = None if node is None else _of_the_same_type(node, value)
        if source is None:
            return None
        value = source
    return value.dtype


def _of_the_same_type(node: ir.Node, output: ir.Value) -> ir.Value | None:
    """The first input of a node that has the type of one of its outputs by the op's definition; None if none has."""
    if not onnx.defs.has(node.op_type, node.domain):
        return None
    schema = onnx.defs.get_schema(node.op_type, node.domain)
    index = output.index()
    if index is None or not schema.outputs or not schema.inputs:
        return None
    wanted = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    for number, item in enumerate(node.inputs):
        if item is not None and schema.inputs[min(number, len(schema.inputs) - 1)].type_str == wanted:
            return item
    return None


def _other_inputs_are_constant(node: ir.Node, values: ConstantValues) -> bool:
    return all(value is None or values.is_constant(value) for value in node.inputs[1:])


def _broadcastable(found: NDArray[np.generic], axes: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Zero points with as many axes as `shape`, or None if they are not integers or do not fit the shape.

    Args:
        found: The zero points.
        axes: The axes of the shape to which the axes of the zero points belong, if these are fewer.
        shape: The shape of the codes.
    """
    numbers = np.asarray(found).astype(np.float64)
    integers = numbers.astype(np.int64)
    if not np.array_equal(integers, numbers):
        return None
    if integers.size and (integers == integers.reshape(-1)[0]).all():
        return integers.reshape(-1)[:1].reshape((1,) * len(shape))
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        return None
    if integers.ndim < len(shape) and integers.ndim <= len(axes):
        sizes = [1] * len(shape)
        for axis, size in zip(axes, integers.shape, strict=False):
            sizes[axis] = size
        integers = integers.reshape(sizes)
    if integers.ndim > len(shape):
        return None
    integers = integers.reshape((1,) * (len(shape) - integers.ndim) + integers.shape)
    fits = all(length in {1, size} for length, size in zip(integers.shape, shape, strict=True))
    return integers if fits else None


def _before(way: StackOnItsWay, zero_points: NDArray[np.int64] | None, rank: int) -> NDArray[np.int64] | None:
    """Zero points of a rearranged weight, moved to the axes of the weight; None if a reshape stands between.

    Args:
        way: The rearrangements.
        zero_points: The zero points, with the axes of the rearranged weight.
        rank: The number of axes of the weight.
    """
    if zero_points is None:
        return None
    if zero_points.size == 1:
        return zero_points.reshape((1,) * rank)
    zero_points = zero_points.reshape((1,) * len(way.hidden) + zero_points.shape)
    for step in reversed(way.steps):
        if step.op != "transpose":
            return None
        zero_points = zero_points.transpose(np.argsort(step.argument))
    return zero_points


def _require_no_broadcast(node: ir.Node, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the constant operand of a node broadcasts a tensor of that shape to a larger one."""
    for value in node.inputs:
        tensor = None if value is None else constant_tensor(value)
        if tensor is not None and tensor.shape.numpy() != shape:
            other = tuple(tensor.shape.numpy())
            if np.broadcast_shapes(other, shape) != shape:
                raise ValueError(f"{node.op_type} of shapes {list(shape)} and {list(other)}")


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None  # noqa: S101 - the ops that this is called for have a first input
    return value


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
