"""The table of MVM ops: nodes that multiply a matrix of weights with activations.

Supporting a new op is one row: its weight slots and, for each, the function that gives the matrix view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.schemes.matrix_view import MatrixView

__all__ = ["LOOKUP_OPS", "MVM_OPS", "MvmOp", "WeightSlot", "mvm_op"]

_MATRIX_RANK = 2
_CONV_RANK = 3  # or more: one axis of the kernel at least
_RECURRENT_RANK = 3
_EXPERTS_RANK = 3
_EINSUM_OPERANDS = 2

ViewFunction: TypeAlias = Callable[[ir.Node, Sequence[int]], MatrixView]


@dataclass(frozen=True)
class WeightSlot:
    """One input of an MVM op that holds a weight.

    Attributes:
        index: Index among the node's inputs.
        activation: Index of the input that is multiplied with it.
        view: Gives the matrix view from the node and the shape of the weight, raises IndexError or ValueError if the
            shape does not fit; None if the op packs its weights in blocks, and they are skipped.
        zero_point: Index of the input that holds the zero point of a weight of integer codes; None if there is none.
        zero_point_axes: Axes of the weight along which a zero point with as many axes varies, or what tells them of a
            node; a scalar always counts for all.
    """

    index: int
    activation: int
    view: ViewFunction | None
    zero_point: int | None = None
    zero_point_axes: tuple[int, ...] | Callable[[ir.Node], tuple[int, ...]] = ()

    def zero_point_axes_of(self, node: ir.Node) -> tuple[int, ...]:
        """The axes along which the zero point of a node's weight varies."""
        axes = self.zero_point_axes
        return axes(node) if callable(axes) else axes


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
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=_alpha(node))


def _gemm_left(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * W' @ B' with W [M, K], or [K, M] with transA."""
    rows, columns = (0, 1) if node.attributes.get_int("transA", 0) else (1, 0)
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=_alpha(node))


def _gemm_outputs(node: ir.Node) -> tuple[int, ...]:
    """The axis of the outputs in W [K, N], or [N, K] with transB."""
    return (0,) if node.attributes.get_int("transB", 0) else (1,)


def _fused_matmul_right(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """As MatMul with alpha; transB swaps the last two axes, transBatchB moves the first one behind the batch first."""
    outer, inner, batch = _fused_matmul_axes(node, shape, "B")
    return MatrixView.of_axes(shape, row_axes=outer, column_axes=inner, matrix_axes=batch, factor=_alpha(node))


def _fused_matmul_left(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """As MatMul with alpha; transA swaps the last two axes, transBatchA moves the first one behind the batch first."""
    outer, inner, batch = _fused_matmul_axes(node, shape, "A")
    return MatrixView.of_axes(shape, row_axes=inner, column_axes=outer, matrix_axes=batch, factor=_alpha(node))


def _fused_matmul_axes(
    node: ir.Node, shape: Sequence[int], operand: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The last axis but one, the last axis, and the batch axes of an operand after its transpositions.

    ONNX Runtime ignores all transpositions of an operand of one axis.
    """
    rank = len(shape)
    if rank == 1:
        return ((0,), (), ()) if operand == "B" else ((), (0,), ())
    axes = list(range(rank))
    if node.attributes.get_int(f"transBatch{operand}", 0):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if node.attributes.get_int(f"trans{operand}", 0):
        axes[-2:] = axes[-1], axes[-2]
    return (axes[-2],), (axes[-1],), tuple(axes[:-2])


def _conv(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [outputs, inputs / groups, kernel...]: rows are (input, kernel...), as the tensor is flattened."""
    groups = _groups(node, shape)
    if groups == 1:
        return MatrixView.of_axes(shape, row_axes=range(1, len(shape)), column_axes=(0,))
    split = (groups, shape[0] // groups, *shape[1:])
    return MatrixView.of_axes(split, matrix_axes=(0,), row_axes=range(2, len(split)), column_axes=(1,))


def _conv_transpose(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [inputs, outputs / groups, kernel...]: one input position gives (output, kernel...), which are the columns."""
    groups, kernel = _groups(node, shape), math.prod(shape[2:])
    if groups == 1:
        columns = range(1, len(shape))
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=columns, columns_per_channel=kernel)
    split = (groups, shape[0] // groups, *shape[1:])
    columns = range(2, len(split))
    return MatrixView.of_axes(split, matrix_axes=(0,), row_axes=(1,), column_axes=columns, columns_per_channel=kernel)


def _recurrent(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W or R [directions, gates * hidden, inputs]: a matrix for each direction, the gates side by side."""
    if len(shape) != _RECURRENT_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(2,), column_axes=(1,))


def _quantized_recurrent(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W or R of DynamicQuantizeLSTM [directions, inputs, gates * hidden], the other way round than those of LSTM."""
    if len(shape) != _RECURRENT_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(1,), column_axes=(2,))


def _gather(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """A table [entries, outputs...]: an index is a one-hot vector of inputs."""
    axis = node.attributes.get_int("axis", 0)
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} of shape {list(shape)}")
    columns = [number for number in range(len(shape)) if number != axis]
    return MatrixView.of_axes(shape, row_axes=(axis,), column_axes=columns)


def _experts(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [experts, outputs, inputs]: a matrix for each expert."""
    if len(shape) != _EXPERTS_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(2,), column_axes=(1,))


def _attention(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [inputs, queries + keys + values]."""
    if len(shape) != _MATRIX_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, row_axes=(0,), column_axes=(1,))


def _einsum(operand: int) -> ViewFunction:
    """The view of one of two operands, read off the equation.

    Labels of the weight that the result lacks are contracted: rows. Labels that the result has and the other operand
    lacks are columns, labels that all three have count matrices.
    """

    def view(node: ir.Node, shape: Sequence[int]) -> MatrixView:
        equation = (node.attributes.get_string("equation") or "").replace(" ", "")
        inputs, arrow, result = equation.partition("->")
        terms = inputs.split(",")
        if len(terms) != _EINSUM_OPERANDS or len(node.inputs) != _EINSUM_OPERANDS or "." in equation:
            raise ValueError(f"equation {equation}")
        weight, other = terms[operand], terms[1 - operand]
        if not arrow:  # all labels that stand once, in alphabetical order
            joined = weight + other
            result = "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
        is_diagonal = len(set(weight)) != len(weight)
        is_summed_alone = any(label not in other and label not in result for label in weight)
        if is_diagonal or is_summed_alone or len(weight) != len(shape):
            raise ValueError(f"equation {equation} for shape {list(shape)}")
        return MatrixView.of_axes(
            shape,
            row_axes=[axis for axis, label in enumerate(weight) if label not in result],
            column_axes=[axis for axis, label in enumerate(weight) if label in result and label not in other],
            matrix_axes=[axis for axis, label in enumerate(weight) if label in result and label in other],
        )

    return view


def _alpha(node: ir.Node) -> float:
    return node.attributes.get_float("alpha", 1.0)


def _groups(node: ir.Node, shape: Sequence[int]) -> int:
    groups = node.attributes.get_int("group", 1)
    if len(shape) < _CONV_RANK or groups < 1 or shape[0] % groups:
        raise ValueError(f"shape {list(shape)} with {groups} groups")
    return groups


_MATMUL = (WeightSlot(0, 1, _matmul_left), WeightSlot(1, 0, _matmul_right))
_GEMM = (WeightSlot(0, 1, _gemm_left), WeightSlot(1, 0, _gemm_right))
_FUSED_MATMUL = (WeightSlot(0, 1, _fused_matmul_left), WeightSlot(1, 0, _fused_matmul_right))
_CONV = (WeightSlot(1, 0, _conv),)
_RECURRENT = (WeightSlot(1, 0, _recurrent), WeightSlot(2, 0, _recurrent))

_ROW_OF_LEFT, _COLUMN_OF_RIGHT = (-2,), (-1,)

_ROWS = (
    MvmOp("", "MatMul", _MATMUL),
    MvmOp("", "Gemm", _GEMM),
    MvmOp("", "Conv", _CONV),
    MvmOp("", "ConvTranspose", (WeightSlot(1, 0, _conv_transpose),)),
    MvmOp("", "DeformConv", _CONV),
    MvmOp("", "LSTM", _RECURRENT),
    MvmOp("", "GRU", _RECURRENT),
    MvmOp("", "RNN", _RECURRENT),
    MvmOp("", "Einsum", (WeightSlot(0, 1, _einsum(0)), WeightSlot(1, 0, _einsum(1)))),
    MvmOp("com.microsoft", "FusedMatMul", _FUSED_MATMUL),
    MvmOp("com.microsoft", "FusedGemm", _GEMM),
    MvmOp("com.microsoft", "FusedConv", _CONV),
    MvmOp("com.microsoft", "TransposeMatMul", _FUSED_MATMUL),
    MvmOp("com.microsoft", "GemmFastGelu", (WeightSlot(1, 0, _matmul_right),)),
    MvmOp("com.microsoft", "GemmFloat8", _GEMM),
    MvmOp("com.microsoft", "Attention", (WeightSlot(1, 0, _attention),)),
    MvmOp("com.microsoft", "PackedAttention", (WeightSlot(1, 0, _attention),)),
    MvmOp("com.microsoft", "DecoderMaskedSelfAttention", (WeightSlot(1, 0, _attention),)),
    MvmOp("com.microsoft", "DecoderAttention", (WeightSlot(2, 0, _attention), WeightSlot(3, 1, _attention))),
    MvmOp("com.microsoft", "LongformerAttention", (WeightSlot(1, 0, _attention), WeightSlot(4, 0, _attention))),
    MvmOp("com.microsoft", "MoE", tuple(WeightSlot(index, 0, _experts) for index in (2, 4, 6))),
    # Ops that read integer codes
    MvmOp(
        "",
        "MatMulInteger",
        (WeightSlot(0, 1, _matmul_left, 2, _ROW_OF_LEFT), WeightSlot(1, 0, _matmul_right, 3, _COLUMN_OF_RIGHT)),
    ),
    MvmOp("", "ConvInteger", (WeightSlot(1, 0, _conv, 3, (0,)),)),
    MvmOp(
        "",
        "QLinearMatMul",
        (WeightSlot(0, 3, _matmul_left, 2, _ROW_OF_LEFT), WeightSlot(3, 0, _matmul_right, 5, _COLUMN_OF_RIGHT)),
    ),
    MvmOp("", "QLinearConv", (WeightSlot(3, 0, _conv, 5, (0,)),)),
    MvmOp("com.microsoft", "QLinearConv", (WeightSlot(3, 0, _conv, 5, (0,)),)),
    MvmOp(
        "com.microsoft",
        "QGemm",
        (WeightSlot(0, 3, _gemm_left, 2), WeightSlot(3, 0, _gemm_right, 5, _gemm_outputs)),
    ),
    MvmOp("com.microsoft", "QAttention", (WeightSlot(1, 0, _attention, 7, (1,)),)),
    MvmOp(
        "com.microsoft",
        "DynamicQuantizeLSTM",
        (WeightSlot(1, 0, _quantized_recurrent, 9, (0, 2)), WeightSlot(2, 0, _quantized_recurrent, 11, (0, 2))),
    ),
    MvmOp("com.microsoft", "DynamicQuantizeMatMul", (WeightSlot(1, 0, _matmul_right, 3, _COLUMN_OF_RIGHT),)),
    MvmOp(
        "com.microsoft",
        "MatMulIntegerToFloat",
        (WeightSlot(0, 1, _matmul_left, 4, _ROW_OF_LEFT), WeightSlot(1, 0, _matmul_right, 5, _COLUMN_OF_RIGHT)),
    ),
    MvmOp("com.microsoft", "MatMulNBits", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulBnb4", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulFpQ4", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulNBitsMlp", (WeightSlot(3, 0, None), WeightSlot(6, 0, None))),
    MvmOp("com.microsoft", "QMoE", tuple(WeightSlot(index, 0, None) for index in (2, 5, 8))),
    MvmOp("com.microsoft", "QOrderedMatMul", (WeightSlot(2, 0, None),)),
    MvmOp("com.microsoft", "NhwcConv", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "NhwcFusedConv", (WeightSlot(1, 0, None),)),
    # Convolutions that ONNX Runtime has laid out for one processor, in blocks of as many channels as its vectors have
    MvmOp("com.microsoft.nchwc", "Conv", (WeightSlot(1, 0, None),)),
)

# Lookups multiply with no activations; their tables are mapped only if asked for.
_LOOKUPS = (MvmOp("", "Gather", (WeightSlot(0, 1, _gather),)),)

MVM_OPS: dict[tuple[str, str], MvmOp] = {(row.domain, row.op_type): row for row in _ROWS}

LOOKUP_OPS: dict[tuple[str, str], MvmOp] = {(row.domain, row.op_type): row for row in _LOOKUPS}


def mvm_op(node: ir.Node, lookups: Collection[str] = ()) -> MvmOp | None:
    """The row of a node, or None if it multiplies no matrix.

    Args:
        node: The node.
        lookups: Op types of `LOOKUP_OPS` that count, too.
    """
    key = (node.domain, node.op_type)
    return MVM_OPS.get(key) or (LOOKUP_OPS.get(key) if node.op_type in lookups else None)
