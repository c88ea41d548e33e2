"""Compares the weights that a mapped model rebuilds with the weights of the original, element by element."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import ConductanceConverter, Scaling, WeightStatistics
from onnx_gconv.errors import ModelError, UnmappableWeightError
from onnx_gconv.mapping import Manifest, MeasuredRecord, WeightRecord
from onnx_gconv.mapping.located import BrokenMappingError, MappedWeight, ModelValues, locate
from onnx_gconv.mapping.structure import structural_problems
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.schemes.scale_grid import ScaleGrid
from onnx_gconv.tensors.bits import has_same_elements
from onnx_gconv.tensors.codes import ZeroPoint
from onnx_gconv.tensors.packed import BlockZeroPoint, UnpackedTensor, read_padding
from onnx_gconv.tensors.streamed import element_chunks, worker_count
from onnx_gconv.weights import scopes
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator, EvaluatedTensor, EvaluationError

__all__ = ["WeightComparison", "compare_weights"]

# The ends of the range of weights that devices can hold are uncertain by this factor, because the scale is rounded to
# float32.
_END_ROUNDINGS = 2.0**-21

# Number of roundings of a measured weight: of the difference, the quotient, and the sum with the zero; and of the
# manifest's largest error, which was computed in float64.
_MEASURED_ROUNDINGS = 4

# The largest distance of a number from the integer to which it is rounded.
_HALF_A_CODE = 0.5


@dataclass(frozen=True)
class WeightComparison:
    """The comparison of a rebuilt weight with the original one.

    Attributes:
        name: Name of the weight.
        graph: Path of its graph.
        max_abs_error: Largest ``|rebuilt - W|``, in units of weight; None if it could not be compared or is NaN.
        max_relative_error: `max_abs_error` divided by max|W|; 0 without an error; None if W is all zero and the rebuilt
            weight is not.
        max_ulp_error: Largest number of representable numbers of the weight's type between an element and its rebuilt
            value.
        bit_identical: Whether all elements are equal bit for bit.
        bound: The converter's bound for `max_abs_error`; 0 for an exact converter; None if there is no finite bound.
        passed: Whether the error is within the bound, in each group of elements that share a scale. If the weight was
            clipped on purpose, elements beyond the devices' range are compared with the end of that range. For measured
            conductances, the bound also contains the distance from their targets that the manifest states.
        clipped: Number of elements beyond the devices' range; None if clipping is off.
        sqnr_db: Ratio of the power of the weights to that of the errors, in dB; None without errors. For integer codes,
            it and `max_relative_error` refer to the codes minus their zero point, which the conductances stand for.
        problem: Why it could not be compared, or None.
        is_lossy: Whether the mapping rounds or clips the weight on purpose, or its conductances were measured, so that
            it may be many ulp from the original.
        known_as: The name that people know it by: its parameter in the exported program, its module, or its name.
        sources: The names of the constants from which nodes compute it; empty if the weight is a constant itself.
    """

    name: str
    graph: str
    max_abs_error: float | None
    max_relative_error: float | None
    max_ulp_error: int | None
    bit_identical: bool
    bound: float | None
    passed: bool
    clipped: int | None = None
    sqnr_db: float | None = None
    problem: str | None = None
    is_lossy: bool = False
    known_as: str = ""
    sources: tuple[str, ...] = ()


def compare_weights(
    original: ir.Model,
    mapped: ir.Model,
    manifest: Manifest,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[WeightComparison, ...]:
    """Rebuild every mapped weight in NumPy and compare it with the original one, chunk by chunk.

    Args:
        original: The model before the mapping.
        mapped: The model after the mapping.
        manifest: The manifest of `mapped`.
        progress: Called with the bytes of weights compared so far and the bytes of all weights.

    Raises:
        ModelError: If external data cannot be read.
    """
    originals = _Originals(as_it_was_mapped(original, mapped))
    values = ModelValues(mapped)
    sizes = [math.prod(record.shape) * np.dtype(record.ir_dtype.numpy()).itemsize for record in manifest.weights]
    done, results = 0, []
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_compare, record, originals, values) for record in manifest.weights]
        try:
            for job, size in zip(jobs, sizes, strict=True):
                results.append(job.result())
                done += size
                if progress is not None:
                    progress(done, sum(sizes))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return tuple(results)


class _Originals:
    """The weights of the original model, by graph and name: constants, and values that nodes compute from constants."""

    def __init__(self, model: ir.Model) -> None:
        self._evaluator = ConstantEvaluator(model)
        self._by_path: dict[tuple[str, str], ir.TensorProtocol] = {}
        self._by_name: dict[str, list[ir.TensorProtocol]] = {}
        self._computed: dict[tuple[str, str], ir.Value] = {}
        for scope in scopes(model):
            for name, tensor in _constants(scope.graph):
                self._by_path[scope.path, name] = tensor
                self._by_name.setdefault(name, []).append(tensor)
            for node in scope.graph:
                self._computed.update({(scope.path, output.name or ""): output for output in node.outputs})

    def find(self, record: WeightRecord) -> ir.TensorProtocol | None:
        """Return the weight of a record: from the graph of that path, or else the only one of that name in the model.

        Raises:
            EvaluationError: If the weight cannot be computed from its constants.
            ModelError: If external data cannot be read.
        """
        place = record.graph if record.moved_from is None else record.moved_from, record.name
        if (tensor := self._by_path.get(place)) is not None:
            return tensor
        if record.stored_as == "computed":
            named = [value for (_, name), value in self._computed.items() if name == record.name]
            value = self._computed.get(place, named[0] if len(named) == 1 else None)
            return None if value is None else EvaluatedTensor(self._evaluator, value)
        candidates = self._by_name.get(record.name, [])
        return candidates[0] if len(candidates) == 1 else None


def _constants(graph: ir.Graph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value
    for node in graph:
        if node.op_type == "Constant" and node.domain == "" and "sparse_value" not in node.attributes:
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None:
                yield node.outputs[0].name or "", tensor


class _NotComparableError(Exception):
    """A weight cannot be compared; the message says why."""


def _compare(record: WeightRecord, originals: _Originals, values: ModelValues) -> WeightComparison:
    try:
        return _compared(record, *_both(record, originals, values))
    except _NotComparableError as problem:
        return _not_compared(record, str(problem))


def _both(
    record: WeightRecord, originals: _Originals, values: ModelValues
) -> tuple[ir.TensorProtocol, MappedWeight, ConductanceConverter]:
    """Return the original weight, the mapped one, and its converter."""
    try:
        tensor = originals.find(record)
    except EvaluationError as error:
        raise _NotComparableError(f"the original weight cannot be computed: {error}") from None
    if tensor is None:
        raise _NotComparableError("the original has no weight of this name; is it the model that was mapped?")
    shape, dtype = tuple(tensor.shape.numpy()), tensor.dtype
    if shape != record.stored_shape or dtype != record.ir_dtype:
        raise _NotComparableError(
            f"the original is {np.dtype(dtype.numpy()).name} {list(shape)}, the mapped weight {record.dtype} "
            f"{list(record.stored_shape)}; is it the model that was mapped?"
        )
    try:
        converter = record.converter.converter()
        mapped = locate(record, values)
        problem = next(structural_problems(mapped), None)
    except (BrokenMappingError, ModelError) as broken:
        raise _NotComparableError(str(broken)) from None
    if problem is not None:
        raise _NotComparableError(problem)
    packing = record.packing_of_codes
    if packing is None or mapped.padding is None:
        return tensor, mapped, converter
    if not np.array_equal(read_padding(tensor, packing), mapped.padding):
        raise _NotComparableError("the padding of its rows of codes differs from the original")
    return UnpackedTensor(tensor, packing), mapped, converter


def _compared(
    record: WeightRecord, tensor: ir.TensorProtocol, mapped: MappedWeight, converter: ConductanceConverter
) -> WeightComparison:
    grid, factor = record.grid, 1.0 if record.measured is None else record.measured.factor_of_each(record.grid)
    conversion = WeightConversion(
        converter=converter,
        scaling=Scaling(mapped.decoding.scale * factor, mapped.decoding.zero),  # the scale of the targets
        grid=grid,
        is_clipped=record.clipping is not None,
        levels=None if record.levels is None else record.levels.levels,
    )
    difference = _Difference(conversion, np.dtype(record.compute_dtype), grid, mapped.zero_point)
    if isinstance(tensor, UnpackedTensor) and grid is None and has_same_elements(tensor.packed, mapped.stored):
        difference.add_equal(*tensor.extremes(0, tensor.size), tensor.size)
    else:
        for ours, theirs in zip(mapped.rebuilt.chunks(), element_chunks(tensor), strict=True):
            difference.add(ours, theirs)
    if record.measured is not None and not record.rounded and difference.max_abs != record.max_abs:
        raise _NotComparableError(  # the bounds below are wide, so a weight of another model might pass
            f"max|W| of the original is {difference.max_abs:g}, that of the weight that was mapped {record.max_abs:g}; "
            "is it the model that was mapped?"
        )
    bounds = difference.bounds()
    if record.dtype != record.compute_dtype:
        bounds = difference.with_cast(bounds, np.dtype(record.ir_dtype.numpy()))
    if record.measured is not None:
        bounds = _with_measured(bounds, record, record.measured)
    elif record.limited:  # too few levels for all integers: nearby integers are rebuilt
        bounds = bounds + _HALF_A_CODE
    elif record.rounded and not conversion.is_clipped:
        bounds = np.zeros_like(bounds)
    error = difference.max_error
    keeps = bool(np.all(difference.largest_errors <= bounds))  # false for NaN
    is_exact = converter.is_exact and record.measured is None
    is_bounded = bool(np.isfinite(bounds).all())
    passed = difference.bit_identical if is_exact else math.isfinite(error) and keeps and is_bounded
    return WeightComparison(
        name=record.name,
        known_as=record.known_as,
        sources=record.sources,
        graph=record.graph,
        max_abs_error=error if math.isfinite(error) else None,
        max_relative_error=_relative(error, difference.largest),
        max_ulp_error=difference.max_ulp if math.isfinite(error) else None,
        bit_identical=difference.bit_identical,
        bound=float(bounds.max()) if is_bounded else None,
        passed=passed,
        clipped=difference.clipped,
        sqnr_db=difference.sqnr_db,
        is_lossy=conversion.is_lossy or record.measured is not None,
        problem=None if is_bounded or passed else "its numbers are so large that no bound of its error is known",
    )


def _with_measured(bounds: NDArray[np.float64], record: WeightRecord, measured: MeasuredRecord) -> NDArray[np.float64]:
    """Return the error bounds of a weight with measured conductances.

    They contain the distance from the targets that the manifest states, and larger roundings than those of targets,
    because measured conductances may be beyond the range of targets.
    """
    eps = float(ml_dtypes.finfo(record.compute_dtype).eps)
    rounding = _MEASURED_ROUNDINGS * eps * (record.max_abs + measured.max_abs_error)
    to_code = _HALF_A_CODE if record.rounded else 0.0
    if not record.rounded and record.dtype != record.compute_dtype:  # the Cast rounds a possibly larger number
        rounding += float(ml_dtypes.finfo(record.dtype).eps) * (record.max_abs + measured.max_abs_error)
    widened: NDArray[np.float64] = 2 * bounds + measured.max_abs_error + rounding + to_code
    return widened


def _relative(error: float, largest: float) -> float | None:
    if not math.isfinite(error):
        return None
    if not error:
        return 0.0
    return error / largest if largest else None


def _not_compared(record: WeightRecord, problem: str) -> WeightComparison:
    return WeightComparison(
        name=record.name,
        known_as=record.known_as,
        sources=record.sources,
        graph=record.graph,
        max_abs_error=None,
        max_relative_error=None,
        max_ulp_error=None,
        bit_identical=False,
        bound=None,
        passed=False,
        problem=problem,
    )


class _Difference:
    """Collects the largest differences between two arrays in chunks, for each group of elements that share a scale."""

    def __init__(
        self,
        conversion: WeightConversion,
        compute: np.dtype[Any],
        grid: ScaleGrid | None,
        zero_point: ZeroPoint | BlockZeroPoint | None,
    ) -> None:
        self._conversion = conversion
        self._compute = compute
        self._grid = grid
        self._zero_point = zero_point
        groups = 1 if grid is None else grid.count
        self._minimum, self._maximum = np.full(groups, np.inf), np.full(groups, -np.inf)
        self._first = 0
        self._squared_error = self._squared_weights = 0.0
        self.largest = 0.0
        self.largest_errors = np.zeros(groups)
        self.max_error = 0.0
        self.max_ulp = 0
        self.clipped: int | None = 0 if conversion.is_clipped else None
        self.bit_identical = True

    @property
    def max_abs(self) -> float:
        """max|W| of the original."""
        return max(float(self._maximum.max()), -float(self._minimum.min()))

    @property
    def sqnr_db(self) -> float | None:
        """Ratio of the power of the weights to that of the errors, in dB; None without errors, or beyond float64."""
        signal, noise = self._squared_weights, self._squared_error
        if not (0 < signal < math.inf and 0 < noise < math.inf):
            return None
        return 10 * (math.log10(signal) - math.log10(noise))

    def bounds(self) -> NDArray[np.float64]:
        """Return the converter's error bound for each group; 0 where the original is not finite.

        Without clipping on purpose, the bound is that of elements within the devices' range only: if the scale does not
        fit the original's range, the elements that are cut off must fail.
        """
        finite = np.isfinite(self._minimum) & np.isfinite(self._maximum)
        low, high = np.where(finite, self._minimum, 0.0), np.where(finite, self._maximum, 0.0)
        statistics = self._statistics(low, high)
        if not self._conversion.is_clipped and not self._has_own_scale(statistics):
            lowest, highest = self._conversion.converter.limits(self._conversion.scaling)
            ends = 1 + _END_ROUNDINGS
            statistics = self._statistics(
                np.maximum(low, np.broadcast_to(np.reshape(lowest, -1), low.shape) * ends),
                np.minimum(high, np.broadcast_to(np.reshape(highest, -1), high.shape) * ends),
            )
        bound = np.asarray(self._conversion.error_bound(statistics, self._compute), np.float64)
        return np.where(finite, np.broadcast_to(bound.reshape(-1), finite.shape), 0.0)

    def _statistics(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> WeightStatistics:
        if self._grid is None:
            return WeightStatistics(float(low[0]), float(high[0]), self._first)
        return WeightStatistics(low.reshape(self._grid.shape), high.reshape(self._grid.shape), self._first)

    def _has_own_scale(self, statistics: WeightStatistics) -> bool:
        """Whether the scale is the one that the converter chooses for the original weights, within its rounding."""
        try:
            own = self._conversion.converter.scaling(statistics, self._compute)
        except UnmappableWeightError:
            return False
        return bool(np.all(np.asarray(own.scale) == np.asarray(self._conversion.scaling.scale)))

    def with_cast(self, bounds: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
        """Return the bounds after the Cast to the weight's type.

        The Cast rounds to the nearest number of that type. The original is such a number, so the Cast at most doubles
        the error. The value to which a weight is clipped need not be such a number.
        """
        doubled: NDArray[np.float64] = 2 * bounds
        if not self._conversion.is_clipped:
            return doubled
        finfo = ml_dtypes.finfo(dtype)
        largest = np.maximum(np.abs(self._minimum), np.abs(self._maximum)) + bounds
        rounding = float(finfo.eps) / 2 * largest + float(finfo.smallest_subnormal)
        return np.where(np.isfinite(rounding), np.maximum(doubled, bounds + rounding), doubled)

    def add(self, rebuilt: NDArray[Any], original: NDArray[Any]) -> None:
        """Add two chunks of the same length and type."""
        wide = original.astype(np.float64)
        start = self._first
        self._first += wide.size
        self._put(np.minimum, self._minimum, wide, start)
        self._put(np.maximum, self._maximum, wide, start)
        ours, theirs = _bits(rebuilt), _bits(original)
        less_zero = wide if self._zero_point is None else wide - self._zero_point.chunk(start, wide.size)
        self._squared_weights += _squared(less_zero)
        self.largest = max(self.largest, float(np.abs(less_zero).max(initial=0.0)))
        if np.array_equal(ours, theirs):
            return
        self.bit_identical = False
        distance = np.abs(rebuilt.astype(np.float64) - wide)
        self._squared_error += _squared(distance)
        largest = float(distance.max())
        self.max_error = largest if math.isnan(largest) else max(self.max_error, largest)
        is_integer = ir.DataType.from_numpy(original.dtype).is_integer()
        self.max_ulp = max(self.max_ulp, int(largest if is_integer else _distance(ours, theirs).max()))
        if self._conversion.is_clipped:
            distance = self._distance_from_held(rebuilt.astype(np.float64), wide, start)
        self._put(np.maximum, self.largest_errors, distance, start)

    def add_equal(self, lowest: float, highest: float, count: int) -> None:
        """Add elements that share a scale and are equal in both arrays, bit for bit.

        Args:
            lowest: The lowest element.
            highest: The highest element.
            count: Number of elements.
        """
        self._minimum[0], self._maximum[0] = min(self._minimum[0], lowest), max(self._maximum[0], highest)
        self._first += count

    def _put(self, ufunc: np.ufunc, extremes: NDArray[np.float64], numbers: NDArray[np.float64], start: int) -> None:
        """Extend the extremes of groups by the elements from `start` on."""
        if self._grid is None:
            extremes[0] = ufunc(extremes[0], ufunc.reduce(numbers))
            return
        reduced, groups = self._grid.reduced(ufunc, numbers, start)
        ufunc.at(extremes, groups, reduced)

    def _distance_from_held(
        self, rebuilt: NDArray[np.float64], wide: NDArray[np.float64], start: int
    ) -> NDArray[np.float64]:
        """Return the distance of rebuilt elements from the original ones, which are clipped to the devices' range."""
        scaling = self._conversion.scaling_at(start, start + wide.size, np.dtype(np.float64))
        low, high = self._conversion.converter.limits(scaling)
        held = np.clip(wide, low, high)
        beyond = np.abs(wide - held)
        self.clipped = (self.clipped or 0) + int(np.count_nonzero(beyond > _END_ROUNDINGS * np.abs(held)))
        return np.abs(rebuilt - held)


def _squared(array: NDArray[np.float64]) -> float:
    """Return the sum of squares; infinite or NaN if it overflows or is undefined."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(array, array))


def _bits(array: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _distance(a: NDArray[np.unsignedinteger[Any]], b: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """Return how many representable numbers two floats are apart, from their bits; +0 and -0 are one number."""
    sign = a.dtype.type(1 << (8 * a.dtype.itemsize - 1))

    def ordered(bits: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
        magnitude = bits & ~sign
        return np.asarray(np.where(bits & sign, sign - magnitude, sign + magnitude))

    first, second = ordered(a), ordered(b)
    distance: NDArray[Any] = np.maximum(first, second) - np.minimum(first, second)
    return distance
