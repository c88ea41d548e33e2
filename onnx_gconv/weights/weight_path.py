"""The path from a weight to a weight slot, through nodes that rearrange its elements, dequantize or choose them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx.defs
import onnx_ir as ir

from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.types import INTEGER_DTYPES, WIDENING_CASTS
from onnx_gconv.weights.choices import PART_OPS, StackOnItsWay, choice_of, choosing_step
from onnx_gconv.weights.constants import ConstantValues, constant_tensor
from onnx_gconv.weights.rearrangement import Evaluate, handed_on, is_rearranging
from onnx_gconv.weights.zero_points import PointsOnTheWay, Subtracted

__all__ = ["WeightPath", "path_to", "reached_inputs"]

# The ops that `path_to` goes back through, besides nodes that rearrange.
_PASSED_OPS = frozenset({"Cast", "DequantizeLinear", "Gather", "GatherND", "Mul", "Scan", "Slice", "Split", "Sub"})


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
        points, way = PointsOnTheWay(np.zeros((1,) * len(shape), np.int64)), StackOnItsWay(shape)
        for node, way in self.along(shape, evaluate):
            said = self.zero_points.get(node)
            if said is not None and not points.add(*said.points(evaluate(said.value), way.shape), way):
                return None
        if at_slot is not None and not points.add(*at_slot.points(evaluate(at_slot.value), way.shape), way):
            return None
        return ZeroPoint(points.total, shape, points.blocks)


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
