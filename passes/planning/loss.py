"""Computes the error of weights that are rounded to levels or clipped on purpose."""

from __future__ import annotations

import concurrent.futures
import functools
import operator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.passes.planning.planned_weight import PlannedWeight
from onnx_gconv.passes.planning.scan import PART_ELEMENTS
from onnx_gconv.schemes.conversion import ConversionLoss
from onnx_gconv.tensors.streamed import element_chunks, worker_count

__all__ = ["with_loss"]

# The loss is computed in blocks of this many elements, so that its ten temporary arrays stay in the processor's cache.
_LOSS_ELEMENTS = 1 << 15


def with_loss(weight: PlannedWeight) -> PlannedWeight:
    """The planned weight with its loss, if its scheme rounds or clips it; else unchanged."""
    if not weight.conversion.is_lossy:
        return weight
    dtype = np.dtype(np.float64) if weight.compute_dtype == np.float64 else np.dtype(np.float32)
    if weight.conversion.has_integers_on_levels and weight.conversion.grid is None:
        # The elements are integers of this range: if none of the range loses anything, the weight does not.
        largest = float(weight.statistics.max_abs)
        integers: NDArray[Any] = np.arange(-largest, largest + 1).astype(dtype)
        loss = weight.conversion.loss(integers, 0, rounded=True)
        if not loss.rms_error:
            return replace(weight, loss=replace(loss, count=weight.found.tensor.size))

    def loss_of_part(start: int) -> ConversionLoss:
        stop = min(start + PART_ELEMENTS, weight.found.tensor.size)
        total: ConversionLoss | None = None
        for chunk in element_chunks(weight.found.numbers, start, stop, dtype=dtype):
            for first in range(0, chunk.size, _LOSS_ELEMENTS):
                block = chunk[first : first + _LOSS_ELEMENTS]
                loss = weight.conversion.loss(block, start + first, rounded=weight.found.has_integers)
                total = loss if total is None else total | loss
            start += chunk.size
        assert total is not None  # noqa: S101 - a part has elements
        return total

    starts = range(0, weight.found.tensor.size, PART_ELEMENTS)
    with concurrent.futures.ThreadPoolExecutor(worker_count()) as executor:
        losses = list(executor.map(loss_of_part, starts))
    return replace(weight, loss=functools.reduce(operator.or_, losses))
