"""Cuts chunks into pieces that stay in the cache of the processor while several operations go over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray
from onnx_gconv.converters.scaling import Scaling

__all__ = ["PIECE_ELEMENTS", "pieces"]

# With some intermediate results of float64 about a megabyte. Smaller pieces spend too much time between operations, and
# two threads that compute them spend it handing the interpreter lock to each other.
PIECE_ELEMENTS = 1 << 15


def pieces(
    weights: FloatArray, scaling: Scaling, out: Sequence[FloatArray]
) -> Iterator[tuple[FloatArray, Scaling, list[FloatArray]]]:
    """The parts of a chunk, its scaling and its conductances.

    Args:
        weights: A chunk of any shape.
        scaling: Its scaling.
        out: Arrays of the same shape, for its conductances.

    Yields:
        One-dimensional views of `PIECE_ELEMENTS` elements, the last ones shorter; or everything at once if an array is
        not contiguous, of which there are no such views.
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
