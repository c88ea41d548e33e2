"""What holds for the mapping of every model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from onnx_gconv.errors import ModelError, UnmappableWeightError
from onnx_gconv.mapping import Manifest, WeightRecord, read_manifest
from onnx_gconv.passes import CheckMapping, RestoreWeights
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.runtime.comparison import OutputComparison, Rounding, compare_all, spread_between
from onnx_gconv.verification.weights import WeightComparison, compare_weights
from onnx_gconv.weights import scopes
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator
from tests.generated.layers import ExpectedSlot
from tests.generated.random_models import RandomModel, random_model
from tests.generated.subjects import (
    EXACT,
    LOSSLESS,
    SCHEME,
    LawBrokenError,
    OriginalDoesNotRunError,
    Outputs,
    Subject,
    demand,
    run,
)
from tests.generated.tiles import check_tiles

__all__ = ["EXPECT_ALL_MAPPED", "LawBrokenError", "OriginalDoesNotRunError", "check_laws"]

# Whether weights of integers and weights that nodes compute have to be mapped too; else they may be listed as skipped.
EXPECT_ALL_MAPPED = True

_SKIPPED_TODAY = {"behind_other_nodes", "op_not_supported", "dtype_not_supported"}

# What a scheme may not be able to hold: integers that it would round or clip, weights that are mostly 0, and matrices
# that a reshape cuts across.
_REFUSALS = (
    "consists of integers",
    "zero points that are no integers",
    "has so many zeros",
    "give it the granularity tensor",
)

# What may not be renamed: an output of the model whose name a body has, too.
_HIDDEN = "is a graph output, and the graph"


def check_laws(seed: int, folder: Path) -> int:
    """Check all laws for the model of a seed, and give the number of its weight slots.

    Args:
        seed: The seed.
        folder: For models with external data; empty.

    Raises:
        LawBrokenError: It names the law and the seed, and describes the model.
        OriginalDoesNotRunError: Then no more than the laws without outputs has been checked.
    """
    model = random_model(seed)
    try:
        _check(Subject.of(model, folder))
    except OriginalDoesNotRunError:
        raise
    except Exception as error:
        law = str(error) if isinstance(error, LawBrokenError) else f"{type(error).__name__}: {error}"
        reproduce = f"python -m tests.generated.run --first {seed} --seeds 1"
        raise LawBrokenError(f"{law}\n{model.describe()}\nReproduce: {reproduce}") from error
    return len(model.slots)


def _check(subject: Subject) -> None:
    model = subject.model
    if model.is_valid:
        onnx.checker.check_model(subject.source, full_check=model.full_check)
    original, mapped = subject.load(), subject.load()
    try:
        manifest = read_manifest(mapped) if subject.mapping()(mapped).modified else None
    except UnmappableWeightError as error:
        is_allowed = subject.way == SCHEME and any(reason in str(error) for reason in _REFUSALS)
        demand(is_allowed, f"{subject.scheme}: refused: {error}")
        _check(replace(subject, way=LOSSLESS))
        return
    except ModelError as error:
        demand(model.hides_names and _HIDDEN in str(error), f"refused: {error}")
        return
    if manifest is None:
        _check_all_weights_are_known(model, original, subject.mapping().preview(original))
        _check_nothing_to_map(subject)
        return
    original = as_it_was_mapped(original, mapped)
    _check_all_weights_are_known(model, original, manifest)
    _check_in_turn(subject, mapped, manifest)
    try:
        outputs = run(subject.source, model.feeds)
    except Exception as error:
        raise OriginalDoesNotRunError(" ".join(str(error).split())) from error
    _check_mapped_and_restored(subject, original, mapped, outputs)


def _check_in_turn(subject: Subject, mapped: ir.Model, manifest: Manifest) -> None:
    """Laws of which each model has at most one, to keep the suite short."""
    violations = CheckMapping().violations(mapped)
    demand(not violations, f"violations: {'; '.join(map(str, violations))}")
    match subject.model.seed // 3 % 6:
        case 0:
            demand(_bytes(mapped) == _bytes(subject.mapped()), "mapping twice gives different bytes")
        case 1:
            demand(subject.mapping().preview(subject.load()) == manifest, "the plan and the mapping differ")
        case 2:
            _check_changes_are_noticed(mapped, manifest)
        case 3:
            _check_unchanged_after_failure(subject, manifest)
        case 4:
            check_tiles(subject, mapped)


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


# The outputs are those of the original


def _check_outputs(
    manifest: Manifest, original: dict[str, Outputs], mapped: dict[str, Outputs], coarsest: Collection[str] = ()
) -> None:
    spreads = {name: spread_between(original["all"][name], original["none"][name]) for name in original["all"]}
    types = {*(record.compute_dtype for record in manifest.weights), *(name for name in coarsest if "float" in name)}
    eps = max(float(ml_dtypes.finfo(name).eps) for name in types)
    rounding = Rounding(len(manifest.weights), eps)
    for level, reference in original.items():
        for comparison in compare_all(level, reference, mapped[level], spreads, rounding):
            demand(comparison.passed, _off(comparison))
            is_discrete = comparison.mismatches is not None
            demand(comparison.bit_identical or not is_discrete, f"integers differ: {_off(comparison)}")


def _off(found: OutputComparison) -> str:
    return (
        f"the output '{found.name}' {found.dtype}{list(found.shape or ())} at optimization '{found.optimization}' is "
        f"off by {found.max_abs_error}, allowed {found.tolerance}, spread {found.spread}; {found.note}"
    )


# The weights come back


def _check_mapped_and_restored(
    subject: Subject, original: ir.Model, model: ir.Model, outputs: dict[str, Outputs]
) -> None:
    manifest = read_manifest(model)
    assert manifest is not None
    comparisons = compare_weights(original, model, manifest)
    for found in comparisons:
        demand(
            found.passed,
            f"{subject.scheme or subject.way}: the weight '{found.name}' is off by {found.max_abs_error}, allowed "
            f"{found.bound} ({found.problem})",
        )
    mapped, clone = subject.run(model, "mapped"), model.clone()
    RestoreWeights()(model)
    before, after = _Weights(original), _Weights(as_it_was_mapped(model, clone))
    for record, found in zip(manifest.weights, comparisons, strict=True):
        _check_restored(subject, record, found, before.array(record), after.array(record))
    restored = subject.run(model, "restored")
    if subject.way != SCHEME:
        _check_outputs(manifest, outputs, mapped)
        _check_outputs(manifest, outputs, restored)
    # Where nodes computed a weight, or a loop owned it, ONNX Runtime may run other kernels for the other graph.
    is_computed = any(record.stored_as == "computed" for record in manifest.weights)
    is_moved = any(record.moved_from is not None for record in manifest.weights)
    # A MatMul of one row or one output adds in another order than MatMulBnb4, whose scales come back with the roundings
    # of a mapping.
    is_decoded = any(record.decoded_from is not None for record in manifest.weights)
    is_rounded = any(slot.weight.is_rounded for slot in subject.model.slots)
    if subject.way == EXACT and not is_rounded and not is_decoded:
        _check_identical(outputs, mapped, "exactly mapped", _levels(is_computed or is_moved))
        _check_identical(outputs, restored, "exactly restored", _levels(is_computed))
        return
    # ONNX Runtime leaves out a cast to half precision between two others, and so the rounding.
    is_half = any(record.dtype in {"float16", "bfloat16"} for record in manifest.weights)
    if not (is_computed or is_moved or is_half or is_decoded):
        _check_identical(restored, mapped, f"mapped by {subject.scheme or subject.way}", ["none"])
    _check_outputs(manifest, restored, mapped, coarsest={record.dtype for record in manifest.weights if is_half})


def _check_restored(
    subject: Subject, record: WeightRecord, found: WeightComparison, before: np.ndarray, after: np.ndarray
) -> None:
    demand((before.shape, before.dtype) == (after.shape, after.dtype), f"'{record.name}' is restored as another")
    if subject.way == EXACT:
        demand(before.tobytes() == after.tobytes(), f"the weight '{record.name}' is not restored exactly")
    elif subject.way != SCHEME:  # a clipped weight is further off than its bound
        error = np.abs(before.astype(np.float64) - after.astype(np.float64)).max()
        demand(error <= found.bound, f"the weight '{record.name}' is restored with an error of {error}")


def _levels(is_other_graph: bool) -> list[str]:
    return ["none"] if is_other_graph else ["all", "none"]


def _check_identical(outputs: dict[str, Outputs], found: dict[str, Outputs], which: str, levels: list[str]) -> None:
    for level in levels:
        for name, reference in outputs[level].items():
            is_same = found[level][name].tobytes() == reference.tobytes()
            demand(is_same, f"the output '{name}' of the {which} model differs at optimization '{level}'")


class _Weights:
    """The weights of an original or of a restored model; mapping may have moved them out of a loop."""

    def __init__(self, model: ir.Model) -> None:
        self._evaluator = ConstantEvaluator(model)
        self._stored: dict[str, list[tuple[str, ir.TensorProtocol]]] = {}
        self._computed: dict[str, list[tuple[str, ir.Value]]] = {}
        for path, name, tensor, _ in _constants(model):
            self._stored.setdefault(name, []).append((path, tensor))
        for scope in scopes(model):
            for node in scope.graph:
                for output in node.outputs:
                    self._computed.setdefault(output.name or "", []).append((scope.path, output))

    def array(self, record: WeightRecord) -> np.ndarray:
        """The elements of a weight."""
        named = self._stored.get(record.name, [])
        for path, tensor in named:
            if path == record.graph or len(named) == 1:
                return tensor.numpy()
        [value] = [value for path, value in self._computed[record.name] if path.startswith(record.graph)]
        return self._evaluator.evaluate(value)


def _constants(
    model: ir.Model,
) -> Iterator[tuple[str, str, ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """All constants: the path of the graph, the name, the tensor, and what replaces it."""
    for scope in scopes(model):
        for name, value in scope.graph.initializers.items():
            yield scope.path, name, value.const_value, lambda t, value=value: setattr(value, "const_value", t)
        for node in scope.graph:
            if node.op_type == "Constant":
                tensor = node.attributes["value"].value

                def put(new: ir.TensorProtocol, node: ir.Node = node) -> None:
                    node.attributes["value"] = ir.AttrTensor("value", new)

                yield scope.path, node.outputs[0].name or "", tensor, put


# Nothing is silent


def _check_all_weights_are_known(model: RandomModel, original: ir.Model, manifest: Manifest) -> None:
    paths = {scope.graph.name: scope.path for scope in scopes(original)}
    for slot in model.slots:
        mapped = _is_mapped(slot, manifest, paths)
        reasons = _skip_reasons(slot, manifest, paths)
        demand(mapped or bool(reasons), f"neither mapped nor skipped: {slot}")
        demand(mapped or _may_be_skipped(slot, reasons), f"skipped as {', '.join(sorted(reasons))}: {slot}")


def _is_mapped(slot: ExpectedSlot, manifest: Manifest, paths: Mapping[str | None, str]) -> bool:
    names = {source.name for source in slot.weight.sources}
    names |= {f"{name}.decoded" for name in names}  # where other nodes read the bytes, too
    op_type = "MatMul" if slot.op_type == "MatMulBnb4" else slot.op_type
    # A constant of one element is named among the sources of a weight only if there is no larger one.
    is_scalar = all(source.array.size == 1 and source.array.ndim < 2 for source in slot.weight.sources)
    for record in manifest.weights:
        is_named = is_scalar or names & set(record.sources)
        is_computed = slot.weight.is_computed and record.stored_as == "computed" and is_named
        if not (is_computed or record.name in names or slot.is_renamed):
            continue
        for consumer in record.consumers:
            is_there = slot.is_in_function or consumer.graph == paths[slot.graph]
            if not (is_there and consumer.is_mvm and (consumer.op_type, consumer.slot) == (op_type, slot.slot)):
                continue
            if slot.weight.is_computed or slot.is_integer or slot.is_renamed:
                return True
            array = slot.weight.sources[0].array
            for step in consumer.path:
                array = array.transpose(step.argument) if step.op == "transpose" else array.reshape(step.argument)
            if array.shape == slot.weight.array.shape and array.tobytes() == slot.weight.array.tobytes():
                view = consumer.matrix_view
                size = 0 if view is None else view.matrices * view.rows * view.columns
                demand(size == array.size, f"the matrix view has not all elements of {slot}")
                return True
    return False


def _skip_reasons(slot: ExpectedSlot, manifest: Manifest, paths: Mapping[str | None, str]) -> set[str]:
    weight = slot.weight
    names = {source.name for source in weight.sources} | {weight.value}
    graphs = {paths.get(source.graph) for source in weight.sources} | {paths[slot.graph]}
    # Among a weight that is no matrix and its factors and shapes, the weight is not always told rightly.
    may_have_other_name = weight.is_computed and any(
        source.array.size == 1 or source.array.ndim < 2 for source in weight.sources
    )
    return {
        record.reason
        for record in manifest.skipped
        if record.is_mvm
        and (may_have_other_name or slot.is_renamed or (record.name in names and record.graph in graphs))
        and (_reads(record.consumers, slot) or (slot.may_stay and record.reason == "inside_function"))
    }


def _reads(consumers: tuple[str, ...], slot: ExpectedSlot) -> bool:
    """Whether a list of readers, each as ``name (op_type)`` or ``op_type``, names the op of a slot."""
    labels = [consumer.removesuffix(f"[{slot.slot}]") for consumer in consumers]
    return any(label == slot.op_type or label.endswith(f" ({slot.op_type})") for label in labels)


def _may_be_skipped(slot: ExpectedSlot, reasons: set[str]) -> bool:
    if any(source.is_overridable for source in slot.weight.sources) and "overridable_input" in reasons:
        return True
    if slot.may_stay and reasons:
        return True
    is_hard = slot.weight.is_computed or slot.is_integer
    return is_hard and not EXPECT_ALL_MAPPED and bool(reasons & _SKIPPED_TODAY)


# The check of a mapping


def _check_changes_are_noticed(mapped: ir.Model, manifest: Manifest) -> None:
    record = manifest.weights[len(manifest.weights) // 2]
    g_max = record.converter.converter().g_max
    for device in record.conductances:
        [(tensor, put)] = [(tensor, put) for _, name, tensor, put in _constants(mapped) if name == device.name]
        array = tensor.numpy()
        changed = array.copy()
        changed.reshape(-1)[-1] = 1.5 * g_max if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        put(ir.tensor(changed, name=device.name))
        demand(bool(CheckMapping().violations(mapped)), f"no violation where '{device.name}' was changed")
        put(tensor)


# A failure changes nothing, nor does a mapping that finds nothing


def _check_nothing_to_map(subject: Subject) -> None:
    model = subject.load()
    before = _bytes(model)
    result = subject.mapping()(model)
    demand(not result.modified and _bytes(model) == before, "a model without weights to map is changed")


def _check_unchanged_after_failure(subject: Subject, manifest: Manifest) -> None:
    floats = [item for item in manifest.weights if not item.rounded and item.stored_as != "computed"]
    if not floats:
        return
    record = floats[-1]
    model = subject.load()
    named = [item for item in _constants(model) if item[1] == record.name and item[2].dtype.is_floating_point()]
    if not named:  # it comes from a function, and another one may have its name
        return
    _, _, tensor, put = next((item for item in named if item[0] == record.graph), named[0])
    spoiled = tensor.numpy().copy()
    spoiled.reshape(-1)[spoiled.size // 2] = np.nan
    put(ir.tensor(spoiled, name=record.name))
    before = _bytes(model)
    try:
        subject.mapping()(model)
    except UnmappableWeightError as error:
        names = [record.name, *(item.name for item in manifest.weights if record.name in item.sources)]
        is_named = any(f"'{name}' has the value nan" in str(error) for name in names)
        # It names one, and counts the others: what is computed from a spoiled constant of one element comes first, too.
        demand(is_named or " more weight" in str(error), f"it does not name '{record.name}': {error}")
    else:
        raise LawBrokenError(f"NaN in '{record.name}' is mapped")
    demand(_bytes(model) == before, "a failed mapping changes the model")
