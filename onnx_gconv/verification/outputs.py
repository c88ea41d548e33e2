"""Runs a mapped model and its original in ONNX Runtime and compares their outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.comparison import FLOAT32_EPS, OUTPUT_RULE, OutputComparison, Rounding, compare_all, flatten_all
from onnx_gconv.runtime.given_inputs import not_finite
from onnx_gconv.runtime.inputs import ValueRange
from onnx_gconv.runtime.positions import with_positions
from onnx_gconv.runtime.session import OPTIMIZATIONS, RuntimeRefusal, run_model
from onnx_gconv.verification.original_runs import Generation, GivenInputs, OriginalRuns, described
from onnx_gconv.verification.outputs_report import InputsDescription, OutputsReport, RunFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OUTPUT_RULE", "InputsDescription", "OutputComparison", "OutputsReport", "RunFailure", "compare_outputs"]


def compare_outputs(
    original: Path,
    mapped: Path,
    *,
    inputs: GivenInputs | None,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    mapped_weights: int,
    weight_eps: float = FLOAT32_EPS,
    flags: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> OutputsReport:
    """Run both models on the same inputs, optimized and not, and compare their outputs.

    One model is in memory at a time. A float output passes when

        max_abs_error <= tolerance = max(10 * spread, 32 * mapped_weights * eps * range, 2^-21)

    - ``spread`` is the largest difference between runs of the original itself: optimized and not optimized, and two
      runs in a row.
    - The rounding of rebuilt weights can cause an error of 32 ulp of the output's range for each mapped weight. ``eps``
      is the coarser one of the output's type and the weights' type, because a float64 output of float32 weights
      contains their rounding. ``range`` is max|original| over the finite elements, without masks. A mask is a value
      that occurs several times and is at least 1000 and 1000 times above all others, such as -1e9 or the lowest float.
    - 2^-21 is 4 ulp of one: ONNX Runtime computes sigmoids with an absolute error of a few 2^-25, also where the
      resulting probabilities are near zero.
    - Each term is limited, so that no wrong model passes. An error above ``limit = max(0.01, 4 * eps) * range`` cannot
      come from rounding. So 32 * mapped_weights * eps * range is at most limit (for float16 and a hundred weights it
      would exceed the range itself), 10 * spread is at most max(2 * spread, limit), and 2^-21 is at most range / 10 and
      4 * eps (which is smaller for float64 outputs of float64 weights).
    - Random numbers do not count as spread. If all nodes that draw them have a seed, the first runs of new sessions
      draw the same numbers; these runs are compared, and 10 * spread is at most limit. If not, outputs that differ from
      run to run are not compared, and the report says so.
    - NaN and infinities must be at the same positions, infinities with the same sign; type and shape must be equal.

    Integer, bool and string outputs must be equal. If runs of the original differ in k elements, 10 k mismatches pass,
    but no more than a tenth of all elements or k, whichever is larger.

    Args:
        original: The model before the mapping.
        mapped: The mapped model.
        inputs: The user's inputs, as an .npz file, arrays by name, or token ids. If None, the first generated inputs on
            which the original runs.
        dims: Sizes of symbolic dimensions of generated inputs, by name or ``INPUT:AXIS``.
        values: Values of generated inputs, by input name.
        seed: The seed of generated inputs.
        mapped_weights: Number of weights that the mapping rebuilds; with 0, the second term is 0.
        weight_eps: The machine epsilon of the coarsest float type among the mapped weights: 2^-23 for float32, 2^-10
            for float16, 2^-52 if all are float64.
        flags: Names of boolean scalar inputs that choose branches. For each one that was generated, both models also
            run with its other value.
        progress: Called with a line of text at the beginning of each step.

    Returns:
        The report. It also says if the original does not run on generated inputs, or the mapped model does not run.

    Raises:
        ModelError: A model's file does not exist.
        ConfigError: The user's inputs, sizes or values do not fit the original, or it does not run on these inputs.
    """
    tell = progress or _ignore
    for model in (original, mapped):
        if not model.is_file():
            raise ModelError(f"{model}: there is no such file")
    if inputs is not None and (dims or values):
        raise ConfigError("sizes and values are for generated inputs; give either them or the inputs themselves")
    generation = Generation(dims, values, seed)
    rounding = Rounding(mapped_weights, weight_eps)
    runs = _runs(original, inputs, generation, tell)
    if runs.feeds is None or not runs.outputs:
        return OutputsReport(not_compared=runs.why_not())
    first = _compared(runs, mapped, rounding, tell)
    cases = [first]
    taken: list[str] = []
    for name, value in runs.flags(flags).items():
        if name in values:
            continue
        case = f"{name}={not value}"
        tell(f"running both models with {case}")
        others = _runs(original, inputs, replace(generation, flags={name: not value}), tell)
        if others.feeds is None or not others.outputs:
            cases.append(_Case((), (), (f"the branches that {case} takes are not compared: {others.why_not()}",)))
            continue
        taken.append(name)
        cases.append(_compared(others, mapped, rounding, tell).named(case))
    comparisons = tuple(item for case in cases for item in case.comparisons)
    places = _of_places(first, runs, inputs)
    return OutputsReport(
        comparisons=comparisons,
        inputs=runs.describe_inputs(),
        not_compared=_nothing_in_them(comparisons, runs.feeds, inputs),
        failures=tuple(dict.fromkeys(item for case in cases for item in case.failures)),
        notes=tuple(dict.fromkeys([*(note for case in cases for note in case.notes), *places])),
        both_taken=tuple(taken),
    )


@dataclass(frozen=True)
class _Case:
    """The results of both models on one set of inputs."""

    comparisons: tuple[OutputComparison, ...]
    failures: tuple[RunFailure, ...]
    notes: tuple[str, ...]

    def named(self, case: str) -> _Case:
        """Return the results with the name of the case, which says what differs from the first inputs."""
        return _Case(
            tuple(replace(item, case=case) for item in self.comparisons),
            tuple(replace(item, message=f"{item.message} (with {case})") for item in self.failures),
            self.notes,
        )


def _runs(
    original: Path, inputs: GivenInputs | None, generation: Generation, tell: Callable[[str], None]
) -> OriginalRuns:
    """Run the original at all optimization levels."""
    runs = OriginalRuns(original, inputs, generation, tell)
    for optimization in OPTIMIZATIONS:
        runs.run(optimization)
    return runs


def _compared(runs: OriginalRuns, mapped: Path, rounding: Rounding, tell: Callable[[str], None]) -> _Case:
    """Compare the mapped model's outputs with the original's, at the levels at which the original runs."""
    comparisons: list[OutputComparison] = []
    failures: list[RunFailure] = []
    for optimization, reference in runs.outputs.items():
        tell(f"running the mapped model, {described(optimization)}")
        try:
            found = flatten_all(run_model(mapped, runs.feeds or {}, optimization))
        except RuntimeRefusal as refusal:
            failures.append(RunFailure(optimization, refusal.stage, refusal.message))
            continue
        one, other = runs.written(reference), runs.written(found)
        for item in compare_all(optimization, one, other, runs.spreads, rounding):
            of_positions = with_positions(item, one, other, runs.tokens_shape())
            comparisons.append(_without_unwritten(of_positions, runs.unwritten.get(item.name)))
    return _Case(tuple(comparisons), tuple(failures), runs.notes())


def _without_unwritten(comparison: OutputComparison, unwritten: NDArray[np.bool_] | None) -> OutputComparison:
    """Return a comparison without the elements that the original never writes."""
    if unwritten is None or comparison.shape != unwritten.shape:
        return comparison
    return replace(comparison, compared_elements=max(comparison.compared_elements - int(unwritten.sum()), 0))


def _ignore(_: str) -> None:
    """Do nothing: the default for `progress`."""


def _of_places(case: _Case, runs: OriginalRuns, inputs: GivenInputs | None) -> Iterator[str]:
    """Yield a note for each output with elements that are not compared, because inputs are not finite."""
    if (wrong := _not_finite(runs.feeds or {}, inputs)) is None:
        return
    for item in case.comparisons:
        size, unwritten = math.prod(item.shape or ()), runs.unwritten.get(item.name)
        places = size - item.compared_elements - (0 if unwritten is None else int(unwritten.sum()))
        if item.passed and item.compared_elements and not item.is_random and places > 0:
            yield (
                f"of output '{item.label}' only the places of {places:,} of {size:,} elements were "
                f"compared, which are NaN or infinite in both models: {wrong}"
            )


def _not_finite(feeds: Mapping[str, NDArray[Any]], inputs: GivenInputs | None) -> str | None:
    """Say where inputs are NaN or infinite, with the name of their file; None if nowhere."""
    found = not_finite(feeds)
    return f"{inputs}: {found}" if found is not None and isinstance(inputs, Path) else found


def _nothing_in_them(
    comparisons: Sequence[OutputComparison], feeds: Mapping[str, NDArray[Any]], inputs: GivenInputs | None
) -> str | None:
    """Return why comparisons prove nothing, because the original computes no numbers; None if they prove something."""
    if not comparisons or any(found.compared_elements or found.is_random or not found.passed for found in comparisons):
        return None
    remedy = _not_finite(feeds, inputs) or "give inputs on which it computes something"
    return f"the original's outputs are empty or not finite on these inputs; {remedy}"
