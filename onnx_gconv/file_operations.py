"""The operations from file to file: map, inspect and restore a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.errors import ConfigError, GconvError, ModelError
from onnx_gconv.mapping import Manifest, read_manifest, write_manifest
from onnx_gconv.mapping_report import MappingReport, RestoreReport
from onnx_gconv.model_io import check_output_path, load_model, save_model
from onnx_gconv.opset_upgrade import lacking_opset, raise_opset
from onnx_gconv.passes import MapConductances, RestoreWeights
from onnx_gconv.passes.map_conductances import QuantizedWeights
from onnx_gconv.passes.mapping_plan import ConductanceDtype
from onnx_gconv.passes.shared_weights import SharedPolicy
from onnx_gconv.weights import default_opset

__all__ = ["Progress", "default_mapped_path", "default_restored_path", "inspect_model", "map_model", "restore_model"]

Progress = Callable[[str, int, int], None]

_MAPPED_SUFFIX = ".gconv"


def map_model(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    converter: ConductanceConverter | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    quantized: QuantizedWeights = "map",
    conductance_dtype: ConductanceDtype = "float32",
    freeze_inputs: bool = False,
    inline_functions: bool = True,
    upgrade_opset: bool = False,
    shared: SharedPolicy = "rebuild",
    external_data: bool | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> MappingReport:
    """Map the weights of a model to conductances, in µS, and write the mapped model.

    Weights are read and conductances written in chunks; memory does not grow with the model.

    Args:
        model: The ONNX model. It is not changed.
        output: The mapped model; beside `model` with ``.gconv`` before the suffix if None.
        converter: The rule weight ⇄ conductances; a single pair of 0 to 25 µS if None.
        include: Globs over the names of weights, of their parameters and modules, and of the nodes that read them and
            their op types; all weights if empty.
        exclude: Globs for weights to leave as they are.
        include_ops: Op types that are no MVM ops, but whose tables are mapped, too: ``Gather``.
        quantized: What to do with weights of integer codes: ``map`` the codes less their zero points, or ``skip``.
        conductance_dtype: The type of the conductances of float16 and bfloat16 weights: ``float32``, or that of the
            ``weight``.
        freeze_inputs: Make constants of weights that are graph inputs too, so that a caller may replace them; below IR
            version 4 they become constants in any case.
        inline_functions: Inline local functions that use weights first; else these weights are skipped.
        upgrade_opset: Raise the opset first, with ``onnx.version_converter``, if weights cannot be mapped at the one
            that the model has.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op, such as the Gather
            of a tied embedding: with ``"rebuild"`` they read the rebuilt weight, with ``"split"`` a digital copy of it.
        external_data: Whether conductances go to a data file beside the output; decided by size if None.
        dry_run: Do everything but write.
        progress: Called with the step ("scan", "write"), the bytes done and the bytes in all.

    Returns:
        What was mapped, and what was skipped and why.

    Raises:
        ModelError: If the model cannot be read, is mapped already, has nothing to map, or its opset cannot be raised.
        UnmappableWeightError: If a weight has values that no conductance can hold.
        ConfigError: If a pattern matches nothing, there is no such policy `shared`, or the output cannot be written.
    """
    source = Path(model)
    target = default_mapped_path(source) if output is None else Path(output)
    if not dry_run:
        check_output_path(target, [source])
    graph = load_model(source)
    mapping = MapConductances(
        converter,
        include=include,
        exclude=exclude,
        include_ops=include_ops,
        quantized=quantized,
        conductance_dtype=conductance_dtype,
        freeze_inputs=freeze_inputs,
        inline_functions=inline_functions,
        shared=shared,
        progress=_step(progress, "scan"),
    )
    with _named(source):
        graph, notes = _upgraded(graph) if upgrade_opset else (graph, ())
        if dry_run:
            mapping.requires(graph)
            return MappingReport(source, _with_notes(notes, mapping.preview(graph)))
        mapping(graph)
        manifest = read_manifest(graph)
        if manifest is None:
            raise ModelError("has no weight that can be mapped; `onnx-gconv inspect` says why")
        manifest = _with_notes(notes, manifest)
        write_manifest(graph, manifest)
        files = save_model(
            graph, target, external_data=external_data, inputs=[source], progress=_step(progress, "write")
        )
    return MappingReport(source, manifest, output=target, files=tuple(files))


def inspect_model(
    model: str | os.PathLike[str],
    converter: ConductanceConverter | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    quantized: QuantizedWeights = "map",
    conductance_dtype: ConductanceDtype = "float32",
    freeze_inputs: bool = False,
    inline_functions: bool = True,
    upgrade_opset: bool = False,
    shared: SharedPolicy = "rebuild",
    progress: Progress | None = None,
) -> MappingReport:
    """Show the mapping of a mapped model, or what `map_model` would do with a plain one.

    Weights whose values no conductance can hold are listed among the skipped ones here.

    Args:
        model: The ONNX model.
        converter: For a plain model: the rule.
        include: For a plain model: globs for weights to map.
        exclude: For a plain model: globs for weights to leave as they are.
        include_ops: For a plain model: as for `map_model`.
        quantized: For a plain model: as for `map_model`.
        conductance_dtype: For a plain model: as for `map_model`.
        freeze_inputs: For a plain model: as in `map_model`.
        inline_functions: For a plain model: as in `map_model`.
        upgrade_opset: For a plain model: as in `map_model`.
        shared: For a plain model: what becomes of other readers than MVM ops, see `map_model`.
        progress: Called with the step ("scan"), the bytes done and the bytes in all.

    Raises:
        ModelError: If the model cannot be read.
        ConfigError: If a pattern matches nothing, or there is no such policy `shared`.
    """
    source = Path(model)
    graph = load_model(source)
    with _named(source):
        manifest = read_manifest(graph)
        if manifest is not None:
            return MappingReport(source, manifest, is_mapped=True)
        mapping = MapConductances(
            converter,
            include=include,
            exclude=exclude,
            include_ops=include_ops,
            quantized=quantized,
            conductance_dtype=conductance_dtype,
            freeze_inputs=freeze_inputs,
            inline_functions=inline_functions,
            shared=shared,
            progress=_step(progress, "scan"),
        )
        graph, notes = _upgraded(graph) if upgrade_opset else (graph, ())
        mapping.requires(graph)
        return MappingReport(source, _with_notes(notes, mapping.preview(graph, list_refused=True)))


def restore_model(
    mapped: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    external_data: bool | None = None,
    progress: Progress | None = None,
) -> RestoreReport:
    """Fold the conductances of a mapped model back into plain weights and write the plain model.

    Args:
        mapped: The mapped model. It is not changed.
        output: The plain model; beside `mapped` with ``.restored`` before the suffix if None.
        external_data: Whether weights go to a data file beside the output; decided by size if None.
        progress: Called with the step ("write"), the bytes done and the bytes in all.

    Raises:
        ModelError: If the model cannot be read, is not mapped, or another tool has damaged its mapping.
        ConfigError: If the output cannot be written.
    """
    source = Path(mapped)
    target = default_restored_path(source) if output is None else Path(output)
    check_output_path(target, [source])
    graph = load_model(source)
    with _named(source):
        names = _names(read_manifest(graph))
        RestoreWeights()(graph)
        files = save_model(
            graph, target, external_data=external_data, inputs=[source], progress=_step(progress, "write")
        )
    return RestoreReport(source, target, names, tuple(files))


def default_mapped_path(model: Path) -> Path:
    """``model.gconv.onnx`` beside ``model.onnx``."""
    return model.with_name(f"{model.stem}{_MAPPED_SUFFIX}{model.suffix}")


def default_restored_path(mapped: Path) -> Path:
    """``model.restored.onnx`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{mapped.stem.removesuffix(_MAPPED_SUFFIX)}.restored{mapped.suffix}")


def _upgraded(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """The model at an opset at which its weights can be mapped, and what to say of it.

    Raises:
        ModelError: If its opset cannot be raised.
    """
    opset = lacking_opset(model)
    if opset is None:
        return model, ()
    note = f"the opset is {opset}, raised from {default_opset(model)} with onnx.version_converter"
    return raise_opset(model, opset), (note,)


def _with_notes(notes: tuple[str, ...], manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"notes": (*notes, *manifest.notes)})


@contextmanager
def _named(model: Path) -> Iterator[None]:
    """Put the file's name in front of messages of code that knows no files."""
    try:
        yield
    except ConfigError:
        raise
    except GconvError as error:
        text = str(error)
        raise type(error)(text if f"'{model}'" in text else f"'{model}': {text}") from error


def _names(manifest: Manifest | None) -> tuple[str, ...]:
    return () if manifest is None else tuple(weight.name for weight in manifest.weights)


def _step(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(step, done, total)
