"""The table of ops that read integer codes packed into bytes, in blocks along the inputs, with their layouts.

Layouts are those of the schemas of ONNX Runtime's ops. They were confirmed by multiplying identity matrices with ONNX
Runtime 1.32 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.tensors.packed import BlockZeroPoint, Packing
from onnx_gconv.tensors.streamed import unpacked_codes
from onnx_gconv.weights.evaluation.evaluated_ops import EvaluationError
from onnx_gconv.weights.rearrangement import Evaluate, node_label
from onnx_gconv.weights.records import Dequantization, FoundWeight, PackedCodes, SkipReason

__all__ = [
    "EXPERT_FORMS",
    "FP4_FORM",
    "LOOKUP_FORM",
    "MLP_FORMS",
    "NBITS_FORM",
    "QKV_FORMS",
    "QLORA_FORMS",
    "BlockLayout",
    "PackedForm",
    "WrongPackingError",
    "said_shape",
    "unpacked",
]

_DEFAULT_BITS = 4
_DEFAULT_LOOKUP_BLOCK = 128
_DEFAULT_FP4_BLOCK = 16
_ADAPTER_BITS = 8
_ADAPTER_BLOCK = 32
_EXPERTS_RANK = 3
_TABLE_RANK = 2
_PACKED_BITS = frozenset({2, 4, 8})
_BYTE_BITS = 8


class WrongPackingError(ValueError):
    """The bytes that a node reads do not fit the attributes of the node.

    Attributes:
        said: The shape of the codes by the attributes of the node; None if they do not give it.
    """

    def __init__(self, message: str, said: tuple[int, ...] | None = None) -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class BlockLayout:
    """The layout of the codes that a node reads.

    Attributes:
        packing: How the codes are packed into bytes.
        block: The number of codes along a row that share a scale and a zero point.
        is_blocked: Whether rows are divided into blocks. If not, a whole row shares a scale and a zero point, and the
            zero points of all rows are packed side by side.
    """

    packing: Packing
    block: int
    is_blocked: bool = True

    @property
    def blocks(self) -> int:
        """The number of blocks of a row; the last one may be incomplete."""
        return math.ceil(self.packing.shape[-1] / self.block)


@dataclass(frozen=True)
class PackedForm:
    """A row of the table: how an op reads packed codes at one of its inputs.

    Attributes:
        layout: Returns the layout for the node and the shape of the bytes; raises WrongPackingError if they do not fit.
        obstacle: Returns the reason and the detail why the bytes of a node cannot be unpacked; None if they can.
        scale: Index of the input that holds the scales.
        zero_point: Index of the input that holds the zero points; None if there is none.
        groups: Index of the input that assigns each row of inputs to a group, in place of blocks; None if there is
            none.
        has_plain_types: Whether the op also reads tensors of other types than uint8, whose elements are plain numbers
            and no packed codes.
    """

    layout: Callable[[ir.Node, Sequence[int]], BlockLayout]
    obstacle: Callable[[ir.Node], tuple[SkipReason, str] | None]
    scale: int
    zero_point: int | None = None
    groups: int | None = None
    has_plain_types: bool = False

    def read(
        self, node: ir.Node, stored: ir.TensorProtocol, shape: Sequence[int], evaluate: Evaluate
    ) -> tuple[PackedCodes, BlockZeroPoint, Dequantization, str | None]:
        """Unpack the bytes that a node reads.

        Args:
            node: The node.
            stored: The bytes, in the shape of the constant.
            shape: The shape in which the bytes arrive at the node.
            evaluate: Returns the array of a constant value.

        Returns:
            The codes, their zero points, how the node dequantizes them, and a note for the user if the zero points
            cannot be used.

        Raises:
            WrongPackingError: If the shapes of the bytes, the scales or the zero points are not those that the node's
                attributes ask for.
        """
        layout = self.layout(node, shape)
        scale, zero_point = _input(node, self.scale), _input(node, self.zero_point)
        groups = _input(node, self.groups)
        packing = Packing(layout.packing.bits, layout.packing.shape, tuple(stored.shape.numpy()))
        _check_scale(node, scale, layout)
        codes = PackedCodes(stored, packing, layout.block)
        said = Dequantization(
            scale=None if scale is None else scale.name,
            zero_point=None if zero_point is None else zero_point.name,
            axis=len(packing.shape) - 1,
            block=layout.block,
            groups=None if groups is None else groups.name,
        )
        values, note = self._zero_points(node, layout, evaluate)
        return codes, BlockZeroPoint(values, layout.block, packing.shape), said, note

    def _zero_points(
        self, node: ir.Node, layout: BlockLayout, evaluate: Evaluate
    ) -> tuple[NDArray[np.float64], str | None]:
        middle, value = np.array(float(layout.packing.middle)), _input(node, self.zero_point)
        if _input(node, self.groups) is not None:
            problem = f"{node_label(node)} says by g_idx which scale and which zero point belong to an input"
        elif value is None:
            return middle, None
        else:
            try:
                points = _points(node, evaluate(value), layout)
            except EvaluationError as error:
                problem = f"its zero points cannot be told ({error})"
            else:
                if (points == points.flat[0]).all() and np.isfinite(points.flat[0]):
                    return np.array(points.flat[0]), None
                if np.isfinite(points).all() and not layout.packing.row_codes % layout.block:
                    return points, None
                problem = "its zero points are not finite"
                if np.isfinite(points).all():
                    problem = "the last block of its rows is not whole"
        return middle, f"the codes less {middle:g} are mapped: {problem}"


def unpacked(
    weight: FoundWeight,
    readers: Sequence[tuple[ir.Node, PackedForm | None, tuple[int, ...]]],
    evaluate: Evaluate,
) -> FoundWeight:
    """Unpack a weight of bytes to its codes, with the zero points that its readers subtract.

    Args:
        weight: The weight, whose tensor holds the bytes.
        readers: The nodes that have the weight in a weight slot; for each, how it unpacks the weight, and the shape in
            which the weight arrives there.
        evaluate: Returns the array of a constant value.

    Raises:
        WrongPackingError: If a reader does not unpack the bytes, if they do not fit its attributes, or if two readers
            unpack them differently.
    """
    found = []
    for node, form, shape in readers:
        if form is None:
            raise WrongPackingError(f"{node_label(node)} reads the bytes themselves, others codes in them")
        found.append(form.read(node, weight.tensor, shape, evaluate))
    packed, zero_point, said, note = found[0]
    if any(other.packing != packed.packing for other, *_ in found):
        read = ", ".join(f"{list(other.packing.shape)} of {other.packing.bits} bits" for other, *_ in found)
        raise WrongPackingError(f"its readers unpack it differently, to {read}")
    if not all(np.array_equal(other.values, zero_point.values) for _, other, *_ in found):
        middle = packed.packing.middle
        zero_point = BlockZeroPoint(np.array(float(middle)), packed.block, packed.packing.shape)
        note = f"the codes less {middle} are mapped: its readers subtract different zero points"
    notes = weight.notes if note is None else (*weight.notes, note)
    if others := _other_scales([(node, form) for node, form, _ in readers if form is not None], evaluate):
        notes = (*notes, f"other readers have other scales ({', '.join(others)}); '{said.scale}' is recorded")
    return replace(weight, tensor=packed.codes, packed=packed, zero_point=zero_point, notes=notes, dequantization=said)


def _other_scales(readers: Sequence[tuple[ir.Node, PackedForm]], evaluate: Evaluate) -> list[str]:
    """The readers whose scales differ from those of the first one, each with the name of its scales."""
    scales = [(node, _input(node, form.scale)) for node, form in readers]
    first = scales[0][1]
    return [
        f"'{scale.name}' of {node_label(node)}"
        for node, scale in scales[1:]
        if scale is not None and scale is not first and not _are_equal(first, scale, evaluate)
    ]


def _are_equal(one: ir.Value | None, other: ir.Value, evaluate: Evaluate) -> bool:
    """Whether two values are constants with the same elements, in any shape."""
    try:
        return one is not None and np.array_equal(evaluate(one).reshape(-1), evaluate(other).reshape(-1))
    except EvaluationError:
        return False


def _check_scale(node: ir.Node, scale: ir.Value | None, layout: BlockLayout) -> None:
    if scale is None or scale.shape is None or not scale.shape.is_static():
        return
    found, lead, rows = tuple(scale.shape.numpy()), layout.packing.shape[:-1], layout.packing.rows
    possible = {(*lead, layout.blocks), (rows * layout.blocks,), (rows, layout.blocks)}
    if layout.blocks == 1:
        possible.add(lead)
    if found not in possible:
        raise WrongPackingError(
            f"{node_label(node)} has scales of {list(found)}, but {rows} rows of {layout.blocks} "
            f"block{'s' if layout.blocks > 1 else ''} need {[*lead, layout.blocks]}",
            said=layout.packing.shape,
        )


def _points(node: ir.Node, found: NDArray[np.generic], layout: BlockLayout) -> NDArray[np.float64]:
    """The zero points as an array [..., blocks]."""
    if found.dtype == np.uint8:
        return _unpacked_points(node, found, layout)
    if np.issubdtype(found.dtype, np.integer):
        raise WrongPackingError(
            f"{node_label(node)} has zero points of {found.dtype}, but they are bytes or floating-point numbers",
            said=layout.packing.shape,
        )
    return _plain_points(node, found, layout)


def _unpacked_points(node: ir.Node, found: NDArray[np.generic], layout: BlockLayout) -> NDArray[np.float64]:
    """The zero points [..., blocks] that are packed into bytes; each row starts at a new byte."""
    bits, shape = layout.packing.bits, layout.packing.shape
    rows, codes = (layout.packing.rows, layout.blocks) if layout.is_blocked else (math.prod(shape[:-2]), shape[-2])
    row_bytes = math.ceil(codes * bits / _BYTE_BITS)
    if found.size != rows * row_bytes:
        raise WrongPackingError(
            f"{node_label(node)} has zero points of {list(found.shape)}, but {rows} rows of {codes} need "
            f"{rows} times {row_bytes} bytes",
            said=shape,
        )
    unpacked = unpacked_codes(np.ascontiguousarray(found).view(np.uint8).reshape(-1), bits).reshape(rows, -1)
    return unpacked[:, :codes].astype(np.float64).reshape(*shape[:-1], layout.blocks)


def _plain_points(node: ir.Node, found: NDArray[np.generic], layout: BlockLayout) -> NDArray[np.float64]:
    """The zero points [..., blocks] that are stored as floating-point numbers, one for each block."""
    wanted = layout.packing.rows * layout.blocks
    if found.size != wanted:
        raise WrongPackingError(
            f"{node_label(node)} has zero points of {list(found.shape)}, but {layout.packing.rows} rows of "
            f"{layout.blocks} blocks need {wanted}",
            said=layout.packing.shape,
        )
    return found.astype(np.float64).reshape(*layout.packing.shape[:-1], layout.blocks)


def _nbits(outputs: str, default_block: int = 0) -> Callable[[ir.Node, Sequence[int]], BlockLayout]:
    """The layout of bytes [N, blocks, bytes of a block]: a matrix of N outputs by K inputs.

    Args:
        outputs: The name of the attribute that holds N.
        default_block: The block size of nodes without the attribute block_size.
    """

    def layout(node: ir.Node, shape: Sequence[int]) -> BlockLayout:
        attributes = node.attributes
        bits, block = attributes.get_int("bits", _DEFAULT_BITS), attributes.get_int("block_size", default_block)
        rows, columns = attributes.get_int(outputs, 0), attributes.get_int("K", 0)
        said = {outputs: rows, "K": columns, "bits": bits, "block_size": block}
        if (why := _impossible(said, bits * block)) is not None:
            numbers = ", ".join(f"{name} = {number}" for name, number in said.items())
            raise WrongPackingError(f"{node_label(node)} says {numbers}, but {why}")
        wanted = (rows, math.ceil(columns / block), block * bits // _BYTE_BITS)
        if tuple(shape) != wanted:
            raise WrongPackingError(
                f"{node_label(node)} reads bytes of {list(shape)}, but {outputs} = {rows}, K = {columns}, "
                f"bits = {bits}, block_size = {block} need {list(wanted)}",
                said=(rows, columns),
            )
        return BlockLayout(Packing(bits, (rows, columns), wanted), block)

    return layout


def _impossible(said: Mapping[str, int], block_bits: int) -> str | None:
    """Why no matrix can have numbers that a node says, and blocks of so many bits; None if one can."""
    if small := [name for name, number in said.items() if number < 1]:
        return f"{small[0]} has to be at least 1"
    return f"a block of {block_bits} bits does not fill whole bytes" if block_bits % _BYTE_BITS else None


def _nbits_obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
    if prepacked := node.attributes.get_int("weight_prepacked", 0):
        return SkipReason.PREPACKED, f"{node_label(node)} has weight_prepacked = {prepacked}"
    return _bits_obstacle(node, node.attributes.get_int("bits", _DEFAULT_BITS))


_DOWN = 3  # the input of MatMulNBitsQLoRA that holds lora_A


def _adapter(index: int) -> Callable[[ir.Node, Sequence[int]], BlockLayout]:
    """The layout of an adapter's matrix of MatMulNBitsQLoRA: lora_A [R, K] at input 3, or lora_B [N, R] at input 5."""

    def layout(node: ir.Node, shape: Sequence[int]) -> BlockLayout:
        said = node.attributes
        bits, block = said.get_int("lora_bits", _ADAPTER_BITS), said.get_int("lora_block_size", _ADAPTER_BLOCK)
        down = _input(node, _DOWN)
        known = None if down is None or down.shape is None or not down.shape.is_static() else down.shape.numpy()
        rank = known[0] if known else 0
        rows, columns = (
            (rank, node.attributes.get_int("K", 0)) if index == _DOWN else (node.attributes.get_int("N", 0), rank)
        )
        sizes = {"the number of outputs": rows, "the number of inputs": columns}
        if (why := _impossible({**sizes, "lora_bits": bits, "lora_block_size": block}, bits * block)) is not None:
            raise WrongPackingError(
                f"{node_label(node)} says {rows} outputs and {columns} inputs of input {index}, lora_bits = {bits}, "
                f"lora_block_size = {block}, but {why}"
            )
        wanted = (rows, math.ceil(columns / block), block * bits // _BYTE_BITS)
        if tuple(shape) != wanted:
            raise WrongPackingError(
                f"{node_label(node)} reads bytes of {list(shape)} at input {index}, but {rows} outputs and {columns} "
                f"inputs, lora_bits = {bits}, lora_block_size = {block} need {list(wanted)}",
                said=(rows, columns),
            )
        return BlockLayout(Packing(bits, (rows, columns), wanted), block)

    return layout


def _adapter_obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
    return _bits_obstacle(node, node.attributes.get_int("lora_bits", _ADAPTER_BITS))


def _fp4(node: ir.Node, shape: Sequence[int]) -> BlockLayout:
    """The layout of bytes [N, K / 2]."""
    if len(shape) != _TABLE_RANK:
        raise WrongPackingError(f"{node_label(node)} reads bytes of {list(shape)}, which are no [outputs, inputs / 2]")
    block = max(node.attributes.get_int("block_size", _DEFAULT_FP4_BLOCK), 1)
    return BlockLayout(Packing(_DEFAULT_BITS, (shape[0], 2 * shape[1]), tuple(shape)), block)


def _fp4_obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
    return SkipReason.BLOCK_PACKED, f"{node_label(node)} reads numbers of four bits (E2M1), two in a byte, no integers"


def _bits_obstacle(node: ir.Node, bits: int) -> tuple[SkipReason, str] | None:
    if bits in _PACKED_BITS:
        return None
    return SkipReason.BLOCK_PACKED, f"{node_label(node)} has codes of {bits} bits, not of 2, 4 or 8"


def _expert_bits(node: ir.Node, part: str) -> int:
    return node.attributes.get_int(f"{part}_expert_weight_bits", node.attributes.get_int("expert_weight_bits", 4))


def _experts(part: str) -> Callable[[ir.Node, Sequence[int]], BlockLayout]:
    """The layout of bytes [experts, outputs, bytes of the inputs] of a part of QMoE: fc1, fc2 or fc3."""

    def layout(node: ir.Node, shape: Sequence[int]) -> BlockLayout:
        bits, block = _expert_bits(node, part), node.attributes.get_int("block_size", 0)
        columns = shape[-1] * _BYTE_BITS // bits if shape else 0
        if len(shape) != _EXPERTS_RANK or block < 0 or (block and columns % block):
            raise WrongPackingError(
                f"{node_label(node)} reads bytes of {list(shape)} as {part}, which are no [experts, outputs, inputs] "
                f"of {bits} bits in blocks of {block}"
            )
        _check_experts(node, part, shape[-2], columns)
        packing = Packing(bits, (*shape[:-1], columns), tuple(shape))
        return BlockLayout(packing, block or columns, is_blocked=bool(block))

    return layout


def _check_experts(node: ir.Node, part: str, rows: int, columns: int) -> None:
    """Raise WrongPackingError if the sizes of an expert's matrices contradict each other.

    The outputs of fc2 are as many as the inputs of fc1 and fc3; the inputs of fc2 are as many as the outputs of fc1, or
    half as many for a gated activation.
    """
    other = _input(node, 2 if part == "fc2" else 5)
    if other is None or other.shape is None or len(other.shape) != _EXPERTS_RANK or not other.shape.is_static():
        return
    wanted = other.shape.numpy()[-2]
    fits = wanted in {columns, 2 * columns} if part == "fc2" else wanted == columns
    if not fits:
        name = "fc1" if part == "fc2" else "fc2"
        raise WrongPackingError(
            f"{node_label(node)} has {part} of {rows} outputs and {columns} inputs, but {name} has {wanted} outputs"
        )


def _experts_obstacle(part: str) -> Callable[[ir.Node], tuple[SkipReason, str] | None]:
    def obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
        quant_type = node.attributes.get_string("quant_type") or "int"
        if quant_type != "int":
            return SkipReason.BLOCK_PACKED, f"{node_label(node)} has quant_type = {quant_type}"
        prepacked = node.attributes.get_int("weights_prepacked", None)
        if prepacked is None:
            return SkipReason.PREPACKED, f"{node_label(node)} has no weights_prepacked, which is 0 for plain bytes"
        if prepacked:
            return SkipReason.PREPACKED, f"{node_label(node)} has weights_prepacked = {prepacked}"
        return _bits_obstacle(node, _expert_bits(node, part))

    return obstacle


def _lookup(node: ir.Node, shape: Sequence[int]) -> BlockLayout:
    """The layout of a table of bytes [entries, bytes of the outputs]."""
    attributes = node.attributes
    bits, block = attributes.get_int("bits", _DEFAULT_BITS), attributes.get_int("block_size", _DEFAULT_LOOKUP_BLOCK)
    axes = attributes.get_int("gather_axis", 0), attributes.get_int("quantize_axis", 1)
    columns = shape[-1] * _BYTE_BITS // bits if shape else 0
    if len(shape) != _TABLE_RANK or axes not in {(0, 1), (0, -1), (-2, 1), (-2, -1)} or block < 1:
        raise WrongPackingError(
            f"{node_label(node)} reads bytes of {list(shape)} in blocks of {block} along axis {axes[1]}, entries along "
            f"axis {axes[0]}; only tables [entries, outputs] in blocks of outputs are unpacked"
        )
    return BlockLayout(Packing(bits, (shape[0], columns), tuple(shape)), block)


def _lookup_obstacle(node: ir.Node) -> tuple[SkipReason, str] | None:
    return _bits_obstacle(node, node.attributes.get_int("bits", _DEFAULT_BITS))


def said_shape(node: ir.Node) -> tuple[int, int] | None:
    """The outputs and inputs (N, K) of a matrix by the attributes of its node; None if the node has no N and K."""
    sizes = node.attributes.get_int("N", 0), node.attributes.get_int("K", 0)
    return sizes if min(sizes) > 0 else None


def _input(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


NBITS_FORM = PackedForm(_nbits("N"), _nbits_obstacle, scale=2, zero_point=3, groups=4)
"""MatMulNBits."""

MLP_FORMS = tuple((index, PackedForm(_nbits("N"), _nbits_obstacle, scale=index + 1)) for index in (3, 6))
"""MatMulNBitsMlp, by input."""

QKV_FORMS = tuple(
    (index, PackedForm(_nbits(outputs), _nbits_obstacle, scale=index + 1))
    for index, outputs in ((3, "Nq"), (6, "Nkv"), (9, "Nkv"))
)
"""MatMulNBitsQkv, by input."""

QLORA_FORMS = (
    (1, PackedForm(_nbits("N", _ADAPTER_BLOCK), _nbits_obstacle, scale=2)),
    *((index, PackedForm(_adapter(index), _adapter_obstacle, scale=index + 1)) for index in (3, 5)),
)
"""MatMulNBitsQLoRA, by input: the weight, and the two matrices of the adapter."""

FP4_FORM = PackedForm(_fp4, _fp4_obstacle, scale=2)
"""MatMulBlockQuantizedFp4Weight."""

EXPERT_FORMS = tuple(
    (
        index,
        PackedForm(
            _experts(part), _experts_obstacle(part), scale=index + 1, zero_point=zero_point, has_plain_types=True
        ),
    )
    for index, part, zero_point in ((2, "fc1", 11), (5, "fc2", 12), (8, "fc3", 13))
)
"""QMoE, by input."""

LOOKUP_FORM = PackedForm(_lookup, _lookup_obstacle, scale=2, zero_point=3, has_plain_types=True)
"""GatherBlockQuantized with a table of bytes."""
