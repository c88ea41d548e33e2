"""The three checks of a mapped model: its weights, its outputs, and its mapping."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.files.given import GivenModel, ModelLike, named_as_given, renamed
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.mapping import MANIFEST_KEY, Manifest, read_manifest
from onnx_gconv.passes import CheckMapping, Violation
from onnx_gconv.passes.remarks import fidelity_warnings
from onnx_gconv.passes.remedies import remedy_in
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.prompts import TokenIds
from onnx_gconv.verification.branches import Branching, branchings
from onnx_gconv.verification.error_limits import ErrorLimits
from onnx_gconv.verification.lossy_outputs import judged, reasons_for_losses
from onnx_gconv.verification.missing_data import missing_data
from onnx_gconv.verification.original_runs import GivenInputs
from onnx_gconv.verification.outputs import OutputsReport, compare_outputs
from onnx_gconv.verification.raised_original import raised_original
from onnx_gconv.verification.rebuilt_original import (
    NoRebuiltOriginalError,
    measured_biases,
    original_with_rebuilt_weights,
)
from onnx_gconv.verification.report import VerificationReport
from onnx_gconv.verification.weights import WeightComparison, compare_weights
from onnx_gconv.verification.without_read_noise import READ_NOISE_TAKEN_OUT, draws_readings, without_read_noise

__all__ = ["VerificationReport", "verify"]


def verify(
    original: ModelLike,
    mapped: ModelLike,
    *,
    inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None = None,
    token_ids: Sequence[int] | TokenIds | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, ValueRange] | None = None,
    seed: int = 0,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    max_error: float | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Check that a mapped model computes what the original computes.

    1. Every weight is rebuilt in NumPy and compared with the original, chunk by chunk. Its error must be within the
       error bound of its converter.
    2. Both models run in ONNX Runtime on the same inputs, with all optimizations and with none, and every output is
       compared. The tolerance depends on how much the original's own runs differ, see `OUTPUT_RULE`.
    3. `CheckMapping` checks the structure, the manifest and the invariants of the mapping.

    If the mapping rounds conductances to levels or clips weights on purpose, the outputs are expected to differ from
    the original's. The verdict then compares them with the outputs of the original's graph with the rebuilt weights in
    place of its own; the first check has measured the errors of these weights. The reported errors are still those
    against the original. If they are below 10 dB of SQNR or 90 % agreement of argmax, the report says that outputs are
    far from the original's; that fails only if `min_sqnr_db`, `min_agreement` or `max_error` sets a limit.

    A model that draws new readings of its devices in each run gives different outputs in each run. Weights and outputs
    are then judged without that noise, and the reported errors against the original are those of one run; the report
    says so.

    If ONNX Runtime does not run the original, and its opset was raised before the mapping, the original is run at the
    raised opset; a note says so.

    A run takes one branch of an If node. If a generated input chooses the branch, as in a decoder that is merged from
    two models, both models run with both values of that input. Other branches are compared only if the given inputs
    take them; the report names these nodes.

    At most one model's weights are in memory at a time.

    Args:
        original: The model before the mapping: its file, what ``torch.onnx.export`` returns, an `onnx_ir.Model`, or an
            `onnx.ModelProto`. A model in memory is streamed to a temporary file, because ONNX Runtime reads files.
        mapped: The model after the mapping, as a file or in memory.
        inputs: A ``.npz`` file, or arrays by input name; generated from the types of the inputs if None. For a language
            model, the tokens are sufficient: a matching mask, positions and caches without earlier tokens are
            generated.
        token_ids: The tokens of a prompt, instead of `inputs`.
        dims: For generated inputs: sizes of symbolic dimensions, by symbol or ``INPUT:AXIS``.
        values: For generated inputs: ranges of values, by input.
        seed: The seed of generated inputs.
        min_sqnr_db: The smallest signal to quantization noise ratio of an output against the original, in dB, that
            passes; None for any.
        min_agreement: The smallest share of rows with the same argmax that passes, from 0 to 1; None for any.
        max_error: The largest error of an output against the original that passes, in units of the output; None for
            any.
        progress: Called with the step ("weights", or the model that runs), the amount done and the total.

    Raises:
        ModelError: If a model cannot be read.
        ConfigError: If the inputs do not fit the original, a limit has an invalid value, or the mapped model is given
            first.
    """
    limits = ErrorLimits(min_sqnr_db, min_agreement, max_error)
    if inputs is not None and token_ids is not None:
        raise ConfigError("token ids are inputs, too; give either them or other inputs")
    needs_outputs = inputs is not None or token_ids is not None or bool(dims) or bool(values) or limits.are_given
    given, given_mapped = GivenModel.of(original, "verify"), GivenModel.of(mapped, "verify")
    chosen = TokenIds.of(token_ids) if token_ids is not None else inputs
    chosen = Path(chosen) if isinstance(chosen, (str, os.PathLike)) else chosen
    watched = WatchedFiles()
    if isinstance(chosen, Path):
        watched.add(chosen, ConfigError)
    with given.on_disk() as original_file, given_mapped.on_disk() as mapped_file:
        names = {str(original_file): str(given.label), str(mapped_file): str(given_mapped.label)}
        with named_as_given(names), watched.blamed():
            report = _report(
                original_file,
                mapped_file,
                inputs=chosen,
                dims=dims or {},
                values=values or {},
                seed=seed,
                limits=limits,
                watched=watched,
                progress=progress,
            )
            watched.check()  # files are read several times, and a report on two versions of a file is worth nothing
    outputs = report.outputs.with_texts(partial(renamed, names=names))
    return replace(
        report,
        original=given.label,
        mapped=given_mapped.label,
        outputs=outputs,
        needs_outputs=needs_outputs or report.needs_outputs,
    )


def _report(
    original: Path,
    mapped: Path,
    *,
    inputs: GivenInputs | None,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    limits: ErrorLimits,
    watched: WatchedFiles,
    progress: Progress | None,
) -> VerificationReport:
    """Return the report of `verify` on two files; the files that are read are added to `watched`."""
    found = _check_weights(original, mapped, watched, progress)
    manifest, weights = found.manifest, found.weights
    if found.missing is not None:
        return VerificationReport(
            original,
            mapped,
            found.violations,
            weights,
            OutputsReport(not_compared=found.missing),
            limits,
            needs_outputs=True,
            remedy=found.remedy,
        )
    compare = partial(
        compare_outputs,
        mapped=mapped,
        inputs=inputs,
        dims=dims,
        values=values,
        seed=seed,
        mapped_weights=0 if manifest is None else len(manifest.weights),
        weight_eps=_coarsest_eps(manifest),
        flags=tuple(dict.fromkeys(item.chosen_by for item in found.branches if item.chosen_by is not None)),
        progress=None if progress is None else lambda step: progress(step, 0, 0),
    )
    outputs = compare(original)
    if outputs.inputs is None:  # the original did not run
        with raised_original(original, mapped) as raised:
            if raised is not None:
                again = compare(raised.model)
                if again.inputs is not None:
                    outputs = replace(again, notes=(raised.note, *again.notes))
    if manifest is not None and (reasons := reasons_for_losses(manifest)):
        try:
            with (
                original_with_rebuilt_weights(original, mapped, manifest) as rebuilt,
                without_read_noise(mapped, manifest) as quiet,
            ):
                # ONNX Runtime may drop a Cast to half precision between two other Casts, and with it the rounding.
                eps = max(_coarsest_eps(manifest), *(_eps(weight.dtype) for weight in manifest.weights))
                outputs = judged(outputs, compare(rebuilt, mapped=quiet, weight_eps=eps), reasons)
                outputs = replace(outputs, notes=(*outputs.notes, *map(_taken_over, measured_biases(manifest))))
        except NoRebuiltOriginalError as why:
            note = f"outputs are judged against the original alone, as it cannot hold the rebuilt weights: {why}"
            outputs = replace(outputs, notes=(note, *outputs.notes))
    elif all(item.passed for item in weights) and not all(item.bit_identical for item in weights):
        outputs = replace(outputs, notes=(*outputs.notes, *_amplified(outputs)))
    if manifest is not None:
        outputs = replace(outputs, notes=(*outputs.notes, *fidelity_warnings(manifest.weights)))
    is_noisy = manifest is not None and draws_readings(manifest)
    if is_noisy:
        outputs = replace(outputs, notes=(READ_NOISE_TAKEN_OUT, *outputs.notes))
    return VerificationReport(
        original,
        mapped,
        found.violations,
        weights,
        outputs,
        limits,
        if_nodes=tuple(item.node for item in found.branches if item.chosen_by not in outputs.both_taken),
        draws_readings=is_noisy,
        remedy=found.remedy,
    )


def _taken_over(bias: str) -> str:
    return (
        f"the bias '{bias}' was measured, too; outputs are judged with this bias, so that errors in it are not noticed"
    )


def _amplified(outputs: OutputsReport) -> Iterator[str]:
    """Yield a sentence for each output with a larger error than the rounding of weights should cause."""
    largest: dict[str, float] = {}
    for item in outputs.comparisons:
        if item.is_amplified and item.relative_error is not None:
            largest[item.name] = max(largest.get(item.name, 0.0), item.relative_error)
    for name, error in largest.items():
        yield (
            f"output '{name}' is off by {error:.2%} of its range, though weights are off by their last digits alone: "
            "unless something else was changed, the model amplifies rounding, as rounded activations and phases do; "
            "mapped with --exact (exact=True), weights are bit-identical, which removes it"
        )


@dataclass(frozen=True)
class _WithoutRuntime:
    """The results of the checks that need no runtime; for the fields see `VerificationReport`.

    `missing` says why neither model is run, because a data file is not there; None if all are.
    """

    manifest: Manifest | None
    violations: tuple[Violation, ...]
    weights: tuple[WeightComparison, ...]
    branches: tuple[Branching, ...]
    remedy: str | None
    missing: str | None


def _check_weights(original: Path, mapped: Path, watched: WatchedFiles, progress: Progress | None) -> _WithoutRuntime:
    """Run the checks that need no runtime, without the data of tensors that these do not read.

    Raises:
        ModelError: If a model cannot be read, or lacks the data of weights that are compared.
    """
    try:
        found = _without_runtime(original, mapped, watched, progress)
    except ModelError:
        _require_data(original, mapped)
        raise
    if found.manifest is None:
        _require_data(original, mapped)
    return found


def _require_data(original: Path, mapped: Path) -> None:
    """Raise the error that names model and tensor if the data of any tensor is missing."""
    for file in (mapped, original):
        load_model(file)


def _without_runtime(original: Path, mapped: Path, watched: WatchedFiles, progress: Progress | None) -> _WithoutRuntime:
    """Run the checks that need no runtime. Both models are released from memory afterwards."""
    with _on_disk(mapped, watched) as mapped_model:
        branches = branchings(mapped_model)
        violations = CheckMapping().violations(mapped_model)
        remedy = remedy_in(mapped_model, violations)
        try:
            manifest = read_manifest(mapped_model)
        except ModelError:  # a manifest that cannot be read is reported as a violation
            manifest = None
        original_model = load_model(original, watched, may_lack_data=True)
        missing = missing_data({original: original_model, mapped: mapped_model})
        if manifest is None:
            if MANIFEST_KEY in original_model.metadata_props and MANIFEST_KEY not in mapped_model.metadata_props:
                raise ConfigError(
                    f"'{original}' is a mapped model, and '{mapped}' is none; give the original first, then the mapped "
                    "one"
                )
            return _WithoutRuntime(None, violations, (), branches, remedy, missing)
        weights = compare_weights(original_model, mapped_model, manifest, progress_of_step(progress, "weights"))
        return _WithoutRuntime(manifest, violations, weights, branches, remedy, missing)


def _eps(dtype: str) -> float:
    """Return the machine epsilon of a type, given by name; 0 for integers."""
    return float(ml_dtypes.finfo(dtype).eps) if "float" in dtype else 0.0


def _coarsest_eps(manifest: Manifest | None) -> float:
    """Return the machine epsilon of the coarsest type in which weights are rebuilt.

    The type of a weight itself does not matter: a weight of half precision is rebuilt in float32, and the final Cast
    gives back the same half-precision values.
    """
    names = {weight.compute_dtype for weight in manifest.weights} if manifest is not None else set()
    return max((float(ml_dtypes.finfo(name).eps) for name in names), default=float(np.finfo(np.float32).eps))


@contextmanager
def _on_disk(path: Path, watched: WatchedFiles | None = None) -> Iterator[ir.Model]:
    """Load a model so that its large weights are in external data; inline weights are written to a temporary file."""
    model = load_model(path, watched, may_lack_data=True)
    if not any(_is_large_and_inline(value) for graph in model.graphs() for value in graph.initializers.values()):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        copy = Path(folder) / "mapped.onnx"
        save_model(model, copy, external_data=True)
        del model
        yield load_model(copy, may_lack_data=True)


def _is_large_and_inline(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > 1 << 10
