"""Walks a model and finds every weight of every MVM op, wherever it lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_gconv.weights.matrix_view import MatrixView
from onnx_gconv.weights.mvm_ops import WeightSlot, mvm_op
from onnx_gconv.weights.scopes import Scope, scopes
from onnx_gconv.weights.skip_reasons import SkipReason

__all__ = ["Consumer", "FoundWeight", "SkippedWeight", "WeightSurvey", "find_weights"]

MAPPABLE_DTYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})

_MATRIX_RANK = 2

# Nodes without inputs, or with constant ones, that still give another value on every run.
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


@dataclass(frozen=True, eq=False)
class Consumer:
    """A node that reads a weight.

    Attributes:
        node: The node.
        slot: Index of the input by which it reads the weight.
        graph_path: Path of the graph the node stands in, see `Scope`.
        is_mvm: Whether the input is a weight slot of an MVM op.
        view: The matrix view, if the table has one for the op.
    """

    node: ir.Node
    slot: int
    graph_path: str
    is_mvm: bool
    view: MatrixView | None


@dataclass(frozen=True, eq=False)
class FoundWeight:
    """A weight that can be mapped.

    Attributes:
        value: The value that holds it: an initializer, or the output of a Constant node.
        tensor: Its data.
        scope: The graph that owns it.
        consumers: All nodes that read it, through Identity nodes too.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    scope: Scope
    consumers: tuple[Consumer, ...]

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
    def is_constant_node(self) -> bool:
        """Whether a Constant node holds the weight, not an initializer."""
        return self.value.producer() is not None


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
    """

    name: str
    shape: tuple[int, ...] | None
    graph_path: str
    reason: SkipReason
    detail: str
    is_mvm: bool
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightSurvey:
    """All weights of a model: those that can be mapped, and those that cannot, with their reasons."""

    weights: tuple[FoundWeight, ...]
    skipped: tuple[SkippedWeight, ...]


def find_weights(model: ir.Model) -> WeightSurvey:
    """Find the weights of all MVM ops of a model, in the main graph and in all bodies of If, Loop and Scan.

    A weight is an initializer or the output of a Constant node that reaches a weight slot of an MVM op directly or
    through Identity nodes, while the other operand is not constant.
    """
    return _Finder(model).survey()


@dataclass
class _Candidate:
    """A constant on the way to being found or skipped."""

    value: ir.Value
    tensor: ir.TensorProtocol
    scope: Scope
    mvm_slots: dict[tuple[ir.Node, int], WeightSlot] = field(default_factory=dict)
    constant_expression: ir.Node | None = None
    function: str | None = None


class _Finder:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._scopes = scopes(model)
        self._scope_of = {scope.graph: scope for scope in self._scopes}
        self._candidates: dict[ir.Value, _Candidate] = dict(self._all_constants())
        self._behind: dict[ir.Value, SkippedWeight] = {}
        self._reported_sources: set[ir.Value] = set()
        self._constant: dict[ir.Value, bool] = {}
        self._weight_inputs: dict[tuple[str, str, str], frozenset[int]] = {}

    def survey(self) -> WeightSurvey:
        for scope in self._scopes:
            for node in scope.graph:
                self._visit(node, scope)
        weights: list[FoundWeight] = []
        skipped = [*self._behind.values()]
        for candidate in self._candidates.values():
            if isinstance(decision := self._decide(candidate), FoundWeight):
                weights.append(decision)
            elif decision is not None:
                skipped.append(decision)
        return WeightSurvey(tuple(weights), (*skipped, *self._inside_functions()))

    def _all_constants(self) -> Iterator[tuple[ir.Value, _Candidate]]:
        """Initializers and outputs of Constant nodes, with their tensors, in the order of the graphs."""
        for scope in self._scopes:
            for value in scope.graph.initializers.values():
                if value.const_value is not None:
                    yield value, _Candidate(value, value.const_value, scope)
            for node in scope.graph:
                if node.op_type == "Constant" and node.domain == "" and "sparse_value" not in node.attributes:
                    tensor = ir.convenience.get_const_tensor(node.outputs[0])
                    if tensor is not None:
                        yield node.outputs[0], _Candidate(node.outputs[0], tensor, scope)

    def _visit(self, node: ir.Node, scope: Scope) -> None:
        row = mvm_op(node)
        if row is not None:
            for slot in row.slots:
                self._visit_slot(node, slot, scope)
        for index in self._weight_inputs_of_function(node.op_identifier()):
            value = _input(node, index)
            if value is not None and (candidate := self._candidates.get(_behind_identities(value))):
                candidate.function = node.op_type

    def _visit_slot(self, node: ir.Node, slot: WeightSlot, scope: Scope) -> None:
        value = _input(node, slot.index)
        if value is None or not self._is_constant(value):
            return
        activation = _input(node, slot.activation)
        both_constant = activation is not None and self._is_constant(activation)
        candidate = self._candidates.get(_behind_identities(value))
        if candidate is None:
            if not both_constant:
                self._behind_nodes(node, slot, value, scope)
        elif both_constant:
            candidate.constant_expression = node
        else:
            candidate.mvm_slots[node, slot.index] = slot

    def _is_constant(self, value: ir.Value) -> bool:
        """Whether a value is computed from constants alone, without a body or a function call on the way."""
        waiting = [value]
        while waiting:
            current = waiting[-1]
            if current in self._constant:
                waiting.pop()
                continue
            if current in self._candidates:
                self._constant[current] = True
                continue
            node = current.producer()
            if node is None or not self._can_be_folded(node):
                self._constant[current] = False
                continue
            inputs = [item for item in node.inputs if item is not None]
            if unknown := [item for item in inputs if item not in self._constant]:
                waiting.extend(unknown)
                continue
            self._constant[current] = all(self._constant[item] for item in inputs)
        return self._constant[value]

    def _can_be_folded(self, node: ir.Node) -> bool:
        has_body = any(a.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for a in node.attributes.values())
        return not has_body and node.op_type not in _RANDOM_OPS and node.op_identifier() not in self._model.functions

    def _behind_nodes(self, node: ir.Node, slot: WeightSlot, value: ir.Value, scope: Scope) -> None:
        """Report a weight slot that is fed by nodes computing on constants, once for each source."""
        sources, ops = self._sources(value)
        floating = [item for item in sources if self._candidates[item].tensor.dtype.is_floating_point()] or sources
        source = self._candidates[floating[0]] if len(floating) == 1 else None
        self._reported_sources.update(sources)
        of = "" if source else f" of {', '.join(map(_name, sources))}"
        found = self._behind.setdefault(
            source.value if source else value,
            SkippedWeight(
                name=_name(source.value if source else value),
                shape=tuple(source.tensor.shape.numpy()) if source else _static_shape(value),
                graph_path=(source.scope if source else scope).path,
                reason=SkipReason.BEHIND_OTHER_NODES,
                detail=f"{'/'.join(ops)}{of}",
                is_mvm=True,
            ),
        )
        reader = f"{_label(node)}[{slot.index}]"
        self._behind[source.value if source else value] = replace(found, consumers=(*found.consumers, reader))

    def _sources(self, value: ir.Value) -> tuple[list[ir.Value], list[str]]:
        """The constants of more than one element that a constant value is computed from, and the ops on the way."""
        sources: dict[ir.Value, None] = {}
        ops: dict[str, None] = {}
        waiting, seen = [value], {value}
        while waiting:
            current = waiting.pop()
            if current in self._candidates:
                if self._candidates[current].tensor.size > 1:
                    sources[current] = None
                continue
            producer = current.producer()
            assert producer is not None  # noqa: S101 - the value is constant and is no constant itself
            ops[producer.op_type] = None
            for item in producer.inputs:
                if item is not None and item not in seen:
                    seen.add(item)
                    waiting.append(item)
        return list(sources), list(ops)

    def _decide(self, candidate: _Candidate) -> FoundWeight | SkippedWeight | None:
        """Whether a constant is a weight, a skipped weight, or nothing to speak of."""
        if not candidate.mvm_slots and candidate.function is None:
            return self._decide_other_constant(candidate)
        if (obstacle := self._obstacle(candidate)) is not None:
            return self._skip(candidate, *obstacle, is_mvm=True)
        try:
            consumers = tuple(self._consumers(candidate))
        except IndexError:
            detail = f"{list(candidate.tensor.shape.numpy())} for {_ops(candidate)}"
            return self._skip(candidate, SkipReason.INVALID_SHAPE, detail, is_mvm=True)
        return FoundWeight(candidate.value, candidate.tensor, candidate.scope, consumers)

    def _obstacle(self, candidate: _Candidate) -> tuple[SkipReason, str] | None:
        """Why a constant in a weight slot cannot be mapped, in a few words, or None."""
        tensor = candidate.tensor
        if candidate.function is not None:
            return SkipReason.INSIDE_FUNCTION, f"function {candidate.function}"
        if all(slot.view is None for slot in candidate.mvm_slots.values()):
            return SkipReason.OP_NOT_SUPPORTED, _ops(candidate)
        if tensor.dtype not in MAPPABLE_DTYPES:
            return SkipReason.DTYPE_NOT_SUPPORTED, tensor.dtype.name.lower()
        if tensor.size == 0:
            return SkipReason.EMPTY, f"shape {list(tensor.shape.numpy())}"
        if candidate.value.is_graph_input():
            return SkipReason.OVERRIDABLE_INPUT, ""
        return None

    def _decide_other_constant(self, candidate: _Candidate) -> SkippedWeight | None:
        """List constants that might be taken for weights: matrices, but not biases, norms, shapes and indices."""
        if candidate.constant_expression is not None:
            detail = f"node {_label(candidate.constant_expression)}"
            return self._skip(candidate, SkipReason.CONSTANT_EXPRESSION, detail, is_mvm=False)
        tensor = candidate.tensor
        if len(tensor.shape.numpy()) < _MATRIX_RANK or not tensor.dtype.is_floating_point():
            return None
        if candidate.value in self._reported_sources:
            return None  # listed already, as what stands behind a weight slot
        readers = sorted({node.op_type for node, _ in _readers(candidate.value)})
        detail = f"read by {'/'.join(readers)}" if readers else "unused"
        return self._skip(candidate, SkipReason.NOT_AN_MVM_WEIGHT, detail, is_mvm=False)

    def _skip(self, candidate: _Candidate, reason: SkipReason, detail: str, *, is_mvm: bool) -> SkippedWeight:
        return SkippedWeight(
            name=_name(candidate.value),
            shape=tuple(candidate.tensor.shape.numpy()),
            graph_path=candidate.scope.path,
            reason=reason,
            detail=detail,
            is_mvm=is_mvm,
            consumers=tuple(_label(node) for node, _ in _readers(candidate.value)),
        )

    def _consumers(self, candidate: _Candidate) -> Iterator[Consumer]:
        shape = candidate.tensor.shape.numpy()
        for node, index in _readers(candidate.value):
            slot = candidate.mvm_slots.get((node, index))
            assert node.graph is not None  # noqa: S101 - nodes of a model stand in graphs
            yield Consumer(
                node=node,
                slot=index,
                graph_path=self._scope_of[node.graph].path,
                is_mvm=slot is not None,
                view=slot.view(node, shape) if slot is not None and slot.view is not None else None,
            )

    def _weight_inputs_of_function(self, identifier: tuple[str, str, str]) -> frozenset[int]:
        """Indices of the inputs of a local function that reach a weight slot in its body."""
        function = self._model.functions.get(identifier)
        if function is None:
            return frozenset()
        if identifier not in self._weight_inputs:
            self._weight_inputs[identifier] = frozenset()  # ends the recursion of an invalid, recursive function
            found = set()
            for node in function.all_nodes():
                row = mvm_op(node)
                slots = [slot.index for slot in row.slots] if row else []
                for index in (*slots, *self._weight_inputs_of_function(node.op_identifier())):
                    value = _input(node, index)
                    if value is not None and (root := _behind_identities(value)) in function.inputs:
                        found.add(list(function.inputs).index(root))
            self._weight_inputs[identifier] = frozenset(found)
        return self._weight_inputs[identifier]

    def _inside_functions(self) -> Iterator[SkippedWeight]:
        """Constant nodes inside local functions that feed a weight slot there."""
        for function in self._model.functions.values():
            for node in function.all_nodes():
                row = mvm_op(node)
                for slot in row.slots if row else ():
                    value = _input(node, slot.index)
                    root = _behind_identities(value) if value is not None else None
                    tensor = (
                        ir.convenience.get_const_tensor(root) if root is not None and _is_constant_node(root) else None
                    )
                    if root is not None and tensor is not None:
                        yield SkippedWeight(
                            name=_name(root),
                            shape=tuple(tensor.shape.numpy()),
                            graph_path=f"function {function.domain}.{function.name}",
                            reason=SkipReason.INSIDE_FUNCTION,
                            detail=f"a Constant in function {function.name}",
                            is_mvm=True,
                            consumers=(_label(node),),
                        )


def _ops(candidate: _Candidate) -> str:
    return "/".join(sorted({node.op_type for node, _ in candidate.mvm_slots}))


def _behind_identities(value: ir.Value) -> ir.Value:
    """The value that Identity nodes hand on."""
    while (node := value.producer()) is not None and node.op_type == "Identity" and node.domain == "":
        source = node.inputs[0]
        if source is None:
            break
        value = source
    return value


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """All nodes that read a value and the index of their input, Identity nodes seen through."""
    for node, index in value.uses():
        if node.op_type == "Identity" and node.domain == "" and node.outputs[0].uses():
            yield from _readers(node.outputs[0])
        else:
            yield node, index


def _is_constant_node(value: ir.Value) -> bool:
    node = value.producer()
    return (
        node is not None and node.op_type == "Constant" and node.domain == "" and "sparse_value" not in node.attributes
    )


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    return value.shape.numpy() if value.shape is not None and value.shape.is_static() else None


def _name(value: ir.Value) -> str:
    return value.name or ""


def _label(node: ir.Node) -> str:
    return f"{node.name} ({node.op_type})" if node.name else node.op_type
