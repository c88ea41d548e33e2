"""The nodes that pack rebuilt codes into the bytes that an op reads: what their constants hold, and how to find them.

The division by the scale gives the codes less their zero points. For 4-bit codes in two blocks a row, these nodes
follow::

    Concat(W.g_quotient, W.g_padding)          -> W.g_padded        # only where a row does not fill its last block
    Reshape(W.g_padded, W.g_shape)             -> W.g_blocks        # [outputs, blocks, bytes of a block, codes of one]
    Add(W.g_blocks, W.g_zero_point)            -> W.g_code
    Round(W.g_code)                            -> W.g_round
    Mul(W.g_round, W.g_place)                  -> W.g_placed        # times [1, 16]; 8-bit codes need no Mul, ReduceSum
    ReduceSum(W.g_placed)                      -> W.g_byte
    Cast(W.g_byte)                             -> W

The padding holds codes less their zero points, too. All numbers after Round are integers of at most eight bits, which
floating-point numbers represent exactly, so that the order of the sum does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.mapping.operands import BrokenMappingError, integers, only_user, scalar
from onnx_gconv.mapping.records.weight_record import WeightRecord
from onnx_gconv.tensors.packed import BlockZeroPoint, Packing
from onnx_gconv.tensors.streamed import all_elements

__all__ = [
    "AXES_AS_INPUT",
    "FoundPacking",
    "PackedWeight",
    "block_shape",
    "found_packing",
    "place_values",
    "point_shape",
]

AXES_AS_INPUT = 13
"""The axes of ReduceSum are an input since this opset."""

_HALF = 0.5


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """How rebuilt codes are packed.

    Attributes:
        packing: The place of each code in the bytes.
        zero_point: The codes that stand for zero: one for each block, or one for all.
        padding: The codes that fill up the last block of each row, [rows, padding].
        padding_name: Name of the initializer of the padding; None if there is no padding.
        opset: The version of the default domain.
    """

    packing: Packing
    zero_point: BlockZeroPoint
    padding: NDArray[np.uint8]
    padding_name: str | None
    opset: int

    @property
    def blocks(self) -> int | None:
        """How many zero points a row has; None if all codes of the weight share one."""
        return self.zero_point.values.shape[-1] if self.zero_point.values.ndim else None

    @property
    def points(self) -> NDArray[np.float64]:
        """The zero points, in a shape that broadcasts to `block_shape`."""
        values = self.zero_point.values
        return values if self.blocks is None else values.reshape(point_shape(self.packing, self.blocks))

    @property
    def padding_numbers(self) -> NDArray[np.float64]:
        """The padding as the nodes concatenate it: codes less the zero points of the last blocks, [..., padding]."""
        shape = (*self.packing.shape[:-1], self.packing.padding)
        values = self.zero_point.values
        numbers: NDArray[np.float64] = self.padding.reshape(shape) - (values[..., -1:] if values.ndim else values)
        return numbers


def block_shape(packing: Packing, blocks: int | None) -> tuple[int, ...]:
    """The shape in which nodes add zero points and combine codes to bytes: [..., blocks, bytes, codes of a byte].

    The axis of blocks exists only if rows have several zero points, the last axis only for codes of less than eight
    bits.

    Args:
        packing: The place of each code in the bytes.
        blocks: How many zero points a row has; None if all codes of the weight share one.
    """
    lead, stored = packing.shape[:-1], packing.stored
    if blocks is None or stored[: len(lead) + 1] == (*lead, blocks):
        shape = stored
    else:
        shape = (*lead, blocks, math.prod(stored) // packing.rows // blocks)
    return shape if packing.per_byte == 1 else (*shape, packing.per_byte)


def point_shape(packing: Packing, blocks: int) -> tuple[int, ...]:
    """The shape of the initializer of the zero points of blocks; it broadcasts to `block_shape`."""
    lead = packing.shape[:-1]
    return (*lead, blocks, *[1] * (len(block_shape(packing, blocks)) - len(lead) - 1))


def place_values(packing: Packing) -> NDArray[np.float64]:
    """The factors that shift the codes of a byte to their places: ``2 ** (bits * place)``, the lowest place first."""
    return np.array([1 << (packing.bits * place) for place in range(packing.per_byte)], np.float64)


@dataclass(frozen=True, eq=False)
class FoundPacking:
    """The nodes that pack codes, as they were found in a graph.

    Attributes:
        nodes: The nodes in the order of computation, without the last Cast.
        leaves: The initializers that the nodes read.
        value: The result of the nodes: bytes as floating-point numbers, which the last Cast reads.
        points: The initializer of the zero points.
        zero_point: The zero points that it holds.
        padding: The initializer of the padding; None if there is none.
        limited_use: The node that reads the rounded codes, and the index of its input.
    """

    nodes: tuple[ir.Node, ...]
    leaves: tuple[ir.Value, ...]
    value: ir.Value
    points: ir.Value
    zero_point: BlockZeroPoint
    padding: ir.Value | None
    limited_use: tuple[ir.Node, int]

    def named(self, record: WeightRecord) -> Iterator[tuple[ir.Value, str, str]]:
        """The initializers that the manifest names: each with its name there, and the start of a message about it."""
        yield self.points, record.zero_point or "", "the zero points added to it are"
        if self.padding is not None and record.packing is not None:
            yield self.padding, record.packing.padding or "", "its rows are filled with"

    def padding_codes(self, packing: Packing) -> NDArray[np.uint8]:
        """The codes that fill up the rows, [rows, padding], as the nodes compute them: rounded and clipped."""
        if self.padding is None or self.padding.const_value is None:
            return np.zeros((packing.rows, 0), np.uint8)
        numbers = all_elements(self.padding.const_value)
        values = self.zero_point.values.astype(numbers.dtype)
        codes = np.rint(numbers + (values[..., -1:] if values.ndim else values))
        in_range: NDArray[np.uint8] = np.clip(codes, 0, packing.highest).astype(np.uint8)
        return in_range.reshape(packing.rows, packing.padding)


def found_packing(quotient: ir.Value, record: WeightRecord) -> FoundPacking:
    """Follow the nodes that pack codes, and check that they do what the manifest says.

    Args:
        quotient: The result of the division by the scale: codes less their zero points.
        record: The weight's record in the manifest.

    Raises:
        BrokenMappingError: If the nodes do something else than the manifest says.
    """
    return _Walk(quotient, record).found()


class _Walk:
    """Follows a value from node to node."""

    def __init__(self, quotient: ir.Value, record: WeightRecord) -> None:
        packing = record.packing_of_codes
        assert packing is not None and record.packing is not None  # noqa: PT018, S101 - only packed weights are walked
        self._value, self._record = quotient, record
        self._packing, self._block = packing, record.packing.block
        self._has_padding = record.packing.padding is not None
        self._nodes: list[ir.Node] = []
        self._leaves: list[ir.Value] = []

    def found(self) -> FoundPacking:
        packing = self._packing
        padding = self._padding() if self._has_padding else None
        shape = None if not self._is_next("Reshape") else self._reshape()
        points = self._operand(self._step("Add"))
        zero_point = self._zero_point(points)
        blocks = zero_point.values.shape[-1] if zero_point.values.ndim else None
        expected = block_shape(packing, blocks)
        before = (*packing.shape[:-1], packing.row_codes)
        if (shape or before) != expected:
            raise BrokenMappingError(f"its codes are packed in the shape {list(shape or before)}, not {list(expected)}")
        self._round()
        if self._record.saturation_limits is not None:
            self._saturate(self._record.saturation_limits)
        limited = self._value
        if packing.per_byte > 1:
            self._sum(len(expected) - 1)
            expected = expected[:-1]
        shape = None if not self._is_next("Reshape") else self._reshape()
        if (shape or expected) != packing.stored:
            wanted = list(packing.stored)
            raise BrokenMappingError(f"its bytes have the shape {list(shape or expected)}, the manifest says {wanted}")
        return FoundPacking(
            nodes=tuple(self._nodes),
            leaves=tuple(dict.fromkeys(self._leaves)),
            value=self._value,
            points=points,
            zero_point=zero_point,
            padding=padding,
            limited_use=_only_use(limited),
        )

    def _is_next(self, op_type: str) -> bool:
        return [node.op_type for node, _ in self._value.uses()] == [op_type]

    def _step(self, op_type: str) -> ir.Node:
        node = only_user(self._value, op_type, 0)
        self._nodes.append(node)
        self._value = node.outputs[0]
        return node

    def _operand(self, node: ir.Node) -> ir.Value:
        """The second input of a node, which has to be an initializer."""
        operand = node.inputs[1]
        if operand is None or not operand.is_initializer() or operand.const_value is None:
            raise BrokenMappingError(f"the second input of node '{node.name}' ({node.op_type}) is no initializer")
        self._leaves.append(operand)
        return operand

    def _constant(self, node: ir.Node) -> tuple[int, ...] | None:
        """The integers of the second input of a node, if it is a Constant node or an initializer; None otherwise."""
        operand = node.inputs[1]
        if operand is None or (found := integers(operand)) is None:
            return None
        if (producer := operand.producer()) is not None:
            if producer not in self._nodes:
                self._nodes.append(producer)
        else:
            self._leaves.append(operand)
        return found

    def _reshape(self) -> tuple[int, ...]:
        node = self._step("Reshape")
        if (found := self._constant(node)) is None:
            raise BrokenMappingError(f"the node '{node.name}' (Reshape) has no constant shape")
        return found

    def _padding(self) -> ir.Value:
        packing = self._packing
        node = self._step("Concat")
        padding = self._operand(node)
        wanted = (*packing.shape[:-1], packing.padding)
        is_last = node.attributes.get_int("axis", 0) in {len(packing.shape) - 1, -1}
        if len(node.inputs) != 2 or not is_last or padding.const_value is None:  # noqa: PLR2004 - codes and padding
            raise BrokenMappingError(f"the node '{node.name}' (Concat) does not fill the rows of its codes")
        if (found := tuple(padding.const_value.shape.numpy())) != wanted:
            raise BrokenMappingError(f"its rows are filled with '{padding.name}' of {list(found)}, not {list(wanted)}")
        return padding

    def _zero_point(self, points: ir.Value) -> BlockZeroPoint:
        packing = self._packing
        assert points.const_value is not None  # noqa: S101 - `_operand` has seen it
        values = all_elements(points.const_value).astype(np.float64)
        blocks = packing.row_codes // self._block
        if values.ndim:
            if values.shape != point_shape(packing, blocks) or packing.row_codes % self._block:
                raise BrokenMappingError(
                    f"the zero points '{points.name}' have the shape {list(values.shape)}, which is not that of blocks "
                    f"of {self._block}"
                )
            values = values.reshape(*packing.shape[:-1], blocks)
        if not np.isfinite(values).all():
            raise BrokenMappingError(f"one of its zero points, '{points.name}', is not finite")
        return BlockZeroPoint(values, self._block, packing.shape)

    def _round(self) -> None:
        if self._is_next("Add"):  # before opset 11, Floor(x + 0.5) stands for Round
            node = self._step("Add")
            if (half := scalar(self._operand(node))) != _HALF:
                raise BrokenMappingError(f"{half} is added to it before it is rounded down, instead of {_HALF}")
            self._step("Floor")
        else:
            self._step("Round")

    def _saturate(self, limits: tuple[float, float]) -> None:
        for op_type, limit in zip(("Max", "Min"), limits, strict=True):
            node = self._step(op_type)
            if len(node.inputs) != 2 or scalar(self._operand(node)) != limit:  # noqa: PLR2004 - it and the limit
                raise BrokenMappingError(f"'{node.name}' should keep it within {limits[0]:g} to {limits[1]:g}")

    def _sum(self, axis: int) -> None:
        node = self._step("Mul")
        places = self._operand(node).const_value
        assert places is not None  # noqa: S101 - `_operand` has seen it
        if not np.array_equal(all_elements(places), place_values(self._packing)):
            raise BrokenMappingError(f"the node '{node.name}' (Mul) does not put codes side by side in bytes")
        uses = [(user.op_type, index) for user, index in self._value.uses()]
        if uses != [("ReduceSum", 0)]:
            raise BrokenMappingError(f"'{self._value.name}' should be read by one ReduceSum node (input 0)")
        node = next(iter(self._value.uses())).node
        self._nodes.append(node)
        axes = node.attributes.get_ints("axes", None) if len(node.inputs) < 2 else self._constant(node)  # noqa: PLR2004
        if node.attributes.get_int("keepdims", 1) or tuple(axes or ()) != (axis,):
            raise BrokenMappingError(f"the node '{node.name}' (ReduceSum) does not add the codes of a byte")
        self._value = node.outputs[0]


def _only_use(value: ir.Value) -> tuple[ir.Node, int]:
    uses = list(value.uses())
    if len(uses) != 1:
        raise BrokenMappingError(f"'{value.name}' should be read by one node, but {len(uses)} do")
    node, index = uses[0]
    return node, index
