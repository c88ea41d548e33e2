"""Ops whose packed weights can be decoded to floating point, so that a MatMul can replace the op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.bnb4 import Bnb4Coding, Bnb4Tensor
from onnx_gconv.tensors.dequantized import DequantizedTensor
from onnx_gconv.tensors.streamed import StreamedTensor
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.evaluation.evaluated_ops import EvaluationError
from onnx_gconv.weights.ops.packed_ops import (
    NBITS_FORM,
    BlockLayout,
    PackedForm,
    WrongPackingError,
    said_shape,
)
from onnx_gconv.weights.rearrangement import Evaluate, node_label
from onnx_gconv.weights.records import SkipReason

__all__ = ["BNB4_FORM", "DECODED_OPS", "DecodedOp", "decoded_op"]

_BNB4_TABLES: tuple[Literal["FP4", "NF4"], ...] = ("FP4", "NF4")


@dataclass(frozen=True)
class DecodedOp:
    """An op ``y = A @ W + bias`` whose W is packed.

    Attributes:
        weight: Index of the input that holds the bytes.
        bias: Index of the input that holds the bias; None if there is none.
        decoded: Returns the decoded weight as [outputs, inputs], or the reason why it cannot be decoded.
    """

    weight: int
    bias: int | None
    decoded: Callable[[ir.Node, Evaluate], StreamedTensor | str]


def decoded_op(node: ir.Node) -> DecodedOp | None:
    """The row of a node's op; None if the table has none."""
    return DECODED_OPS.get((node.domain, node.op_type))


def _bnb4(node: ir.Node, _: Evaluate) -> StreamedTensor | str:
    if (found := _bnb4_obstacle(node)) is not None:
        return found[1]
    stored, absmax, shape = _constant(node, 1), _constant(node, 2), said_shape(node)
    assert stored is not None and absmax is not None and shape is not None  # noqa: PT018, S101 - looked at before
    return Bnb4Tensor(stored, absmax, _coding(node), shape)


def _bnb4_obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
    """Why the weight of a MatMulBnb4 node cannot be decoded; None if it can."""
    said, label = node.attributes, node_label(node)
    shape, table, block = said_shape(node), said.get_int("quant_type", -1), said.get_int("block_size", 0)
    if shape is None or table not in range(len(_BNB4_TABLES)) or block < 1:
        sizes = f"N = {said.get_int('N', 0)}, K = {said.get_int('K', 0)}"
        return SkipReason.INVALID_SHAPE, f"{label} says {sizes}, quant_type = {table}, block_size = {block}"
    if said.get_int("transB", 1) != 1:
        return SkipReason.BLOCK_PACKED, (
            f"{label} has transB = {said.get_int('transB', 1)}, for which ONNX Runtime decodes other numbers on the "
            "CPU than were encoded; quantize it with transB = 1"
        )
    stored, absmax = _constant(node, 1), _constant(node, 2)
    if stored is None or absmax is None:
        return SkipReason.OVERRIDABLE_INPUT, f"{label} reads bytes or scales that are no constants"
    if absmax.dtype != ir.DataType.FLOAT:
        return SkipReason.DTYPE_NOT_SUPPORTED, (
            f"{label} has scales of {absmax.dtype.name.lower()}; only with those of float32 it is decoded"
        )
    size = math.prod(shape)
    needed = math.ceil(size / 2), _coding(node).blocks(size)
    if (stored.size, absmax.size) != needed:
        return SkipReason.INVALID_SHAPE, (
            f"{label} reads {stored.size} bytes and {absmax.size} scales, but N = {shape[0]}, K = {shape[1]}, "
            f"block_size = {block} need {needed[0]} and {needed[1]}"
        )
    return None


def _coding(node: ir.Node) -> Bnb4Coding:
    said = node.attributes
    return Bnb4Coding(_BNB4_TABLES[said.get_int("quant_type", 0)], said.get_int("block_size", 0))


def _nbits(node: ir.Node, evaluate: Evaluate) -> StreamedTensor | str:
    """The numbers that MatMulNBits computes from its bytes, scales and zero points; or why they cannot be told."""
    label = node_label(node)
    if (found := NBITS_FORM.obstacle(node)) is not None:
        return found[1]
    stored, scales = _constant(node, 1), _constant(node, 2)
    if stored is None or scales is None or stored.dtype != ir.DataType.UINT8:
        return f"{label} reads bytes or scales that are no constants"
    if scales.dtype not in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}:
        return f"{label} has scales of {scales.dtype.name.lower()}"
    try:
        codes, zero_point, _, note = NBITS_FORM.read(node, stored, tuple(stored.shape.numpy()), evaluate)
    except (EvaluationError, ModelError, WrongPackingError) as error:
        return str(error)
    if note is not None:
        return note
    return DequantizedTensor(codes.codes, zero_point, scales, stored.name)


def _constant(node: ir.Node, index: int) -> ir.TensorProtocol | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.is_graph_input() else constant_tensor(value)


def _no_layout(node: ir.Node, shape: object) -> BlockLayout:
    raise WrongPackingError(f"{node_label(node)} reads bytes of {shape}, which have no rows of their own")


BNB4_FORM = PackedForm(_no_layout, _bnb4_obstacle, scale=2)
"""MatMulBnb4: its blocks run across the ends of rows, so nodes cannot pack its codes; it can only be decoded."""

DECODED_OPS: dict[tuple[str, str], DecodedOp] = {
    ("com.microsoft", "MatMulBnb4"): DecodedOp(1, None, _bnb4),
    ("com.microsoft", "MatMulNBits"): DecodedOp(1, 5, _nbits),
}
"""The ops by domain and name."""
