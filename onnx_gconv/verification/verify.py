"""The three checks of a mapped model: its weights, its outputs, and its mapping."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError, ModelError, VerificationError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.files.progress import Progress, progress_of_step
from onnx_gconv.known_names import quoted_name
from onnx_gconv.mapping import MANIFEST_KEY, Manifest, read_manifest
from onnx_gconv.passes import CheckMapping, Violation
from onnx_gconv.runtime.comparison import OutputComparison
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.terminal_text import counted, plain, rendered, titled_table, with_name
from onnx_gconv.verification.error_limits import NO_LIMITS, STATED_LIMITS, ErrorLimits
from onnx_gconv.verification.lossy_outputs import judged, reasons_for_losses
from onnx_gconv.verification.outputs import OutputsReport, compare_outputs
from onnx_gconv.verification.raised_original import raised_original
from onnx_gconv.verification.rebuilt_original import (
    NoRebuiltOriginalError,
    measured_biases,
    original_with_rebuilt_weights,
)
from onnx_gconv.verification.weights import WeightComparison, compare_weights
from onnx_gconv.verification.without_read_noise import READ_NOISE_TAKEN_OUT, draws_readings, without_read_noise
from onnx_gconv.visible_text import listed
from onnx_gconv.weights.rearrangement import node_label

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text  # noqa: TID251 - only its name

__all__ = ["VerificationReport", "verify"]

_MOST_PROBLEMS = 3


@dataclass(frozen=True)
class VerificationReport:
    """What the three checks found; ``print(report)`` shows tables.

    Attributes:
        original: The model before the mapping.
        mapped: The model after it.
        violations: What is wrong with the mapping itself, see `CheckMapping`.
        weights: Every rebuilt weight beside the original one.
        outputs: Every output of the mapped model beside the original's, in ONNX Runtime.
        limits: What was asked of the errors against the original.
        needs_outputs: Whether something was given that only the comparison of outputs needs, so that it has to run.
        if_nodes: The If nodes of the mapped model. What their branches compute is compared only if inputs take them.
        draws_readings: Whether each run of the mapped model draws new readings of its devices. Weights and outputs are
            then judged with that noise taken out of the model.
    """

    original: Path
    mapped: Path
    violations: tuple[Violation, ...]
    weights: tuple[WeightComparison, ...]
    outputs: OutputsReport
    limits: ErrorLimits = NO_LIMITS
    needs_outputs: bool = False
    if_nodes: tuple[str, ...] = ()
    draws_readings: bool = False

    @property
    def passed(self) -> bool:
        """Whether everything that could be checked holds, and what was asked for could be."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that does not hold, a line each."""
        return (
            *(str(violation) for violation in self.violations),
            *(_weight_problem(item) for item in self.weights if not item.passed and not self._is_told(item)),
            *(
                f"at optimization '{item.optimization}' the mapped model does not {item.stage}: {item.message}"
                for item in self.outputs.failures
            ),
            *(_output_problem(item) for item in self.outputs.comparisons if not item.passed),
            *self._beyond(self.limits),
            *self._missing(),
        )

    def _is_told(self, item: WeightComparison) -> bool:
        """Whether the check of the mapping says the same of a weight."""
        return any((each.weight, each.message) == (item.name, item.problem) for each in self.violations)

    @property
    def far_from_original(self) -> tuple[str, ...]:
        """Outputs below 10 dB of SQNR or 90 % agreement of argmax against the untouched original, a line each."""
        return tuple(self._beyond(STATED_LIMITS))

    def _beyond(self, limits: ErrorLimits) -> Iterator[str]:
        for item in self.outputs.comparisons:
            if exceeded := limits.exceeded_by(item):
                yield f"output '{item.name}' at optimization '{item.optimization}': {' and '.join(exceeded)}"

    def _missing(self) -> Iterator[str]:
        if self.needs_outputs and self.outputs.unproved is not None:
            yield f"outputs were to be compared, but were not: {self.outputs.unproved}"

    def raise_if_failed(self) -> None:
        """Raise unless everything that could be checked holds.

        Raises:
            VerificationError: Its message has the first problems.
        """
        if self.passed:
            return
        more = f" (and {len(self.problems) - _MOST_PROBLEMS} more)" if len(self.problems) > _MOST_PROBLEMS else ""
        raise VerificationError(
            f"'{self.mapped}' does not verify against '{self.original}': "
            f"{'; '.join(self.problems[:_MOST_PROBLEMS])}{more}"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        outputs = self.outputs.to_json()
        return {
            "original": str(self.original),
            "mapped": str(self.mapped),
            "passed": self.passed,
            "problems": list(self.problems),
            "far_from_original": list(self.far_from_original),
            "violations": [asdict(violation) for violation in self.violations],
            "weights": [asdict(item) for item in self.weights],
            "outputs": outputs["outputs"],
            "outputs_not_compared": outputs["not_compared"],
            "rule": outputs["rule"],
            "inputs": outputs["inputs"],
            "run_failures": outputs["failures"],
            "notes": outputs["notes"],
            "if_nodes": list(self.if_nodes),
            "draws_readings": self.draws_readings,
        }

    def __str__(self) -> str:
        return rendered(self)

    def __rich__(self) -> Group:
        from rich.console import Group

        parts: list[RenderableType] = []
        if self.weights:
            parts.append(self._weights_table())
        if self.outputs.comparisons:
            parts.append(self._outputs_table())
        parts.extend(map(plain, self._remarks()))
        parts.extend(plain(f"FAILED: {problem}", style="bold red") for problem in self.problems)
        if self.passed:
            is_proved = self.outputs.unproved is None and not self.far_from_original and not self.draws_readings
            parts.append(plain(self._verdict(), style="bold green" if is_proved else "bold yellow"))
        return Group(*parts)

    def _weights_table(self) -> Table:
        table = titled_table("Weights, rebuilt against original")
        table.add_column("weight")
        table.add_column("max |error|", justify="right")
        table.add_column("/ max |W|", justify="right")
        table.add_column("allowed", justify="right")
        # A distance in ulp says nothing of weights that are rounded to levels: it is billions across zero.
        has_ulp = not all(item.is_lossy for item in self.weights)
        is_lossy = any(item.is_lossy for item in self.weights)
        if has_ulp:
            table.add_column("ulp", justify="right")
        if is_lossy:
            table.add_column("SQNR [dB]", justify="right")
        table.add_column("identical")
        table.add_column("")
        for item in self.weights:
            ulp = "-" if item.max_ulp_error is None or item.is_lossy else f"{item.max_ulp_error:,}"
            sqnr = "-" if item.sqnr_db is None else f"{item.sqnr_db:.1f}"
            table.add_row(
                with_name(item.known_as, item.name),
                _number(item.max_abs_error),
                _number(item.max_relative_error),
                _number(item.bound),
                *([ulp] if has_ulp else []),
                *([sqnr] if is_lossy else []),
                "yes" if item.bit_identical else "no",
                _mark(passed=item.passed),
            )
        return table

    def _outputs_table(self) -> Table:
        table = titled_table("Outputs in ONNX Runtime, mapped against original")
        table.add_column("output")
        table.add_column("optimization")
        table.add_column("max |error|", justify="right")
        is_judged = any(item.rebuilt_error is not None for item in self.outputs.comparisons)
        if is_judged:
            table.add_column("beyond weights", justify="right")
        table.add_column("allowed", justify="right")
        table.add_column("own spread", justify="right")
        table.add_column("SQNR [dB]", justify="right")
        table.add_column("same argmax", justify="right")
        table.add_column("")
        for item in self.outputs.comparisons:
            agreement = "-" if item.argmax_agreement is None else f"{item.argmax_agreement:.1%}"
            sqnr = "identical" if item.bit_identical else ("-" if item.sqnr_db is None else f"{item.sqnr_db:.1f}")
            error = item.max_abs_error if item.mismatches is None else item.mismatches
            allowed = item.tolerance if item.mismatches is None else item.allowed_mismatches
            table.add_row(
                plain(item.name),
                item.optimization,
                _number(error),
                *([_number(item.rebuilt_error)] if is_judged else []),
                _number(allowed),
                _number(item.spread),
                sqnr,
                agreement,
                _mark(passed=item.passed),
            )
        return table

    def _remarks(self) -> Iterator[str]:
        if self.outputs.inputs is not None:
            described = self.outputs.inputs
            seed = "" if described.seed is None else f", seed {described.seed}"
            shapes = ", ".join(f"{item.name} {list(item.shape)}" for item in described.tensors)
            yield f"Inputs: {described.source}{seed}: {shapes}"
        yield from (f"Note: {note}" for note in self.outputs.notes)
        if self.if_nodes and self.outputs.comparisons:
            yield (
                f"Note: a run takes one branch of an If ({listed(self.if_nodes)}), and what the other one computes is "
                "not compared; verify again with inputs that take it (--inputs, --value)"
            )
        if self.outputs.unproved is not None:
            yield f"OUTPUTS NOT COMPARED: {self.outputs.unproved}"

    def _verdict(self) -> str:
        identical = sum(item.bit_identical for item in self.weights)
        weights = f"{counted(len(self.weights))} ({identical} bit-identical)"
        if self.outputs.unproved is not None:
            which = "outputs" if self.outputs.not_compared is not None else "some outputs"
            return f"NOT VERIFIED AS A WHOLE: {weights} and the mapping hold, but {which} were not compared."
        taken = " of the branches that these inputs take" if self.if_nodes else ""
        count = f"{len(self.outputs.comparisons)} comparisons of outputs{taken}"
        passed = "PASSED WITHOUT THE NOISE OF READINGS" if self.draws_readings else "PASSED"
        verdict = f"{passed}: {weights}, {count}, and the mapping hold"
        if not self.far_from_original:
            return f"{verdict}."
        return f"{verdict}, but outputs are FAR FROM THE ORIGINAL'S: {'; '.join(self.far_from_original)}."


def verify(
    original: str | os.PathLike[str],
    mapped: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, ValueRange] | None = None,
    seed: int = 0,
    min_sqnr_db: float | None = None,
    min_agreement: float | None = None,
    max_error: float | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Check that a mapped model computes what the original computes.

    1. Every weight is rebuilt in NumPy and compared with the original, chunk by chunk, against the error bound of its
       converter.
    2. Both models run in ONNX Runtime on the same inputs, with all optimizations and with none, and every output is
       compared, judged by how far the original is from itself at the two levels.
    3. `CheckMapping` reads the structure, the manifest and the invariants.

    Where the mapping rounds conductances to levels or clips weights on purpose, outputs differ from the original's as
    they should. They are then judged against the outputs of the original's own graph with the rebuilt weights in place
    of its weights, whose errors the first check has measured; the errors that are reported stay those against the
    original, and have limits of their own. Below 10 dB of SQNR or 90 % agreement of argmax the report says that outputs
    are far from the original's, which fails only if `min_sqnr_db` or `min_agreement` asks for more.

    A model that draws new readings of its devices in each run gives other outputs in each. Weights are then those
    without that noise, outputs are judged with the noise taken out of the mapped model, and errors against the original
    are those of one run; the report says so.

    An original that ONNX Runtime does not run, and whose opset was raised before the mapping, is run at the raised
    opset; a note says so.

    A run takes one branch of an If. What another one computes is compared only with inputs that take it; the report
    names the nodes.

    Never more than one model's weights are in memory.

    Args:
        original: The model before the mapping.
        mapped: The model after it.
        inputs: A ``.npz`` file, or arrays by input name; generated from the types of the inputs if None.
        dims: For generated inputs: sizes of symbolic dimensions, by symbol or ``INPUT:AXIS``.
        values: For generated inputs: ranges of values, by input.
        seed: For generated inputs.
        min_sqnr_db: The smallest signal to quantization noise ratio of an output against the original, in dB, that
            passes; None for any.
        min_agreement: The smallest share of rows with the same argmax that passes, from 0 to 1; None for any.
        max_error: The largest error of an output against the original that passes, in its units; None for any.
        progress: Called with the step ("weights", or what runs), what is done and how much there is.

    Raises:
        ModelError: If a model cannot be read.
        ConfigError: If the inputs do not fit the original, a limit is no such number, or the mapped model is given
            first.
    """
    original, mapped = Path(original), Path(mapped)
    limits = ErrorLimits(min_sqnr_db, min_agreement, max_error)
    manifest, violations, weights, if_nodes = _check_weights(original, mapped, progress)
    compare = partial(
        compare_outputs,
        mapped=mapped,
        inputs=Path(inputs) if isinstance(inputs, (str, os.PathLike)) else inputs,
        dims=dims or {},
        values=values or {},
        seed=seed,
        mapped_weights=0 if manifest is None else len(manifest.weights),
        weight_eps=_coarsest_eps(manifest),
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
                # ONNX Runtime leaves out a cast to half precision between two others, and so the rounding.
                eps = max(_coarsest_eps(manifest), *(_eps(weight.dtype) for weight in manifest.weights))
                outputs = judged(outputs, compare(rebuilt, mapped=quiet, weight_eps=eps), reasons)
                outputs = replace(outputs, notes=(*outputs.notes, *map(_taken_over, measured_biases(manifest))))
        except NoRebuiltOriginalError as why:
            note = f"outputs are judged against the original alone, as the rebuilt weights do not go into it: {why}"
            outputs = replace(outputs, notes=(note, *outputs.notes))
    elif all(item.passed for item in weights) and not all(item.bit_identical for item in weights):
        outputs = replace(outputs, notes=(*outputs.notes, *_amplified(outputs)))
    is_noisy = manifest is not None and draws_readings(manifest)
    if is_noisy:
        outputs = replace(outputs, notes=(READ_NOISE_TAKEN_OUT, *outputs.notes))
    needs_outputs = inputs is not None or bool(dims) or bool(values) or limits.are_given
    return VerificationReport(original, mapped, violations, weights, outputs, limits, needs_outputs, if_nodes, is_noisy)


def _taken_over(bias: str) -> str:
    return (
        f"the bias '{bias}' was measured, too, and is judged as the mapped model has it: what changed in it is not seen"
    )


def _amplified(outputs: OutputsReport) -> Iterator[str]:
    """A sentence for each output whose error is more than rounding of weights should cause."""
    largest: dict[str, float] = {}
    for item in outputs.comparisons:
        if item.is_amplified and item.relative_error is not None:
            largest[item.name] = max(largest.get(item.name, 0.0), item.relative_error)
    for name, error in largest.items():
        yield (
            f"output '{name}' is off by {error:.2%} of its range, though weights are off by their last digits alone: "
            "unless something else was changed, the model amplifies rounding, as rounded activations and phases do; "
            "--exact (exact=True) makes weights bit-identical, and removes it"
        )


def _check_weights(
    original: Path, mapped: Path, progress: Progress | None
) -> tuple[Manifest | None, tuple[Violation, ...], tuple[WeightComparison, ...], tuple[str, ...]]:
    """The checks that need no runtime, and the If nodes. Both models are gone from memory afterwards."""
    with _on_disk(mapped) as mapped_model:
        if_nodes = tuple(node_label(node) for node in mapped_model.graph.all_nodes() if node.op_type == "If")
        violations = CheckMapping().violations(mapped_model)
        try:
            manifest = read_manifest(mapped_model)
        except ModelError:  # it is among the violations
            manifest = None
        original_model = load_model(original)
        if manifest is None:
            if MANIFEST_KEY in original_model.metadata_props and MANIFEST_KEY not in mapped_model.metadata_props:
                raise ConfigError(
                    f"'{original}' is a mapped model, and '{mapped}' is none; give the original first, then the mapped "
                    "one"
                )
            return None, violations, (), if_nodes
        step = progress_of_step(progress, "weights")
        return manifest, violations, compare_weights(original_model, mapped_model, manifest, step), if_nodes


def _eps(dtype: str) -> float:
    """The machine epsilon of a type by name; 0 for integers."""
    return float(ml_dtypes.finfo(dtype).eps) if "float" in dtype else 0.0


def _coarsest_eps(manifest: Manifest | None) -> float:
    """The machine epsilon of the coarsest type in which weights are rebuilt.

    A weight of half precision is rebuilt in float32, and the cast at the end gives it back, so its own type counts not.
    """
    names = {weight.compute_dtype for weight in manifest.weights} if manifest is not None else set()
    return max((float(ml_dtypes.finfo(name).eps) for name in names), default=float(np.finfo(np.float32).eps))


@contextmanager
def _on_disk(path: Path) -> Iterator[ir.Model]:
    """A model whose weights are in external data; those of one that has them inline are written to a temporary file."""
    model = load_model(path)
    if not any(_is_large_and_inline(value) for graph in model.graphs() for value in graph.initializers.values()):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="onnx-gconv-") as folder:
        copy = Path(folder) / "mapped.onnx"
        save_model(model, copy, external_data=True)
        del model
        yield load_model(copy)


def _is_large_and_inline(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > 1 << 10


def _weight_problem(item: WeightComparison) -> str:
    if item.problem is not None:
        return f"weight {quoted_name(item.name, item.known_as)}: {item.problem}"
    error = "not a number" if item.max_abs_error is None else f"{item.max_abs_error:g}"
    name = quoted_name(item.name, item.known_as)
    return f"weight {name} is rebuilt with an error of {error}, the converter allows {item.bound:g}"


def _output_problem(item: OutputComparison) -> str:
    if item.note is not None:
        return f"output '{item.name}' at optimization '{item.optimization}': {item.note}"
    return (
        f"output '{item.name}' at optimization '{item.optimization}' is off by {_number(item.max_abs_error)}, "
        f"allowed is {_number(item.tolerance)}"
    )


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _mark(*, passed: bool) -> Text:
    return plain("ok", style="green") if passed else plain("FAILED", style="bold red")
