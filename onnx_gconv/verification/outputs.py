"""Whether a mapped model gives the outputs of its original, both run in ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from onnx_gconv.errors import ConfigError, ModelError
from onnx_gconv.verification.inputs import InputSpec, ValueRange, check_inputs, generate_attempts, load_inputs
from onnx_gconv.verification.runtime import OPTIMIZATIONS, ModelSession, Optimization, RuntimeRefusal, run_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["OUTPUT_RULE", "InputsDescription", "OutputComparison", "OutputsReport", "RunFailure", "compare_outputs"]

OUTPUT_RULE = (
    "Float outputs pass when max_abs_error <= tolerance = max(10 * spread, 32 * mapped_weights * eps * range, 2^-21), "
    "where the first term is at most max(2 * spread, limit), the second at most limit = max(0.01, 4 * eps) * range and "
    "the third at most 4 * eps and range / 10; NaN and infinities must stand at the same positions. All other outputs "
    "must be equal, except for 10 elements for each one in which the original differs from itself, at most a tenth of "
    "all or as many as differ there."
)
"""The rule in one paragraph, for reports; ``compare_outputs`` explains it."""

_LARGEST_RELATIVE_ERROR = 0.01
_MASK = 1000.0
_FLOAT32_EPS = 2.0**-23


@dataclass(frozen=True)
class OutputComparison:
    """One output of the mapped model against the original's, at one level of optimization.

    Attributes:
        name: The output's name; parts of sequences and maps are ``name[0]``, ``name.keys`` and ``name.values``.
        optimization: ``"all"`` or ``"none"``, for both models.
        dtype: The original's element type; None where it gives no value.
        shape: The original's shape; None where it gives no value.
        compared_elements: How many elements were compared in value; NaN and infinities are not, only their places.
        max_abs_error: The largest distance from the original, in units of the output; None where there is none, as
            for text, other shapes or misplaced infinities.
        sqnr_db: 10 log10(sum original^2 / sum error^2) of a float output; None where the error is exactly zero or the
            ratio has no value.
        bit_identical: Every bit is the same.
        argmax_agreement: The fraction of rows over the last axis whose largest element stands at the same place, for
            float outputs with rank >= 2 and at least two elements a row; else None.
        spread: The runtime's own spread: the largest distance of the ORIGINAL from itself, over the optimization
            levels and over two runs in a row. None for outputs that are not float.
        tolerance: The largest error that passes; None for outputs that are not float.
        mismatches: How many elements differ in an output that is not float; else None.
        allowed_mismatches: How many may; None for float outputs.
        passed: The rule holds.
        note: Why the output failed, or what weakens the comparison; None where there is nothing to say.
    """

    name: str
    optimization: Optimization
    dtype: str | None
    shape: tuple[int, ...] | None
    compared_elements: int
    max_abs_error: float | None
    sqnr_db: float | None
    bit_identical: bool
    argmax_agreement: float | None
    spread: float | None
    tolerance: float | None
    mismatches: int | None
    allowed_mismatches: int | None
    passed: bool
    note: str | None

    def to_json(self) -> dict[str, object]:
        """The comparison as plain Python values for a JSON document."""
        shape = None if self.shape is None else list(self.shape)
        return asdict(self) | {"shape": shape}


@dataclass(frozen=True)
class InputsDescription:
    """What both models were fed with.

    Attributes:
        source: ``"generated inputs"``, ``"given inputs"`` for arrays of the caller's, or the path of the file.
        seed: The seed of generated inputs; else None.
        tensors: Name, type and actual shape of every input.
    """

    source: str
    seed: int | None
    tensors: tuple[InputSpec, ...]

    def to_json(self) -> dict[str, object]:
        """The description as plain Python values for a JSON document."""
        return {"source": self.source, "seed": self.seed, "tensors": [tensor.to_json() for tensor in self.tensors]}


@dataclass(frozen=True)
class RunFailure:
    """The original runs, and the mapped model does not.

    Attributes:
        optimization: The level at which that is so.
        stage: ``"load"`` or ``"run"``.
        message: What ONNX Runtime says, on one line.
    """

    optimization: Optimization
    stage: str
    message: str

    def to_json(self) -> dict[str, object]:
        """The failure as plain Python values for a JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class OutputsReport:
    """The outputs of a mapped model against those of its original.

    Attributes:
        comparisons: One record an output and level of optimization.
        inputs: What the models were fed with; None where the original ran on nothing.
        not_compared: Why nothing could be compared; None where something was. Nothing that was checked failed then,
            so ``passed`` is true: whoever needs the proof must look here too.
        failures: The levels at which the original runs and the mapped model does not.
        notes: What limits the comparison as a whole.
        passed: Nothing failed.
    """

    comparisons: tuple[OutputComparison, ...] = ()
    inputs: InputsDescription | None = None
    not_compared: str | None = None
    failures: tuple[RunFailure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Every comparison passed, and the mapped model runs wherever the original does."""
        return not self.failures and all(comparison.passed for comparison in self.comparisons)

    def to_json(self) -> dict[str, object]:
        """The report as plain Python values for a JSON document, with the comparisons under ``outputs``."""
        return {
            "passed": self.passed,
            "not_compared": self.not_compared,
            "rule": OUTPUT_RULE,
            "inputs": None if self.inputs is None else self.inputs.to_json(),
            "failures": [failure.to_json() for failure in self.failures],
            "notes": list(self.notes),
            "outputs": [comparison.to_json() for comparison in self.comparisons],
        }


def compare_outputs(
    original: Path,
    mapped: Path,
    *,
    inputs: Path | Mapping[str, NDArray[Any]] | None,
    dims: Mapping[str, int],
    values: Mapping[str, ValueRange],
    seed: int,
    mapped_weights: int,
    weight_eps: float = _FLOAT32_EPS,
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
            found = _flatten_all(run_model(mapped, runs.feeds, optimization))
        except RuntimeRefusal as refusal:
            failures.append(RunFailure(optimization, refusal.stage, refusal.message))
            continue
        rounding = _Rounding(mapped_weights, weight_eps)
        comparisons += _compare_all(optimization, reference, found, runs.spreads, rounding)
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


@dataclass(frozen=True)
class _Rounding:
    """What the rounding of rebuilt weights may cause."""

    mapped_weights: int
    weight_eps: float


@dataclass(frozen=True)
class _Spread:
    """How far one output of the original is from itself, over several runs.

    Attributes:
        distance: The largest distance between elements that are finite in both runs.
        mismatches: The largest number of elements that are not equal.
        same_shape: All runs give one shape.
    """

    distance: float = 0.0
    mismatches: int = 0
    same_shape: bool = True


_Outputs = dict[str, "NDArray[Any] | None"]


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
        self.outputs: dict[Optimization, _Outputs] = {}
        self.spreads: dict[str, _Spread] = {}

    def run(self, optimization: Optimization) -> None:
        """Run the original at one level, and note how far it is from its runs so far."""
        self._tell(f"running the original, {_described(optimization)}")
        try:
            with ModelSession(self._model, optimization) as session:
                found = self._first_accepted(session)
                if found is None:
                    return
                if not self.outputs:
                    # A model with random numbers differs from itself in every run, at one level too.
                    self._measure_spread(found, _flatten_all(session.run(self.feeds or {})))
        except RuntimeRefusal as refusal:
            self._refusals[optimization] = refusal.with_traceback(None)
            return
        for first in self.outputs.values():
            self._measure_spread(first, found)
        self.outputs[optimization] = found

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

    def _first_accepted(self, session: ModelSession) -> _Outputs | None:
        """The outputs for the first inputs that the model runs on; None where its inputs cannot be generated."""
        if self.feeds is not None:
            return _flatten_all(session.run(self.feeds))
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
                found = _flatten_all(session.run(feeds))
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

    def _measure_spread(self, first: _Outputs, second: _Outputs) -> None:
        for name in first.keys() & second.keys():
            known, new = self.spreads.get(name, _Spread()), _spread_between(first[name], second[name])
            self.spreads[name] = _Spread(
                max(known.distance, new.distance),
                max(known.mismatches, new.mismatches),
                known.same_shape and new.same_shape,
            )


def _ignore(_: str) -> None:
    """Tell nobody."""


def _described(optimization: Optimization) -> str:
    return {"all": "optimized", "none": "not optimized"}[optimization]


def _listed_shapes(feeds: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())


def _nothing_in_them(comparisons: Sequence[OutputComparison]) -> str | None:
    """Why comparisons that all passed prove nothing."""
    if not comparisons or any(found.compared_elements or not found.passed for found in comparisons):
        return None
    return "the original's outputs are empty or not finite on these inputs; give inputs on which it computes something"


def _flatten_all(outputs: Mapping[str, Any]) -> _Outputs:
    """All outputs as arrays: the parts of sequences and maps become outputs of their own."""
    flat: _Outputs = {}
    for name, value in outputs.items():
        flat.update(_flatten(name, value))
    return flat


def _flatten(name: str, value: Any) -> _Outputs:  # noqa: ANN401 - whatever ONNX Runtime gives
    if value is None:
        return {name: None}
    if isinstance(value, dict):
        return {f"{name}.keys": np.asarray(list(value)), f"{name}.values": np.asarray(list(value.values()))}
    if isinstance(value, list):
        if value and all(isinstance(part, dict) and part.keys() == value[0].keys() for part in value):
            # The probabilities of a classifier: one map a row, which is a matrix.
            rows = [list(part.values()) for part in value]
            return {f"{name}.keys": np.asarray(list(value[0])), f"{name}.values": np.asarray(rows)}
        flat: _Outputs = {} if value else {f"{name}.length": np.asarray(0)}
        for index, part in enumerate(value):
            flat.update(_flatten(f"{name}[{index}]", part))
        return flat
    return {name: np.asarray(value)}


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 is of kind V; no other type of that kind comes out of ONNX Runtime.
    return dtype.kind in "fV"


def _epsilon(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def _spread_between(first: NDArray[Any] | None, second: NDArray[Any] | None) -> _Spread:
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        return _Spread(same_shape=first is second)
    if not _is_float(first.dtype):
        return _Spread(mismatches=_count_mismatches(first, second))
    one, other = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    with np.errstate(over="ignore"):
        return _Spread(distance=float(np.abs(one[finite] - other[finite]).max(initial=0.0)))


def _count_mismatches(first: NDArray[Any], second: NDArray[Any]) -> int:
    return int(np.count_nonzero(first != second))


def _compare_all(
    optimization: Optimization,
    reference: _Outputs,
    found: _Outputs,
    spreads: Mapping[str, _Spread],
    rounding: _Rounding,
) -> list[OutputComparison]:
    """One record for every output of either model."""
    comparisons: list[OutputComparison] = []
    for name in dict.fromkeys([*reference, *found]):
        start = _start(name, optimization, reference.get(name))
        if name not in found or name not in reference:
            missing = "the mapped model" if name in reference else "the original"
            comparisons.append(replace(start, note=f"{missing} does not give this output"))
        else:
            spread = spreads.get(name, _Spread())
            comparisons.append(_compare(start, reference[name], found[name], spread, rounding))
    return comparisons


def _start(name: str, optimization: Optimization, reference: NDArray[Any] | None) -> OutputComparison:
    """A record that says nothing yet, and so has not passed."""
    return OutputComparison(
        name=name,
        optimization=optimization,
        dtype=None if reference is None else _type_name(reference),
        shape=None if reference is None else reference.shape,
        compared_elements=0,
        max_abs_error=None,
        sqnr_db=None,
        bit_identical=False,
        argmax_agreement=None,
        spread=None,
        tolerance=None,
        mismatches=None,
        allowed_mismatches=None,
        passed=False,
        note=None,
    )


def _type_name(array: NDArray[Any]) -> str:
    return "string" if array.dtype.kind in "OU" else str(array.dtype)


def _compare(
    start: OutputComparison,
    reference: NDArray[Any] | None,
    found: NDArray[Any] | None,
    spread: _Spread,
    rounding: _Rounding,
) -> OutputComparison:
    if reference is None and found is None:
        return replace(start, bit_identical=True, passed=True, note="neither model gives a value")
    if reference is None or found is None:
        return replace(start, note=f"only {'the original' if found is None else 'the mapped model'} gives a value")
    if _type_name(reference) != _type_name(found):
        return replace(start, note=f"is {_type_name(found)} and must be {_type_name(reference)}")
    if reference.shape != found.shape:
        return _compare_shapes(start, reference, found, spread)
    if _is_float(reference.dtype):
        return _compare_floats(start, reference, found, spread, rounding)
    return _compare_discrete(start, reference, found, spread)


def _compare_shapes(
    start: OutputComparison, reference: NDArray[Any], found: NDArray[Any], spread: _Spread
) -> OutputComparison:
    """Other shapes fail, unless the original gives others itself: a speech model draws how long it speaks."""
    if not spread.same_shape and reference.ndim == found.ndim:
        return replace(start, passed=True, note="not compared: the original's own runs give different shapes")
    return replace(start, note=f"has the shape {list(found.shape)} and must have {list(reference.shape)}")


def _compare_discrete(
    start: OutputComparison, reference: NDArray[Any], found: NDArray[Any], spread: _Spread
) -> OutputComparison:
    """Integers, bools and text, which must be equal as far as the original equals itself."""
    mismatches = _count_mismatches(reference, found)
    allowed = min(10 * spread.mismatches, max(spread.mismatches, reference.size // 10))
    note = None
    if mismatches:
        note = f"{mismatches} of {reference.size} elements differ"
    if spread.mismatches:
        own = f"the original differs from itself in {spread.mismatches}"
        note = f"{note}; {own}" if note else own
    return replace(
        start,
        compared_elements=reference.size,
        max_abs_error=_largest_difference(reference, found),
        bit_identical=not mismatches,
        mismatches=mismatches,
        allowed_mismatches=allowed,
        passed=mismatches <= allowed,
        note=note,
    )


def _largest_difference(reference: NDArray[Any], found: NDArray[Any]) -> float | None:
    """The largest distance of integers or bools; None for text."""
    if reference.dtype.kind not in "iub":
        return None
    different = reference != found
    # Python's integers do not overflow; only the elements that differ become such.
    pairs = zip(reference[different].tolist(), found[different].tolist(), strict=True)
    return float(max((abs(int(one) - int(other)) for one, other in pairs), default=0))


def _compare_floats(
    start: OutputComparison,
    reference: NDArray[Any],
    found: NDArray[Any],
    spread: _Spread,
    rounding: _Rounding,
) -> OutputComparison:
    """Floats, by the rule of ``compare_outputs``."""
    one, other = reference.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    misplaced = int(np.count_nonzero(~finite & (one != other) & ~(np.isnan(one) & np.isnan(other))))
    with np.errstate(over="ignore"):
        errors = other[finite] - one[finite]
    error = float(np.abs(errors).max(initial=0.0))
    eps = max(_epsilon(reference.dtype), rounding.weight_eps)
    extent = _range(np.abs(one[np.isfinite(one)]))
    limit = max(_LARGEST_RELATIVE_ERROR, 4 * eps) * extent
    tolerance = max(
        min(10 * spread.distance, max(2 * spread.distance, limit)),
        min(32 * rounding.mapped_weights * eps * extent, limit),
        min(4 * _FLOAT32_EPS, 4 * eps, extent / 10),
    )
    is_number = not misplaced and math.isfinite(error)
    passed = is_number and error <= tolerance
    return replace(
        start,
        compared_elements=int(np.count_nonzero(finite)),
        max_abs_error=error if is_number else None,
        sqnr_db=_sqnr_db(one[finite], errors) if is_number else None,
        bit_identical=reference.tobytes() == found.tobytes(),
        argmax_agreement=_argmax_agreement(one, other),
        spread=spread.distance if math.isfinite(spread.distance) else None,
        tolerance=tolerance if math.isfinite(tolerance) else None,
        passed=passed,
        note=_note(
            error=error,
            tolerance=tolerance,
            misplaced=misplaced,
            spread=spread.distance,
            extent=extent,
            limit=limit,
            passed=passed,
        ),
    )


def _range(magnitudes: NDArray[np.float64]) -> float:
    """max|original|, without a mask: a constant far above all results would let every error of theirs pass."""
    largest = float(magnitudes.max(initial=0.0))
    rest = magnitudes[magnitudes < largest]
    second = float(rest.max(initial=0.0))
    is_mask = largest >= _MASK * max(second, 1.0) and magnitudes.size - rest.size > 1 and second > 0
    return second if is_mask else largest


def _sqnr_db(reference: NDArray[np.float64], errors: NDArray[np.float64]) -> float | None:
    """The ratio of signal to error power in dB, where it is a number."""
    with np.errstate(over="ignore"):
        signal, noise = float(np.sum(np.square(reference))), float(np.sum(np.square(errors)))
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))


def _argmax_agreement(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float | None:
    if reference.ndim < 2 or reference.shape[-1] < 2 or not reference.size:  # noqa: PLR2004 - a row needs two
        return None
    return float(np.mean(reference.argmax(axis=-1) == found.argmax(axis=-1)))


def _note(
    *, error: float, tolerance: float, misplaced: int, spread: float, extent: float, limit: float, passed: bool
) -> str | None:
    if misplaced:
        return f"{misplaced} NaN or infinite elements stand where the other model has another value"
    if not passed:
        return f"the error {error:.3g} is above the tolerance {tolerance:.3g}"
    if spread > limit:
        return f"the original differs from itself by {spread:.3g}, so that this comparison says little"
    if error > limit:
        return f"no element is above {extent:.3g}, so that this comparison says little"
    return None
