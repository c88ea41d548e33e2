"""Scans the values of all weights for their extremes."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from onnx_gconv.converters import (
    WeightStatistics,
    compute_dtype,
    weight_statistics,
)
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes.planning.candidate import Candidate
from onnx_gconv.schemes.group_extremes import GroupExtremes
from onnx_gconv.tensors.packed import BlockZeroPoint
from onnx_gconv.tensors.streamed import element_chunks, worker_count
from onnx_gconv.weights import FoundWeight

__all__ = ["PART_ELEMENTS", "scan_all"]

# A weight is scanned in parts of this many elements, so that one large weight keeps all workers busy.
PART_ELEMENTS = 1 << 24


def scan_all(
    candidates: Sequence[Candidate], progress: Callable[[int, int], None] | None
) -> Iterator[WeightStatistics | UnmappableWeightError]:
    """Yield the statistics of each weight, or why it cannot be mapped; parts of weights are scanned in parallel."""
    parts = [
        (number, start)
        for number, candidate in enumerate(candidates)
        for start in range(0, candidate.found.tensor.size, PART_ELEMENTS)
    ]
    tensors = [candidate.found.numbers for candidate in candidates]
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0
    outcomes: list[WeightStatistics | UnmappableWeightError | None] = [None] * len(candidates)
    extremes = [None if candidate.grid is None else GroupExtremes(candidate.grid) for candidate in candidates]
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        jobs = [executor.submit(_scan_part, candidates[number], extremes[number], start) for number, start in parts]
        try:
            for (number, start), job in zip(parts, jobs, strict=True):
                outcome, before = job.result(), outcomes[number]
                if before is None:
                    outcomes[number] = outcome
                elif isinstance(before, WeightStatistics):
                    outcomes[number] = before | outcome if isinstance(outcome, WeightStatistics) else outcome
                if progress is not None:
                    tensor = tensors[number]
                    done += min(PART_ELEMENTS, tensor.size - start) * tensor.nbytes // tensor.size
                    progress(done, total)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    for result, found in zip(outcomes, extremes, strict=True):
        assert result is not None  # noqa: S101 - a found weight has elements
        if found is None or isinstance(result, UnmappableWeightError):
            yield result
        else:
            yield replace(result, minimum=found.minimum, maximum=found.maximum)


def _statistics_of_codes(weight: FoundWeight, start: int, stop: int) -> WeightStatistics | None:
    """The statistics of packed codes whose zero points are codes, too, computed without unpacking; None for others."""
    points = weight.zero_point
    if weight.packed is None or not isinstance(points, BlockZeroPoint) or points.codes is None:
        return None
    low, high = weight.packed.codes.extremes(start, stop, points)
    return WeightStatistics(minimum=float(low), maximum=float(high), count=stop - start)


def _scan_part(
    candidate: Candidate, extremes: GroupExtremes | None, start: int
) -> WeightStatistics | UnmappableWeightError:
    """The statistics of a part of a weight; the extremes of groups of elements are added to `extremes`."""
    tensor = candidate.found.numbers
    dtype = compute_dtype(tensor.dtype.numpy())
    stop = min(start + PART_ELEMENTS, tensor.size)
    if extremes is None and (found := _statistics_of_codes(candidate.found, start, stop)) is not None:
        return found
    try:
        chunks = element_chunks(tensor, start, stop, dtype=dtype)
        return weight_statistics(chunks if extremes is None else extremes.added(chunks, start), first_index=start)
    except UnmappableWeightError as error:
        return error
