"""Elements of outputs that a model never writes: they hold whatever was in the memory before.

ONNX Runtime's attention with a cache of fixed length writes the positions that are taken and leaves the others, so that
two runs of one model on the same inputs give other numbers there. Such elements say nothing of a model. They are found
by letting the C library fill memory that is handed out, with other bytes in each of two runs (``M_PERTURB`` of
``mallopt``, which glibc has): an element that holds the fill of the one run and then that of the other was not written.
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
"""What new memory is filled with in two runs. Neither they nor their complements repeat in a number that occurs."""

_M_PERTURB = -6  # of malloc.h
_ALL_BITS = 0xFF


@contextmanager
def filled_memory(fill: int) -> Iterator[None]:
    """Let all memory that is handed out meanwhile hold a byte; does nothing where the C library is not glibc."""
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
    """Which elements of an output were written in neither of two runs, with the two fills of memory.

    Args:
        first: The output of the run in memory that was filled with the first of `FILLS`.
        second: That of the run with the second one.

    Returns:
        Of the output's shape; None if all elements were written, or it is no tensor of numbers.
    """
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        return None
    if first.dtype.kind in "OSU":
        return None
    found = _holds(first, FILLS[0]) & _holds(second, FILLS[1])
    return found if found.any() else None


def unwritten_note(name: str, elements: NDArray[np.bool_]) -> str:
    """What is to be said of an output with such elements."""
    return (
        f"{int(elements.sum()):,} of {elements.size:,} elements of output '{name}' are not compared: the original does "
        "not write them, and they hold what was in the memory before"
    )


def without(output: NDArray[Any] | None, unwritten: NDArray[np.bool_] | None) -> NDArray[Any] | None:
    """An output with zeros for what was not written; itself if that has another shape, or there is nothing."""
    if output is None or unwritten is None or output.shape != unwritten.shape or output.dtype.kind in "OSU":
        return output
    cleared = output.copy()
    cleared[unwritten] = 0
    return cleared


def _holds(output: NDArray[Any], fill: int) -> NDArray[np.bool_]:
    """Where all bytes of an element are the fill. glibc fills new memory with its complement, and freed one with it."""
    octets = np.ascontiguousarray(output).view(np.uint8).reshape(*output.shape, output.dtype.itemsize)
    return np.asarray((octets == fill).all(axis=-1) | (octets == fill ^ _ALL_BITS).all(axis=-1))
