"""Compares the weights that a mapped model rebuilds with the weights of the original, element by element."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_gconv.converters import WeightStatistics
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import Manifest, WeightRecord
from onnx_gconv.passes import InlineWeightFunctions
from onnx_gconv.passes.mapped_weight import BrokenMappingError, ModelValues, locate, structural_problems
from onnx_gconv.streamed_tensor import element_chunks, worker_count
from onnx_gconv.weights import scopes
from onnx_gconv.weights.constant_evaluation import ConstantEvaluator, EvaluatedTensor, EvaluationError
from onnx_gconv.weights.constant_tensor import constant_tensor

__all__ = ["WeightComparison", "compare_weights"]


@dataclass(frozen=True)
class WeightComparison:
    """A rebuilt weight beside the original one.

    Attributes:
        name: Name of the weight.
        graph: Path of its graph.
        max_abs_error: Largest ``|rebuilt - W|``, in units of weight; None if it could not be compared or is NaN.
        max_relative_error: That, divided by max|W|; 0 for an all-zero weight.
        max_ulp_error: Largest distance in representable numbers of the weight's type.
        bit_identical: Whether all elements are equal bit for bit.
        bound: What the converter promises for `max_abs_error`; 0 for an exact one.
        passed: Whether the promise is kept.
        problem: Why it could not be compared, or None.
    """

    name: str
    graph: str
    max_abs_error: float | None
    max_relative_error: float | None
    max_ulp_error: int | None
    bit_identical: bool
    bound: float
    passed: bool
    problem: str | None = None


def compare_weights(
    original: ir.Model,
    mapped: ir.Model,
    manifest: Manifest,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[WeightComparison, ...]:
    """Rebuild every mapped weight in NumPy and compare it with the original one, chunk by chunk.

    Args:
        original: The model before the mapping.
        mapped: The model after it.
        manifest: The manifest of `mapped`.
        progress: Called with the bytes of weights compared so far and in all.

    Raises:
        ModelError: If external data cannot be read.
    """
    originals = _Originals(_as_it_was_mapped(original, mapped))
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


def _as_it_was_mapped(original: ir.Model, mapped: ir.Model) -> ir.Model:
    """The original, with functions inlined if they were before it was mapped; that gives weights the same names."""
    if original.functions.keys() == mapped.functions.keys():
        return original
    inlined = original.clone()
    try:
        InlineWeightFunctions()(inlined)
    except ModelError:  # then it is another model; its weights will say so
        return original
    return inlined


class _Originals:
    """The constants of the original model, and what its nodes compute from constants, by graph and name."""

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
        """The weight in the graph of that path, else the only one of that name in any graph.

        Raises:
            EvaluationError: If it is computed from constants, and cannot be.
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


def _compare(record: WeightRecord, originals: _Originals, values: ModelValues) -> WeightComparison:
    try:
        tensor = originals.find(record)
    except EvaluationError as problem_of_original:
        return _not_compared(record, f"the original's cannot be computed: {problem_of_original}")
    if tensor is None:
        return _not_compared(record, "the original has no weight of this name; is it the model that was mapped?")
    shape, dtype = tuple(tensor.shape.numpy()), tensor.dtype
    if shape != record.shape or dtype != record.ir_dtype:
        return _not_compared(
            record,
            f"the original is {np.dtype(dtype.numpy()).name} {list(shape)}, the mapped weight {record.dtype} "
            f"{list(record.shape)}; is it the model that was mapped?",
        )
    try:
        converter = record.converter.converter()
        mapped = locate(record, values)
        problem = next(structural_problems(mapped), None)
    except (BrokenMappingError, ModelError) as broken:
        return _not_compared(record, str(broken))
    if problem is not None:
        return _not_compared(record, problem)
    rebuilt = mapped.rebuilt
    difference = _Difference()
    for ours, theirs in zip(rebuilt.chunks(), element_chunks(tensor), strict=True):
        difference.add(ours, theirs)
    statistics = WeightStatistics(-difference.max_abs, difference.max_abs, tensor.size)
    is_finite = math.isfinite(difference.max_abs)
    bound = converter.error_bound(statistics, np.dtype(record.compute_dtype)) if is_finite else 0.0
    if record.rounded:
        bound = 0.0
    elif record.dtype != record.compute_dtype:
        # The cast rounds to the nearest number, and the original is one: it can at most double the distance.
        bound *= 2
    error = difference.max_error
    passed = difference.bit_identical if converter.is_exact else math.isfinite(error) and error <= bound
    return WeightComparison(
        name=record.name,
        graph=record.graph,
        max_abs_error=error if math.isfinite(error) else None,
        max_relative_error=(error / difference.max_abs if error else 0.0) if math.isfinite(error) else None,
        max_ulp_error=difference.max_ulp if math.isfinite(error) else None,
        bit_identical=difference.bit_identical,
        bound=bound,
        passed=passed,
    )


def _not_compared(record: WeightRecord, problem: str) -> WeightComparison:
    return WeightComparison(
        name=record.name,
        graph=record.graph,
        max_abs_error=None,
        max_relative_error=None,
        max_ulp_error=None,
        bit_identical=False,
        bound=0.0,
        passed=False,
        problem=problem,
    )


class _Difference:
    """Largest differences between two arrays that come in chunks."""

    def __init__(self) -> None:
        self.max_error = 0.0
        self.max_ulp = 0
        self.max_abs = 0.0
        self.bit_identical = True

    def add(self, rebuilt: NDArray[Any], original: NDArray[Any]) -> None:
        """Take two chunks of the same length and type."""
        wide = original.astype(np.float32) if original.dtype.itemsize < 4 else original  # noqa: PLR2004 - half precision
        self.max_abs = max(self.max_abs, float(wide.max()), -float(wide.min()))
        ours, theirs = _bits(rebuilt), _bits(original)
        if np.array_equal(ours, theirs):
            return
        self.bit_identical = False
        error = np.abs(rebuilt.astype(np.float64) - original.astype(np.float64))
        largest = float(error.max())
        self.max_error = largest if math.isnan(largest) else max(self.max_error, largest)
        is_integer = ir.DataType.from_numpy(original.dtype).is_integer()
        self.max_ulp = max(self.max_ulp, int(largest if is_integer else _distance(ours, theirs).max()))


def _bits(array: NDArray[Any]) -> NDArray[np.unsignedinteger[Any]]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _distance(a: NDArray[np.unsignedinteger[Any]], b: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
    """How many representable numbers two floats are apart, from their bits; the two zeros are one number."""
    sign = a.dtype.type(1 << (8 * a.dtype.itemsize - 1))

    def ordered(bits: NDArray[np.unsignedinteger[Any]]) -> NDArray[Any]:
        magnitude = bits & ~sign
        return np.asarray(np.where(bits & sign, sign - magnitude, sign + magnitude))

    first, second = ordered(a), ordered(b)
    distance: NDArray[Any] = np.maximum(first, second) - np.minimum(first, second)
    return distance
