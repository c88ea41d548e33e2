"""Files of named arrays: HDF5, or NumPy's npz without compression and without pickled objects."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import BundleError
from onnx_gconv.files.hdf5_file import FileForHdf5

__all__ = ["ARRAY_FILES", "ArrayReader", "ArrayWriter", "ArraysKind", "read_arrays", "write_arrays"]

ArraysKind: TypeAlias = Literal["hdf5", "npz"]

ARRAY_FILES: dict[ArraysKind, str] = {"hdf5": "conductances.h5", "npz": "conductances.npz"}

# The same bytes for the same arrays: zip would put the time of writing into the file.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_NPY_VERSION = (1, 0)


class ArrayWriter(Protocol):
    """A new file of arrays."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, key: str, array: NDArray[Any]) -> None:
        """Add an array, C-contiguous and little-endian, under a new key."""
        ...


class ArrayReader(Protocol):
    """An open file of arrays."""

    def close(self) -> None:
        """Close it."""
        ...

    def keys(self) -> Iterator[str]:
        """The keys of all arrays."""
        ...

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Shape and type of an array, without reading it; None if there is none of that key.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged.
        """
        ...

    def read(self, key: str) -> NDArray[Any]:
        """An array.

        Raises:
            KeyError: If there is none of that key.
            OSError: If it cannot be read.
            ValueError: If it is damaged.
        """
        ...


def write_arrays(path: Path, kind: ArraysKind) -> ArrayWriter:
    """Begin a new file of arrays, to be used in a with statement."""
    writers: dict[ArraysKind, Callable[[Path], ArrayWriter]] = {"hdf5": _Hdf5Writer, "npz": _NpzWriter}
    return writers[kind](path)


def read_arrays(path: Path, kind: ArraysKind) -> ArrayReader:
    """Open a file of arrays.

    Raises:
        BundleError: If it is missing or damaged.
    """
    readers: dict[ArraysKind, Callable[[Path], ArrayReader]] = {"hdf5": _Hdf5Reader, "npz": _NpzReader}
    try:
        with _damage_as_value_error():
            return readers[kind](path)
    except FileNotFoundError:
        raise BundleError(f"'{path}' is missing; copy the whole folder again") from None
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"'{path}' cannot be read: {reason}; copy the whole folder again") from None


@contextmanager
def _damage_as_value_error() -> Iterator[None]:
    """Let what is wrong with a file be a ValueError, which callers name the file in.

    zipfile, zlib, lzma, h5py and NumPy's reader of headers raise errors of a dozen types for damaged files, for
    encrypted ones, and for methods of compression that they do not know.
    """
    try:
        yield
    except (KeyError, OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


class _Hdf5Writer:
    """Arrays as contiguous datasets.

    Datasets are made through the low-level interface: the other one takes three times as long for each of them. HDF5
    gives each its place in the file at once, and the elements are written there without it, in half the time.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self._raw = FileForHdf5(path)
        self._file = h5py.File(self._raw, "w")
        self._datasets = h5py.h5d
        self._spaces = h5py.h5s
        self._types: dict[np.dtype[Any], Any] = {}
        self._type_of = h5py.h5t.py_create
        self._groups: dict[str, Any] = {"": self._file.id}
        self._made: set[str] = set()
        self._open_group, self._create_group = h5py.h5g.open, h5py.h5g.create
        self._creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._creation.set_layout(h5py.h5d.CONTIGUOUS)
        self._creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        self._creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._creation.set_obj_track_times(False)  # equal bundles have equal bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._groups = {}
        self._file.close()
        self._raw.close()
        if error is None:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._raw.failure is not None:
            raise self._raw.failure

    def write(self, key: str, array: NDArray[Any]) -> None:
        folder, _, name = key.rpartition("/")
        group = self._group(folder)
        if array.dtype not in self._types:
            self._types[array.dtype] = self._type_of(array.dtype)
        space = self._spaces.create_simple(array.shape)
        dataset = self._datasets.create(group, name.encode(), self._types[array.dtype], space, self._creation)
        if array.size:
            self._raw.write_at(dataset.get_offset(), array.reshape(-1).view(np.uint8).data)
        self._raise_failure()

    def _group(self, folder: str) -> Any:  # noqa: ANN401 - h5py has no types
        """A group, which is made unless it is there. Only groups that arrays still go to stay open."""
        if (found := self._groups.get(folder)) is not None:
            return found
        parent, _, name = folder.rpartition("/")
        within = self._group(parent)
        opened = {path: group for path, group in self._groups.items() if folder.startswith(f"{path}/") or not path}
        if folder in self._made:
            group = self._open_group(within, name.encode())
        else:
            group = self._create_group(within, name.encode())
            self._made.add(folder)
        self._groups = {**opened, folder: group}
        return group


class _NpzWriter:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path, "x", zipfile.ZIP_STORED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def write(self, key: str, array: NDArray[Any]) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        with self._zip.open(zipfile.ZipInfo(f"{key}.npy", _ZIP_TIME), "w", force_zip64=True) as member:
            member.write(header.getvalue())
            member.write(array.reshape(-1).view(np.uint8).data)


class _Hdf5Reader:
    """Datasets, through the low-level interface, which is faster. Nothing that leads to other files is followed."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._file = h5py.File(path, "r")
        self._h5py = h5py
        self._groups: dict[str, bool] = {"": True}

    def close(self) -> None:
        self._file.close()

    def keys(self) -> Iterator[str]:
        names: list[str] = []
        with _damage_as_value_error():
            self._h5py.h5o.visit(self._file.id, lambda name: names.append(name.decode(errors="replace")))
            return iter([name for name in names if self._dataset(name) is not None])

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        with _damage_as_value_error():
            dataset = self._dataset(key)
            if dataset is None:
                return None
            if dataset.shape is None:
                raise ValueError("it is an empty dataset without a shape")
            return dataset.shape, dataset.dtype

    def read(self, key: str) -> NDArray[Any]:
        with _damage_as_value_error():
            dataset = self._dataset(key)
            if dataset is None:
                raise KeyError(key)
            # HDF5 leaves elements as they are that were never written.
            array = np.zeros(dataset.shape, dataset.dtype)
            dataset.read(self._h5py.h5s.ALL, self._h5py.h5s.ALL, array)
            return array

    def _dataset(self, key: str) -> Any | None:  # noqa: ANN401 - h5py has no types
        h5d = self._h5py.h5d
        if not (self._is_group(key.rpartition("/")[0]) and self._is_inside(key)):
            return None
        try:
            dataset = h5d.open(self._file.id, key.encode())
        except (KeyError, TypeError, ValueError):  # none of that name, or a group
            return None
        creation = dataset.get_create_plist()
        is_elsewhere = creation.get_layout() == h5d.VIRTUAL or creation.get_external_count() > 0
        return None if is_elsewhere else dataset

    def _is_group(self, path: str) -> bool:
        """Whether a path leads through groups of this file."""
        if path not in self._groups:
            self._groups[path] = self._is_group(path.rpartition("/")[0]) and self._is_inside(path)
        return self._groups[path]

    def _is_inside(self, path: str) -> bool:
        """Whether the last part of a path is an object of this file, no link to another place."""
        try:
            link = self._file.id.links.get_info(path.encode())
        except (KeyError, ValueError, RuntimeError):
            return False
        return bool(link.type == self._h5py.h5l.TYPE_HARD)


class _NpzReader:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._names = set(self._zip.namelist())

    def close(self) -> None:
        self._zip.close()

    def keys(self) -> Iterator[str]:
        return (name.removesuffix(".npy") for name in sorted(self._names) if name.endswith(".npy"))

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        if f"{key}.npy" not in self._names:
            return None
        with _damage_as_value_error(), self._zip.open(f"{key}.npy") as member:
            if np.lib.format.read_magic(member) != _NPY_VERSION:
                return None
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        return shape, dtype

    def read(self, key: str) -> NDArray[Any]:
        with _damage_as_value_error(), self._zip.open(f"{key}.npy") as member:
            array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            return array
