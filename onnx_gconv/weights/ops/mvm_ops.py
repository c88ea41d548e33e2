"""The table of MVM ops: nodes that multiply a matrix of weights with activations.

Supporting a new op is one row, which holds all that is known of it: its weight slots with the function that gives the
matrix view and with the place of the bias, and whether it is a convolution. `register_mvm_op` adds a row for an op of a
domain of one's own.
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
    """Where the bias that goes with a weight stands, and how it is added.

    Attributes:
        index: Index among the node's inputs; None if the node has none, and an Add node behind it may add one.
        in_rows: Whether it is added once to each output of the product, so that it may stand in rows of crossbars.
        beta: The attribute that multiplies it; None if nothing does.
        output_axis: The axis of the bias along which the outputs of the weight stand, from behind: the last one, but
            the one before it if the weight is the left operand.
    """

    index: int | None
    in_rows: bool = False
    beta: str | None = None
    output_axis: int = -1

    def beta_of(self, node: ir.Node) -> float:
        """What a node multiplies the bias with."""
        return 1.0 if self.beta is None else node.attributes.get_float(self.beta, 1.0)


@dataclass(frozen=True)
class WeightSlot:
    """One input of an MVM op that holds a weight.

    Attributes:
        index: Index among the node's inputs.
        activation: Index of the input that is multiplied with it.
        view: Gives the matrix view from the node and the shape of the weight, raises IndexError or ValueError if the
            shape does not fit; None if the op packs its weights as nodes cannot, and they are skipped. If they are
            unpacked, it is given the shape of their codes.
        zero_point: Index of the input that holds the zero point of a weight of integer codes; None if there is none.
        zero_point_axes: Axes of the weight along which a zero point with as many axes varies, or what tells them of a
            node; a scalar always counts for all.
        bias: What is added to the product; None if nothing is. Of recurrent ops, these are the two biases of all gates
            side by side; of attention, those of queries, keys and values.
        packed: How bytes in this slot are unpacked to codes; None if they are no packed codes.
        scale: Index of the input that holds the scale of a weight of integer codes, or of float8, which varies along
            the axes of the zero point; None if there is none.
        scale_block: How many neighbours along the last of these axes share a scale and a zero point, where the
            attribute block_size says nothing else; None if each has its own.
        parts: Tells which matrices the weight holds side by side; None if it is always one.
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
        """How many neighbours along the axis of its scales share one in a node."""
        return 1 if self.scale_block is None else node.attributes.get_int("block_size", self.scale_block)

    def point_block_of(self, node: ir.Node) -> int:
        """How many neighbours along the axis of its zero points share one in a node; 0 if blocks have none."""
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
        op_type: Its name.
        slots: The inputs that hold weights.
        convolution: Which kind of convolution it is; None if it is none. The rows of the matrix view of a convolution
            are inputs, and then positions of the kernel; its bias counts the output channels of all groups. A
            ``plain`` one multiplies each position of the kernel with what stands at a fixed distance; so does a
            ``causal`` one, of which each output is that of the last position of its kernel.

    Raises:
        ConfigError: If it has no weight, or one input is said to be two things.
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
        """Its domain and type, e.g. ``com.microsoft.FusedConv``; without the domain of ONNX itself."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    def slot(self, index: int) -> WeightSlot | None:
        """The weight slot at an input; None if that holds no weight."""
        return next((slot for slot in self.slots if slot.index == index), None)

    def kernel_shape(self, view: MatrixView) -> tuple[int, ...]:
        """The axes of the kernel that the rows of a matrix view hold; none if it is no convolution."""
        return () if self.convolution is None else tuple(view.split_shape[axis] for axis in view.row_axes[1:])

    def kernel(self, view: MatrixView) -> tuple[int, int]:
        """How many neighbouring rows, and columns, of a matrix belong to one kernel; 1 if it is no convolution."""
        return (1, 1) if self.convolution is None else (math.prod(self.kernel_shape(view)), view.columns_per_channel)

    def bias_channels(self, view: MatrixView) -> int:
        """How many outputs a bias tells apart: those of one matrix, or of a convolution those of all groups."""
        return view.columns if self.convolution is None else view.matrices * view.columns


def _two_sided(left: ViewFunction, right: ViewFunction, bias: BiasSlot | None = None) -> tuple[WeightSlot, WeightSlot]:
    """The slots of a product of the inputs 0 and 1, either of which may be the weight."""
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
    # Convolutions that ONNX Runtime has laid out for one processor, in blocks of as many channels as its vectors have
    MvmOp("com.microsoft.nchwc", "Conv", (WeightSlot(1, 0, None),), "plain"),
)

# Lookups multiply with no activations; their tables are mapped only if asked for.
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
    """The row of a node, or None if it multiplies no matrix.

    Args:
        node: The node.
        lookups: Op types of `LOOKUP_OPS` that count, too.
    """
    key = (node.domain, node.op_type)
    return MVM_OPS.get(key) or (LOOKUP_OPS.get(key) if node.op_type in lookups else None)


def known_op(domain: str, op_type: str) -> MvmOp | None:
    """The row of an op that a weight has been mapped for, a lookup too; None if there is none."""
    return MVM_OPS.get((domain, op_type)) or LOOKUP_OPS.get((domain, op_type))


def register_mvm_op(row: MvmOp) -> None:
    """Add an op to the table, for this process: its weights are found, mapped and handed off like those of others.

    A model that is mapped so holds nodes of standard ops around it, and restores and verifies without the row; finding
    its weights and handing them off needs it.

    Args:
        row: The op, of a domain of one's own.

    Raises:
        ConfigError: If the table has another row for the op.
    """
    known = known_op(row.domain, row.op_type)
    if known is not None and known != row:
        raise ConfigError(f"the table of MVM ops has a row for {row.name} already")
    MVM_OPS[row.domain, row.op_type] = row
