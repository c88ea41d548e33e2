"""Decides whether Numba or NumPy computes device formulas; both give the same bits, Numba in about half the time."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError

__all__ = ["ENVIRONMENT_VARIABLE", "compiled_formulas"]

ENVIRONMENT_VARIABLE = "ONNX_GCONV_KERNELS"

_CHOICES = ("auto", "numba", "numpy")

_LEAST_ELEMENTS = 1 << 13
"""Smaller arrays are left to NumPy: most of their time goes into function calls, which Numba does not save."""

_WORTH_AN_IMPORT = 1 << 29
"""NumPy computes so many elements before Numba is imported, because the import takes a second or two. They take NumPy
about 3 seconds, or 35 million devices of phase-change memory. A process that ends sooner never waits for Numba."""


def compiled_formulas(array: NDArray[np.generic]) -> ModuleType | None:
    """The module `compiled_formulas` if it should compute an array; None if NumPy should.

    The environment variable ONNX_GCONV_KERNELS decides. ``numpy``: never Numba. ``numba``: always Numba, and an error
    if it is missing. ``auto`` (the default): Numba if it is installed and the process has much to compute.

    Raises:
        ConfigError: If the variable has another value, or is ``numba`` and Numba cannot be imported.
    """
    if array.size < _LEAST_ELEMENTS or array.dtype != np.float32 or not array.flags.c_contiguous:
        return None
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if choice == "auto" and _work.elements < _WORTH_AN_IMPORT:
        _work.elements += array.size  # threads may lose some counts of each other, which does no harm
        return None
    return _chosen(choice)


@dataclass
class _Work:
    """How much this process has computed with NumPy.

    Attributes:
        elements: Number of elements that were computed, over all arrays and formulas.
    """

    elements: int = 0


_work = _Work()


@functools.cache
def _chosen(choice: str) -> ModuleType | None:
    if choice not in _CHOICES:
        raise ConfigError(f"{ENVIRONMENT_VARIABLE} is one of {', '.join(_CHOICES)}, but it is '{choice}'")
    if choice == "numpy":
        return None
    try:
        from onnx_gconv.devices import compiled_formulas as found
    except Exception as error:  # a Numba that does not fit this NumPy or Python may raise any error at import
        if choice == "numba":
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{ENVIRONMENT_VARIABLE} is numba, but Numba cannot be imported: {type(error).__name__}: {reason}; "
                "install it (pip install 'onnx_gconv[fast]'), or set the variable to auto"
            ) from error
        return None
    return found
