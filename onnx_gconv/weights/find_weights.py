"""Walks a model and finds every weight of every MVM op, wherever it lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_gconv.weights.constant_values import Constant, ConstantValues, main_source, rearranged_from
from onnx_gconv.weights.function_weights import FunctionWeights
from onnx_gconv.weights.mvm_ops import WeightSlot, mvm_op
from onnx_gconv.weights.readers import node_label, readers
from onnx_gconv.weights.rearrangement import Rearrangement, rearrangement, step_shape
from onnx_gconv.weights.scopes import Scope, scopes
from onnx_gconv.weights.skip_reasons import SkipReason
from onnx_gconv.weights.weight_records import Consumer, FoundWeight, SkippedWeight, WeightSurvey

__all__ = ["find_weights"]

MAPPABLE_DTYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})

_MATRIX_RANK = 2


def find_weights(model: ir.Model) -> WeightSurvey:
    """Find the weights of all MVM ops of a model, in the main graph and in all bodies of If, Loop and Scan.

    A weight is an initializer or the output of a Constant node that reaches a weight slot of an MVM op directly or
    through nodes that only rearrange it, while the other operand is not constant.
    """
    return _Finder(model).survey()


@dataclass(frozen=True)
class _SlotUse:
    """A weight slot that a constant feeds, and the nodes that rearrange it on the way."""

    slot: WeightSlot
    nodes: tuple[ir.Node, ...]

    def path(self, shape: tuple[int, ...]) -> tuple[tuple[Rearrangement, ...], tuple[int, ...]]:
        """The steps, and the shape in which the constant arrives.

        Raises:
            ValueError: If they cannot be known.
        """
        steps: list[Rearrangement] = []
        for node in self.nodes:
            if (step := rearrangement(node, shape)) is not None:
                steps.append(step)
                shape = step_shape(step, shape)
        return tuple(steps), shape


@dataclass
class _Use:
    """How a constant is used, as far as the walk has come."""

    mvm_slots: dict[tuple[ir.Node, int], _SlotUse] = field(default_factory=dict)
    constant_expression: ir.Node | None = None
    function: str | None = None
    is_behind_nodes: bool = False


class _Finder:
    def __init__(self, model: ir.Model) -> None:
        self._scopes = scopes(model)
        self._scope_of = {scope.graph: scope for scope in self._scopes}
        self._values = ConstantValues(model, self._scopes)
        self._functions = FunctionWeights(model)
        self._uses = {value: _Use() for value in self._values.constants}
        self._behind: dict[ir.Value, SkippedWeight] = {}

    def survey(self) -> WeightSurvey:
        for scope in self._scopes:
            for node in scope.graph:
                self._visit(node, scope)
        weights: list[FoundWeight] = []
        skipped = [*self._behind.values()]
        for constant in self._values.constants.values():
            if isinstance(decision := self._decide(constant), FoundWeight):
                weights.append(decision)
            elif decision is not None:
                skipped.append(decision)
        return WeightSurvey(tuple(weights), (*skipped, *self._functions.constants()))

    def _visit(self, node: ir.Node, scope: Scope) -> None:
        row = mvm_op(node)
        if row is not None:
            for slot in row.slots:
                self._visit_slot(node, slot, scope)
        for indices in self._functions.weight_arguments(node):
            arguments = [value for index in indices if (value := _input(node, index)) is not None]
            if all(self._values.is_constant(value) for value in arguments):
                for value in arguments:
                    for source in self._values.sources(value):
                        self._uses[source.value].function = node.op_type

    def _visit_slot(self, node: ir.Node, slot: WeightSlot, scope: Scope) -> None:
        value = _input(node, slot.index)
        if value is None or not self._values.is_constant(value):
            return
        activation = _input(node, slot.activation)
        both_constant = activation is not None and self._values.is_constant(activation)
        root, nodes = rearranged_from(value)
        use = self._uses.get(root)
        if use is None:
            if not both_constant:
                self._visit_computed(node, slot, value, scope)
        elif both_constant:
            use.constant_expression = node
        else:
            use.mvm_slots[node, slot.index] = _SlotUse(slot, tuple(nodes))

    def _visit_computed(self, node: ir.Node, slot: WeightSlot, value: ir.Value, scope: Scope) -> None:
        """Note a weight slot that is fed by nodes computing on constants, once for each source."""
        sources, ops = self._values.sources(value), self._values.ops(value)
        for item in sources:
            self._uses[item.value].is_behind_nodes = True
        source = main_source(sources)
        key = source.value if source else value
        of = f" of {', '.join(_name(item.value) for item in sources)}" if sources and source is None else ""
        known = self._behind.setdefault(
            key,
            SkippedWeight(
                name=_name(key),
                shape=tuple(source.tensor.shape.numpy()) if source else _static_shape(value),
                graph_path=(source.scope if source else scope).path,
                reason=SkipReason.BEHIND_OTHER_NODES,
                detail=f"{'/'.join(ops)}{of}",
                is_mvm=True,
                value=key,
            ),
        )
        self._behind[key] = replace(known, consumers=(*known.consumers, f"{node_label(node)}[{slot.index}]"))

    def _decide(self, constant: Constant) -> FoundWeight | SkippedWeight | None:
        """Whether a constant is a weight, a skipped weight, or nothing to speak of."""
        use = self._uses[constant.value]
        if not use.mvm_slots and use.function is None:
            return self._decide_other_constant(constant, use)
        if (obstacle := _obstacle(constant, use)) is not None:
            return _skipped(constant, *obstacle, is_mvm=True)
        try:
            consumers = tuple(self._consumers(constant, use))
        except (IndexError, ValueError):
            detail = f"{list(constant.tensor.shape.numpy())} for {_ops(use)}"
            return _skipped(constant, SkipReason.INVALID_SHAPE, detail, is_mvm=True)
        return FoundWeight(constant.value, constant.tensor, constant.scope, consumers)

    def _decide_other_constant(self, constant: Constant, use: _Use) -> SkippedWeight | None:
        """List constants that might be taken for weights: matrices, but not biases, norms, shapes and indices."""
        if use.constant_expression is not None:
            detail = f"node {node_label(use.constant_expression)}"
            return _skipped(constant, SkipReason.CONSTANT_EXPRESSION, detail, is_mvm=False)
        is_matrix = len(constant.tensor.shape.numpy()) >= _MATRIX_RANK and constant.tensor.dtype.is_floating_point()
        if not is_matrix or use.is_behind_nodes:  # the latter is listed already, as what stands behind a weight slot
            return None
        ops = sorted({node.op_type for node, _ in readers(constant.value)})
        detail = f"read by {'/'.join(ops)}" if ops else "unused"
        return _skipped(constant, SkipReason.NOT_AN_MVM_WEIGHT, detail, is_mvm=False)

    def _consumers(self, constant: Constant, use: _Use) -> Iterator[Consumer]:
        for node, index in readers(constant.value):
            slot_use = use.mvm_slots.get((node, index))
            path: tuple[Rearrangement, ...] = ()
            view = None
            if slot_use is not None:
                path, shape = slot_use.path(tuple(constant.tensor.shape.numpy()))
                view = slot_use.slot.view(node, shape) if slot_use.slot.view is not None else None
            assert node.graph is not None  # noqa: S101 - nodes of a model stand in graphs
            yield Consumer(
                node=node,
                slot=index,
                graph_path=self._scope_of[node.graph].path,
                is_mvm=slot_use is not None,
                path=path,
                view=view,
            )


def _obstacle(constant: Constant, use: _Use) -> tuple[SkipReason, str] | None:
    """Why a constant in a weight slot cannot be mapped, in a few words, or None."""
    tensor = constant.tensor
    if use.function is not None:
        return SkipReason.INSIDE_FUNCTION, f"function {use.function}"
    if all(item.slot.view is None for item in use.mvm_slots.values()):
        return SkipReason.OP_NOT_SUPPORTED, _ops(use)
    if tensor.dtype not in MAPPABLE_DTYPES:
        return SkipReason.DTYPE_NOT_SUPPORTED, tensor.dtype.name.lower()
    if tensor.size == 0:
        return SkipReason.EMPTY, f"shape {list(tensor.shape.numpy())}"
    if constant.value.is_graph_input():
        return SkipReason.OVERRIDABLE_INPUT, ""
    return None


def _skipped(constant: Constant, reason: SkipReason, detail: str, *, is_mvm: bool) -> SkippedWeight:
    return SkippedWeight(
        name=_name(constant.value),
        shape=tuple(constant.tensor.shape.numpy()),
        graph_path=constant.scope.path,
        reason=reason,
        detail=detail,
        is_mvm=is_mvm,
        consumers=tuple(node_label(node) for node, _ in readers(constant.value)),
        value=constant.value,
    )


def _ops(use: _Use) -> str:
    return "/".join(sorted({node.op_type for node, _ in use.mvm_slots}))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    return value.shape.numpy() if value.shape is not None and value.shape.is_static() else None


def _name(value: ir.Value) -> str:
    return value.name or ""
