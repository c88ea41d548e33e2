"""Whether formulas are computed by compiled functions, which takes a third of the time and gives the same bits."""

from __future__ import annotations

import functools
import os
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import ConfigError

__all__ = ["ENVIRONMENT_VARIABLE", "compiled_formulas"]

ENVIRONMENT_VARIABLE = "ONNX_GCONV_KERNELS"

_CHOICES = ("auto", "numba", "numpy")

_LEAST_ELEMENTS = 1 << 15
"""Fewer are not worth the time that it takes to import Numba: a process that meets no larger array does without."""


def compiled_formulas(array: NDArray[np.generic]) -> ModuleType | None:
    """The module `compiled_formulas`, if it is to compute with an array; None for NumPy.

    The environment variable ONNX_GCONV_KERNELS has the choice: ``numpy`` for never, ``numba`` for an error where Numba
    is missing, and ``auto``, which is how it is if not set, for Numba if it is installed.

    Raises:
        ConfigError: If the variable has another value, or is ``numba`` and Numba cannot be imported.
    """
    if array.size < _LEAST_ELEMENTS or array.dtype != np.float32 or not array.flags.c_contiguous:
        return None
    return _chosen(os.environ.get(ENVIRONMENT_VARIABLE) or "auto")


@functools.cache
def _chosen(choice: str) -> ModuleType | None:
    if choice not in _CHOICES:
        raise ConfigError(f"{ENVIRONMENT_VARIABLE} is one of {', '.join(_CHOICES)}, but it is '{choice}'")
    if choice == "numpy":
        return None
    try:
        from onnx_gconv.devices import compiled_formulas as found
    except Exception as error:  # a Numba of another NumPy or Python says so when it is imported, in ways of its own
        if choice == "numba":
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{ENVIRONMENT_VARIABLE} is numba, but Numba cannot be imported: {type(error).__name__}: {reason}; "
                "install it (pip install 'onnx_gconv[fast]'), or set the variable to auto"
            ) from error
        return None
    return found
