"""Replaces weights by conductances and the nodes that rebuild them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx_ir as ir

from onnx_gconv.conductance_tensor import conductance_tensors
from onnx_gconv.converters import ConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.mapping import (
    ConductanceRecord,
    ConsumerRecord,
    ConverterRecord,
    Manifest,
    MatrixViewRecord,
    RearrangementRecord,
    ScaleRecord,
    SkippedRecord,
    WeightRecord,
    write_manifest,
)
from onnx_gconv.passes.inline_weight_functions import InlineWeightFunctions
from onnx_gconv.passes.mapping_plan import MappingPlan, PlannedWeight, make_plan
from onnx_gconv.passes.preconditions import require_mappable
from onnx_gconv.passes.rebuild_nodes import RebuiltWeight, rebuild_nodes
from onnx_gconv.passes.unique_names import UniqueNames
from onnx_gconv.weights import FoundWeight, Scope, WeightSelection, default_opset, find_weights, scopes
from onnx_gconv.weights.opsets import OLDEST_BFLOAT16_OPSET, set_default_opset, without_missing_casts
from onnx_gconv.weights.scopes import outermost_node

__all__ = ["MapConductances", "manifest_of"]

logger = logging.getLogger(__name__)

# Since this IR version an initializer need not be a graph input.
_FREE_INITIALIZERS_IR_VERSION = 4


class MapConductances(ir.passes.InPlacePass):
    """Maps every weight of every MVM op to conductances::

        before:  x, W            -> MatMul(x, W)
        after:   Sub(W.g_plus, W.g_minus)        -> W.g_difference
                 Div(W.g_difference, W.g_scale)  -> W
                 MatMul(x, W)

    The rebuilt value takes the weight's name, so consumers stay as they are. The conductances are computed when they
    are read or written, from the weight's own tensor; nothing of the weight's size is held in memory. The manifest is
    in the model's metadata afterwards. If anything fails, the model is as it was.

    It has to be the last pass of a pipeline: constant folding erases the mapping.

    Args:
        converter: The rule weight ⇄ conductances; a single pair of 0 to 25 µS if None.
        include: Globs over the names of weights and of the nodes that read them; all weights if empty.
        exclude: Globs for weights to leave as they are.
        freeze_inputs: Whether weights that are graph inputs too, so that a caller may replace them, become constants.
            Below IR version 4 every initializer has to be a graph input, which says nothing of what callers do: there,
            all of them become constants in any case.
        inline_functions: Whether local functions that use weights are inlined first; else these weights are skipped.
        progress: Called with the bytes of weights scanned so far and in all.

    Raises:
        ConfigError: If `include` or `exclude` is a text and not a list of texts.
    """

    def __init__(
        self,
        converter: ConductanceConverter | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        freeze_inputs: bool = False,
        inline_functions: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._freeze_inputs = freeze_inputs
        self._inline_functions = inline_functions
        self._converter = SinglePairConductanceConverter() if converter is None else converter
        self._selection = WeightSelection(_patterns("include", include), _patterns("exclude", exclude))
        self._progress = progress

    def requires(self, model: ir.Model) -> None:
        """Refuse models that are mapped already or too old.

        Raises:
            ModelError: It says what to do.
        """
        require_mappable(model)

    def plan(self, model: ir.Model) -> MappingPlan:
        """What the pass would do, without doing it. The values of the weights are scanned.

        If functions have to be inlined, the weights of the plan are those of a copy of the model.

        Raises:
            ConfigError: If a pattern matches nothing.
            ModelError: If the model is mapped already or too old, or external data cannot be read.
        """
        return self._plan(*self._inlined(model))

    def preview(self, model: ir.Model, *, list_refused: bool = False) -> Manifest:
        """The manifest that the pass would write.

        Args:
            model: The model; it is not changed.
            list_refused: List weights with values that no conductance can hold among the skipped ones.

        Raises:
            ConfigError: If a pattern matches nothing.
            ModelError: If the model is mapped already or too old, or external data cannot be read.
            UnmappableWeightError: If a weight has values that no conductance can hold, and they are not to be listed.
        """
        subject, notes = self._inlined(model)
        plan = self._plan(subject, notes)
        if list_refused:
            plan = plan.refused_as_skipped()
        plan.raise_if_refused()
        return manifest_of(plan, UniqueNames(subject))

    def _inlined(self, model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
        """A copy of the model with functions inlined, or the model itself if none has to be; and what to say of it."""
        if not self._inline_functions or not model.functions:
            return model, ()
        subject = model.clone()  # it shares the tensors
        try:
            result = InlineWeightFunctions().call(subject)
        except ModelError as error:
            return model, (str(error),)
        notes = (
            *([f"inlined the functions that use weights: {', '.join(result.inlined)}"] if result.inlined else ()),
            *([f"functions that use weights and cannot be inlined: {', '.join(result.left)}"] if result.left else ()),
        )
        return (subject if result.modified else model), notes

    def _plan(self, model: ir.Model, notes: tuple[str, ...]) -> MappingPlan:
        require_mappable(model)  # again: inlining may have brought an import of the default domain
        freezes = self._freeze_inputs or _has_inputs_for_initializers(model)
        survey = without_missing_casts(find_weights(model, freeze_inputs=freezes), default_opset(model))
        plan = make_plan(self._selection.apply(survey), self._converter, self._progress)
        return replace(plan, notes=(*notes, *_notes(model, plan)))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Map the model.

        Raises:
            ConfigError: If a pattern matches nothing.
            ModelError: If external data cannot be read.
            UnmappableWeightError: If a weight has values that no conductance can hold.
        """
        subject, notes = self._inlined(model)
        plan = self._plan(subject, notes)
        plan.raise_if_refused()
        if not plan.weights:
            logger.info("Mapped nothing: the model has no weight that can be mapped")
            return ir.passes.PassResult(model, modified=False)
        if subject is not model:
            InlineWeightFunctions()(model)
            plan = _transferred(plan, model)
        _apply(model, plan)
        return ir.passes.PassResult(model, modified=True)


def _patterns(name: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise ConfigError(f"{name} should be a list of patterns, but it is the text '{patterns}'; put it into a list")
    return tuple(patterns)


def _transferred(plan: MappingPlan, model: ir.Model) -> MappingPlan:
    """A plan for a copy of a model, for the model itself."""
    own = {(weight.scope.path, weight.name): weight for weight in find_weights(model, freeze_inputs=True).weights}
    weights = (replace(weight, found=own[weight.found.scope.path, weight.found.name]) for weight in plan.weights)
    return replace(plan, weights=tuple(weights))


def manifest_of(plan: MappingPlan, names: UniqueNames) -> Manifest:
    """The manifest that a plan gives, with names for its conductances."""
    return Manifest(
        tool=f"onnx_gconv {_version()}",
        weights=tuple(_weight_record(weight, plan.converter, names) for weight in plan.weights),
        skipped=tuple(
            SkippedRecord(
                name=item.name,
                shape=item.shape,
                graph=item.graph_path,
                reason=item.reason.value,
                detail=item.detail,
                is_mvm=item.is_mvm,
                consumers=item.consumers,
            )
            for item in plan.skipped
        ),
        notes=plan.notes,
    )


def _apply(model: ir.Model, plan: MappingPlan) -> None:
    names = UniqueNames(model)
    manifest = manifest_of(plan, names)
    all_scopes = scopes(model)
    scope_of = {scope.graph: scope for scope in all_scopes}
    positions = {node: number for scope in all_scopes for number, node in enumerate(scope.graph)}
    replaced: dict[ir.Graph, dict[str, Sequence[ir.Value]]] = {}
    for weight, record in zip(plan.weights, manifest.weights, strict=True):
        found = weight.found
        tensors = conductance_tensors(
            found.tensor,
            plan.converter,
            weight.scale,
            dtype=record.ir_compute_dtype,
            names=[conductance.name for conductance in record.conductances],
        )
        rebuilt = rebuild_nodes(
            record.name, tensors, record.decoding, dtype=found.tensor.dtype, scale_name=record.scale.name, names=names
        )
        place = _first_user(found, scope_of, positions)
        _replace(found, rebuilt, place)
        replaced.setdefault(found.scope.graph, {})[record.name] = rebuilt.initializers
        logger.debug("Mapped weight '%s' of shape %s at %g µS per unit", record.name, record.shape, weight.scale)
    for graph, initializers in replaced.items():
        _register(graph, initializers)
    _free_from_inputs(model, [weight.found.value for weight in plan.weights])
    if default_opset(model) is None:
        set_default_opset(model, OLDEST_BFLOAT16_OPSET)  # the first that has all nodes that a mapping may need
    write_manifest(model, manifest)


def _has_inputs_for_initializers(model: ir.Model) -> bool:
    return model.ir_version < _FREE_INITIALIZERS_IR_VERSION


def _notes(model: ir.Model, plan: MappingPlan) -> Iterator[str]:
    """What the mapping changes besides the weights."""
    if not plan.weights:
        return
    if _has_inputs_for_initializers(model):
        yield (
            f"the IR version is {_FREE_INITIALIZERS_IR_VERSION}, it was {model.ir_version}: initializers are constants "
            "now, no graph inputs"
        )
    elif frozen := [f"'{weight.found.name}'" for weight in plan.weights if weight.found.value.is_graph_input()]:
        yield f"constants now, no graph inputs that a caller may replace: {', '.join(frozen)}"


def _free_from_inputs(model: ir.Model, replaced: Sequence[ir.Value]) -> None:
    """Take weights out of the graph inputs, and all initializers if the model's IR version had demanded them there.

    ONNX Runtime takes such initializers for constants below IR version 4 and for inputs with a default since then, so
    leaving the others there would let it optimize less than before.
    """
    inputs, initializers = model.graph.inputs, set(replaced)
    if _has_inputs_for_initializers(model):
        initializers.update(model.graph.initializers.values())
        model.ir_version = _FREE_INITIALIZERS_IR_VERSION
    if any(value in initializers for value in inputs):
        kept = [value for value in inputs if value not in initializers]
        inputs.clear()
        inputs.extend(kept)


def _first_user(found: FoundWeight, scope_of: dict[ir.Graph, Scope], positions: dict[ir.Node, int]) -> ir.Node:
    """The node of the weight's own graph that uses it first, itself or in its body."""
    producer = found.value.producer()
    if producer is not None:
        return producer  # a Constant node stands before all users of its output
    graph = found.scope.graph
    users = [outermost_node(node, graph, scope_of) for node, _ in found.value.uses()]
    return min(users, key=positions.__getitem__)


def _replace(found: FoundWeight, rebuilt: RebuiltWeight, place: ir.Node) -> None:
    """Put the nodes before `place` and let them give the weight to everyone who read it."""
    old, new, graph = found.value, rebuilt.value, found.scope.graph
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    graph.insert_before(place, rebuilt.nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if found.is_constant_node:
        producer = old.producer()
        assert producer is not None  # noqa: S101 - that is what makes it a constant node
        rebuilt.nodes[-1].metadata_props.update(producer.metadata_props)
        graph.remove(producer, safe=True)


def _register(graph: ir.Graph, replaced: dict[str, Sequence[ir.Value]]) -> None:
    """Let the conductances take the places of their weights, so that those of one layer stay together on disk."""
    order: list[ir.Value] = []
    constants = dict(replaced)
    for name, value in graph.initializers.items():
        order.extend(constants.pop(name, [value]))
    for values in constants.values():  # of Constant nodes
        order.extend(values)
    graph.initializers.clear()
    for value in order:
        graph.initializers.add(value)


def _weight_record(weight: PlannedWeight, converter: ConductanceConverter, names: UniqueNames) -> WeightRecord:
    found, decoding = weight.found, converter.decoding(weight.scale)
    return WeightRecord(
        name=found.name,
        graph=found.scope.path,
        dtype=weight.dtype.name,
        shape=found.shape,
        stored_as="constant" if found.is_constant_node else "initializer",
        converter=ConverterRecord.of(converter),
        granularity="tensor",
        axis=None,
        compute_dtype="float64" if weight.compute_dtype == np.float64 else "float32",
        conductances=tuple(
            ConductanceRecord(name=names.new(f"{found.name}.{device}"), device=device, coefficient=coefficient)
            for device, coefficient in zip(converter.device_names, decoding.coefficients, strict=True)
        ),
        offset_us=decoding.offset_us,
        scale=ScaleRecord(name=names.new(f"{found.name}.g_scale"), value=weight.scale),
        zero=decoding.zero,
        max_abs=weight.statistics.max_abs,
        notes=weight.notes,
        consumers=tuple(_consumer_records(found)),
    )


def _consumer_records(found: FoundWeight) -> Iterable[ConsumerRecord]:
    for consumer in found.consumers:
        view = consumer.view
        yield ConsumerRecord(
            node=consumer.node.name or "",
            op_type=consumer.node.op_type,
            domain=consumer.node.domain,
            slot=consumer.slot,
            graph=consumer.graph_path,
            is_mvm=consumer.is_mvm,
            path=tuple(RearrangementRecord(op=step.op, argument=step.argument) for step in consumer.path),
            matrix_view=None if view is None else MatrixViewRecord(**vars(view)),
        )


def _version() -> str:
    try:
        return version("onnx_gconv")
    except PackageNotFoundError:  # used from a checkout that is not installed
        return "(not installed)"
