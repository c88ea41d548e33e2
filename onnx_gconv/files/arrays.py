"""Files of named arrays: HDF5, or NumPy's npz without compression and without pickled objects."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.errors import BundleError
from onnx_gconv.files.damage import damage_as_value_error
from onnx_gconv.files.hdf5_file import FileForHdf5
from onnx_gconv.files.hdf5_reader import ElsewhereError, Hdf5Reader, opening_problem
from onnx_gconv.files.octave import OctaveReader
from onnx_gconv.files.special_files import no_file_but

__all__ = [
    "ARRAY_FILES",
    "ArrayReader",
    "ArrayWriter",
    "ArraysKind",
    "ElsewhereError",
    "Label",
    "LabelledArrayWriter",
    "read_arrays",
    "write_arrays",
]

ArraysKind: TypeAlias = Literal["hdf5", "npz"]

# A label of an array: a text, or one or more numbers.
Label: TypeAlias = str | int | tuple[int, ...] | tuple[float, ...]

ARRAY_FILES: dict[ArraysKind, str] = {"hdf5": "conductances.h5", "npz": "conductances.npz"}

# A fixed time of all members, so that the same arrays give the same bytes.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

# Longer texts are not stored as attributes: HDF5 limits the attributes in an object's header to 64 KiB.
_LONGEST_ATTRIBUTE = 4096

# The number of attributes whose converted form (value, type and space of HDF5) is cached.
_MOST_ATTRIBUTES = 256

# The number of shapes whose HDF5 space is cached.
_MOST_SPACES = 64

# The size of HDF5's cache of headers, as bytes of the file; in memory they take 25 times as much. Only headers of open
# groups are read again, so the cache is smaller than HDF5's default of 2 MiB; HDF5 enlarges it for a large header.
_HEADER_CACHE_BYTES = 1 << 19

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArrayWriter(Protocol):
    """A new file of arrays."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, key: str, array: NDArray[Any]) -> None:
        """Add an array, C-contiguous and little-endian, under a new key."""
        ...


class LabelledArrayWriter(ArrayWriter, Protocol):
    """A new file of arrays that may have labels beside them."""

    def label(self, place: str, labels: Mapping[str, Label]) -> None:
        """Store labels, if the file format has a place for them.

        Args:
            place: The key of the array that was written last, a folder of written keys, or "" for the file itself.
            labels: The labels by name.
        """
        ...


class ArrayReader(Protocol):
    """An open file of arrays."""

    def close(self) -> None:
        """Close the file."""
        ...

    def keys(self) -> Iterator[str]:
        """The keys of all arrays."""
        ...

    def form(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Return shape and type of an array without reading it; None if there is no array of that key.

        Raises:
            ElsewhereError: If the key leads to another file or place, as a link does.
            OSError: If the file cannot be read.
            ValueError: If the array is damaged.
        """
        ...

    def read(self, key: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            KeyError: If there is no array of that key.
            OSError: If the file cannot be read.
            ValueError: If the array is damaged.
        """
        ...

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Return which elements of an array were ever written, as far as the file shows it; None if all were."""
        ...


def write_arrays(path: Path, kind: ArraysKind) -> LabelledArrayWriter:
    """Open a new file of arrays, for use in a with statement."""
    writers: dict[ArraysKind, Callable[[Path], LabelledArrayWriter]] = {"hdf5": _Hdf5Writer, "npz": _NpzWriter}
    return writers[kind](path)


def read_arrays(path: Path, kind: ArraysKind, remedy: str = "copy the whole folder again") -> ArrayReader:
    """Open a file of arrays.

    Args:
        path: The file.
        kind: The format of the file.
        remedy: What a user should do if it is missing or damaged; part of the message.

    Raises:
        BundleError: If the file is missing, damaged, or open in a program that writes to it.
    """
    readers: dict[ArraysKind, Callable[[Path], ArrayReader]] = {"hdf5": _hdf5_reader, "npz": _NpzReader}
    if (kind_of_place := no_file_but(path)) is not None:
        raise BundleError(f"'{path}' cannot be read: it is {kind_of_place}; {remedy}")
    try:
        with damage_as_value_error():
            return readers[kind](path)
    except FileNotFoundError:
        raise BundleError(f"'{path}' is missing; {remedy}") from None
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        problem = opening_problem(path, error) if isinstance(error, OSError) and kind == "hdf5" else None
        raise BundleError(problem or f"'{path}' cannot be read: {reason}; {remedy}") from None


class _Hdf5Writer:
    """Arrays as contiguous datasets.

    Datasets are created through h5py's low-level interface, because the high-level one takes three times as long for
    each. HDF5 allocates the place of each dataset in the file at once, and the elements are written there without HDF5,
    in half the time.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self._raw = FileForHdf5(path)
        self._file = h5py.File(self._raw, "w")
        cache = self._file.id.get_mdc_config()
        cache.set_initial_size, cache.initial_size, cache.min_size = True, _HEADER_CACHE_BYTES, _HEADER_CACHE_BYTES
        self._file.id.set_mdc_config(cache)
        self._datasets = h5py.h5d
        self._spaces: dict[tuple[int, ...], Any] = {}
        self._space_of = h5py.h5s.create_simple
        self._types: dict[np.dtype[Any], Any] = {}
        self._type_of = h5py.h5t.py_create
        self._groups: dict[str, Any] = {"": self._file.id}
        self._made: set[str] = set()
        self._last: tuple[str, Any] = "", self._file.id
        self._create_attribute = h5py.h5a.create
        self._scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        self._texts: dict[int, Any] = {}
        self._text_dtype = h5py.string_dtype
        self._attributes: dict[tuple[type, Label], tuple[NDArray[Any], Any, Any] | None] = {}
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
        self._groups, self._last = {}, ("", None)
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
        kind, space = self._type(array.dtype), self._space(array.shape)
        dataset = self._datasets.create(group, name.encode(), kind, space, self._creation)
        if array.size:
            self._raw.write_at(dataset.get_offset(), array.reshape(-1).view(np.uint8).data)
        self._last = key, dataset
        self._raise_failure()

    def label(self, place: str, labels: Mapping[str, Label]) -> None:
        """Store labels as attributes; texts that are too long for a header of HDF5 are left out.

        The low-level interface is used here, too, because every array has labels; most labels occur at many arrays.
        """
        target = self._last[1] if place == self._last[0] else self._group(place)
        for name, label in labels.items():
            if (found := self._attribute(label)) is not None:
                value, kind, space = found
                self._create_attribute(target, name.encode(), kind, space).write(value, mtype=kind)

    def _attribute(self, label: Label) -> tuple[NDArray[Any], Any, Any] | None:
        """Return a label in the form that HDF5 takes: value, type and space; None if it is left out."""
        key = type(label[0]) if isinstance(label, tuple) else type(label), label  # 1 equals 1.0
        if key in self._attributes:
            return self._attributes[key]
        found: tuple[NDArray[Any], Any, Any] | None = None
        if not isinstance(label, str):
            numbers = np.asarray(label)
            numbers = numbers.astype("<i8" if numbers.dtype.kind == "i" else "<f8")
            found = numbers, self._type(numbers.dtype), self._space(numbers.shape) if numbers.ndim else self._scalar
        elif 0 < len(encoded := label.encode()) <= _LONGEST_ATTRIBUTE:
            found = np.array(encoded), self._text(len(encoded)), self._scalar
        if len(self._attributes) == _MOST_ATTRIBUTES:  # most belong to one tile only and are not needed again
            self._attributes.clear()
        self._attributes[key] = found
        return found

    def _space(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - h5py has no types
        """Return the HDF5 space of a shape. Nearly all tiles have the same one, so spaces are cached."""
        if shape not in self._spaces:
            if len(self._spaces) == _MOST_SPACES:
                self._spaces.clear()
            self._spaces[shape] = self._space_of(shape)
        return self._spaces[shape]

    def _text(self, size: int) -> Any:  # noqa: ANN401 - h5py has no types
        """Return the HDF5 type of texts of `size` bytes."""
        if size not in self._texts:
            self._texts[size] = self._type_of(self._text_dtype("utf-8", size), logical=True)
        return self._texts[size]

    def _type(self, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 - h5py has no types
        if dtype not in self._types:
            self._types[dtype] = self._type_of(dtype)
        return self._types[dtype]

    def _group(self, folder: str) -> Any:  # noqa: ANN401 - h5py has no types
        """Return a group; it is created if needed. Only groups on the path to this one stay open."""
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

    def label(self, place: str, labels: Mapping[str, Label]) -> None:
        """Do nothing: a zip file has no place for labels."""


def _hdf5_reader(path: Path) -> ArrayReader:
    reader = Hdf5Reader(path)
    return OctaveReader(reader) if reader.is_of_octave else reader


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
        with damage_as_value_error(), self._zip.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            if version not in _HEADERS:
                raise ValueError(f"its npy version is {'.'.join(map(str, version))}")
            shape, _, dtype = _HEADERS[version](member)
        return shape, dtype

    def read(self, key: str) -> NDArray[Any]:
        with damage_as_value_error(), self._zip.open(f"{key}.npy") as member:
            array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            return array

    def written(self, key: str) -> NDArray[np.bool_] | None:
        del key  # npz files hold complete arrays only
        return None
