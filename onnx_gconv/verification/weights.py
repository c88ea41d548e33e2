"""Compares the weights that a mapped model rebuilds with the weights of the original, element by element."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import ConductanceConverter, Scaling
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, MeasuredRecord, WeightRecord
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.mapping.structure import structural_problems
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.schemes.conversion import WeightConversion
from onnx_gconv.tensors.bits import has_same_elements
from onnx_gconv.tensors.packed import UnpackedTensor, read_padding
from onnx_gconv.tensors.streamed import element_chunks, worker_count
from onnx_gconv.verification.weight_difference import WeightDifference
from onnx_gconv.weights import scopes
from onnx_gconv.weights.constants import constant_tensor
from onnx_gconv.weights.evaluation.constant_evaluation import ConstantEvaluator, EvaluatedTensor, EvaluationError

__all__ = ["WeightComparison", "compare_weights"]

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
    difference = WeightDifference(conversion, np.dtype(record.compute_dtype), grid, mapped.zero_point)
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
