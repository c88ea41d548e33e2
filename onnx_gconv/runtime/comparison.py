"""Compares an output of a mapped model with that of the original: what is measured, and what passes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np

from onnx_gconv.runtime.session import Optimization

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "FLOAT32_EPS",
    "OUTPUT_RULE",
    "OutputComparison",
    "Outputs",
    "PositionComparison",
    "Rounding",
    "Spread",
    "argmax_agreement",
    "compare_all",
    "flatten_all",
    "is_beyond_rounding",
    "spread_between",
    "sqnr_db",
]

OUTPUT_RULE = (
    "Float outputs pass when max_abs_error <= tolerance = max(10 * spread, 32 * mapped_weights * eps * range, 2^-21), "
    "where the first term is at most max(2 * spread, limit), the second at most limit = max(0.01, 4 * eps) * range and "
    "the third at most 4 * eps and range / 10; NaN and infinities must stand at the same positions. All other outputs "
    "must be equal; for each element that differs between two runs of the original, up to 10 elements may differ, but "
    "in all no more than a tenth of the elements, or than differ between these runs if that is more."
)
"""The rule in one paragraph, for reports; ``compare_outputs`` explains it."""

_RANDOM = "not compared: it differs from run to run of the original"

_LARGEST_RELATIVE_ERROR = 0.01

# Errors below this share of the range are not reported as amplified: they do not matter in practice.
_SMALLEST_AMPLIFIED_ERROR = 1e-3
_MASK = 1000.0
FLOAT32_EPS = 2.0**-23


@dataclass(frozen=True)
class PositionComparison:
    """One position of an output of a language model, compared over all texts of the batch.

    Attributes:
        position: Its number among the new tokens, from 0.
        max_abs_error: The largest distance from the original, in units of the output; None if it is not finite.
        sqnr_db: The ratio of signal to error power in dB; None where the error is exactly zero or the ratio has no
            value.
        argmax_agreement: The fraction of texts in which both models give the largest score to the same token; None if
            there are fewer than two scores.
    """

    position: int
    max_abs_error: float | None
    sqnr_db: float | None
    argmax_agreement: float | None


@dataclass(frozen=True)
class OutputComparison:
    """One output of the mapped model compared with that of the original, at one level of optimization.

    Attributes:
        name: The output's name; parts of sequences and maps are ``name[0]``, ``name.keys`` and ``name.values``.
        optimization: The level for both models: ``"all"`` or ``"none"``.
        dtype: The original's element type; None where it gives no value.
        shape: The original's shape; None where it gives no value.
        compared_elements: Number of elements whose values were compared. Of NaN and infinities, only the positions are
            compared.
        max_abs_error: The largest distance from the original, in units of the output; None where it is not defined: for
            text, different shapes, and NaN or infinities at different positions.
        sqnr_db: 10 log10(sum original^2 / sum error^2) of a float output; None where the error is exactly zero or the
            ratio has no value.
        bit_identical: Whether every bit is the same.
        argmax_agreement: The fraction of rows along the last axis in which both outputs have the largest element at the
            same position; for float outputs with rank >= 2 and at least two elements a row, else None.
        spread: The largest distance between two runs of the ORIGINAL, at different optimization levels or one after the
            other at the same level. None for outputs that are not float.
        tolerance: The largest error that passes; None for outputs that are not float.
        mismatches: The number of elements that differ in an output that is not float; else None.
        allowed_mismatches: The largest number that passes; None for float outputs.
        passed: Whether the rule holds.
        note: Why the output failed, or what weakens the comparison; None if there is nothing to say.
        rebuilt_error: If the mapping rounds or clips weights on purpose: the largest distance from the outputs of the
            original with the rebuilt weights as its weights. The tolerance is then applied to this error. Else None.
        is_random: Whether the output differs from run to run of the original, e.g. because of random numbers without a
            seed. Nothing was compared then.
        relative_error: `max_abs_error` of a float output, divided by the original's range without masks; else None.
        is_amplified: Whether the error is larger than the rounding of rebuilt weights would cause in a linear model,
            and larger than a thousandth of the range.
        positions: For a language model: the comparison at each position of the new tokens, for a float output
            [batch, sequence, ...].
        case: The inputs that chose a branch, such as ``use_cache_branch=False``, if a model is run once for each
            branch; None for the first run, or the only one.
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
    rebuilt_error: float | None = None
    is_random: bool = False
    relative_error: float | None = None
    is_amplified: bool = False
    positions: tuple[PositionComparison, ...] = ()
    case: str | None = None

    @property
    def label(self) -> str:
        """The output's name and case, for people."""
        return self.name if self.case is None else f"{self.name} ({self.case})"

    def to_json(self) -> dict[str, object]:
        """The comparison as plain Python values for a JSON document."""
        shape = None if self.shape is None else list(self.shape)
        return asdict(self) | {"shape": shape, "positions": [asdict(item) for item in self.positions]}


@dataclass(frozen=True)
class Rounding:
    """What the error of a correct mapping depends on: number of mapped weights, and rounding unit of a weight."""

    mapped_weights: int
    weight_eps: float


@dataclass(frozen=True)
class Spread:
    """How much one output of the original differs between several runs of the original.

    Attributes:
        distance: The largest distance between elements that are finite in both runs.
        mismatches: The largest number of elements that are not equal.
        same_shape: Whether all runs give the same shape.
        noise: Whether the output contains random numbers: ``"random"`` if it differs from run to run; ``"seeded"`` if
            the first run of each session gives the same numbers. A distance between optimization levels then permits no
            larger error than rounding.
    """

    distance: float = 0.0
    mismatches: int = 0
    same_shape: bool = True
    noise: Literal["none", "seeded", "random"] = "none"


Outputs = dict[str, "NDArray[Any] | None"]


def flatten_all(outputs: Mapping[str, Any]) -> Outputs:
    """Return all outputs as arrays; parts of sequences and maps become separate outputs."""
    flat: Outputs = {}
    for name, value in outputs.items():
        flat.update(_flatten(name, value))
    return flat


def _flatten(name: str, value: Any) -> Outputs:  # noqa: ANN401 - whatever ONNX Runtime gives
    if value is None:
        return {name: None}
    if isinstance(value, dict):
        return {f"{name}.keys": np.asarray(list(value)), f"{name}.values": np.asarray(list(value.values()))}
    if isinstance(value, list):
        if value and all(isinstance(part, dict) and part.keys() == value[0].keys() for part in value):
            # The probabilities of a classifier: one map for each row of a matrix.
            rows = [list(part.values()) for part in value]
            return {f"{name}.keys": np.asarray(list(value[0])), f"{name}.values": np.asarray(rows)}
        flat: Outputs = {} if value else {f"{name}.length": np.asarray(0)}
        for index, part in enumerate(value):
            flat.update(_flatten(f"{name}[{index}]", part))
        return flat
    return {name: np.asarray(value)}


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 is of NumPy's kind V; ONNX Runtime gives no other type of that kind.
    return dtype.kind in "fV"


def _epsilon(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def spread_between(first: NDArray[Any] | None, second: NDArray[Any] | None) -> Spread:
    """Return how much one output differs between two runs of a model."""
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        return Spread(same_shape=first is second)
    if not _is_float(first.dtype):
        return Spread(mismatches=_count_mismatches(first, second))
    one, other = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    with np.errstate(over="ignore"):
        return Spread(distance=float(np.abs(one[finite] - other[finite]).max(initial=0.0)))


def is_beyond_rounding(output: NDArray[Any] | None, spread: Spread) -> bool:
    """Whether runs of the original differ by more than rounding: in shape, or by more than a hundredth of the range."""
    if output is None or not spread.same_shape:
        return not spread.same_shape
    if not _is_float(output.dtype):
        return spread.mismatches > _LARGEST_RELATIVE_ERROR * output.size
    wide = np.abs(output.astype(np.float64))
    return spread.distance > _LARGEST_RELATIVE_ERROR * _range(wide[np.isfinite(wide)])


def _count_mismatches(first: NDArray[Any], second: NDArray[Any]) -> int:
    return int(np.count_nonzero(first != second))


def compare_all(
    optimization: Optimization,
    reference: Outputs,
    found: Outputs,
    spreads: Mapping[str, Spread],
    rounding: Rounding,
) -> list[OutputComparison]:
    """Compare all outputs of two models: one record for each output that either of them gives."""
    comparisons: list[OutputComparison] = []
    for name in dict.fromkeys([*reference, *found]):
        start = _start(name, optimization, reference.get(name))
        if name not in found or name not in reference:
            missing = "the mapped model" if name in reference else "the original"
            comparisons.append(replace(start, note=f"{missing} does not give this output"))
        else:
            spread = spreads.get(name, Spread())
            if spread.noise == "random":
                comparisons.append(replace(start, passed=True, is_random=True, note=_RANDOM))
            else:
                comparisons.append(_compare(start, reference[name], found[name], spread, rounding))
    return comparisons


def _start(name: str, optimization: Optimization, reference: NDArray[Any] | None) -> OutputComparison:
    """Return a record without a result, which counts as not passed."""
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
    spread: Spread,
    rounding: Rounding,
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
    start: OutputComparison, reference: NDArray[Any], found: NDArray[Any], spread: Spread
) -> OutputComparison:
    """Different shapes fail, unless the original's own runs differ in shape, e.g. the length of generated speech."""
    if not spread.same_shape and reference.ndim == found.ndim and spread.noise == "none":
        note = "not compared: the original's own runs give different shapes"
        return replace(start, passed=True, is_random=True, note=note)
    return replace(start, note=f"has the shape {list(found.shape)} and must have {list(reference.shape)}")


def _compare_discrete(
    start: OutputComparison, reference: NDArray[Any], found: NDArray[Any], spread: Spread
) -> OutputComparison:
    """Compare integers, bools or text: they must be equal as far as runs of the original are equal."""
    mismatches = _count_mismatches(reference, found)
    allowed = min(10 * spread.mismatches, max(spread.mismatches, reference.size // 10))
    if spread.noise == "seeded":
        allowed = 0
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
    """Return the largest distance of integers or bools; None for text."""
    if reference.dtype.kind not in "iub":
        return None
    different = reference != found
    # Only the elements that differ are converted to Python's integers, which do not overflow.
    pairs = zip(reference[different].tolist(), found[different].tolist(), strict=True)
    return float(max((abs(int(one) - int(other)) for one, other in pairs), default=0))


def _compare_floats(
    start: OutputComparison,
    reference: NDArray[Any],
    found: NDArray[Any],
    spread: Spread,
    rounding: Rounding,
) -> OutputComparison:
    """Compare floats by the rule of `OUTPUT_RULE`."""
    one, other = reference.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(other)
    misplaced = int(np.count_nonzero(~finite & (one != other) & ~(np.isnan(one) & np.isnan(other))))
    with np.errstate(over="ignore"):
        errors = other[finite] - one[finite]
    error = float(np.abs(errors).max(initial=0.0))
    eps = max(_epsilon(reference.dtype), rounding.weight_eps)
    extent = _range(np.abs(one[np.isfinite(one)]))
    limit = max(_LARGEST_RELATIVE_ERROR, 4 * eps) * extent
    by_rounding = min(32 * rounding.mapped_weights * eps * extent, limit)
    tolerance = max(
        min(10 * spread.distance, limit if spread.noise == "seeded" else max(2 * spread.distance, limit)),
        by_rounding,
        min(4 * FLOAT32_EPS, 4 * eps, extent / 10),
    )
    is_number = not misplaced and math.isfinite(error)
    passed = is_number and error <= tolerance
    return replace(
        start,
        compared_elements=int(np.count_nonzero(finite)),
        max_abs_error=error if is_number else None,
        sqnr_db=sqnr_db(one[finite], errors) if is_number else None,
        bit_identical=reference.tobytes() == found.tobytes(),
        argmax_agreement=argmax_agreement(one, other),
        spread=spread.distance if math.isfinite(spread.distance) else None,
        tolerance=tolerance if math.isfinite(tolerance) else None,
        relative_error=error / extent if is_number and extent else None,
        is_amplified=is_number and error > max(by_rounding, _SMALLEST_AMPLIFIED_ERROR * extent),
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
    """Return max|original| without masks: with a large mask constant as the range, every error would pass."""
    largest = float(magnitudes.max(initial=0.0))
    rest = magnitudes[magnitudes < largest]
    second = float(rest.max(initial=0.0))
    is_mask = largest >= _MASK * max(second, 1.0) and magnitudes.size - rest.size > 1 and second > 0
    return second if is_mask else largest


def sqnr_db(reference: NDArray[np.float64], errors: NDArray[np.float64]) -> float | None:
    """Return the ratio of signal to error power in dB; None if either power is zero or infinite."""
    with np.errstate(over="ignore"):
        signal, noise = float(np.sum(np.square(reference))), float(np.sum(np.square(errors)))
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))


def argmax_agreement(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float | None:
    """Return the fraction of rows along the last axis with the largest element at the same position.

    None for rank below 2, rows of fewer than two elements, or empty arrays.
    """
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
