"""What is known of each weight of a model: where it stands and who reads it, or why it is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnx_gconv.schemes.matrix_view import MatrixView
from onnx_gconv.tensors.codes import EffectiveIntegerTensor, ZeroPoint
from onnx_gconv.tensors.types import INTEGER_DTYPES
from onnx_gconv.weights.exporter_names import modules_of, parameters_of
from onnx_gconv.weights.readers import node_label
from onnx_gconv.weights.rearrangement import Rearrangement
from onnx_gconv.weights.same_source import SameSource
from onnx_gconv.weights.scopes import Scope
from onnx_gconv.weights.skip_reasons import SkipReason

__all__ = ["Consumer", "FoundWeight", "SkippedWeight", "WeightSurvey"]


@dataclass(frozen=True, eq=False)
class Consumer:
    """A node that reads a weight.

    Attributes:
        node: The node.
        slot: Index of the input by which it reads the weight.
        graph_path: Path of the graph the node stands in, see `Scope`.
        is_mvm: Whether the input is a weight slot of an MVM op.
        path: How the weight is rearranged on its way to a weight slot; empty if it is not.
        view: The matrix view of the rearranged weight, if the table has one for the op.
    """

    node: ir.Node
    slot: int
    graph_path: str
    is_mvm: bool
    path: tuple[Rearrangement, ...]
    view: MatrixView | None


@dataclass(frozen=True, eq=False)
class FoundWeight:
    """A weight that can be mapped.

    Attributes:
        value: The value that holds it: an initializer, the output of a Constant node, or what nodes compute from
            constants.
        tensor: Its data.
        scope: The graph that owns it.
        consumers: All nodes that read it, through nodes that only rearrange, widen or dequantize it too.
        sources: For a computed weight, the names of the constants that it is computed from.
        zero_point: For a weight of integer codes: the codes that stand for zero; None if that is 0 for all.
        passed: The nodes that it is seen through on the ways to its weight slots.
        notes: What a user should know of it, a line each.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    scope: Scope
    consumers: tuple[Consumer, ...]
    sources: tuple[str, ...] = ()
    zero_point: ZeroPoint | None = None
    passed: frozenset[ir.Node] = frozenset()
    notes: tuple[str, ...] = ()

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
        """What holds the weight."""
        producer = self.value.producer()
        if producer is None:
            return "initializer"
        return "constant" if producer.op_type == "Constant" and producer.domain == "" else "computed"

    @property
    def is_integer(self) -> bool:
        """Whether the weight consists of integer codes."""
        return self.tensor.dtype in INTEGER_DTYPES

    @property
    def numbers(self) -> ir.TensorProtocol:
        """What conductances hold: the weight, or the codes minus their zero points."""
        if not self.is_integer:
            return self.tensor
        # int32 differences have up to 33 bits, all others at most 17.
        dtype = ir.DataType.DOUBLE if self.tensor.dtype == ir.DataType.INT32 else ir.DataType.FLOAT
        return EffectiveIntegerTensor(self.tensor, self.zero_point, dtype)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of the exported program that it comes from, as far as the exporter says.

        The sources of a computed weight count among them: exporters name initializers after parameters.
        """
        return tuple(dict.fromkeys((*parameters_of(self.value), *self.sources)))

    @property
    def modules(self) -> tuple[str, ...]:
        """The innermost modules of the exported program that use it as a weight, as far as the exporter says."""
        found = (modules_of(consumer.node)[-1:] for consumer in self.consumers if consumer.is_mvm)
        return tuple(dict.fromkeys(module for modules in found for module in modules))


@dataclass(frozen=True, eq=False)
class SkippedWeight:
    """A weight, or another constant of at least two axes, that is not mapped.

    Attributes:
        name: Its name, or the name of the value in the weight slot if it is computed from several constants.
        shape: Its shape, or None if that is not known.
        graph_path: Path of the graph that owns it, see `Scope`.
        reason: Why it is not mapped.
        detail: What exactly, in a few words: the op, the nodes, the value.
        is_mvm: Whether it feeds a weight slot of an MVM op.
        consumers: The nodes that read it, as ``name (op_type)``, or their weight slots, as ``name (op_type)[slot]``.
        value: The value that holds it, or None if it stands in a local function.
        same_source_as: The constants that hold the same parameter, if one of them is mapped.
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

    @classmethod
    def of(cls, weight: FoundWeight, reason: SkipReason, detail: str) -> SkippedWeight:
        """A weight that could be mapped, but is not."""
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
