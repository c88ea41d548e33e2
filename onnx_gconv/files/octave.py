"""Arrays of a file that GNU Octave wrote with `save -hdf5`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.files.hdf5_reader import Hdf5Reader

__all__ = ["OctaveReader"]

# Octave puts every value into a group of its own, under this name, beside its type.
_VALUE, _TYPE = "value", "type"

# The mark of a matrix without elements.
_EMPTY = "OCTAVE_EMPTY_MATRIX"

_SCALAR_SHAPE = (1, 1)


class OctaveReader:
    """The matrices of variables, which are structs of structs: ``L000.T0000.g_plus`` is ``L000/T0000/g_plus``.

    In the file it is ``L000/value/T0000/value/g_plus/value``. Octave stores matrices column by column, so that HDF5
    has their axes in reversed order, and scalars without axes.

    Args:
        inner: The file.
    """

    def __init__(self, inner: Hdf5Reader) -> None:
        self._inner = inner

    def close(self) -> None:
        """Close it."""
        self._inner.close()

    def keys(self) -> Iterator[str]:
        """The keys of all matrices and scalars, but for those in other containers than structs."""
        for path in self._inner.keys():  # noqa: SIM118 - no dict
            names, values = path.split("/")[0::2], path.split("/")[1::2]
            if values and len(names) == len(values) and set(values) == {_VALUE}:
                yield "/".join(names)

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Shape and type of a matrix, as Octave has it; None if there is none of that key."""
        found = self._inner.form(path := _path(key))
        if found is None:
            return None
        shape, dtype = found
        if self._inner.has_attribute(path.removesuffix(f"/{_VALUE}"), _EMPTY):  # its value is its shape
            return tuple(map(int, self._inner.read(path))), np.dtype(np.float64)
        return shape[::-1] or _SCALAR_SHAPE, dtype

    def read(self, key: str) -> NDArray[Any]:
        """A matrix, as Octave has it."""
        array = _as_in_octave(self._inner.read(path := _path(key)))
        # Octave stores true and false as numbers where they stand alone.
        is_truth = self._inner.read(f"{path.removesuffix(_VALUE)}{_TYPE}").item() == b"bool"
        return array.astype(np.bool_) if is_truth else array

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Which elements were ever written; None if all were."""
        found = self._inner.written(_path(key))
        return None if found is None else _as_in_octave(found)


def _path(key: str) -> str:
    return "/".join(f"{name}/{_VALUE}" for name in key.split("/"))


def _as_in_octave(array: NDArray[Any]) -> NDArray[Any]:
    return array.T if array.ndim else array.reshape(_SCALAR_SHAPE)
