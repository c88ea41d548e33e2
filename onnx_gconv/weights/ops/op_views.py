"""The matrix views of the weights of ops: how each op reads the tensor in a weight slot as matrices.

Each function takes the node and the shape of the weight as it arrives at the weight slot, after all rearrangements. It
raises IndexError or ValueError if the shape does not fit the op.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.weights.evaluation.evaluated_ops import EvaluationError

__all__ = [
    "ViewFunction",
    "attention",
    "conv",
    "conv_transpose",
    "depthwise",
    "einsum",
    "experts",
    "fused_matmul_left",
    "fused_matmul_right",
    "gather",
    "gather_blocks",
    "gemm_left",
    "gemm_outputs",
    "gemm_right",
    "matmul_left",
    "matmul_right",
    "outputs_by_inputs",
    "quantized_recurrent",
    "recurrent",
]

_MATRIX_RANK = 2
_CONV_RANK = 3  # or more: one axis of the kernel at least
_RECURRENT_RANK = 3
_EXPERTS_RANK = 3
_EINSUM_OPERANDS = 2

ViewFunction: TypeAlias = Callable[[ir.Node, Sequence[int]], MatrixView]


def matmul_right(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """x @ W with W [..., K, N]: K inputs, N outputs. A W of one axis is a single column."""
    rank = len(shape)
    if rank == 1:
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=())
    return MatrixView.of_axes(shape, row_axes=(rank - 2,), column_axes=(rank - 1,), matrix_axes=range(rank - 2))


def matmul_left(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W @ x with W [..., M, K]: K inputs, M outputs."""
    rank = len(shape)
    if rank == 1:
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=())
    return MatrixView.of_axes(shape, row_axes=(rank - 1,), column_axes=(rank - 2,), matrix_axes=range(rank - 2))


def gemm_right(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * A' @ W' with W [K, N], or [N, K] with transB."""
    rows, columns = (1, 0) if node.attributes.get_int("transB", 0) else (0, 1)
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=_alpha(node))


def gemm_left(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * W' @ B' with W [M, K], or [K, M] with transA."""
    rows, columns = (0, 1) if node.attributes.get_int("transA", 0) else (1, 0)
    return MatrixView.of_axes(shape, row_axes=(rows,), column_axes=(columns,), factor=_alpha(node))


def gemm_outputs(node: ir.Node) -> tuple[int, ...]:
    """The axis of the outputs in W [K, N], or [N, K] with transB."""
    return (0,) if node.attributes.get_int("transB", 0) else (1,)


def fused_matmul_right(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * A' @ W' as in MatMul.

    transBatchB moves the first axis of W behind the batch axes; then transB swaps the last two axes.
    """
    outer, inner, batch = _fused_matmul_axes(node, shape, "B")
    return MatrixView.of_axes(shape, row_axes=outer, column_axes=inner, matrix_axes=batch, factor=_alpha(node))


def fused_matmul_left(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """Alpha * W' @ B' as in MatMul.

    transBatchA moves the first axis of W behind the batch axes; then transA swaps the last two axes.
    """
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


def conv(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [outputs, inputs / groups, kernel...]: rows are (input, kernel...), row-major; a matrix for each group."""
    groups = _groups(node, shape)
    if groups == 1:
        return MatrixView.of_axes(shape, row_axes=range(1, len(shape)), column_axes=(0,))
    split = (groups, shape[0] // groups, *shape[1:])
    return MatrixView.of_axes(split, matrix_axes=(0,), row_axes=range(2, len(split)), column_axes=(1,))


def depthwise(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [channels, 1, kernel...]: each channel has a matrix of its own, of one column."""
    if len(shape) < _CONV_RANK or shape[1] != 1:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=range(1, len(shape)), column_axes=())


def conv_transpose(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [inputs, outputs / groups, kernel...]: columns are (output, kernel...); a matrix for each group."""
    groups, kernel = _groups(node, shape), math.prod(shape[2:])
    if groups == 1:
        columns = range(1, len(shape))
        return MatrixView.of_axes(shape, row_axes=(0,), column_axes=columns, columns_per_channel=kernel)
    split = (groups, shape[0] // groups, *shape[1:])
    columns = range(2, len(split))
    return MatrixView.of_axes(split, matrix_axes=(0,), row_axes=(1,), column_axes=columns, columns_per_channel=kernel)


def recurrent(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W or R [directions, gates * hidden, inputs]: a matrix for each direction, the gates side by side."""
    if len(shape) != _RECURRENT_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(2,), column_axes=(1,))


def quantized_recurrent(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W or R of DynamicQuantizeLSTM [directions, inputs, gates * hidden]; LSTM has the last two axes swapped."""
    if len(shape) != _RECURRENT_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(1,), column_axes=(2,))


def gather(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """A table [entries, outputs...]: a lookup is a product with a one-hot vector, so the entries are the rows."""
    return _table(shape, node.attributes.get_int("axis", 0))


def gather_blocks(node: ir.Node, shape: Sequence[int]) -> MatrixView:
    """A table of GatherBlockQuantized: the same view as for Gather, with the entries along ``gather_axis``."""
    return _table(shape, node.attributes.get_int("gather_axis", 0))


def _table(shape: Sequence[int], axis: int) -> MatrixView:
    """A table whose entries stand along `axis`, which may be negative."""
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} of shape {list(shape)}")
    columns = [number for number in range(len(shape)) if number != axis]
    return MatrixView.of_axes(shape, row_axes=(axis,), column_axes=columns)


def experts(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [experts, outputs, inputs]: a matrix for each expert."""
    if len(shape) != _EXPERTS_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, matrix_axes=(0,), row_axes=(2,), column_axes=(1,))


def outputs_by_inputs(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [outputs, inputs], the unpacked codes of MatMulNBits."""
    if len(shape) != _MATRIX_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, row_axes=(1,), column_axes=(0,))


def attention(_: ir.Node, shape: Sequence[int]) -> MatrixView:
    """W [inputs, queries + keys + values]."""
    if len(shape) != _MATRIX_RANK:
        raise ValueError(f"shape {list(shape)}")
    return MatrixView.of_axes(shape, row_axes=(0,), column_axes=(1,))


def einsum(operand: int) -> ViewFunction:
    """The function that reads the view of operand 0 or 1 off the equation of an Einsum.

    Labels of the weight that the result lacks are contracted: they are rows. Labels of the weight and the result that
    the other operand lacks are columns. Labels that all three have index matrices. ``...`` stands for axes of the other
    operand and of the result, over which the product is repeated; the weight may have no such axes.
    """

    def view(node: ir.Node, shape: Sequence[int]) -> MatrixView:
        equation = (node.attributes.get_string("equation") or "").replace(" ", "").replace("...", "")
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
    """The attribute `alpha`, the factor of a product.

    Raises:
        EvaluationError: If alpha is not finite.
    """
    alpha = node.attributes.get_float("alpha", 1.0)
    if not math.isfinite(alpha):
        raise EvaluationError(f"it is multiplied by alpha = {alpha}")
    return alpha


def _groups(node: ir.Node, shape: Sequence[int]) -> int:
    groups = node.attributes.get_int("group", 1)
    if len(shape) < _CONV_RANK or groups < 1 or shape[0] % groups:
        raise ValueError(f"shape {list(shape)} with {groups} groups")
    return groups
