"""Whether a mapped model gives the outputs of its original, both run in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.runtime.comparison import (
    FLOAT32_EPS,
    OUTPUT_RULE,
    OutputComparison,
    Outputs,
    Rounding,
    Spread,
    compare_all,
    flatten_all,
    is_beyond_rounding,
    spread_between,
)
from onnx_gconv.runtime.given_inputs import check_inputs, load_inputs
from onnx_gconv.runtime.inputs import InputSpec, ValueRange, generate_attempts
from onnx_gconv.runtime.session import OPTIMIZATIONS, ModelSession, Optimization, RuntimeRefusal, run_model
from onnx_gconv.verification.outputs_report import InputsDescription, OutputsReport, RunFailure
from onnx_gconv.verification.random_numbers import random_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["OUTPUT_RULE", "InputsDescription", "OutputComparison", "OutputsReport", "RunFailure", "compare_outputs"]


def compare_outputs(
    original: Path,
    mapped: Path,
    *,
    inputs: Path | Mapping[str, NDArray[Any]] | None,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    mapped_weights: int,
    weight_eps: float = FLOAT32_EPS,
    progress: Callable[[str], None] | None = None,
) -> OutputsReport:
    """Run both models on the same inputs, optimized and not, and compare their outputs.

    One model is in memory at a time. A float output passes when

        max_abs_error <= tolerance = max(10 * spread, 32 * mapped_weights * eps * range, 2^-21)

    - ``spread`` is what the runtime does to the original itself: optimized against not, and two runs in a row.
    - 32 ulp of the output's range per mapped weight is what the rounding of rebuilt weights can cause. ``eps`` is that
      of the output's type or of the weights' type, whichever is coarser: a float64 output of float32 weights carries
      their rounding. ``range`` is max|original| over the finite elements; a mask (one value, repeated, at least 1000
      and 1000 times above all others, such as -1e9 or the lowest float) is not part of it.
    - 2^-21 is 4 ulp of one: probabilities near zero come out of sigmoids that the runtime computes with an absolute
      error of a few 2^-25, however small they are.
    - No term may pass a wrong model: an error above ``limit = max(0.01, 4 * eps) * range`` is none of rounding, so
      32 * mapped_weights * eps * range ends there (for float16 and a hundred weights it would exceed the range
      itself), 10 * spread ends at max(2 * spread, limit), and 2^-21 at range / 10 and at 4 * eps (which is smaller for
      float64 outputs of float64 weights).
    - Random numbers are no spread. If all nodes that draw them have a seed, they draw the same ones in the first runs
      of fresh sessions; these are compared, and 10 * spread ends at limit. Otherwise the outputs that differ from run
      to run are not compared, and the report says so.
    - NaN must stand at the same positions, infinities too and with equal sign; type and shape must be equal.

    Integer, bool and string outputs must be equal. Where the original differs from itself in k elements, 10 k
    mismatches pass, but no more than a tenth of all elements or k, whichever is larger.

    Args:
        original: The model as it was before the mapping.
        mapped: The mapped model.
        inputs: The user's inputs, as an .npz file or arrays by name. None: generated ones, the first that the original
            runs on.
        dims: Sizes of symbolic dimensions of generated inputs, by name or ``INPUT:AXIS``.
        values: Values of generated inputs, by input name.
        seed: The seed of generated inputs.
        mapped_weights: How many weights the mapping rebuilds; 0 takes the second term away.
        weight_eps: The machine epsilon of the coarsest float type among the mapped weights; 2^-23 for float32, 2^-10
            for float16, 2^-52 where all are float64.
        progress: Is told what is being done, one line at a time.

    Returns:
        The report; an original that does not run on generated inputs, and a mapped model that does not run, are part
        of it.

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
    runs = _OriginalRuns(original, inputs, _Generation(dims, values, seed), tell)
    for optimization in OPTIMIZATIONS:
        runs.run(optimization)
    if runs.feeds is None or not runs.outputs:
        return OutputsReport(not_compared=runs.why_not())
    comparisons: list[OutputComparison] = []
    failures: list[RunFailure] = []
    for optimization, reference in runs.outputs.items():
        tell(f"running the mapped model, {_described(optimization)}")
        try:
            found = flatten_all(run_model(mapped, runs.feeds, optimization))
        except RuntimeRefusal as refusal:
            failures.append(RunFailure(optimization, refusal.stage, refusal.message))
            continue
        rounding = Rounding(mapped_weights, weight_eps)
        comparisons += compare_all(optimization, reference, found, runs.spreads, rounding)
    return OutputsReport(
        comparisons=tuple(comparisons),
        inputs=runs.describe_inputs(),
        not_compared=_nothing_in_them(comparisons),
        failures=tuple(failures),
        notes=runs.notes(),
    )


@dataclass(frozen=True)
class _Generation:
    """How inputs are generated."""

    dims: Mapping[str, int]
    values: Mapping[str, ValueRange]
    seed: int


class _OriginalRuns:
    """The original's outputs at the levels at which it runs, on the first inputs on which it does."""

    def __init__(
        self,
        model: Path,
        inputs: Path | Mapping[str, NDArray[Any]] | None,
        generation: _Generation,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._given = inputs
        self._generation = generation
        self._tell = tell
        self._refusals: dict[Optimization, RuntimeRefusal] = {}
        self._unfit: ConfigError | None = None
        self._attempts = 0
        self.feeds: dict[str, NDArray[Any]] | None = None
        self.outputs: dict[Optimization, Outputs] = {}
        self.spreads: dict[str, Spread] = {}

    def run(self, optimization: Optimization) -> None:
        """Run the original at one level, and note how far it is from its runs so far."""
        self._tell(f"running the original, {_described(optimization)}")
        try:
            with ModelSession(self._model, optimization) as session:
                found = self._first_accepted(session)
                if found is None:
                    return
                again = None if self.outputs else flatten_all(session.run(self.feeds or {}))
            if again is not None:
                found = self._first_run(optimization, found, again)
        except RuntimeRefusal as refusal:
            self._refusals[optimization] = refusal.with_traceback(None)
            return
        for first in self.outputs.values():
            self._measure_spread(first, found)
        self.outputs[optimization] = found

    def _first_run(self, optimization: Optimization, found: Outputs, again: Outputs) -> Outputs:
        """The outputs of the first run of a session, once it is known how far two runs of one session are apart.

        A model that draws random numbers draws others in every run. If all that is drawn has a seed, the first runs of
        sessions can be compared as if there were no random numbers.
        """
        is_steady = not any(_differ(found[name], again.get(name)) for name in found)
        if is_steady or (drawn := random_numbers(self._model)) == "none":
            self._measure_spread(found, again)
            for name, spread in self.spreads.items():  # an op that nobody knows may draw random numbers, too
                if not is_steady and is_beyond_rounding(found[name], spread):
                    self.spreads[name] = replace(spread, noise="random")
            return found
        first, second = found, again
        if drawn == "seeded":
            first, second = (flatten_all(run_model(self._model, self.feeds or {}, optimization)) for _ in range(2))
        for name in first:
            noise: Literal["seeded", "random"] = "random" if _differ(first[name], second.get(name)) else "seeded"
            self.spreads[name] = Spread(noise=noise)
        return first

    def why_not(self) -> str:
        """Why the original ran at no level.

        Raises:
            ConfigError: Because of the user's inputs.
        """
        if self._unfit is not None:
            return f"{self._model}: {self._unfit}"
        # A level at which the model loads says more about the inputs than one at which it does not.
        optimization, refusal = min(self._refusals.items(), key=lambda item: item[1].stage == "load")
        if refusal.stage == "load":
            return f"{self._model}: ONNX Runtime does not load the original: {refusal.message}"
        if self._given is not None:
            raise ConfigError(
                f"{self._source()}: ONNX Runtime does not run {self._model} on these inputs: {refusal.message}"
            )
        tries = "the generated inputs" if self._attempts == 1 else f"generated inputs of {self._attempts} sizes"
        return (
            f"{self._model}: ONNX Runtime does not run the original on {tries}; give inputs of your own, or sizes and "
            f"values ({_described(optimization)}, first attempt: {refusal.message})"
        )

    def describe_inputs(self) -> InputsDescription:
        """What the original ran on."""
        tensors = tuple(
            InputSpec(name, "string" if array.dtype.kind in "OSU" else array.dtype, array.shape)
            for name, array in (self.feeds or {}).items()
        )
        seed = self._generation.seed if self._given is None else None
        return InputsDescription(self._source(), seed, tensors)

    def notes(self) -> tuple[str, ...]:
        """What limits the comparison where the original runs at one level only."""
        return tuple(
            f"the original runs in ONNX Runtime at one level only, so nothing was compared {_described(optimization)} "
            f"and the runtime's spread is known from two runs in a row alone: {refusal.message}"
            for optimization, refusal in self._refusals.items()
        )

    def _source(self) -> str:
        if self._given is None:
            return "generated inputs"
        return str(self._given) if isinstance(self._given, Path) else "given inputs"

    def _first_accepted(self, session: ModelSession) -> Outputs | None:
        """The outputs for the first inputs that the model runs on; None where its inputs cannot be generated."""
        if self.feeds is not None:
            return flatten_all(session.run(self.feeds))
        try:
            specs = session.read_input_specs()
        except ConfigError as error:
            self._unfit = error
            return None
        refusals: list[RuntimeRefusal] = []
        for feeds in self._candidates(specs):
            if refusals:
                self._tell(f"trying inputs {_listed_shapes(feeds)}")
            try:
                found = flatten_all(session.run(feeds))
            except RuntimeRefusal as refusal:
                refusals.append(refusal.with_traceback(None))  # which would keep the inputs in memory
                continue
            self.feeds = feeds
            return found
        self._attempts = len(refusals)
        raise refusals[0]

    def _candidates(self, specs: Sequence[InputSpec]) -> Iterable[dict[str, NDArray[Any]]]:
        given = self._given
        if given is None:
            generation = self._generation
            return generate_attempts(specs, dims=generation.dims, values=generation.values, seed=generation.seed)
        if isinstance(given, Path):
            return [load_inputs(given, specs)]
        return [check_inputs(given, specs, source=self._source())]

    def _measure_spread(self, first: Outputs, second: Outputs) -> None:
        for name in first.keys() & second.keys():
            known, new = self.spreads.get(name, Spread()), spread_between(first[name], second[name])
            self.spreads[name] = Spread(
                max(known.distance, new.distance),
                max(known.mismatches, new.mismatches),
                known.same_shape and new.same_shape,
                known.noise,
            )


def _ignore(_: str) -> None:
    """Tell nobody."""


def _described(optimization: Optimization) -> str:
    return {"all": "optimized", "none": "not optimized"}[optimization]


def _listed_shapes(feeds: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())


def _differ(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    """Whether two runs give different bits."""
    if one is None or other is None:
        return one is not other
    if one.dtype.kind in "OU":
        return not np.array_equal(one, other)
    return one.shape != other.shape or one.tobytes() != other.tobytes()


def _nothing_in_them(comparisons: Sequence[OutputComparison]) -> str | None:
    """Why comparisons that all passed prove nothing."""
    if not comparisons or any(found.compared_elements or found.is_random or not found.passed for found in comparisons):
        return None
    return "the original's outputs are empty or not finite on these inputs; give inputs on which it computes something"
