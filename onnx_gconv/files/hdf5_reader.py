"""Reads arrays of an HDF5 file, without following links to other files, and tells which elements were ever written."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.files.damage import damage_as_value_error

__all__ = ["ElsewhereError", "Hdf5Reader", "opening_problem"]

# Part of HDF5's message if a file has the flag that a writing program sets, and leaves behind if it is killed.
_OPEN_FLAG = "already open for"
_OCTAVE_MARK = "OCTAVE_NEW_FORMAT"

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class ElsewhereError(ValueError):
    """The data of an array is elsewhere: the key is a link to another place, or a virtual dataset of other files."""


def opening_problem(path: Path, error: OSError) -> str | None:
    """Return why HDF5 cannot open an intact file, and the remedy; None if the file seems to be damaged."""
    if error.errno in _NO_LOCKS:
        return (
            f"the file system of '{path}' has no locks, which HDF5 asks for; copy it to another one, or set "
            "HDF5_USE_FILE_LOCKING=FALSE once nothing writes to it"
        )
    if isinstance(error, BlockingIOError):
        return f"'{path}' is open in a program that writes to it; close it there first"
    if _OPEN_FLAG in str(error):
        return (
            f"'{path}' is open in a program that writes to it, or one was stopped while it did; close it there first, "
            f"or take the mark off with h5clear -s '{path}' and see whether the file is whole"
        )
    return None


class Hdf5Reader:
    """Reads datasets through h5py's low-level interface, which is faster. Links to other places are not followed."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._file = h5py.File(path, "r")
        self._h5py = h5py
        self._groups: dict[str, bool] = {"": True}
        # The dataset that was opened last. Callers ask for its form, then for its elements; opening takes longest.
        self._last: tuple[str, Any] | None = None

    def close(self) -> None:
        """Close the file."""
        self._last = None
        self._file.close()

    @property
    def is_of_octave(self) -> bool:
        """Whether Octave's `save -hdf5` wrote the file: each variable is then a group with a mark."""
        hard = self._h5py.h5l.TYPE_HARD
        first = next((name for name in self._file if self._kind_of_link(name) == hard), None)
        return first is not None and self.has_attribute(first, _OCTAVE_MARK)

    def has_attribute(self, path: str, name: str) -> bool:
        """Whether a group or an array of this file has an attribute."""
        h5 = self._h5py
        with damage_as_value_error():
            return bool(h5.h5a.exists(h5.h5o.open(self._file.id, path.encode()), name.encode()))

    def keys(self) -> Iterator[str]:
        """Yield the keys of all arrays, without those that only a link leads to."""
        names: list[str] = []
        with damage_as_value_error():
            self._h5py.h5o.visit(self._file.id, lambda name: names.append(name.decode(errors="replace")))
            return iter([name for name in names if self._open(name) is not None])

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Return shape and type of an array without reading it; None if there is no array of that key.

        Raises:
            ElsewhereError: If its data is in another place.
            ValueError: If it is damaged.
        """
        with damage_as_value_error():
            dataset = self._dataset(key)
            if dataset is None:
                return None
            if dataset.shape is None:
                raise ValueError("it is an empty dataset without a shape")
            return dataset.shape, dataset.dtype

    def read(self, key: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            KeyError: If there is no array of that key.
        """
        with damage_as_value_error():
            dataset = self._dataset(key)
            if dataset is None:
                raise KeyError(key)
            # Zeros, because HDF5 does not touch elements that were never written.
            array = np.zeros(dataset.shape, dataset.dtype)
            dataset.read(self._h5py.h5s.ALL, self._h5py.h5s.ALL, array)
            return array

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Return which elements were ever written, as far as HDF5 shows it; None if all were.

        By default, HDF5 allocates the place of an array in the file when something is written to it; that of a chunked
        array chunk by chunk. Elements without a place read as the fill value, which is 0 by default.
        """
        with damage_as_value_error():
            return self._written(self._dataset(key))

    def _written(self, dataset: Any | None) -> NDArray[np.bool_] | None:  # noqa: ANN401 - h5py has no types
        h5d = self._h5py.h5d
        if dataset is None or not dataset.shape or not math.prod(dataset.shape):
            return None
        creation = dataset.get_create_plist()
        if creation.get_layout() != h5d.CHUNKED:
            return np.zeros(dataset.shape, np.bool_) if dataset.get_storage_size() == 0 else None
        chunk = creation.get_chunk()
        needed = math.prod(-(-size // length) for size, length in zip(dataset.shape, chunk, strict=True))
        if (count := dataset.get_num_chunks()) == needed:
            return None
        written = np.zeros(dataset.shape, np.bool_)
        for number in range(count):
            first = dataset.get_chunk_info(number).chunk_offset
            written[tuple(slice(start, start + length) for start, length in zip(first, chunk, strict=True))] = True
        return written

    def _dataset(self, key: str) -> Any | None:  # noqa: ANN401 - h5py has no types
        """Return the dataset of a key; None if this file has none of that name."""
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        dataset = self._open(key)
        if dataset is None:
            return None
        creation = dataset.get_create_plist()
        if creation.get_layout() == self._h5py.h5d.VIRTUAL:
            raise ElsewhereError("it is a virtual dataset, put together from others")
        if creation.get_external_count() > 0:
            raise ElsewhereError("its elements stand in another file")
        self._last = key, dataset
        return dataset

    def _open(self, key: str) -> Any | None:  # noqa: ANN401 - h5py has no types
        """Return the object of a key if it is a dataset; None if not."""
        if not (self._is_group(key.rpartition("/")[0]) and self._stands_here(key)):
            return None
        try:
            return self._h5py.h5d.open(self._file.id, key.encode())
        except (KeyError, TypeError, ValueError):  # no object of that name, or a group
            return None

    def _is_group(self, path: str) -> bool:
        """Whether a path consists of groups of this file."""
        if path not in self._groups:
            self._groups[path] = self._is_group(path.rpartition("/")[0]) and self._stands_here(path)
        return self._groups[path]

    def _stands_here(self, path: str) -> bool:
        """Whether the last part of a path is an object of this file; False if there is nothing of that name.

        Raises:
            ElsewhereError: If it is a link to another place.
        """
        h5l, links, kind = self._h5py.h5l, self._file.id.links, self._kind_of_link(path)
        if kind in {None, h5l.TYPE_HARD}:
            return kind is not None
        if kind == h5l.TYPE_SOFT:
            raise ElsewhereError(
                f"'{path}' is a soft link to '{links.get_val(path.encode()).decode(errors='replace')}'"
            )
        if kind == h5l.TYPE_EXTERNAL:
            file, name = (part.decode(errors="replace") for part in links.get_val(path.encode()))
            raise ElsewhereError(f"'{path}' is a link to '{name}' of the file '{file}'")
        raise ElsewhereError(f"'{path}' is a link of a kind of its own")

    def _kind_of_link(self, path: str) -> int | None:
        """Return HDF5's type of link of the last part of a path; None if there is nothing of that name."""
        try:
            kind: int = self._file.id.links.get_info(path.encode()).type
        except (KeyError, ValueError, RuntimeError):
            return None
        return kind
