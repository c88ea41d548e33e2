"""The records of a search for weights: each weight with the nodes that read it, or the reason why it is skipped."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnx_gconv.known_names import known_as, quoted_name
from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.tensors.codes import EffectiveIntegerTensor, ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint, Packing, UnpackedTensor
from onnx_gconv.tensors.types import INTEGER_DTYPES
from onnx_gconv.weights.names import WeightNames, parameters_of
from onnx_gconv.weights.origin import Origin, Reader, origin_of
from onnx_gconv.weights.rearrangement import Rearrangement, node_label, readers
from onnx_gconv.weights.same_source import SameSource
from onnx_gconv.weights.scopes import Scope, nodes_in_order

__all__ = ["Consumer", "Dequantization", "FoundWeight", "PackedCodes", "SkipReason", "SkippedWeight", "WeightSurvey"]


class SkipReason(enum.StrEnum):
    """Why a weight is skipped. Manifests and JSON output contain the value; people read `explanation`."""

    BLOCK_PACKED = "block_packed"
    PREPACKED = "prepacked"
    QUANTIZED = "quantized"
    BEHIND_OTHER_NODES = "behind_other_nodes"
    CONSTANT_EXPRESSION = "constant_expression"
    DTYPE_NOT_SUPPORTED = "dtype_not_supported"
    OPSET_TOO_OLD = "opset_too_old"
    OVERRIDABLE_INPUT = "overridable_input"
    ADAPTER = "adapter"
    INSIDE_FUNCTION = "inside_function"
    EMPTY = "empty"
    INVALID_SHAPE = "invalid_shape"
    NOT_SELECTED = "not_selected"
    REFUSED_VALUES = "refused_values"
    CHOSEN_AT_RUN_TIME = "chosen_at_run_time"
    UNLISTED_OP = "unlisted_op"
    IN_ATTRIBUTE = "in_attribute"
    COMPILED = "compiled"
    NOT_AN_MVM_WEIGHT = "not_an_mvm_weight"

    @property
    def explanation(self) -> str:
        """The meaning of the reason, and the remedy if there is one."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    SkipReason.BLOCK_PACKED: "the op packs its weights in blocks of a layout of its own, which nodes cannot rebuild; "
    "map the model before it is quantized or optimized for one processor, or quantize it to DequantizeLinear nodes",
    SkipReason.PREPACKED: "its bytes are, or may be, permuted for one processor, so that nobody can tell which "
    "code belongs to which input; export the model without prepacking, and give the node the attribute that says so "
    "(weight_prepacked or weights_prepacked = 0)",
    SkipReason.QUANTIZED: "it consists of integer codes, and the settings leave quantized weights out",
    SkipReason.BEHIND_OTHER_NODES: "nodes that compute the weight cannot be evaluated; fold constants first",
    SkipReason.CONSTANT_EXPRESSION: "the node multiplies it with another constant, not with activations; fold "
    "constants first",
    SkipReason.DTYPE_NOT_SUPPORTED: "weights of this type are not mapped: only float8 (E4M3, E5M2), float16, bfloat16, "
    "float32, float64, int4, uint4, int8, uint8, int16, uint16 and int32 are",
    SkipReason.OPSET_TOO_OLD: "the Cast that gives its type back needs a newer opset; raise it (--upgrade-opset, "
    "upgrade_opset=True)",
    SkipReason.OVERRIDABLE_INPUT: "it is the default of a graph input, so a caller may replace it; make it a constant "
    "(--freeze-inputs, freeze_inputs=True)",
    SkipReason.ADAPTER: "it is a matrix of an adapter, such as LoRA, which is swapped while the weights that it adapts "
    "stay, so it is left digital; map it, too (--include-adapters, include_adapters=True)",
    SkipReason.INSIDE_FUNCTION: "it is used by a local function that no node calls, that cannot be inlined, or that "
    "has to stay (--no-inline, inline_functions=False)",
    SkipReason.EMPTY: "it has no elements",
    SkipReason.INVALID_SHAPE: "its shape does not fit the op that reads it",
    SkipReason.NOT_SELECTED: "patterns or an override of the configuration leave it out",
    SkipReason.REFUSED_VALUES: "it has values that no conductance can hold",
    SkipReason.CHOSEN_AT_RUN_TIME: "nodes choose it, or change it, while the model runs, before it is multiplied with "
    "activations",
    SkipReason.UNLISTED_OP: "the table of MVM ops does not have the op that reads it, which may multiply it with "
    "activations; register_mvm_op adds one",
    SkipReason.IN_ATTRIBUTE: "it stands in an attribute of a node, which may multiply it with activations; only what a "
    "node reads as an input can be rebuilt from conductances",
    SkipReason.COMPILED: "the node holds a compiled model, whose weights cannot be read; map the model before it is "
    "compiled",
    SkipReason.NOT_AN_MVM_WEIGHT: "no MVM op reads it as a weight",
}


@dataclass(frozen=True, eq=False)
class Consumer:
    """A node that reads a weight.

    Attributes:
        node: The node.
        slot: Index of the input by which the node reads the weight.
        graph_path: Path of the graph that contains the node, see `Scope`.
        is_mvm: Whether the input is a weight slot of an MVM op.
        path: The rearrangements of the weight on its way to the weight slot.
        view: The matrix view of the rearranged weight; None if the input is no weight slot.
    """

    node: ir.Node
    slot: int
    graph_path: str
    is_mvm: bool
    path: tuple[Rearrangement, ...]
    view: MatrixView | None


@dataclass(frozen=True)
class Dequantization:
    """How nodes dequantize integer codes: ``scale * (code - zero point)``.

    Attributes:
        scale: Name of the value that holds the scale or the scales; None if it is not known.
        zero_point: Name of the value that holds the zero points; None for 0, or for the default of the op.
        axis: The axis of the weight along which scales differ. None if all elements share one scale, if scales differ
            along several axes, or if a reshape on the way merges the axis with others.
        block: The number of neighbours along the axis that share a scale; None without an axis.
        groups: Name of the value that assigns a scale and a zero point to each input (g_idx); None if blocks do.
    """

    scale: str | None
    zero_point: str | None
    axis: int | None = None
    block: int | None = None
    groups: str | None = None


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """The codes of a weight that ops read packed into bytes.

    Attributes:
        stored: The bytes.
        packing: How the codes are packed into them.
        block: The number of codes along a row that share a zero point.
    """

    stored: ir.TensorProtocol
    packing: Packing
    block: int

    @property
    def codes(self) -> UnpackedTensor:
        """The codes, unpacked while they are read."""
        return UnpackedTensor(self.stored, self.packing)


@dataclass(frozen=True, eq=False)
class FoundWeight:
    """A weight that can be mapped.

    Attributes:
        value: The value that holds the weight: an initializer, the output of a Constant node, or a value that nodes
            compute from constants.
        tensor: The data of the weight; the unpacked codes if the value holds packed codes.
        scope: The graph that owns the value.
        consumers: All nodes that read the weight, directly or through nodes that rearrange, widen or dequantize it.
        sources: The names of the constants that the weight is computed from; empty if no nodes compute it.
        zero_point: The integer codes that stand for zero; None if the code 0 does, or if the weight has no codes.
        passed: The nodes between the weight and its weight slots.
        notes: Remarks for the user, a line each.
        packed: The packed codes, if ops read the codes packed into bytes; else None.
        dequantization: How nodes dequantize the integer codes; None if that is not known.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    scope: Scope
    consumers: tuple[Consumer, ...]
    sources: tuple[str, ...] = ()
    zero_point: ZeroPoint | BlockZeroPoint | None = None
    passed: frozenset[ir.Node] = frozenset()
    notes: tuple[str, ...] = ()
    packed: PackedCodes | None = None
    dequantization: Dequantization | None = None

    @property
    def name(self) -> str:
        """The name of the weight, unique in its graph and the graphs around it."""
        assert self.value.name is not None  # noqa: S101 - values of graphs have names
        return self.value.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.tensor.shape.numpy())

    @property
    def stored_as(self) -> Literal["initializer", "constant", "computed"]:
        """What holds the weight: an initializer, a Constant node, or other nodes, which compute it."""
        producer = self.value.producer()
        if producer is None:
            return "initializer"
        return "constant" if producer.op_type == "Constant" and producer.domain == "" else "computed"

    @property
    def is_integer(self) -> bool:
        """Whether the weight consists of integer codes."""
        return self.tensor.dtype in INTEGER_DTYPES

    @property
    def stored(self) -> ir.TensorProtocol:
        """The data of the value: the weight, or the bytes into which its codes are packed."""
        return self.tensor if self.packed is None else self.packed.stored

    @property
    def has_integers(self) -> bool:
        """Whether the numbers that conductances hold are integers: codes less integer zero points."""
        return self.is_integer and (self.zero_point is None or self.zero_point.is_integer)

    @property
    def numbers(self) -> ir.TensorProtocol:
        """The numbers that conductances hold: the weight, or its codes less their zero points."""
        if not self.is_integer:
            return self.tensor
        # Differences of int32 codes have up to 33 bits, which float32 cannot hold; all others have at most 17.
        dtype = ir.DataType.DOUBLE if self.tensor.dtype == ir.DataType.INT32 else ir.DataType.FLOAT
        return EffectiveIntegerTensor(self.tensor, self.zero_point, dtype)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of the exported program that the weight comes from, as far as the exporter says.

        They include the sources of a computed weight, because exporters name initializers after parameters.
        """
        return tuple(dict.fromkeys((*parameters_of(self.value), *self.sources)))

    @functools.cached_property
    def origin(self) -> Origin:
        """The parameters and modules of the exported program that it comes from, as far as the exporter says."""
        readers = [Reader(item.node, item.slot, item.is_mvm) for item in self.consumers]
        return origin_of(self.value, self.sources, readers)

    @property
    def known_as(self) -> str:
        """The name that people know the weight by: its parameter in the exported program, its module, or its name."""
        return known_as(self.name, self.origin.parameter, self.origin.modules)

    @property
    def quoted(self) -> str:
        """The name for messages, in quotes: `known_as`, and the name in the model if that is another one."""
        return quoted_name(self.name, self.known_as)

    @property
    def names(self) -> WeightNames:
        """The names by which patterns choose the weight."""
        origin, nodes = self.origin, [consumer.node for consumer in self.consumers if consumer.is_mvm]
        others = (other.name for other in origin.others)
        parameters = (*origin.tensors, *self.parameters, *others)
        return WeightNames.of(self.name, parameters, origin.modules_of_parameters, nodes)


@dataclass(frozen=True, eq=False)
class SkippedWeight:
    """A weight, or another constant of at least two axes, that is not mapped.

    Attributes:
        name: The name of the constant, or of the value in the weight slot if that is computed from several constants.
        shape: The shape; None if it is not known.
        graph_path: Path of the graph that owns the constant, see `Scope`.
        reason: Why it is not mapped.
        detail: What exactly stands against it, in a few words: the op, the nodes, the value.
        is_mvm: Whether it feeds a weight slot of an MVM op, or may be multiplied with activations in another way.
        consumers: The nodes that read it, as ``name (op_type)``, or their weight slots, as ``name (op_type)[slot]``.
        value: The value that holds it, or None if it stands in a local function.
        same_source_as: The constants with the same values, if one of them is mapped.
    """

    name: str
    shape: tuple[int, ...] | None
    graph_path: str
    reason: SkipReason
    detail: str
    is_mvm: bool
    consumers: tuple[str, ...] = ()
    value: ir.Value | None = None
    same_source_as: tuple[SameSource, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of the exported program that it comes from, as far as the exporter says."""
        return () if self.value is None else parameters_of(self.value)

    @functools.cached_property
    def origin(self) -> Origin:
        """The parameters and modules of the exported program that it comes from, as far as the exporter says."""
        if self.value is None:
            return Origin((), (), (), ())
        found = [Reader(node, slot, is_mvm=self.is_mvm) for node, slot in readers(self.value)]
        return origin_of(self.value, (), found)

    @property
    def known_as(self) -> str:
        """The name that people know the weight by: its parameter in the exported program, its module, or its name."""
        return known_as(self.name, self.origin.parameter, self.origin.modules)

    @property
    def quoted(self) -> str:
        """The name for messages, in quotes: `known_as`, and the name in the model if that is another one."""
        return quoted_name(self.name, self.known_as)

    @property
    def names(self) -> WeightNames:
        """The names by which patterns choose the constant, with those of all nodes that read it."""
        origin, nodes = self.origin, [] if self.value is None else [node for node, _ in readers(self.value)]
        others = (other.name for other in origin.others)
        parameters = (*origin.tensors, *self.parameters, *others)
        return WeightNames.of(self.name, parameters, origin.modules_of_parameters, nodes)

    @classmethod
    def of(cls, weight: FoundWeight, reason: SkipReason, detail: str) -> SkippedWeight:
        """The record of a weight that could be mapped, but is skipped for the given reason."""
        return cls(
            name=weight.name,
            shape=weight.shape,
            graph_path=weight.scope.path,
            reason=reason,
            detail=detail,
            is_mvm=True,
            consumers=tuple(node_label(consumer.node) for consumer in weight.consumers),
            value=weight.value,
        )


@dataclass(frozen=True)
class WeightSurvey:
    """All weights of a model: those that can be mapped, and those that cannot, with their reasons."""

    weights: tuple[FoundWeight, ...]
    skipped: tuple[SkippedWeight, ...]

    def in_order_of_nodes(self, model: ir.Model) -> WeightSurvey:
        """The same weights, each sorted by the first node that multiplies with it, or reads it if it is skipped.

        This is the order of the layers of a network. Nodes of a body count at the place of the node that has the body.
        Constants that no node of a graph reads, such as those of local functions, come last, in the order in which they
        were found.
        """
        place = {node: number for number, node in enumerate(nodes_in_order(model.graph))}

        def first(found: Iterable[tuple[ir.Node, int]]) -> tuple[float, int]:
            return min(((place.get(node, math.inf), slot) for node, slot in found), default=(math.inf, 0))

        def first_of_weight(item: FoundWeight) -> tuple[float, int]:
            return first((consumer.node, consumer.slot) for consumer in item.consumers if consumer.is_mvm)

        def first_of_skipped(item: SkippedWeight) -> tuple[float, int]:
            return first(() if item.value is None else readers(item.value))

        return WeightSurvey(
            tuple(sorted(self.weights, key=first_of_weight)), tuple(sorted(self.skipped, key=first_of_skipped))
        )
