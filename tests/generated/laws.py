"""What holds for the mapping of every model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnx_gconv import SinglePairConductanceConverter
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import Manifest, WeightRecord, read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.runtime.comparison import OutputComparison, Rounding, compare_all, spread_between
from onnx_gconv.verification.weights import compare_weights
from onnx_gconv.weights import scopes
from onnx_gconv.weights.constant_evaluation import ConstantEvaluator
from tests.generated.layers import ExpectedSlot
from tests.generated.random_models import RandomModel, random_model
from tests.generated.schemes import random_scheme

__all__ = ["EXPECT_ALL_MAPPED", "LawBrokenError", "OriginalDoesNotRunError", "check_laws"]

# Whether weights of integers and weights that nodes compute have to be mapped too; else they may be listed as skipped.
EXPECT_ALL_MAPPED = True

_SKIPPED_TODAY = {"behind_other_nodes", "op_not_supported", "dtype_not_supported"}
_LEVELS = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
_FATAL = 4
_LEAST_BESIDE_G_MIN, _MOST_BESIDE_G_MIN = 1e-4, 1e3

# What a scheme may not be able to hold: integers that it would round or clip, weights that are mostly 0, and matrices
# that a reshape cuts across.
_REFUSALS = ("consists of integers", "has so many zeros", "give it the granularity tensor")

Outputs = dict[str, np.ndarray]


class LawBrokenError(AssertionError):
    """A law does not hold for a model."""


class OriginalDoesNotRunError(Exception):
    """ONNX Runtime cannot run the model before it is mapped: its optimizer breaks some valid models with integers."""


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model under test.

    Attributes:
        model: The model.
        file: Its file, if its data is external.
        folder: For files.
        converter: How it is mapped.
    """

    model: RandomModel
    file: Path | None
    folder: Path
    converter: SinglePairConductanceConverter

    def load(self) -> ir.Model:
        """The original, new every time."""
        return ir.from_proto(self.model.proto) if self.file is None else load_model(self.file)

    def mapped(self, converter: SinglePairConductanceConverter | None = None) -> ir.Model:
        """The mapped model, new every time."""
        model = self.load()
        MapConductances(converter or self.converter)(model)
        return model

    def run(self, model: ir.Model, name: str) -> dict[str, Outputs]:
        """The outputs of a model at both levels; its data is external if that of the original is."""
        if self.file is None:
            return _run(_bytes(model), self.model.feeds)
        path = self.folder / name / "model.onnx"
        path.parent.mkdir()
        save_model(model, path, external_data=True)
        return _run(str(path), self.model.feeds)


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
        _check(model, folder)
    except OriginalDoesNotRunError:
        raise
    except Exception as error:
        law = str(error) if isinstance(error, LawBrokenError) else f"{type(error).__name__}: {error}"
        reproduce = f"python -m tests.generated.run --first {seed} --seeds 1"
        raise LawBrokenError(f"{law}\n{model.describe()}\nReproduce: {reproduce}") from error
    return len(model.slots)


def _check(model: RandomModel, folder: Path) -> None:
    onnx.checker.check_model(model.proto, full_check=model.is_standard)
    subject = _Subject(model, _external_file(model, folder), folder, _converter(model))
    original = subject.load()
    manifest = MapConductances(subject.converter).preview(original)
    _check_all_weights_are_known(model, original, manifest)
    if not manifest.weights:
        _check_nothing_to_map(subject)
        return
    mapped, again = subject.mapped(), subject.mapped()
    _demand(read_manifest(mapped) == manifest, "the plan and the mapping differ")
    _demand(_bytes(mapped) == _bytes(again), "mapping twice gives different bytes")
    try:
        outputs = _run(_bytes(original) if subject.file is None else str(subject.file), model.feeds)
    except Exception as error:
        raise OriginalDoesNotRunError(" ".join(str(error).split())) from error
    _check_outputs(manifest, outputs, subject.run(mapped, "mapped"))
    _check_restored(original, again, manifest)
    _check_exact(subject, original, outputs)
    if model.seed % 2:
        _check_scheme(subject, original)
    _check_violations(mapped, manifest)
    _check_unchanged_after_failure(subject, manifest)


def _converter(model: RandomModel) -> SinglePairConductanceConverter:
    """A device; one in four has a g_min, in which weights far below one, or far below the largest, vanish."""
    largest = [np.abs(slot.weight.array).max() for slot in model.slots]
    is_lost = any(0 < number < _LEAST_BESIDE_G_MIN or number > _MOST_BESIDE_G_MIN for number in largest)
    g_max = (25.0, 25.0, 40.0, 1e3, 0.3)[model.seed % 5]
    return SinglePairConductanceConverter(g_max=g_max, g_min=0.1 if model.seed % 4 == 0 and not is_lost else 0.0)


def _external_file(model: RandomModel, folder: Path) -> Path | None:
    """The model as a file with the data of its weights beside it; ONNX Runtime wants shapes and axes inline."""
    if not model.is_external:
        return None
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    data = bytearray()
    for tensor in _initializers(proto.graph):
        if tensor.data_type in {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}:
            continue
        entries = {"location": "model.data", "offset": len(data), "length": len(tensor.raw_data)}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    (folder / "model.data").write_bytes(data)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _initializers(attribute.g)


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise LawBrokenError(message)


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def _run(model: bytes | str, feeds: Mapping[str, np.ndarray]) -> dict[str, Outputs]:
    """The outputs of a model at both levels, set up as `verification.runtime.ModelSession` does."""
    outputs: dict[str, Outputs] = {}
    for level, value in _LEVELS.items():
        options = ort.SessionOptions()
        options.graph_optimization_level = value
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        if level == "none":
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs[level] = dict(zip(names, session.run(names, feeds), strict=True))
    return outputs


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
            _demand(comparison.passed, _off(comparison))
            is_discrete = comparison.mismatches is not None
            _demand(comparison.bit_identical or not is_discrete, f"integers differ: {_off(comparison)}")


def _off(found: OutputComparison) -> str:
    return (
        f"the output '{found.name}' {found.dtype}{list(found.shape or ())} at optimization '{found.optimization}' is "
        f"off by {found.max_abs_error}, allowed {found.tolerance}, spread {found.spread}; {found.note}"
    )


# The weights come back


def _check_restored(original: ir.Model, mapped: ir.Model, manifest: Manifest) -> None:
    comparisons = compare_weights(original, mapped, manifest)
    for found in comparisons:
        _demand(found.passed, f"the weight '{found.name}' is off by {found.max_abs_error}, allowed {found.bound}")
    RestoreWeights()(mapped)
    for record, found in zip(manifest.weights, comparisons, strict=True):
        before, after = _weight(original, record), _weight(mapped, record)
        _demand((before.shape, before.dtype) == (after.shape, after.dtype), f"'{record.name}' is restored as another")
        error = np.abs(before.astype(np.float64) - after.astype(np.float64)).max()
        _demand(error <= found.bound, f"the weight '{record.name}' is restored with an error of {error}")


def _check_exact(subject: _Subject, original: ir.Model, outputs: dict[str, Outputs]) -> None:
    """With equal weights everything is equal, bit for bit."""
    model = subject.mapped(SinglePairConductanceConverter(g_max=subject.converter.g_max, exact=True))
    manifest = read_manifest(model)
    assert manifest is not None
    # Where nodes computed a weight, or a loop owned it, ONNX Runtime may run other kernels for the other graph.
    is_computed = any(record.stored_as == "computed" for record in manifest.weights)
    is_moved = any(record.moved_from is not None for record in manifest.weights)
    _check_identical(outputs, subject.run(model, "exact"), "exactly mapped", _levels(is_computed or is_moved))
    RestoreWeights()(model)
    for record in manifest.weights:
        before, after = _weight(original, record), _weight(model, record)
        is_same = before.dtype == after.dtype and before.tobytes() == after.tobytes()
        _demand(is_same, f"the weight '{record.name}' is not restored exactly")
    _check_identical(outputs, subject.run(model, "restored"), "exactly restored", _levels(is_computed))


def _check_scheme(subject: _Subject, original: ir.Model) -> None:
    """Whatever the scheme, weights are within its bounds, and the model computes with the weights it restores.

    It is checked for every other seed, to keep the suite short.
    """
    scheme = random_scheme(subject.model.seed)
    model = subject.load()
    try:
        MapConductances(scheme=scheme)(model)
    except UnmappableWeightError as error:
        _demand(any(reason in str(error) for reason in _REFUSALS), f"{scheme}: refused: {error}")
        return
    CheckMapping()(model)
    manifest = read_manifest(model)
    assert manifest is not None
    for found in compare_weights(original, model, manifest):
        _demand(
            found.passed,
            f"{scheme}: the weight '{found.name}' is off by {found.max_abs_error}, allowed {found.bound} "
            f"({found.problem})",
        )
    outputs = subject.run(model, "scheme")
    RestoreWeights()(model)
    restored = subject.run(model, "restored from a scheme")
    is_computed = any(record.stored_as == "computed" for record in manifest.weights)
    is_moved = any(record.moved_from is not None for record in manifest.weights)
    # ONNX Runtime leaves out a cast to half precision between two others, and so the rounding.
    is_half = any(record.dtype in {"float16", "bfloat16"} for record in manifest.weights)
    if not (is_computed or is_moved or is_half):
        _check_identical(restored, outputs, f"mapped by {scheme}", ["none"])
    _check_outputs(manifest, restored, outputs, coarsest={record.dtype for record in manifest.weights if is_half})


def _levels(is_other_graph: bool) -> list[str]:
    return ["none"] if is_other_graph else [*_LEVELS]


def _check_identical(outputs: dict[str, Outputs], found: dict[str, Outputs], which: str, levels: list[str]) -> None:
    for level in levels:
        for name, reference in outputs[level].items():
            is_same = found[level][name].tobytes() == reference.tobytes()
            _demand(is_same, f"the output '{name}' of the {which} model differs at optimization '{level}'")


def _weight(model: ir.Model, record: WeightRecord) -> np.ndarray:
    """A weight of the original or of a restored model; mapping may have moved it out of a loop."""
    named = [(graph, tensor) for graph, name, tensor, _ in _constants(model) if name == record.name]
    for graph, tensor in named:
        if graph == record.graph or len(named) == 1:
            return tensor.numpy()
    [value] = [
        output
        for scope in scopes(model)
        for node in scope.graph
        for output in node.outputs
        if output.name == record.name and scope.path.startswith(record.graph)
    ]
    return ConstantEvaluator(model).evaluate(value)


def _constants(
    model: ir.Model,
) -> Iterator[tuple[str, str, ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """All constants: the path of the graph, the name, the tensor, and what replaces it."""
    for scope in scopes(model):
        for name, value in scope.graph.initializers.items():
            yield scope.path, name, value.const_value, lambda t, value=value: setattr(value, "const_value", t)
        for node in scope.graph:
            if node.op_type == "Constant":
                tensor = node.attributes["value"].as_tensor()

                def replace(new: ir.TensorProtocol, node: ir.Node = node) -> None:
                    node.attributes["value"] = ir.AttrTensor("value", new)

                yield scope.path, node.outputs[0].name or "", tensor, replace


# Nothing is silent


def _check_all_weights_are_known(model: RandomModel, original: ir.Model, manifest: Manifest) -> None:
    paths = {scope.graph.name: scope.path for scope in scopes(original)}
    for slot in model.slots:
        mapped = _is_mapped(slot, manifest, paths)
        reasons = _skip_reasons(slot, manifest, paths)
        _demand(mapped or bool(reasons), f"neither mapped nor skipped: {slot}")
        _demand(mapped or _may_be_skipped(slot, reasons), f"skipped as {', '.join(sorted(reasons))}: {slot}")


def _is_mapped(slot: ExpectedSlot, manifest: Manifest, paths: Mapping[str | None, str]) -> bool:
    names = {source.name for source in slot.weight.sources}
    for record in manifest.weights:
        is_computed = slot.weight.is_computed and record.stored_as == "computed" and names & set(record.sources)
        if not is_computed and record.name not in names:
            continue
        for consumer in record.consumers:
            key = (consumer.graph, consumer.op_type, consumer.slot)
            if key != (paths[slot.graph], slot.op_type, slot.slot) or not consumer.is_mvm:
                continue
            if slot.weight.is_computed or slot.is_integer:
                return True
            array = slot.weight.sources[0].array
            for step in consumer.path:
                array = array.transpose(step.argument) if step.op == "transpose" else array.reshape(step.argument)
            if array.shape == slot.weight.array.shape and array.tobytes() == slot.weight.array.tobytes():
                view = consumer.matrix_view
                size = 0 if view is None else view.matrices * view.rows * view.columns
                _demand(size == array.size, f"the matrix view has not all elements of {slot}")
                return True
    return False


def _skip_reasons(slot: ExpectedSlot, manifest: Manifest, paths: Mapping[str | None, str]) -> set[str]:
    weight = slot.weight
    names = {source.name for source in weight.sources} | {weight.value}
    graphs = {paths[source.graph] for source in weight.sources} | {paths[slot.graph]}
    # Among a weight that is no matrix and its factors and shapes, the weight is not always told rightly.
    may_have_other_name = weight.is_computed and any(
        source.array.size == 1 or source.array.ndim < 2 for source in weight.sources
    )
    return {
        record.reason
        for record in manifest.skipped
        if record.is_mvm
        and (may_have_other_name or (record.name in names and record.graph in graphs))
        and _reads(record.consumers, slot)
    }


def _reads(consumers: tuple[str, ...], slot: ExpectedSlot) -> bool:
    """Whether a list of readers, each as ``name (op_type)`` or ``op_type``, names the op of a slot."""
    labels = [consumer.removesuffix(f"[{slot.slot}]") for consumer in consumers]
    return any(label == slot.op_type or label.endswith(f" ({slot.op_type})") for label in labels)


def _may_be_skipped(slot: ExpectedSlot, reasons: set[str]) -> bool:
    if any(source.is_overridable for source in slot.weight.sources) and "overridable_input" in reasons:
        return True
    is_hard = slot.weight.is_computed or slot.is_integer
    return is_hard and not EXPECT_ALL_MAPPED and bool(reasons & _SKIPPED_TODAY)


# The check of a mapping


def _check_violations(mapped: ir.Model, manifest: Manifest) -> None:
    violations = CheckMapping().violations(mapped)
    _demand(not violations, f"violations: {'; '.join(map(str, violations))}")
    record = manifest.weights[len(manifest.weights) // 2]
    for device in record.conductances:
        [place] = [item for item in _constants(mapped) if item[1] == device.name]
        _, _, tensor, replace = place
        array = tensor.numpy()
        changed = array.copy()
        changed.reshape(-1)[-1] = 1.5 * record.converter.converter().g_max
        replace(ir.tensor(changed, name=device.name))
        _demand(bool(CheckMapping().violations(mapped)), f"no violation where '{device.name}' was changed")
        replace(ir.tensor(array, name=device.name))


# A failure changes nothing, nor does a mapping that finds nothing


def _check_nothing_to_map(subject: _Subject) -> None:
    model = subject.load()
    before = _bytes(model)
    result = MapConductances(subject.converter)(model)
    _demand(not result.modified and _bytes(model) == before, "a model without weights to map is changed")


def _check_unchanged_after_failure(subject: _Subject, manifest: Manifest) -> None:
    floats = [item for item in manifest.weights if not item.rounded and item.stored_as != "computed"]
    if not floats:
        return
    record = floats[-1]
    model = subject.load()
    named = [item for item in _constants(model) if item[1] == record.name]
    _, _, tensor, replace = next((item for item in named if item[0] == record.graph), named[0])
    spoiled = tensor.numpy().copy()
    spoiled.reshape(-1)[spoiled.size // 2] = np.nan
    replace(ir.tensor(spoiled, name=record.name))
    before = _bytes(model)
    try:
        MapConductances(subject.converter)(model)
    except UnmappableWeightError as error:
        names = [record.name, *(item.name for item in manifest.weights if record.name in item.sources)]
        is_named = any(f"'{name}' has the value nan" in str(error) for name in names)
        _demand(is_named, f"the error does not name '{record.name}': {error}")
    else:
        raise LawBrokenError(f"NaN in '{record.name}' is mapped")
    _demand(_bytes(model) == before, "a failed mapping changes the model")
