"""Replaces weights by conductances and the nodes that rebuild them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnx_ir as ir

from onnx_gconv.conductance_tensor import conductance_tensors
from onnx_gconv.converters import ConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import (
    ConductanceRecord,
    ConsumerRecord,
    ConverterRecord,
    Manifest,
    MatrixViewRecord,
    RearrangementRecord,
    SameSourceRecord,
    ScaleRecord,
    SkippedRecord,
    WeightRecord,
    write_manifest,
)
from onnx_gconv.passes.mapping_plan import MappingPlan, PlannedWeight, make_plan
from onnx_gconv.passes.preconditions import require_mappable
from onnx_gconv.passes.rebuild_nodes import RebuiltWeight, rebuild_nodes
from onnx_gconv.passes.shared_weights import SharedPolicy, digital_uses, shared_policy, split_off
from onnx_gconv.passes.unique_names import UniqueNames
from onnx_gconv.weights import FoundWeight, Scope, WeightSelection, find_weights, scopes
from onnx_gconv.weights.same_source import SameSource
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

    The rebuilt value takes the weight's name, so consumers stay as they are, but for those of a digital copy. The
    conductances are computed when they are read or written, from the weight's own tensor; nothing of the weight's size
    is held in memory. The manifest is in the model's metadata afterwards. If anything fails, the model is as it was.

    It has to be the last pass of a pipeline: constant folding erases the mapping.

    Args:
        converter: The rule weight ⇄ conductances; a single pair of 0 to 25 µS if None.
        include: Globs over the names of weights, of their parameters and modules, and of the nodes that read them and
            their op types; all weights if empty.
        exclude: Globs for weights to leave as they are.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op, such as the Gather
            of a tied embedding: with ``"rebuild"`` they read the rebuilt weight, with ``"split"`` a digital copy of it.
        progress: Called with the bytes of weights scanned so far and in all.

    Raises:
        ConfigError: If `include` or `exclude` is a text and not a list of texts, or there is no such policy `shared`.
    """

    def __init__(
        self,
        converter: ConductanceConverter | None = None,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        shared: SharedPolicy = "rebuild",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._converter = SinglePairConductanceConverter() if converter is None else converter
        self._selection = WeightSelection(_patterns("include", include), _patterns("exclude", exclude))
        self._shared = shared_policy(shared)
        self._progress = progress

    def requires(self, model: ir.Model) -> None:
        """Refuse models that are mapped already or too old.

        Raises:
            ModelError: It says what to do.
        """
        require_mappable(model)

    def plan(self, model: ir.Model) -> MappingPlan:
        """What the pass would do, without doing it. The values of the weights are scanned.

        Raises:
            ConfigError: If a pattern matches nothing.
            ModelError: If external data cannot be read.
        """
        survey = self._selection.apply(find_weights(model))
        return make_plan(survey, self._converter, self._progress, shared=self._shared)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Map the model.

        Raises:
            ConfigError: If a pattern matches nothing.
            ModelError: If external data cannot be read.
            UnmappableWeightError: If a weight has values that no conductance can hold.
        """
        plan = self.plan(model)
        plan.raise_if_refused()
        if not plan.weights:
            logger.info("Mapped nothing: the model has no weight that can be mapped")
            return ir.passes.PassResult(model, modified=False)
        _apply(model, plan)
        return ir.passes.PassResult(model, modified=True)


def _patterns(name: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        raise ConfigError(f"{name} should be a list of patterns, but it is the text '{patterns}'; put it into a list")
    return tuple(patterns)


def manifest_of(plan: MappingPlan, names: UniqueNames) -> Manifest:
    """The manifest that a plan gives, with names for its conductances."""
    return Manifest(
        tool=f"onnx_gconv {_version()}",
        weights=tuple(_weight_record(weight, plan, names) for weight in plan.weights),
        skipped=tuple(
            SkippedRecord(
                name=item.name,
                shape=item.shape,
                graph=item.graph_path,
                reason=item.reason.value,
                detail=item.detail,
                is_mvm=item.is_mvm,
                consumers=item.consumers,
                parameters=item.parameters,
                same_source_as=_same_source_records(item.same_source_as),
            )
            for item in plan.skipped
        ),
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
        constants = list(rebuilt.initializers)
        if record.digital_copy is not None:
            constants.append(split_off(found, digital_uses(found), record.digital_copy))
        place = _first_user(found, scope_of, positions)
        _replace(found, rebuilt, place)
        replaced.setdefault(found.scope.graph, {})[record.name] = constants
        logger.debug("Mapped weight '%s' of shape %s at %g µS per unit", record.name, record.shape, weight.scale)
    for graph, initializers in replaced.items():
        _register(graph, initializers)
    model.ir_version = max(model.ir_version, _FREE_INITIALIZERS_IR_VERSION)
    write_manifest(model, manifest)


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


def _weight_record(weight: PlannedWeight, plan: MappingPlan, names: UniqueNames) -> WeightRecord:
    found, converter = weight.found, plan.converter
    decoding = converter.decoding(weight.scale)
    readers_of_copy = digital_uses(found).readers if plan.shared == "split" else frozenset()
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
        consumers=tuple(_consumer_records(found, readers_of_copy)),
        parameters=found.parameters,
        modules=found.modules,
        same_source_as=_same_source_records(weight.same_source_as),
        digital_copy=names.new(f"{found.name}.digital") if readers_of_copy else None,
    )


def _same_source_records(others: Iterable[SameSource]) -> tuple[SameSourceRecord, ...]:
    return tuple(SameSourceRecord(name=item.name, graph=item.graph_path, relation=item.relation) for item in others)


def _consumer_records(found: FoundWeight, readers_of_copy: Collection[tuple[ir.Node, int]]) -> Iterable[ConsumerRecord]:
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
            reads="digital" if (consumer.node, consumer.slot) in readers_of_copy else "rebuilt",
        )


def _version() -> str:
    try:
        return version("onnx_gconv")
    except PackageNotFoundError:  # used from a checkout that is not installed
        return "(not installed)"
