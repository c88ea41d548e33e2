"""Walks a model and finds the weights of all MVM ops, in all graphs, and what is skipped with its reason."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.types import INTEGER_DTYPES, MAPPABLE_DTYPES, type_name
from onnx_gconv.weights.adapters import is_of_adapter
from onnx_gconv.weights.constants import Constant, ConstantValues, main_source
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator, EvaluatedTensor, EvaluationError
from onnx_gconv.weights.functions import FunctionWeights
from onnx_gconv.weights.ops.mvm_ops import WeightSlot, mvm_op
from onnx_gconv.weights.ops.packed_ops import WrongPackingError, said_shape, unpacked
from onnx_gconv.weights.opsets import FREE_INITIALIZERS_IR_VERSION
from onnx_gconv.weights.rearrangement import is_rearranging, node_label, readers
from onnx_gconv.weights.records import Consumer, Dequantization, FoundWeight, SkippedWeight, SkipReason, WeightSurvey
from onnx_gconv.weights.scopes import scopes
from onnx_gconv.weights.slot_use import SlotUse
from onnx_gconv.weights.unmapped_products import UnmappedProducts, is_matrix_of_numbers
from onnx_gconv.weights.weight_path import WeightPath, path_to

__all__ = ["find_weights", "readers_of_weights"]

# Matrices of these types that no product reads are taken for tables of indices, and are not listed.
_WIDE_INTEGERS = frozenset({ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32, ir.DataType.UINT32})


def find_weights(
    model: ir.Model,
    *,
    lookups: Collection[str] = (),
    quantized: bool = True,
    freeze_inputs: bool = False,
    adapters: bool = False,
    dequantized: bool = False,
) -> WeightSurvey:
    """Find the weights of all MVM ops of a model, in the main graph and in all bodies of If, Loop and Scan.

    A weight is a constant that reaches a weight slot of an MVM op while the other operand is not constant: an
    initializer or the output of a Constant node, directly or through nodes that only rearrange it, cast it to a wider
    type, or dequantize it. A value that other nodes compute from constants alone is a weight, too.

    Args:
        model: The model.
        lookups: Op types of `LOOKUP_OPS`, such as ``Gather``, whose tables count as weights, too.
        quantized: Whether weights of integer codes are found; if not, they are listed as skipped.
        freeze_inputs: Whether initializers that are also inputs of the main graph can be mapped; if not, they are
            skipped, because a caller may replace them.
        adapters: Whether matrices of adapters, such as LoRA, can be mapped; if not, they are skipped.
        dequantized: Whether the results of nodes that dequantize integer codes are mapped in place of the codes.

    Returns:
        The weights, in the order of the nodes that read them first, and what is skipped, with reasons.

    Raises:
        ModelError: If external data of a weight that nodes compute cannot be read.
    """
    kinds = _Kinds(
        lookups, quantized=quantized, freeze_inputs=freeze_inputs, adapters=adapters, dequantized=dequantized
    )
    return _Finder(model, kinds).survey()


def readers_of_weights(
    model: ir.Model, weights: Mapping[ir.Value, tuple[int, ...]], lookups: Collection[str] = ()
) -> dict[ir.Value, tuple[Consumer, ...]]:
    """The readers of weights that nodes compute, such as the rebuilt weights of a mapped model.

    Readers are described as in `find_weights`. No data of the weights is read.

    Args:
        model: The model.
        weights: The weights, which nodes compute from constants, perhaps with read noise, and their shapes.
        lookups: Op types of `LOOKUP_OPS` whose tables count as weights, too.

    Returns:
        The readers of each weight; none for a weight whose shape does not fit an op that reads it.
    """
    kinds = _Kinds(lookups, quantized=True, freeze_inputs=True, adapters=True)
    return _Finder(model, kinds).readers(weights)


@dataclass(frozen=True)
class _Kinds:
    """Which kinds of weights can be mapped: the arguments of `find_weights`."""

    lookups: Collection[str]
    quantized: bool
    freeze_inputs: bool
    adapters: bool
    dequantized: bool = False


@dataclass
class _Use:
    """The uses of a constant that the walk over the nodes has found so far.

    Attributes:
        mvm_slots: The weight slots that the constant feeds, by node and index of its input.
        constant_expression: A node that multiplies the constant with another constant.
        function: The op type of a call of a local function that has the constant as a weight.
        is_source: Whether a weight is computed from the constant.
    """

    mvm_slots: dict[tuple[ir.Node, int], SlotUse] = field(default_factory=dict)
    constant_expression: ir.Node | None = None
    function: str | None = None
    is_source: bool = False


class _Finder:
    def __init__(self, model: ir.Model, kinds: _Kinds) -> None:
        self._kinds = kinds
        self._inputs_are_constants = kinds.freeze_inputs and model.ir_version < FREE_INITIALIZERS_IR_VERSION
        self._model = model
        self._scopes = scopes(model)
        self._scope_of = {scope.graph: scope for scope in self._scopes}
        self._values = ConstantValues(model, self._scopes)
        self._functions = FunctionWeights(model)
        self._evaluator = ConstantEvaluator(model)
        self._uses = {value: _Use() for value in self._values.constants}
        self._computed: dict[ir.Value, _Use] = {}

    @functools.cached_property
    def _unmapped(self) -> UnmappedProducts:
        return UnmappedProducts(self._model, self._scopes, self._values)

    def readers(self, weights: Mapping[ir.Value, tuple[int, ...]]) -> dict[ir.Value, tuple[Consumer, ...]]:
        self._values.take_for_constants(weights)
        self._visit_all()
        found = {}
        for value, shape in weights.items():
            is_packed = value.dtype == ir.DataType.UINT8
            try:
                use, _ = self._fitting(self._computed.get(value) or _Use(), shape, is_packed=is_packed)
                found[value] = tuple(self._consumers(value, shape, use, is_packed=is_packed))
            except (EvaluationError, IndexError, ValueError):
                found[value] = ()
        return found

    def survey(self) -> WeightSurvey:
        self._visit_all()
        decisions: list[FoundWeight | SkippedWeight | None] = [
            item for value, use in self._computed.items() for item in self._decide_computed(value, use)
        ]
        decisions.extend(self._decide(constant) for constant in self._values.constants.values())
        skipped = self._each_once(item for item in decisions if isinstance(item, SkippedWeight))
        skipped.extend(self._functions.constants())
        listed = {(item.name, item.graph_path) for item in skipped}
        skipped.extend(item for item in self._unmapped.others() if (item.name, item.graph_path) not in listed)
        weights = tuple(item for item in decisions if isinstance(item, FoundWeight))
        return WeightSurvey(weights, tuple(skipped)).in_order_of_nodes(self._model)

    def _each_once(self, skipped: Iterable[SkippedWeight]) -> list[SkippedWeight]:
        """Skipped weights, each constant listed once even if several skipped weights are computed from it."""
        found: dict[object, SkippedWeight] = {}
        for item in skipped:
            constant = None if item.value is None else self._values.constants.get(item.value)
            is_whole = constant is not None and item.shape == tuple(constant.tensor.shape.numpy())
            key = constant if is_whole else item
            known = found.setdefault(key, item)
            if known is not item:
                found[key] = replace(known, consumers=tuple(dict.fromkeys((*known.consumers, *item.consumers))))
        return list(found.values())

    def _visit_all(self) -> None:
        for scope in self._scopes:
            for node in scope.graph:
                self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        row = mvm_op(node, self._kinds.lookups)
        if row is not None:
            for slot in row.slots:
                self._visit_slot(node, slot)
        for indices in self._functions.weight_arguments(node):
            arguments = [value for index in indices if (value := _input(node, index)) is not None]
            if all(self._values.is_constant(value) for value in arguments):
                for value in arguments:
                    for source in self._values.sources(value):
                        self._uses[source.value].function = node.op_type

    def _visit_slot(self, node: ir.Node, slot: WeightSlot) -> None:
        value, activation = _input(node, slot.index), _input(node, slot.activation)
        if value is None:
            return
        is_constant, both_constant = self._values.is_constant(value), self._is_constant(activation)
        if not is_constant and both_constant:
            return
        path = path_to(value, self._values, through_codes=not self._kinds.dequantized)
        use = self._uses.get(path.root)
        if both_constant:
            if use is not None:
                use.constant_expression = node
            return
        if not is_constant and not self._is_chosen_alone(path, activation):
            return
        if use is None:
            use = self._computed.setdefault(path.root, _Use())
            for source in self._values.sources(path.root):
                self._uses[source.value].is_source = True
        use.mvm_slots[node, slot.index] = SlotUse(node, slot, path)

    def _is_constant(self, value: ir.Value | None) -> bool:
        return value is not None and self._values.is_constant(value)

    def _is_chosen_alone(self, path: WeightPath, activation: ir.Value | None) -> bool:
        """Whether a path starts at a constant stack from which nodes choose, and the activation does not as well."""
        if not path.choosers or not self._values.is_constant(path.root):
            return False
        return activation is None or not self._values.is_constant(path_to(activation, self._values).root)

    def _fitting(self, use: _Use, shape: tuple[int, ...], *, is_packed: bool) -> tuple[_Use, str | None]:
        """A use without the slots that do not get whole matrices of a stack, and why the first of these is left out.

        A lookup op that chooses matrices for a product does not count as a weight slot of its own.
        """
        slots, problem = dict(use.mvm_slots), None
        for key, item in use.mvm_slots.items():
            if item.path.choosers and (found := self._misfit(item, shape, is_packed=is_packed)) is not None:
                del slots[key]
                problem = problem or found
        choosers = {node for item in slots.values() for node in item.path.choosers}
        return replace(use, mvm_slots={key: item for key, item in slots.items() if key[0] not in choosers}), problem

    def _misfit(self, use: SlotUse, shape: tuple[int, ...], *, is_packed: bool) -> str | None:
        """Why a slot does not get whole matrices of a stack of that shape; None if it does."""
        if use.slot.view is None:
            return "the op reads a layout of its own"
        try:
            use.view(shape, self._evaluator.evaluate, is_packed=is_packed)
        except (EvaluationError, IndexError, ValueError) as error:
            return str(error)
        return None

    def _decide_computed(self, value: ir.Value, use: _Use) -> Iterator[FoundWeight | SkippedWeight]:
        """Decide on a value that nodes compute from constants: a weight, or skipped.

        If it is skipped and its shape is not known, its sources are listed instead.
        """
        node = value.producer()
        assert node is not None and isinstance(node.graph, ir.Graph)  # noqa: PT018, S101 - it is computed in a graph
        scope = self._scope_of[node.graph]
        sources, ops = self._values.sources(value), "/".join(self._values.ops(value))
        of = f"{ops} of {', '.join(_name(item.value) for item in sources)}"
        reason: tuple[SkipReason, str] | None = None
        tensor: EvaluatedTensor | None = None
        if not self._kinds.adapters and is_of_adapter(value, (_name(item.value) for item in sources), _products(use)):
            reason = SkipReason.ADAPTER, of
        elif self._values.replaceable(value) and not self._kinds.freeze_inputs:
            reason = SkipReason.OVERRIDABLE_INPUT, of
        elif not self._kinds.quantized and _are_codes(_largest(sources)):
            reason = SkipReason.QUANTIZED, of
        else:
            try:
                tensor = EvaluatedTensor(self._evaluator, value)
            except EvaluationError as error:
                reason = SkipReason.BEHIND_OTHER_NODES, f"{of}: {error}"
        if tensor is None or reason is not None:
            main, shape = main_source(sources), _static_shape(value)
            matrices = [item for item in sources if is_matrix_of_numbers(item.tensor)]
            listed: Sequence[Constant | None] = matrices if main is None and shape is None else [main]
            for item in listed or [None]:
                yield SkippedWeight(
                    name=_name(item.value if item else value),
                    shape=shape or (tuple(item.tensor.shape.numpy()) if item else None),
                    graph_path=(item.scope if item else scope).path,
                    reason=reason[0] if reason else SkipReason.BEHIND_OTHER_NODES,
                    detail=reason[1] if reason else of,
                    is_mvm=True,
                    consumers=_slot_labels(use),
                    value=item.value if item else value,
                )
            return
        constant = Constant(value, tensor, scope)
        fitting, problem = self._fitting(use, tuple(tensor.shape.numpy()), is_packed=tensor.dtype == ir.DataType.UINT8)
        if not fitting.mvm_slots:
            detail = f"{of}: {problem}"
            yield _skipped(constant, use, SkipReason.CHOSEN_AT_RUN_TIME, detail, is_mvm=True)
            return
        weight = self._decide_weight(constant, fitting, tuple(_name(item.value) for item in sources))
        if isinstance(weight, FoundWeight) and (rounded := "/".join(tensor.rounded_ops)):
            note = f"computed by {rounded}, whose results differ in their last places from runtime to runtime"
            weight = replace(weight, notes=(*weight.notes, note))
        yield weight

    def _decide(self, constant: Constant) -> FoundWeight | SkippedWeight | None:
        """Decide on a constant: a weight, a skipped constant, or None for one that is not listed at all."""
        tensor = constant.tensor
        use, problem = self._uses[constant.value], None
        if use.mvm_slots:
            is_packed = tensor.dtype == ir.DataType.UINT8
            use, problem = self._fitting(use, tuple(tensor.shape.numpy()), is_packed=is_packed)
        if not use.mvm_slots and use.function is None:
            return self._decide_other_constant(constant, use, problem)
        return self._decide_weight(constant, use, ())

    def _decide_weight(self, constant: Constant, use: _Use, sources: tuple[str, ...]) -> FoundWeight | SkippedWeight:
        if (obstacle := self._obstacle(constant, use)) is not None:
            return self._skipped_codes(constant, use, *obstacle)
        shape = tuple(constant.tensor.shape.numpy())
        if (shape_input := self._replaceable_shape(use)) is not None:
            detail = f"input '{_name(shape_input)}', from which its shape is computed"
            return _skipped(constant, use, SkipReason.OVERRIDABLE_INPUT, detail, is_mvm=True)
        try:
            return self._found(constant, use, sources)
        except EvaluationError as error:
            return _skipped(constant, use, SkipReason.BEHIND_OTHER_NODES, str(error), is_mvm=True)
        except (IndexError, ValueError) as error:
            detail = str(error) if isinstance(error, WrongPackingError) else f"{list(shape)} for {_ops(use)}"
            return self._skipped_codes(constant, use, SkipReason.INVALID_SHAPE, detail)

    def _found(self, constant: Constant, use: _Use, sources: tuple[str, ...]) -> FoundWeight:
        """A constant as a weight.

        Raises:
            EvaluationError: If a shape or an axis by which the constant is rearranged cannot be computed.
            IndexError: If the shape of the constant does not fit a slot.
            ValueError: If the shape of the constant does not fit a slot.
        """
        is_packed, evaluate = bool(_packed_uses(constant, use)), self._evaluator.evaluate
        shape = tuple(constant.tensor.shape.numpy())
        consumers = tuple(self._consumers(constant.value, shape, use, is_packed=is_packed))
        found = FoundWeight(constant.value, constant.tensor, constant.scope, consumers, sources, passed=_passed(use))
        if is_packed:
            slots = use.mvm_slots.values()
            readers = [(item.node, item.slot.packed, item.packed_shape(shape, evaluate)) for item in slots]
            return self._of_integers(unpacked(found, readers, evaluate))
        said = [each for item in use.mvm_slots.values() if (each := item.dequantization(shape, evaluate)) is not None]
        found = replace(found, dequantization=said[0] if said else None, notes=(*found.notes, *_of_other_scales(said)))
        return self._with_zero_point(self._of_integers(found), use) if found.is_integer else found

    def _of_integers(self, weight: FoundWeight) -> FoundWeight:
        """A weight of codes that the op itself reads, with a note if dequantized numbers were asked for."""
        if not self._kinds.dequantized:
            return weight
        note = "its codes are mapped, not the numbers that they stand for: the op itself reads the codes"
        return replace(weight, notes=(*weight.notes, note))

    def _replaceable_shape(self, use: _Use) -> ir.Value | None:
        """A graph input through which a caller may change a shape by which a constant is rearranged; None if none."""
        nodes = (node for item in use.mvm_slots.values() for node in item.path.nodes if is_rearranging(node))
        shapes = (value for node in nodes if (value := _input(node, 1)) is not None and self._is_constant(value))
        inputs = (item for shape in shapes for item in self._values.replaceable(shape))
        return None if self._inputs_are_constants else next(inputs, None)

    def _obstacle(self, constant: Constant, use: _Use) -> tuple[SkipReason, str] | None:
        """The reason and the detail why a constant in a weight slot cannot be mapped; None if it can."""
        tensor = constant.tensor
        obstacles = (
            (use.function is not None, SkipReason.INSIDE_FUNCTION, f"function {use.function}"),
            (
                not self._kinds.adapters and is_of_adapter(constant.value, (), _products(use)),
                SkipReason.ADAPTER,
                "an input that callers replace" if constant.value.is_graph_input() else "",
            ),
            *((True, *packed) for packed in _packed_obstacles(constant, use)),
            (_is_undecoded(use) and not self._kinds.quantized, SkipReason.QUANTIZED, _ops(use)),
            (any(item.slot.view is None for item in use.mvm_slots.values()), SkipReason.BLOCK_PACKED, _ops(use)),
            (tensor.dtype not in MAPPABLE_DTYPES, SkipReason.DTYPE_NOT_SUPPORTED, tensor.dtype.name.lower()),
            (tensor.size == 0, SkipReason.EMPTY, f"shape {list(tensor.shape.numpy())}"),
            (
                constant.value.is_graph_input() and not (self._kinds.freeze_inputs and constant.scope.node is None),
                SkipReason.OVERRIDABLE_INPUT,
                "",
            ),
            (
                tensor.dtype in INTEGER_DTYPES and not self._kinds.quantized,
                SkipReason.QUANTIZED,
                tensor.dtype.name.lower(),
            ),
        )
        return next(((reason, detail) for applies, reason, detail in obstacles if applies), None)

    def _skipped_codes(self, constant: Constant, use: _Use, reason: SkipReason, detail: str) -> SkippedWeight:
        """A skipped weight; packed codes get the shape of the codes, so that parameters are counted right."""
        skipped = _skipped(constant, use, reason, detail, is_mvm=True)
        if not constant.tensor.size:
            return skipped
        unreadable = [item.node for item in use.mvm_slots.values() if item.slot.view is None]
        if (said := next(filter(None, map(said_shape, unreadable)), None)) is not None:
            return replace(skipped, shape=said)
        packed = _packed_uses(constant, use)
        for item in packed:
            try:
                shape = item.packed_shape(tuple(constant.tensor.shape.numpy()), self._evaluator.evaluate)
                assert item.slot.packed is not None  # noqa: S101 - `_packed_uses` are uses of packed slots
                return replace(skipped, shape=item.slot.packed.layout(item.node, shape).packing.shape)
            except WrongPackingError as error:
                if error.said is not None:
                    return replace(skipped, shape=error.said)
            except (EvaluationError, ModelError, ValueError):
                pass
        # The shape of bytes is not the shape of the weight, which is not known here.
        are_bytes = packed or (unreadable and constant.tensor.dtype == ir.DataType.UINT8)
        return replace(skipped, shape=None) if are_bytes else skipped

    def _with_zero_point(self, weight: FoundWeight, use: _Use) -> FoundWeight:
        """A weight of integer codes with the zero points that its readers subtract; a note if they cannot be used."""
        found: list[ZeroPoint] = []
        problem = None
        for item in use.mvm_slots.values():
            try:
                zero_point = item.zero_point(weight.shape, self._evaluator.evaluate)
            except EvaluationError as error:
                problem = f"its zero point cannot be told ({error})"
                break
            if zero_point is None:
                problem = "its zero points do not follow its axes"
                break
            found.append(zero_point)
        if problem is None and not all(item.is_same_as(found[0]) for item in found):
            problem = "its readers subtract different zero points"
        if problem is not None:
            note = f"the codes themselves are mapped, without a zero point: {problem}"
            return replace(weight, notes=(*weight.notes, note))
        return replace(weight, zero_point=found[0]) if found[0].values.any() else weight

    def _decide_other_constant(self, constant: Constant, use: _Use, problem: str | None) -> SkippedWeight | None:
        """List constants that might be taken for weights: matrices, but not biases, norms, shapes and indices.

        Args:
            constant: The constant.
            use: The uses of the constant.
            problem: If nodes choose from the constant: why it is no stack of weights.
        """
        if use.is_source:  # the weight that is computed from it is mapped or listed itself
            return None
        if (unmapped := self._unmapped.skipped(constant)) is not None:
            return unmapped if problem is None else replace(unmapped, detail=f"{unmapped.detail}: {problem}")
        if use.constant_expression is not None:
            detail = f"node {node_label(use.constant_expression)}"
            return _skipped(constant, use, SkipReason.CONSTANT_EXPRESSION, detail, is_mvm=False)
        if not is_matrix_of_numbers(constant.tensor) or constant.tensor.dtype in _WIDE_INTEGERS:
            return None
        ops = sorted({node.op_type for node, _ in readers(constant.value)})
        otherwise = "an output of its graph" if constant.value.is_graph_output() else "unused"
        detail = f"read by {'/'.join(ops)}" if ops else otherwise
        return _skipped(constant, use, SkipReason.NOT_AN_MVM_WEIGHT, detail, is_mvm=False)

    def _consumers(self, value: ir.Value, shape: tuple[int, ...], use: _Use, *, is_packed: bool) -> Iterator[Consumer]:
        for node, index in _readers(value, use):
            slot_use = use.mvm_slots.get((node, index))
            path, view = (
                ((), None) if slot_use is None else slot_use.view(shape, self._evaluator.evaluate, is_packed=is_packed)
            )
            assert node.graph is not None  # noqa: S101 - nodes of a model stand in graphs
            yield Consumer(
                node=node,
                slot=index,
                graph_path=self._scope_of[node.graph].path,
                is_mvm=slot_use is not None,
                path=path,
                view=view,
            )


def _packed_uses(constant: Constant, use: _Use) -> list[SlotUse]:
    """The slots that read a constant as packed codes: bytes, or tensors of other types that hold packed codes, too."""
    found = [item for item in use.mvm_slots.values() if item.slot.packed is not None]
    is_bytes = constant.tensor.dtype == ir.DataType.UINT8
    return [
        item for item in found if item.slot.packed is not None and (is_bytes or not item.slot.packed.has_plain_types)
    ]


def _of_other_scales(said: Sequence[Dequantization]) -> Iterator[str]:
    """Yield a note if the readers of integer codes have different scales, of which only one can be recorded."""
    others = [item.scale for item in said if item.scale is not None]
    if len(names := list(dict.fromkeys(others))) > 1:
        listed_names = ", ".join(f"'{name}'" for name in names[1:])
        yield f"other readers have other scales ({listed_names}); '{names[0]}' is recorded"


def _is_undecoded(use: _Use) -> bool:
    """Whether an op without a matrix view reads packed codes: such weights are decoded before weights are found."""
    return any(item.slot.view is None and item.slot.packed is not None for item in use.mvm_slots.values())


def _packed_obstacles(constant: Constant, use: _Use) -> Iterator[tuple[SkipReason, str]]:
    """The reasons and details why packed codes cannot be unpacked."""
    dtype = constant.tensor.dtype
    for item in _packed_uses(constant, use):
        if dtype != ir.DataType.UINT8:
            yield (
                SkipReason.DTYPE_NOT_SUPPORTED,
                f"{node_label(item.node)} reads codes packed into {type_name(dtype)}, not into bytes (uint8)",
            )
        elif item.slot.packed is not None and (found := item.slot.packed.obstacle(item.node)) is not None:
            yield found


def _readers(value: ir.Value, use: _Use) -> Iterator[tuple[ir.Node, int]]:
    """The readers of a weight; nodes on the paths to its weight slots are looked through."""
    return readers(value, _passed(use))


def _passed(use: _Use) -> frozenset[ir.Node]:
    return frozenset(node for item in use.mvm_slots.values() for node in item.path.nodes)


def _products(use: _Use) -> list[ir.Node]:
    """The nodes that multiply activations with a constant."""
    return [node for node, _ in use.mvm_slots]


def _slot_labels(use: _Use) -> tuple[str, ...]:
    return tuple(f"{node_label(node)}[{index}]" for node, index in use.mvm_slots)


def _skipped(constant: Constant, use: _Use, reason: SkipReason, detail: str, *, is_mvm: bool) -> SkippedWeight:
    return SkippedWeight(
        name=_name(constant.value),
        shape=tuple(constant.tensor.shape.numpy()),
        graph_path=constant.scope.path,
        reason=reason,
        detail=detail,
        is_mvm=is_mvm,
        consumers=tuple(node_label(node) for node, _ in _readers(constant.value, use)),
        value=constant.value,
    )


def _ops(use: _Use) -> str:
    return "/".join(sorted({node.op_type for node, _ in use.mvm_slots}))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _largest(sources: Sequence[Constant]) -> list[Constant]:
    """The constants with the most elements: the codes, as opposed to their scales and zero points."""
    most = max((item.tensor.size for item in sources), default=0)
    return [item for item in sources if item.tensor.size == most]


def _are_codes(constants: Sequence[Constant]) -> bool:
    return bool(constants) and all(item.tensor.dtype in INTEGER_DTYPES for item in constants)


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    return value.shape.numpy() if value.shape is not None and value.shape.is_static() else None


def _name(value: ir.Value) -> str:
    return value.name or ""
