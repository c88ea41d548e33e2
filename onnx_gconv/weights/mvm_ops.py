"""The table of MVM ops: nodes that multiply a matrix of weights with activations.

Supporting a new op is one row: its weight slots and, for each, the function that gives the matrix view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.weights.matrix_view import MatrixView

__all__ = ["MVM_OPS", "MvmOp", "WeightSlot", "mvm_op"]

# One axis of the kernel at least
_CONV_RANK = 3

ViewFunction: TypeAlias = Callable[[ir.Node, Sequence[int]], MatrixView]


@dataclass(frozen=True)
class WeightSlot:
    """One input of an MVM op that holds a weight.

    Attributes:
        index: Index among the node's inputs.
        activation: Index of the input that is multiplied with it.
        view: Gives the matrix view from the node and the shape of the weight, raises IndexError or ValueError if the
            shape does not fit; None as long as this version has no view for the op, whose weights are then skipped.
    """

    index: int
    activation: int
    view: ViewFunction | None


@dataclass(frozen=True)
class MvmOp:
    """A row of the table."""

    domain: str
    op_type: str
    slots: tuple[WeightSlot, ...]


def _matmul_right(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """x @ W with W [..., K, N]: K inputs, N outputs. A W of one axis is a single column."""
    rank = len(shape)
    if rank == 1:
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=())
    return MatrixView.of_axes(shape, row_axes=(rank - 2,), column_axes=(rank - 1,), matrix_axes=range(rank - 2))


def _matmul_left(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W @ x with W [..., M, K]: K inputs, M outputs."""
    rank = len(shape)
    if rank == 1:
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=())
    return MatrixView.of_axes(shape, row_axes=(rank - 1,), column_axes=(rank - 2,), matrix_axes=range(rank - 2))


def _gemm_right(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * A' @ W' with W [K, N], or [N, K] with transB."""
    rows, columns = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    factor = node.attributes.get_float("alpha", 1.0)
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=factor)


def _gemm_left(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * W' @ B' with W [M, K], or [K, M] with transA."""
    rows, columns = (0, 1) if node.attributes.get_int("transA", 0) else (1, 0)
    factor = node.attributes.get_float("alpha", 1.0)
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=factor)


def _conv(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [outputs, inputs / groups, kernel...]: rows are (input, kernel...), as the tensor is flattened."""
    groups = node.attributes.get_int("group", 1)
    if len(shape) < _CONV_RANK or groups < 1 or shape[0] % groups:
        raise ValueError(f"shape {list(shape)} with {groups} groups")
    if groups == 1:
        return MatrixView.of_axes(shape, row_axes=range(1, len(shape)), column_axes=(0,))
    split = (groups, shape[0] // groups, *shape[1:])
    return MatrixView.of_axes(split, matrix_axes=(0,), row_axes=range(2, len(split)), column_axes=(1,))


_ROWS = (
    MvmOp("", "MatMul", (WeightSlot(0, 1, _matmul_left), WeightSlot(1, 0, _matmul_right))),
    MvmOp("", "Gemm", (WeightSlot(0, 1, _gemm_left), WeightSlot(1, 0, _gemm_right))),
    MvmOp("", "Conv", (WeightSlot(1, 0, _conv),)),
    # Ops whose weights this version lists, but does not map
    MvmOp("", "ConvTranspose", (WeightSlot(1, 0, None),)),
    MvmOp("", "DeformConv", (WeightSlot(1, 0, None),)),
    MvmOp("", "LSTM", (WeightSlot(1, 0, None), WeightSlot(2, 0, None))),
    MvmOp("", "GRU", (WeightSlot(1, 0, None), WeightSlot(2, 0, None))),
    MvmOp("", "RNN", (WeightSlot(1, 0, None), WeightSlot(2, 0, None))),
    MvmOp("", "Einsum", (WeightSlot(0, 1, None), WeightSlot(1, 0, None))),
    MvmOp("", "MatMulInteger", (WeightSlot(0, 1, None), WeightSlot(1, 0, None))),
    MvmOp("", "ConvInteger", (WeightSlot(1, 0, None),)),
    MvmOp("", "QLinearMatMul", (WeightSlot(0, 3, None), WeightSlot(3, 0, None))),
    MvmOp("", "QLinearConv", (WeightSlot(3, 0, None),)),
    MvmOp("com.microsoft", "FusedMatMul", (WeightSlot(0, 1, None), WeightSlot(1, 0, None))),
    MvmOp("com.microsoft", "FusedGemm", (WeightSlot(0, 1, None), WeightSlot(1, 0, None))),
    MvmOp("com.microsoft", "FusedConv", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "Attention", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "QAttention", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulNBits", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "DynamicQuantizeLSTM", (WeightSlot(1, 0, None), WeightSlot(2, 0, None))),
    MvmOp("com.microsoft", "DynamicQuantizeMatMul", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulIntegerToFloat", (WeightSlot(1, 0, None),)),
)

MVM_OPS: dict[tuple[str, str], MvmOp] = {(row.domain, row.op_type): row for row in _ROWS}


def mvm_op(node: ir.Node) -> MvmOp | None:
    """The row of a node, or None if it multiplies no matrix."""
    return MVM_OPS.get((node.domain, node.op_type))
