"""The scale and the zero that relate weights to conductances, and cutting them into pieces with the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, plain

__all__ = ["PIECE_ELEMENTS", "Scaling", "narrowed_scale", "pieces"]


@dataclass(frozen=True)
class Scaling:
    """The scale and the zero of a weight, or of each group of its elements that share a scale.

    Both are Python numbers or float64 arrays, whose values are exact in the type in which the weight is mapped.

    Attributes:
        scale: µS per unit of weight; positive and finite.
        zero: w0, the weight that decoding adds at the end, in units of weight.
    """

    scale: FloatOrArray
    zero: FloatOrArray = 0.0


def narrowed_scale(scale: FloatOrArray, dtype: np.dtype[Any]) -> FloatOrArray | None:
    """Round scales down to half precision; rounding up would clip the largest conductances.

    Args:
        scale: µS per unit of weight.
        dtype: float16 or bfloat16.

    Returns:
        The rounded scales; None if a scale is too large for the type, or so small that it would be subnormal.
    """
    finfo = ml_dtypes.finfo(dtype)
    if not np.all((float(finfo.smallest_normal) <= np.asarray(scale)) & (np.asarray(scale) <= float(finfo.max))):
        return None
    narrowed = np.asarray(scale, np.float64).astype(dtype)
    below = np.nextafter(narrowed, np.zeros_like(narrowed))
    return plain(np.where(narrowed.astype(np.float64) > scale, below, narrowed).astype(np.float64)[()])


# A piece and its float64 intermediate results take about a megabyte. With smaller pieces, the overhead of function
# calls dominates, and two threads lose time passing the interpreter lock to each other.
PIECE_ELEMENTS = 1 << 15


def pieces(
    weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]
) -> Iterator[tuple[FloatArray, Scaling, list[FloatArray]]]:
    """Cut a chunk, its scaling and its conductances into pieces that fit the cache.

    Args:
        weights: A chunk of any shape.
        scaling: The scaling of the chunk.
        out: Arrays of the same shape, for its conductances.

    Yields:
        One-dimensional views of `PIECE_ELEMENTS` elements, the last ones shorter. Everything at once if it is small, or
        if an array is not contiguous and so has no such views.
    """
    arrays = [weights, *out, *(entry for entry in (scaling.scale, scaling.zero) if isinstance(entry, np.ndarray))]
    if weights.size <= PIECE_ELEMENTS or not all(array.flags.c_contiguous for array in arrays):
        yield weights, scaling, list(out)
        return
    flat, flat_out = weights.reshape(-1), [array.reshape(-1) for array in out]
    for start in range(0, flat.size, PIECE_ELEMENTS):
        part = slice(start, start + PIECE_ELEMENTS)
        yield (
            flat[part],
            Scaling(_part(scaling.scale, part), _part(scaling.zero, part)),
            [array[part] for array in flat_out],
        )


def _part(entry: FloatOrArray, part: slice) -> FloatOrArray:
    return entry.reshape(-1)[part] if isinstance(entry, np.ndarray) else entry
