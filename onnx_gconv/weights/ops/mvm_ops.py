"""The table of MVM ops: nodes that multiply a matrix of weights with activations.

Supporting a new op takes one row: its weight slots, each with the function that gives the matrix view and with the
place of the bias, and whether it is a convolution. `register_mvm_op` adds a row for an op of your own domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_ir as ir

from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.weights.ops import op_parts, op_views, packed_ops
from onnx_gconv.weights.ops.decoded_ops import BNB4_FORM
from onnx_gconv.weights.ops.op_parts import PartsFunction
from onnx_gconv.weights.ops.op_views import ViewFunction
from onnx_gconv.weights.ops.packed_ops import PackedForm

__all__ = [
    "LOOKUP_OPS",
    "MVM_OPS",
    "BiasSlot",
    "ConvolutionKind",
    "MvmOp",
    "WeightSlot",
    "known_op",
    "mvm_op",
    "register_mvm_op",
]

ConvolutionKind: TypeAlias = Literal["plain", "transposed", "deformable", "causal"]


@dataclass(frozen=True)
class BiasSlot:
    """Which input of an MVM op holds the bias that belongs to a weight, and how the op adds it.

    Attributes:
        index: Index among the node's inputs; None if the op has no bias input, and an Add node behind it may add one.
        in_rows: Whether the bias is added once to each output of the product, so that rows of a crossbar can hold it.
        beta: The attribute whose number multiplies the bias; None if there is none.
        output_axis: The axis of the bias that holds the outputs of the weight, counted from the end: -1, or -2 if the
            weight is the left operand.
    """

    index: int | None
    in_rows: bool = False
    beta: str | None = None
    output_axis: int = -1

    def beta_of(self, node: ir.Node) -> float:
        """The factor by which a node multiplies the bias."""
        return 1.0 if self.beta is None else node.attributes.get_float(self.beta, 1.0)


@dataclass(frozen=True)
class WeightSlot:
    """One input of an MVM op that holds a weight.

    Attributes:
        index: Index among the node's inputs.
        activation: Index of the input that is multiplied with the weight.
        view: Returns the matrix view for the node and the shape of the weight, of the unpacked codes if these are
            packed; raises IndexError or ValueError if the shape does not fit. None if the op has a layout of its own
            that nodes cannot rebuild; such weights are skipped.
        zero_point: Index of the input that holds the zero point of a weight of integer codes; None if there is none.
        zero_point_axes: The axes of the weight along which a zero point with as many axes varies, or a function that
            returns them for a node. A scalar zero point belongs to all elements.
        bias: The bias that is added to the product; None if none is. For recurrent ops, it holds the two biases of all
            gates side by side; for attention, the biases of queries, keys and values.
        packed: How bytes in this slot are unpacked to codes; None if they are no packed codes.
        scale: Index of the input that holds the scale of a weight of integer codes or of float8; None if there is none.
            The scale varies along the axes of the zero point.
        scale_block: The number of neighbours along the last of these axes that share a scale and a zero point, unless
            the node's attribute block_size gives another one; None if each index has its own.
        parts: Returns which matrices the weight holds side by side; None if the op always reads one matrix.
    """

    index: int
    activation: int
    view: ViewFunction | None
    zero_point: int | None = None
    zero_point_axes: tuple[int, ...] | Callable[[ir.Node], tuple[int, ...]] = ()
    bias: BiasSlot | None = None
    packed: PackedForm | None = None
    scale: int | None = None
    scale_block: int | None = None
    parts: PartsFunction | None = None

    def block_of(self, node: ir.Node) -> int:
        """The number of neighbours that share a scale in a node; 1 if each has its own."""
        return 1 if self.scale_block is None else node.attributes.get_int("block_size", self.scale_block)

    def point_block_of(self, node: ir.Node) -> int:
        """The number of neighbours that share a zero point in a node; 0 if zero points do not belong to blocks."""
        return 0 if self.scale_block is None else self.block_of(node)

    def zero_point_axes_of(self, node: ir.Node) -> tuple[int, ...]:
        """The axes along which the zero point of a node's weight varies."""
        axes = self.zero_point_axes
        return axes(node) if callable(axes) else axes


@dataclass(frozen=True)
class MvmOp:
    """A row of the table.

    Attributes:
        domain: The domain of the op; empty for ONNX's own.
        op_type: The op type.
        slots: The inputs that hold weights.
        convolution: The kind of convolution; None for other ops. The rows of the matrix view of a convolution are
            (input, kernel position...) in this order, and its bias has an entry for each output channel of all groups.
            A ``plain`` or ``causal`` convolution multiplies each kernel position with the input at a fixed distance
            from the output; in a ``causal`` one, the output stands at the last kernel position.

    Raises:
        ConfigError: If the row has no weight, or gives one input two meanings.
    """

    domain: str
    op_type: str
    slots: tuple[WeightSlot, ...]
    convolution: ConvolutionKind | None = None

    def __post_init__(self) -> None:
        weights = [slot.index for slot in self.slots]
        operands = {*weights, *(slot.activation for slot in self.slots)}
        biases = {None if slot.bias is None else slot.bias.index for slot in self.slots}
        zero_points = {slot.zero_point for slot in self.slots}
        is_twice = len(set(weights)) < len(weights) or any(slot.activation == slot.index for slot in self.slots)
        if not weights or is_twice or operands & (biases | zero_points) or (biases & zero_points) - {None}:
            raise ConfigError(f"the row of the op {self.name} gives it no weight, or one input two meanings")

    @property
    def name(self) -> str:
        """The domain and the op type, e.g. ``com.microsoft.FusedConv``; only the op type in ONNX's own domain."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    def slot(self, index: int) -> WeightSlot | None:
        """The weight slot at an input; None if that input holds no weight."""
        return next((slot for slot in self.slots if slot.index == index), None)

    def kernel_shape(self, view: MatrixView) -> tuple[int, ...]:
        """The sizes of the kernel's axes, which the rows of a matrix view hold; empty if the op is no convolution."""
        return () if self.convolution is None else tuple(view.split_shape[axis] for axis in view.row_axes[1:])

    def kernel(self, view: MatrixView) -> tuple[int, int]:
        """The numbers of neighbouring rows and columns of a matrix that hold one kernel; 1, 1 without convolution."""
        return (1, 1) if self.convolution is None else (math.prod(self.kernel_shape(view)), view.columns_per_channel)

    def bias_channels(self, view: MatrixView) -> int:
        """The number of entries of a bias: the outputs of one matrix, or of all groups of a convolution."""
        return view.columns if self.convolution is None else view.matrices * view.columns


def _two_sided(left: ViewFunction, right: ViewFunction, bias: BiasSlot | None = None) -> tuple[WeightSlot, WeightSlot]:
    """The two weight slots of a product of the inputs 0 and 1, either of which can be the weight."""
    of_left = None if bias is None else replace(bias, output_axis=-2)
    return WeightSlot(0, 1, left, bias=of_left), WeightSlot(1, 0, right, bias=bias, parts=op_parts.read_behind)


_ADDED_BEHIND = BiasSlot(None, in_rows=True)
_GEMM_BIAS = BiasSlot(2, in_rows=True, beta="beta")

_GEMM = _two_sided(op_views.gemm_left, op_views.gemm_right, _GEMM_BIAS)
_CONV = (WeightSlot(1, 0, op_views.conv, bias=BiasSlot(2, in_rows=True)),)
_RECURRENT = tuple(WeightSlot(index, 0, op_views.recurrent, bias=BiasSlot(3)) for index in (1, 2))
_ATTENTION = (WeightSlot(1, 0, op_views.attention, bias=BiasSlot(2), parts=op_parts.attention),)
_CAUSAL_CONV = (WeightSlot(1, 0, op_views.depthwise, bias=BiasSlot(2)),)
_QUANTIZED_CONV = (WeightSlot(3, 0, op_views.conv, 5, (0,), BiasSlot(8), scale=4),)

_ROW_OF_LEFT, _COLUMN_OF_RIGHT = (-2,), (-1,)

_ROWS = (
    MvmOp("", "MatMul", _two_sided(op_views.matmul_left, op_views.matmul_right, _ADDED_BEHIND)),
    MvmOp("", "Gemm", _GEMM),
    MvmOp("", "Conv", _CONV, "plain"),
    MvmOp("", "ConvTranspose", (WeightSlot(1, 0, op_views.conv_transpose, bias=BiasSlot(2)),), "transposed"),
    MvmOp("", "DeformConv", (WeightSlot(1, 0, op_views.conv, bias=BiasSlot(3, in_rows=True)),), "deformable"),
    MvmOp("", "CausalConvWithState", _CAUSAL_CONV, "causal"),
    MvmOp("", "LSTM", _RECURRENT),
    MvmOp("", "GRU", _RECURRENT),
    MvmOp("", "RNN", _RECURRENT),
    MvmOp("", "Einsum", _two_sided(op_views.einsum(0), op_views.einsum(1))),
    MvmOp(
        "com.microsoft",
        "FusedMatMul",
        _two_sided(op_views.fused_matmul_left, op_views.fused_matmul_right, _ADDED_BEHIND),
    ),
    MvmOp("com.microsoft", "FusedGemm", _GEMM),
    MvmOp("com.microsoft", "FusedConv", _CONV, "plain"),
    MvmOp("com.microsoft", "TransposeMatMul", _two_sided(op_views.fused_matmul_left, op_views.fused_matmul_right)),
    MvmOp(
        "com.microsoft",
        "GemmFastGelu",
        (WeightSlot(1, 0, op_views.matmul_right, bias=BiasSlot(2, in_rows=True), parts=op_parts.read_behind),),
    ),
    MvmOp(
        "com.microsoft",
        "GemmFloat8",
        _two_sided(op_views.gemm_left, op_views.gemm_right, replace(_GEMM_BIAS, in_rows=False)),
    ),
    MvmOp("com.microsoft", "Attention", _ATTENTION),
    MvmOp("com.microsoft", "PackedAttention", _ATTENTION),
    MvmOp("com.microsoft", "DecoderMaskedSelfAttention", _ATTENTION),
    MvmOp(
        "com.microsoft",
        "DecoderAttention",
        (
            WeightSlot(2, 0, op_views.attention, bias=BiasSlot(4)),
            WeightSlot(3, 1, op_views.attention, bias=BiasSlot(4), parts=op_parts.keys_and_values),
        ),
    ),
    MvmOp(
        "com.microsoft",
        "LongformerAttention",
        tuple(
            WeightSlot(index, 0, op_views.attention, bias=BiasSlot(index + 1), parts=op_parts.attention)
            for index in (1, 4)
        ),
    ),
    MvmOp(
        "com.microsoft",
        "MoE",
        tuple(WeightSlot(index, 0, op_views.experts, bias=BiasSlot(index + 1)) for index in (2, 4, 6)),
    ),
    MvmOp("com.microsoft", "CausalConvWithState", _CAUSAL_CONV, "causal"),
    MvmOp(
        "com.microsoft",
        "VarlenCausalConvWithState",
        (WeightSlot(1, 0, op_views.depthwise, bias=BiasSlot(3)),),
        "causal",
    ),
    MvmOp("com.microsoft", "RouterGateUpProj", (WeightSlot(1, 0, op_views.matmul_right),)),
    MvmOp(
        "com.microsoft",
        "MatMulBlockQuantizedFp8Weight",
        (
            WeightSlot(
                1, 0, op_views.outputs_by_inputs, zero_point_axes=(1,), bias=BiasSlot(4), scale=2, scale_block=128
            ),
        ),
    ),
    # Ops that read integer codes
    MvmOp(
        "",
        "MatMulInteger",
        (
            WeightSlot(0, 1, op_views.matmul_left, 2, _ROW_OF_LEFT),
            WeightSlot(1, 0, op_views.matmul_right, 3, _COLUMN_OF_RIGHT, parts=op_parts.read_behind),
        ),
    ),
    MvmOp("com.microsoft", "MatMulInteger16", _two_sided(op_views.matmul_left, op_views.matmul_right)),
    MvmOp("", "ConvInteger", (WeightSlot(1, 0, op_views.conv, 3, (0,)),), "plain"),
    MvmOp(
        "",
        "QLinearMatMul",
        (
            WeightSlot(0, 3, op_views.matmul_left, 2, _ROW_OF_LEFT, scale=1),
            WeightSlot(3, 0, op_views.matmul_right, 5, _COLUMN_OF_RIGHT, scale=4, parts=op_parts.read_behind),
        ),
    ),
    MvmOp("", "QLinearConv", _QUANTIZED_CONV, "plain"),
    MvmOp("com.microsoft", "QLinearConv", _QUANTIZED_CONV, "plain"),
    MvmOp(
        "com.microsoft",
        "QGemm",
        (
            WeightSlot(0, 3, op_views.gemm_left, 2, bias=BiasSlot(6, output_axis=-2), scale=1),
            WeightSlot(
                3, 0, op_views.gemm_right, 5, op_views.gemm_outputs, BiasSlot(6), scale=4, parts=op_parts.read_behind
            ),
        ),
    ),
    MvmOp(
        "com.microsoft",
        "QAttention",
        (WeightSlot(1, 0, op_views.attention, 7, (1,), BiasSlot(2), scale=4, parts=op_parts.attention),),
    ),
    MvmOp(
        "com.microsoft",
        "DynamicQuantizeLSTM",
        (
            WeightSlot(1, 0, op_views.quantized_recurrent, 9, (0, 2), BiasSlot(3), scale=8),
            WeightSlot(2, 0, op_views.quantized_recurrent, 11, (0, 2), BiasSlot(3), scale=10),
        ),
    ),
    MvmOp(
        "com.microsoft",
        "DynamicQuantizeMatMul",
        (
            WeightSlot(
                1, 0, op_views.matmul_right, 3, _COLUMN_OF_RIGHT, BiasSlot(4), scale=2, parts=op_parts.read_behind
            ),
        ),
    ),
    MvmOp(
        "com.microsoft",
        "MatMulIntegerToFloat",
        (
            WeightSlot(0, 1, op_views.matmul_left, 4, _ROW_OF_LEFT, BiasSlot(6, output_axis=-2), scale=2),
            WeightSlot(
                1, 0, op_views.matmul_right, 5, _COLUMN_OF_RIGHT, BiasSlot(6), scale=3, parts=op_parts.read_behind
            ),
        ),
    ),
    # Ops that read codes packed into bytes
    MvmOp(
        "com.microsoft",
        "MatMulNBits",
        (
            WeightSlot(
                1,
                0,
                op_views.outputs_by_inputs,
                bias=BiasSlot(5),
                packed=packed_ops.NBITS_FORM,
                parts=op_parts.read_behind,
            ),
        ),
    ),
    MvmOp(
        "com.microsoft",
        "MatMulNBitsMlp",
        tuple(
            WeightSlot(index, 0, op_views.outputs_by_inputs, bias=BiasSlot(index + 2), packed=form)
            for index, form in packed_ops.MLP_FORMS
        ),
    ),
    MvmOp(
        "com.microsoft",
        "MatMulNBitsQkv",
        tuple(
            WeightSlot(index, 0, op_views.outputs_by_inputs, bias=BiasSlot(index + 2), packed=form)
            for index, form in packed_ops.QKV_FORMS
        ),
    ),
    MvmOp(
        "com.microsoft",
        "MatMulNBitsQLoRA",
        tuple(WeightSlot(index, 0, op_views.outputs_by_inputs, packed=form) for index, form in packed_ops.QLORA_FORMS),
    ),
    MvmOp(
        "com.microsoft",
        "QMoE",
        tuple(
            WeightSlot(index, 0, op_views.experts, bias=BiasSlot(index + 2), packed=form)
            for index, form in packed_ops.EXPERT_FORMS
        ),
    ),
    # Ops whose weights are laid out so that nodes cannot rebuild them
    MvmOp("com.microsoft", "MatMulBnb4", (WeightSlot(1, 0, None, packed=BNB4_FORM),)),
    MvmOp("com.microsoft", "MatMulBlockQuantizedFp4Weight", (WeightSlot(1, 0, None, packed=packed_ops.FP4_FORM),)),
    MvmOp("com.microsoft", "MatMulFpQ4", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MatMulPacked", (WeightSlot(1, 0, None),)),
    MvmOp("com.microsoft", "MoEPacked", tuple(WeightSlot(index, 0, None) for index in (2, 3, 4))),
    MvmOp("com.microsoft", "QOrderedMatMul", (WeightSlot(2, 0, None),)),
    MvmOp("com.microsoft", "NhwcConv", (WeightSlot(1, 0, None),), "plain"),
    MvmOp("com.microsoft", "NhwcFusedConv", (WeightSlot(1, 0, None),), "plain"),
    # Convolutions that ONNX Runtime has laid out for one processor, in blocks of channels of its vector width
    MvmOp("com.microsoft.nchwc", "Conv", (WeightSlot(1, 0, None),), "plain"),
)

# Lookups do not multiply their table with activations, so tables are mapped only if asked for.
_LOOKUPS = (
    MvmOp("", "Gather", (WeightSlot(0, 1, op_views.gather),)),
    MvmOp(
        "com.microsoft",
        "GatherBlockQuantized",
        (
            WeightSlot(
                0,
                1,
                op_views.gather_blocks,
                3,
                lambda node: (node.attributes.get_int("quantize_axis", 1),),
                packed=packed_ops.LOOKUP_FORM,
                scale=2,
                scale_block=128,
            ),
        ),
    ),
)

MVM_OPS: dict[tuple[str, str], MvmOp] = {(row.domain, row.op_type): row for row in _ROWS}

LOOKUP_OPS: dict[tuple[str, str], MvmOp] = {(row.domain, row.op_type): row for row in _LOOKUPS}


def mvm_op(node: ir.Node, lookups: Collection[str] = ()) -> MvmOp | None:
    """The row of a node's op, or None if the op multiplies no matrix of weights.

    Args:
        node: The node.
        lookups: Op types of `LOOKUP_OPS` that count as MVM ops, too.
    """
    key = (node.domain, node.op_type)
    return MVM_OPS.get(key) or (LOOKUP_OPS.get(key) if node.op_type in lookups else None)


def known_op(domain: str, op_type: str) -> MvmOp | None:
    """The row of an op in either table, MVM ops or lookups; None if neither has one."""
    return MVM_OPS.get((domain, op_type)) or LOOKUP_OPS.get((domain, op_type))


def register_mvm_op(row: MvmOp) -> None:
    """Add an op to the table in this process, so that its weights are found, mapped and handed off.

    Finding weights and handing them off needs the row. Restoring and verifying a mapped model does not, because the
    nodes that rebuild weights are standard ops.

    Args:
        row: The op, usually of your own domain.

    Raises:
        ConfigError: If the table has another row for the op.
    """
    known = known_op(row.domain, row.op_type)
    if known is not None and known != row:
        raise ConfigError(f"the table of MVM ops has a row for {row.name} already")
    MVM_OPS[row.domain, row.op_type] = row
