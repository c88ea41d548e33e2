"""Whether formulas are computed by compiled functions: in little more than half of the time, with the same bits."""

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
"""Of smaller arrays most of the time goes into calls, whoever computes."""

_WORTH_AN_IMPORT = 1 << 29
"""How many elements NumPy computes before Numba is imported, which takes a second or two. That is some 3 seconds of
NumPy's time, or 35 million devices of phase-change memory: a process that ends sooner does not wait for Numba."""


def compiled_formulas(array: NDArray[np.generic]) -> ModuleType | None:
    """The module `compiled_formulas`, if it is to compute with an array; None for NumPy.

    The environment variable ONNX_GCONV_KERNELS has the choice: ``numpy`` for never, ``numba`` for at once, or an error
    where Numba is missing, and ``auto``, which is how it is if not set, for Numba if it is installed and there is
    much to compute.

    Raises:
        ConfigError: If the variable has another value, or is ``numba`` and Numba cannot be imported.
    """
    if array.size < _LEAST_ELEMENTS or array.dtype != np.float32 or not array.flags.c_contiguous:
        return None
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if choice == "auto" and _work.elements < _WORTH_AN_IMPORT:
        _work.elements += array.size  # threads that forget some of each other's do no harm
        return None
    return _chosen(choice)


@dataclass
class _Work:
    """What this process has computed with NumPy.

    Attributes:
        elements: The elements of all arrays, once for each formula.
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
    except Exception as error:  # a Numba of another NumPy or Python says so when it is imported, in ways of its own
        if choice == "numba":
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{ENVIRONMENT_VARIABLE} is numba, but Numba cannot be imported: {type(error).__name__}: {reason}; "
                "install it (pip install 'onnx_gconv[fast]'), or set the variable to auto"
            ) from error
        return None
    return found
