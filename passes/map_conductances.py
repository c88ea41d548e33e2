"""The pass that replaces weights by conductances and by the nodes that rebuild the weights from them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import onnx_ir as ir

from onnx_gconv.configuration import Configuration, ModelSettings
from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions, configuration_of
from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.mapping import Manifest, WeightRecord, ZeroRecord, write_manifest
from onnx_gconv.mapping.nodes import IntegerCodes, LevelCodes, RebuiltWeight, rebuild_nodes
from onnx_gconv.mapping.packed_codes import PackedWeight
from onnx_gconv.mapping.tensor_texts import kept_texts
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.mapping.value_uses import hand_over_uses
from onnx_gconv.passes.annotations import annotate, annotation_notes
from onnx_gconv.passes.decode_packed_weights import (
    DecodePackedWeights,
    decoded_op_types,
    decoded_record,
    is_decodable,
)
from onnx_gconv.passes.inline_weight_functions import InlineWeightFunctions
from onnx_gconv.passes.mapping_manifest import manifest_of
from onnx_gconv.passes.model_pass import MODEL_IN_MEMORY, ModelPass
from onnx_gconv.passes.node_placement import Place, Placement
from onnx_gconv.passes.planning.mapping_plan import MappingPlan, PlannedWeight, make_plan
from onnx_gconv.passes.preconditions import require_mappable
from onnx_gconv.passes.report import MappingReport
from onnx_gconv.passes.shared_weights import digital_uses, split_off
from onnx_gconv.passes.sound_rewrite import SoundRewrite
from onnx_gconv.passes.unused_nodes import remove_unused
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.conductance import conductance_tensors, level_code_tensors
from onnx_gconv.tensors.packed import BlockZeroPoint, read_padding
from onnx_gconv.weights import (
    FoundWeight,
    WeightSurvey,
    default_opset,
    find_weights,
    scopes,
)
from onnx_gconv.weights.constants import leaves
from onnx_gconv.weights.opsets import (
    OLDEST_CASTS,
    OLDEST_INTEGER_CONSTANTS,
    OLDEST_ROUND_OPSET,
    set_default_opset,
    without_missing_casts,
)

__all__ = ["MapConductances", "MappingResult"]

logger: logging.Logger = logging.getLogger(__name__)

# The version of ONNX's own ops for a model that imports none: old enough for all runtimes of today.
_NEW_OPSET = 13

# Since this IR version an initializer need not be a graph input.
_FREE_INITIALIZERS_IR_VERSION = 4


@dataclass
class MappingResult(ir.passes.PassResult):
    """What `MapConductances` did.

    Attributes:
        report: The mapped weights, and the skipped ones with reasons; ``print(result.report)`` shows tables.
    """

    report: MappingReport


class MapConductances(ModelPass[MappingResult]):
    """Maps every weight of every MVM op to conductances::

        before:  x, W            -> MatMul(x, W)
        after:   Sub(W.g_plus, W.g_minus)        -> W.g_difference
                 Div(W.g_difference, W.g_scale)  -> W
                 MatMul(x, W)

    The rebuilt value takes the weight's name, so consumers stay as they are, except for those that read a digital copy.
    Conductances are computed from the weight's own tensor when they are read or written; nothing of the weight's size
    is held in memory. The manifest goes into the model's metadata. If the pass fails, the model is unchanged.

    It has to be the last pass of a pipeline: constant folding erases the mapping.

    Args:
        converter: The rule weight ⇄ conductances: an object, a name, or a mapping with ``name`` and its settings. The
            default is a single pair of 0 to 25 µS.
        scheme: A converter with granularity, clipping and levels, in place of `converter` and the options for these.
        configuration: Settings for all weights and for selected ones: a configuration, or the path of a TOML file. Its
            `upgrade_opset` is ignored here, because a pass does not read the model from a file.
        progress: Called with the bytes of weights that have been scanned, and the bytes of all weights.
        **options: The keys of `MappingOptions`, as for `map_model`; they take precedence over the configuration. Below
            IR version 4 every initializer has to be a graph input, even if callers do not replace it. In such a model,
            all weights become constants, whatever `freeze_inputs` says.

    Raises:
        ConfigError: If an option has an invalid value, or options contradict each other.
        TypeError: If there is no such option.
    """

    def __init__(
        self,
        converter: ConverterLike | None = None,
        *,
        scheme: MappingScheme | None = None,
        configuration: ConfigurationLike | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[MappingOptions],
    ) -> None:
        if options.get("upgrade_opset"):
            raise ConfigError("upgrade_opset: this pass leaves the opset as it is; let RaiseOpset run before it")
        base = configuration
        if scheme is not None:
            _check_alone(converter, configuration, options)
            base = Configuration.of_scheme(scheme)
        self._configuration = configuration_of(base, converter, options)
        if configuration is None:  # which settings of a configuration meet in one weight, only a model tells
            self._configuration.check()
        self._settings = self._configuration.model
        self._progress = progress

    def requires(self, model: ir.Model) -> None:
        """Refuse models that are mapped already, or whose opset is too old.

        Raises:
            ModelError: If the model is refused; the message gives the remedy.
        """
        require_mappable(model)

    def plan(self, model: ir.Model) -> MappingPlan:
        """What the pass would do to a model, without changing the model. It scans the values of the weights.

        If functions have to be inlined or weights decoded, the plan refers to the weights of a copy of the model.

        Raises:
            ConfigError: If a pattern matches no weight.
            ModelError: If the model is mapped already or too old, or external data cannot be read.
        """
        return self._plan(*self._prepared(model))

    def preview(self, model: ir.Model, *, list_refused: bool = False) -> Manifest:
        """The manifest that the pass would write.

        Args:
            model: The model; it is not changed.
            list_refused: Whether weights with values that no conductance can hold are listed as skipped, and not
                raised.

        Raises:
            ConfigError: If a pattern matches no weight.
            ModelError: If the model is mapped already or too old, or external data cannot be read.
            UnmappableWeightError: If a weight has values that no conductance can hold, unless `list_refused`.
        """
        subject, notes = self._prepared(model)
        plan = self._plan(subject, notes)
        if list_refused:
            plan = plan.refused_as_skipped()
        plan.raise_if_refused()
        return manifest_of(plan, UniqueNames(subject), Placement(scopes(subject)))

    def _inlined(self, model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
        """A copy of the model with functions inlined, or the model itself if there are none to inline; and notes."""
        if not self._settings.inline_functions or not model.functions:
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

    def _prepared(self, model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
        """Prepare a model for the search for weights: functions are inlined, and some packed weights are decoded.

        Returns:
            A copy of the model, or the model itself if nothing has to be done; and notes for the user.
        """
        subject, notes = self._inlined(model)
        if not is_decodable(subject, self._decoded_ops):
            return subject, notes
        copy = subject.clone() if subject is model else subject  # it shares the tensors
        return (copy if DecodePackedWeights(self._decoded_ops)(copy).modified else subject), notes

    def _prepare(self, model: ir.Model, plan: MappingPlan) -> None:
        """Change a model in the same way as the copy that a plan refers to, but decode only the weights of the plan."""
        if self._settings.inline_functions and model.functions:
            InlineWeightFunctions()(model)
        only = {(item.found.scope.path, item.found.name) for item in plan.weights}
        if is_decodable(model, self._decoded_ops):
            DecodePackedWeights(self._decoded_ops, only=only)(model)

    @property
    def _decoded_ops(self) -> tuple[str, ...]:
        """The ops whose packed weights are mapped as decoded numbers, not as codes."""
        return decoded_op_types(self._settings.quantized)

    def _find(self, model: ir.Model, *, freeze_inputs: bool) -> WeightSurvey:
        settings = self._settings
        return find_weights(
            model,
            lookups=settings.include_ops,
            quantized=settings.quantized != "skip",
            freeze_inputs=freeze_inputs,
            adapters=settings.include_adapters,
            dequantized=settings.quantized == "dequantized",
        )

    def _transferred(self, plan: MappingPlan, model: ir.Model) -> MappingPlan:
        """A plan that was made for a copy of a model, with the weights of the model itself."""
        own = {(item.scope.path, item.name): item for item in self._find(model, freeze_inputs=True).weights}
        weights = (replace(weight, found=own[weight.found.scope.path, weight.found.name]) for weight in plan.weights)
        return replace(plan, weights=tuple(weights))

    def _plan(self, model: ir.Model, notes: tuple[str, ...]) -> MappingPlan:
        require_mappable(model)  # again, because inlining may have imported the default domain
        freezes = self._settings.freezes_inputs or _has_inputs_for_initializers(model)
        survey = without_missing_casts(self._find(model, freeze_inputs=freezes), default_opset(model))
        resolved = self._configuration.resolve(survey)
        plan = make_plan(
            resolved.survey,
            resolved.schemes,
            self._progress,
            conductance_dtype=self._settings.conductance_dtype,
            shared=self._settings.shared,
            opset=default_opset(model),
            allows_lossy_integers=self._settings.allow_lossy_integers,
        )
        return replace(plan, notes=(*notes, *_notes(model, plan)))

    def call(self, model: ir.Model) -> MappingResult:
        """Map the model.

        Raises:
            ConfigError: If a pattern matches no weight.
            ModelError: If external data cannot be read.
            UnmappableWeightError: If a weight has values that no conductance can hold.
            DamagedModelError: If the rewritten graph is not valid, which would be a fault of this package.
        """
        subject, notes = self._prepared(model)
        plan = self._plan(subject, notes)
        plan.raise_if_refused()
        if not plan.weights:
            logger.info("Mapped nothing: the model has no weight that can be mapped")
            manifest = manifest_of(plan, UniqueNames(subject), Placement(scopes(subject)))
            return MappingResult(model, modified=False, report=MappingReport(MODEL_IN_MEMORY, manifest))
        rewrite = SoundRewrite(model)
        if subject is not model:
            self._prepare(model, plan)
            plan = self._transferred(plan, model)
        manifest = _apply(model, plan)
        rewrite.require(model)
        return MappingResult(model, modified=True, report=MappingReport(MODEL_IN_MEMORY, manifest, is_mapped=True))


def _check_alone(
    converter: ConverterLike | None, configuration: ConfigurationLike | None, options: MappingOptions
) -> None:
    """Check that nothing besides a scheme determines how weights are mapped.

    Raises:
        ConfigError: If a converter, a configuration or an option does.
    """
    if converter is not None:
        raise ConfigError("give a converter or a scheme, which has a converter, but not both")
    if configuration is not None:
        raise ConfigError("give a configuration or a scheme, which says how all weights are mapped, but not both")
    for name, value in options.items():
        if value is not None and name in MappingOptions.__annotations__ and name not in ModelSettings.model_fields:
            raise ConfigError(f"{name}: the scheme says how weights are mapped; make one with that {name}")


def _apply(model: ir.Model, plan: MappingPlan) -> Manifest:
    """Carry out a plan, and return the manifest that has been written into the model."""
    names, placement = UniqueNames(model), Placement(scopes(model))
    manifest = manifest_of(plan, names, placement)
    replaced: dict[ir.Graph, dict[str, Sequence[ir.Value]]] = {}
    frozen = _replaceable(model, plan)
    opset = default_opset(model) or _NEW_OPSET
    unused: list[ir.Node] = []
    for weight, record in zip(plan.weights, manifest.weights, strict=True):
        found = weight.found
        rebuilt = _rebuilt(weight, record, names, opset)
        if placement.is_shadowed(found):
            rebuilt.value.name = names.new(record.name)
        constants = list(rebuilt.initializers)
        if record.digital_copy is not None:
            constants.append(split_off(found, digital_uses(found), record.digital_copy))
        place = placement.of(found)
        if (producer := _replace(found, rebuilt, place)) is not None:
            unused.append(producer)
        replaced.setdefault(found.scope.graph, {})[record.name] = ()
        replaced.setdefault(place.scope.graph, {})[record.name] = constants
        logger.debug("Mapped weight '%s' of shape %s", record.name, record.shape)
    for graph, initializers in replaced.items():
        _register(graph, initializers)
    _free_from_inputs(model, [*frozen, *(weight.found.value for weight in plan.weights)])
    remove_unused(unused)
    for weight in plan.weights:
        old, producer = weight.found.value, weight.found.value.producer()
        if producer is not None and producer.graph is not None:  # the node stays because another output is read
            old.name = names.new(f"{old.name}.not_mapped")
    if default_opset(model) is None:
        types = {weight.found.tensor.dtype for weight in plan.weights}
        set_default_opset(model, max(_NEW_OPSET, *(OLDEST_CASTS.get(dtype, 0) for dtype in types)))
    write_manifest(model, manifest)
    return manifest


def _rebuilt(weight: PlannedWeight, record: WeightRecord, names: UniqueNames, opset: int) -> RebuiltWeight:
    """The conductances of a weight, or their level codes, and the nodes that rebuild the weight."""
    found, conversion = weight.found, weight.conversion
    stored = [conductance.name for conductance in record.conductances]
    level_codes: LevelCodes | None = None
    if weight.scheme.is_coded and conversion.levels is not None:
        tensors = level_code_tensors(
            found.numbers,
            conversion,
            dtype=record.ir_compute_dtype,
            names=stored,
            code_dtype=ir.DataType.UINT4 if weight.has_narrow_codes else None,
        )
        decoded = tuple(names.new(f"{record.name}.{conductance.device}") for conductance in record.conductances)
        is_folded = found.packed is not None
        level_codes = LevelCodes(conversion.levels, record.ir_compute_dtype, opset, decoded, is_folded)
    else:
        tensors = conductance_tensors(found.numbers, conversion, dtype=record.ir_compute_dtype, names=stored)
    return rebuild_nodes(
        record.name,
        tensors,
        conversion.decoding,
        dtype=found.tensor.dtype,
        scale_name=record.scale.name,
        names=names,
        codes=_integer_codes(found, record, opset),
        grid=conversion.grid,
        zero_name=record.zero.name if isinstance(record.zero, ZeroRecord) else None,
        level_codes=level_codes,
        shapes_in_nodes=opset >= OLDEST_INTEGER_CONSTANTS,
    )


def _integer_codes(found: FoundWeight, record: WeightRecord, opset: int) -> IntegerCodes | None:
    """How the integer codes of a weight are rebuilt; None for a weight without integer codes."""
    if not found.is_integer:
        return None
    has_round = opset >= OLDEST_ROUND_OPSET
    limits = record.saturation_limits
    if found.packed is None or record.packing is None or not isinstance(found.zero_point, BlockZeroPoint):
        zero_point = found.zero_point if isinstance(found.zero_point, ZeroPoint) else None
        return IntegerCodes(zero_point, record.zero_point, has_round, limits=limits)
    packing = found.packed.packing
    padding = read_padding(found.stored, packing)
    packed = PackedWeight(packing, found.zero_point, padding, record.packing.padding, opset)
    return IntegerCodes(None, record.zero_point, has_round, packed, limits)


def _has_inputs_for_initializers(model: ir.Model) -> bool:
    return model.ir_version < _FREE_INITIALIZERS_IR_VERSION


def _notes(model: ir.Model, plan: MappingPlan) -> Iterator[str]:
    """Notes on what the mapping changes in the model besides the weights."""
    if not plan.weights:
        return
    if _has_inputs_for_initializers(model):
        yield (
            f"the IR version is {_FREE_INITIALIZERS_IR_VERSION}, it was {model.ir_version}: initializers are constants "
            "now, no graph inputs"
        )
    elif frozen := [f"'{value.name}'" for value in _replaceable(model, plan)]:
        yield f"constants now, no graph inputs that a caller may replace: {', '.join(frozen)}"
    yield from annotation_notes(plan.weights)
    ops = Counter(said.op_type for item in plan.weights if (said := decoded_record(item.found.tensor)) is not None)
    for op_type, count in ops.items():
        yield (
            f"{count} weight{'s' if count > 1 else ''} of {op_type} {'are' if count > 1 else 'is'} decoded, and MatMul "
            "stands in place of the op"
        )


def _replaceable(model: ir.Model, plan: MappingPlan) -> tuple[ir.Value, ...]:
    """The graph inputs with a default that are weights, or from which weights are computed, such as scales."""
    found = (leaf for weight in plan.weights for leaf in leaves(weight.found.value, model.functions).values)
    return tuple(dict.fromkeys(value for value in found if value.is_graph_input() and value.is_initializer()))


def _free_from_inputs(model: ir.Model, replaced: Sequence[ir.Value]) -> None:
    """Remove weights from the graph inputs; below IR version 4, remove all initializers from there.

    Below IR version 4, every initializer had to be a graph input, and ONNX Runtime treats it as a constant. Since then
    it is an input with a default, so leaving it there would prevent optimizations.
    """
    inputs, initializers = model.graph.inputs, set(replaced)
    if _has_inputs_for_initializers(model):
        initializers.update(model.graph.initializers.values())
        model.ir_version = _FREE_INITIALIZERS_IR_VERSION
    if freed := {value.name for value in inputs if value in initializers}:  # Olive lists an input twice
        kept = [value for value in inputs if value.name not in freed]
        inputs.clear()
        inputs.extend(kept)


def _replace(found: FoundWeight, rebuilt: RebuiltWeight, place: Place) -> ir.Node | None:
    """Insert the nodes that rebuild a weight, and let all readers of the weight read their result.

    Returns:
        The node that computed the weight before, if there is one; it may not be needed any more.
    """
    old, new = found.value, rebuilt.value
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.metadata_props.update(kept_texts(found.stored))
    new.meta.update(old.meta)
    place.scope.graph.insert_before(place.before, rebuilt.nodes)
    annotate(found, rebuilt)
    hand_over_uses(old, new)
    return old.producer()


def _register(graph: ir.Graph, replaced: dict[str, Sequence[ir.Value]]) -> None:
    """Put new initializers in the places of their weights, so that the data of one layer stays together on disk."""
    order: list[ir.Value] = []
    constants = dict(replaced)
    for name, value in graph.initializers.items():
        order.extend(constants.pop(name, [value]))
    for values in constants.values():  # in place of weights that were no initializers
        order.extend(values)
    graph.initializers.clear()
    for value in order:
        graph.initializers.add(value)
