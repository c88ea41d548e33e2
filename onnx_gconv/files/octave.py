"""Reads arrays from an HDF5 file that GNU Octave wrote with `save -hdf5`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.files.hdf5_reader import Hdf5Reader

__all__ = ["OctaveReader"]

# Octave writes each variable as a group with these two members.
_VALUE, _TYPE = "value", "type"

# The mark of a matrix without elements.
_EMPTY = "OCTAVE_EMPTY_MATRIX"

_SCALAR_SHAPE = (1, 1)


class OctaveReader:
    """Reads the matrices in nested structs. The key of ``L000.T0000.g_plus`` is ``L000/T0000/g_plus``.

    In the file, the matrix is ``L000/value/T0000/value/g_plus/value``. Octave stores matrices column by column, so HDF5
    has their axes in reversed order; it stores scalars without axes.

    Args:
        inner: The reader of the file.
    """

    def __init__(self, inner: Hdf5Reader) -> None:
        self._inner = inner

    def close(self) -> None:
        """Close the file."""
        self._inner.close()

    def keys(self) -> Iterator[str]:
        """Yield the keys of all matrices and scalars; of containers, only structs are searched."""
        for path in self._inner.keys():  # noqa: SIM118 - no dict
            names, values = path.split("/")[0::2], path.split("/")[1::2]
            if values and len(names) == len(values) and set(values) == {_VALUE}:
                yield "/".join(names)

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Return the shape that a matrix has in Octave, and its type; None if there is no matrix of that key."""
        found = self._inner.form(path := _path(key))
        if found is None:
            return None
        shape, dtype = found
        if self._inner.has_attribute(path.removesuffix(f"/{_VALUE}"), _EMPTY):  # its dataset holds the shape
            return tuple(map(int, self._inner.read(path))), np.dtype(np.float64)
        return shape[::-1] or _SCALAR_SHAPE, dtype

    def read(self, key: str) -> NDArray[Any]:
        """Return a matrix with the axes in Octave's order."""
        array = _as_in_octave(self._inner.read(path := _path(key)))
        # Octave stores a single bool as a number.
        is_truth = self._inner.read(f"{path.removesuffix(_VALUE)}{_TYPE}").item() == b"bool"
        return array.astype(np.bool_) if is_truth else array

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Return which elements of a matrix were ever written; None if all were."""
        found = self._inner.written(_path(key))
        return None if found is None else _as_in_octave(found)


def _path(key: str) -> str:
    return "/".join(f"{name}/{_VALUE}" for name in key.split("/"))


def _as_in_octave(array: NDArray[Any]) -> NDArray[Any]:
    return array.T if array.ndim else array.reshape(_SCALAR_SHAPE)
