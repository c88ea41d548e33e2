"""The operations from file to file: map, inspect and restore a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Unpack

import onnx_ir as ir

from onnx_gconv.configuration import ModelSettings, read_configuration
from onnx_gconv.configuration.options import ConfigurationLike, ConverterLike, MappingOptions, configuration_of
from onnx_gconv.crossbars.checked_weights import CheckedWeight, checked_weights, unlisted_weights
from onnx_gconv.errors import ModelError
from onnx_gconv.files.given import GivenModel, ModelLike
from onnx_gconv.files.models import check_output_path, save_model
from onnx_gconv.files.naming import MAPPED_SUFFIX, named_in_messages, stem_of_mapped
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.rewrite_check import RewriteCheck
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping import Manifest, read_manifest, write_manifest
from onnx_gconv.operations.configuration_check import ConfigurationReport
from onnx_gconv.passes import InlineWeightFunctions, MapConductances, RaiseOpset, RestoreWeights
from onnx_gconv.passes.check_mapping import Violation
from onnx_gconv.passes.decode_packed_weights import DecodePackedWeights, decoded_op_types
from onnx_gconv.passes.raise_opset import raised_opset
from onnx_gconv.passes.remedies import remedy_of
from onnx_gconv.passes.report import MappingReport, RestoreReport, why_skipped
from onnx_gconv.tensors.external import external_tensors, is_absent
from onnx_gconv.visible_text import listed
from onnx_gconv.weights import WeightSurvey, default_opset, find_weights
from onnx_gconv.weights.opsets import without_missing_casts

__all__ = [
    "Progress",
    "check_configuration",
    "default_mapped_path",
    "default_restored_path",
    "inspect_model",
    "map_model",
    "restore_model",
    "survey_model",
]

# Below this IR version every initializer has to be a graph input, whether or not callers replace it.
_FREE_INITIALIZERS_IR_VERSION = 4


def map_model(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    converter: ConverterLike | None = None,
    *,
    config: ConfigurationLike | None = None,
    external_data: bool | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Unpack[MappingOptions],
) -> MappingReport:
    """Map the weights of a model to conductances, in µS, and write the mapped model.

    Weights are read and conductances written in chunks; memory does not grow with the model.

    Args:
        model: The ONNX model: its file, what ``torch.onnx.export`` returns, an `onnx_ir.Model`, or an
            `onnx.ModelProto`. It is not changed.
        output: The path of the mapped model; if None, beside the file of `model` with ``.gconv`` before the suffix.
        converter: The rule weight ⇄ conductances, as an object or by name; a single pair of 0 to 25 µS by default.
        config: A configuration, or the path of a TOML file. `converter` and `options` override it, but weights that it
            skips stay skipped.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Whether everything is done except writing files.
        progress: Called with the step ("scan", "write"), the bytes done and the total.
        **options: Which weights are mapped, and how: the keys of `MappingOptions`.

    Returns:
        The report of what was mapped, and what was skipped and why.

    Raises:
        ModelError: If the model cannot be read, is mapped already, has nothing to map, or its opset cannot be raised.
        UnmappableWeightError: If a weight has values that no conductance can hold.
        ConfigError: If a pattern matches no weight, an option or the configuration is wrong, or the output cannot be
            written.
    """
    given = GivenModel.of(model, "map_model")
    source, configuration = given.label, configuration_of(config, converter, options)
    target = given.output(output, default_mapped_path, is_written=not dry_run)
    if not dry_run:
        check_output_path(target, [*given.files, *configuration.source.files])
    watched = WatchedFiles()
    graph = given.load(watched, may_lack_data=True)
    absent = _absent_data(graph)
    mapping = MapConductances(configuration=configuration, progress=progress_of_step(progress, "scan"))
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        check = None if dry_run else RewriteCheck(graph)
        notes = raised_opset(graph) if configuration.model.upgrade_opset else ()
        if check is not None and notes:
            check.renew(graph)
        if check is None:
            mapping.requires(graph)
            return MappingReport(source, _with_notes(notes, mapping.preview(graph)), notes=absent)
        result = mapping(graph)
        manifest = read_manifest(graph)
        if manifest is None:
            raise ModelError(
                f"has no weight that can be mapped; `onnx-gconv inspect` says why{_first_reason(result.report)}"
            )
        manifest = _with_notes(notes, manifest)
        write_manifest(graph, manifest)
        check.require_sound(graph)
        step = progress_of_step(progress, "write")
        files = save_model(
            graph, target, external_data=external_data, inputs=given.files, watched=watched, progress=step
        )
    notes = (*absent, *_of_checker(check))
    return MappingReport(source, manifest, output=target, files=tuple(files), notes=notes)


def _first_reason(report: MappingReport) -> str:
    """Why the first weight of an MVM op is not mapped, to be put at the end of a sentence; empty if there is none."""
    found = [item for item in report.skipped if item.is_mvm]
    if not found:
        return ""
    others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return f". {found[0].quoted}: {why_skipped(found[0])}{others}"


def inspect_model(
    model: ModelLike,
    converter: ConverterLike | None = None,
    *,
    config: ConfigurationLike | None = None,
    progress: Progress | None = None,
    **options: Unpack[MappingOptions],
) -> MappingReport:
    """Show the mapping of a mapped model, or what `map_model` would do with a plain one.

    Weights with values that no conductance can hold are listed as skipped.

    Args:
        model: The ONNX model, as for `map_model`.
        converter: For a plain model: as for `map_model`.
        config: For a plain model: as for `map_model`.
        progress: Called with the step ("scan"), the bytes done and the total.
        **options: For a plain model: as for `map_model`, see `MappingOptions`.

    Raises:
        ModelError: If the model cannot be read.
        ConfigError: If a pattern matches no weight, or an option or the configuration is wrong.
    """
    given = GivenModel.of(model, "inspect_model")
    source, configuration = given.label, configuration_of(config, converter, options)
    watched = WatchedFiles()
    graph = given.load(watched, may_lack_data=True)
    absent = _absent_data(graph)
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        manifest = read_manifest(graph)
        if manifest is not None:
            checked = checked_weights(manifest, graph)
            watched.check()
            broken = tuple((item.record, item.problem) for item in checked if item.problem is not None)
            stands = not broken or len(broken) < len(manifest.weights)
            unlisted = tuple(unlisted_weights(checked, graph))
            notes = (*unlisted, *_renamed(checked), *absent)
            remedy = _remedy(checked, unlisted)
            return MappingReport(source, manifest, is_mapped=stands, broken=broken, notes=notes, remedy=remedy)
        mapping = MapConductances(configuration=configuration, progress=progress_of_step(progress, "scan"))
        notes = raised_opset(graph) if configuration.model.upgrade_opset else ()
        mapping.requires(graph)
        preview = mapping.preview(graph, list_refused=True)
        watched.check()
        return MappingReport(source, _with_notes(notes, preview), notes=absent)


def survey_model(model: ModelLike, settings: ModelSettings | None = None) -> WeightSurvey:
    """Find the weights of a model to which a configuration can be applied. Their values are not read.

    Args:
        model: The ONNX model, as for `map_model`.
        settings: Settings of the whole model; the defaults if None. Its patterns are not applied.

    Raises:
        ModelError: If the model cannot be read, is mapped already, or its opset is too old.
    """
    given = GivenModel.of(model, "survey_model")
    settings = ModelSettings() if settings is None else settings
    graph = given.load(may_lack_data=True)
    with named_in_messages(given.label, options_concern_it=False):
        if settings.upgrade_opset:
            RaiseOpset()(graph)
        MapConductances().requires(graph)
        if settings.inline_functions and graph.functions:
            with suppress(ModelError):  # mapping reports that in a note
                InlineWeightFunctions()(graph)
        DecodePackedWeights(decoded_op_types(settings.quantized))(graph)
        survey = find_weights(
            graph,
            lookups=settings.include_ops,
            quantized=settings.quantized != "skip",
            dequantized=settings.quantized == "dequantized",
            freeze_inputs=settings.freezes_inputs or graph.ir_version < _FREE_INITIALIZERS_IR_VERSION,
            adapters=settings.include_adapters,
        )
        return without_missing_casts(survey, default_opset(graph))


def check_configuration(
    file: str | os.PathLike[str], model: str | os.PathLike[str] | None = None
) -> ConfigurationReport:
    """Check a configuration, and apply it to the weights of a model. Their values are not read.

    Without a model, only the defaults, and each override on the defaults, can be checked for contradictions.

    Args:
        file: A TOML file.
        model: An ONNX model to which the configuration is applied, or None.

    Raises:
        ConfigError: If the configuration is wrong, or a pattern matches no weight of the model.
        ModelError: If the model cannot be read, is mapped already, or its opset is too old.
    """
    configuration = read_configuration(file)
    if model is None:
        configuration.check()
        return ConfigurationReport(Path(file), configuration)
    survey = survey_model(model, configuration.model)
    resolved = configuration.resolve(survey)
    mapped = len(resolved.survey.weights)
    return ConfigurationReport(
        Path(file), configuration, Path(model), resolved.matches, mapped, len(survey.weights) - mapped
    )


def restore_model(
    mapped: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    external_data: bool | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Turn the conductances of a mapped model back into plain weights and write the plain model.

    Args:
        mapped: The mapped model, as for `map_model`. It is not changed.
        output: The path of the plain model; if None, beside the file of `mapped` with ``.restored`` before the suffix.
        external_data: Whether weights go to a data file beside the output; decided by size if None.
        progress: Called with the step ("write"), the bytes done and the total.

    Raises:
        ModelError: If the model cannot be read, is not mapped, or another tool has damaged its mapping.
        ConfigError: If the output cannot be written.
    """
    given = GivenModel.of(mapped, "restore_model")
    source, target = given.label, given.output(output, default_restored_path)
    check_output_path(target, given.files)
    watched = WatchedFiles()
    graph = given.load(watched, may_lack_data=True)
    absent = _absent_data(graph)
    with named_in_messages(source, options_concern_it=False), watched.blamed():
        manifest = read_manifest(graph)
        checked = () if manifest is None else checked_weights(manifest, graph)
        broken = tuple(item.record.name for item in checked if item.problem is not None)
        names = tuple(name for name in _names(manifest) if name not in broken)
        check = RewriteCheck(graph)
        restored = RestoreWeights()(graph)  # refuses all damage except folded mappings
        check.require_sound(graph)
        step = progress_of_step(progress, "write")
        files = save_model(
            graph, target, external_data=external_data, inputs=given.files, watched=watched, progress=step
        )
    notes = (*restored.report.notes, *absent, *_of_checker(check))
    return RestoreReport(source, target, names, tuple(files), folded=broken, notes=notes)


def default_mapped_path(model: Path) -> Path:
    """Return the default path of a mapped model: ``model.gconv.onnx`` beside ``model.onnx``."""
    return model.with_name(f"{model.stem}{MAPPED_SUFFIX}{model.suffix}")


def default_restored_path(mapped: Path) -> Path:
    """Return the default path of a restored model: ``model.restored.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}.restored{mapped.suffix}")


def _of_checker(check: RewriteCheck) -> tuple[str, ...]:
    return () if check.note is None else (check.note,)


def _absent_data(model: ir.Model) -> tuple[str, ...]:
    """Return notes on missing external data, a line for each file."""
    missing: dict[str, list[str]] = {}
    for tensor in external_tensors(model):
        if is_absent(tensor):
            missing.setdefault(os.fspath(tensor.location), []).append(f"'{tensor.name}'")
    return tuple(
        f"the data file '{location}' is not there: {listed(names)} {_stay(names)}; whoever "
        "runs the model puts the file beside it, or gives them to the session (add_external_initializers)"
        for location, names in missing.items()
    )


def _stay(names: Sequence[str]) -> str:
    return "stays as it is" if len(names) == 1 else "stay as they are"


def _remedy(weights: Sequence[CheckedWeight], unlisted: Sequence[str]) -> str | None:
    """Return what to do about broken weights; None if no weight is broken."""
    broken = [Violation(item.record.name, item.problem) for item in weights if item.problem is not None]
    if not broken:
        return None
    violations = (*broken, *(Violation(None, sentence) for sentence in unlisted))
    return remedy_of(violations, {item.record.name for item in weights if item.is_folded}, is_plain=False)


def _renamed(weights: Sequence[CheckedWeight]) -> Iterator[str]:
    """Yield a line for each weight with initializers that other tools renamed or merged with equal ones."""
    for item in weights:
        pairs = () if item.mapped is None or item.problem is not None else item.mapped.renamed
        if pairs:
            listed = ", ".join(f"'{name}' is '{now}' now" for name, now in pairs)
            yield f"another tool has joined or renamed initializers of {item.record.quoted}: {listed}"


def _with_notes(notes: tuple[str, ...], manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"notes": (*notes, *manifest.notes)})


def _names(manifest: Manifest | None) -> tuple[str, ...]:
    return () if manifest is None else tuple(weight.name for weight in manifest.weights)
