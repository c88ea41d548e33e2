"""Finds elements of outputs that a model never writes, so that they contain what was in the memory before.

ONNX Runtime's attention with a cache of fixed length writes only the positions in use, so two runs of a model on the
same inputs give different numbers at the other positions. Such elements must not be compared. To find them, the C
library fills newly allocated memory, with a different byte in each of two runs (``M_PERTURB`` of glibc's ``mallopt``).
An element that contains the fill byte of its run in both runs was not written.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["FILLS", "filled_memory", "unwritten_elements", "unwritten_note", "without"]

FILLS: tuple[int, int] = (0x55, 0x2A)
"""The fill bytes of two runs. No number that occurs in practice consists of one of them, or its complement, only."""

_M_PERTURB = -6  # the constant of glibc's malloc.h
_ALL_BITS = 0xFF


@contextmanager
def filled_memory(fill: int) -> Iterator[None]:
    """Fill all memory that is allocated in the with statement with a byte; do nothing if the C library is not glibc."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    library.mallopt(_M_PERTURB, fill)
    try:
        yield
    finally:
        library.mallopt(_M_PERTURB, 0)


def unwritten_elements(first: NDArray[Any] | None, second: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Return which elements of an output were written in neither of two runs with the two fill bytes.

    Args:
        first: The output of the run with the first byte of `FILLS`.
        second: The output of the run with the second byte.

    Returns:
        A mask of the output's shape; None if all elements were written, or the output is no tensor of numbers.
    """
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        return None
    if first.dtype.kind in "OSU":
        return None
    found = _holds(first, FILLS[0]) & _holds(second, FILLS[1])
    return found if found.any() else None


def unwritten_note(name: str, elements: NDArray[np.bool_]) -> str:
    """Return a note on an output with elements that are not written."""
    return (
        f"{int(elements.sum()):,} of {elements.size:,} elements of output '{name}' are not compared: the original does "
        "not write them, and they hold what was in the memory before"
    )


def without(output: NDArray[Any] | None, unwritten: NDArray[np.bool_] | None) -> NDArray[Any] | None:
    """Return an output with zeros for elements that were not written; unchanged if the mask is None or does not fit."""
    if output is None or unwritten is None or output.shape != unwritten.shape or output.dtype.kind in "OSU":
        return output
    cleared = output.copy()
    cleared[unwritten] = 0
    return cleared


def _holds(output: NDArray[Any], fill: int) -> NDArray[np.bool_]:
    """Return which elements consist of the fill byte or its complement.

    glibc fills allocated memory with the complement, and freed memory with the byte itself.
    """
    octets = np.ascontiguousarray(output).view(np.uint8).reshape(*output.shape, output.dtype.itemsize)
    return np.asarray((octets == fill).all(axis=-1) | (octets == fill ^ _ALL_BITS).all(axis=-1))
