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

# What is noted at an array: a text, or numbers.
Label: TypeAlias = str | int | tuple[int, ...] | tuple[float, ...]

ARRAY_FILES: dict[ArraysKind, str] = {"hdf5": "conductances.h5", "npz": "conductances.npz"}

# The same bytes for the same arrays: zip would put the time of writing into the file.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

# HDF5 stores attributes of up to 64 KiB beside the headers of a group.
_LONGEST_ATTRIBUTE = 4096

# Of so many attributes the form in which HDF5 takes them is kept.
_MOST_ATTRIBUTES = 256

# Of so many shapes the space of HDF5 is kept.
_MOST_SPACES = 64

# What HDF5 keeps of headers, counted as they stand in the file; in memory they take 25 times as much. None is asked for
# again but those of the groups that are written to. HDF5 begins with 2 MiB, and makes room for single large ones.
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
        """Note labels, if the file has a place for them.

        Args:
            place: The key of the array that was written last, a folder of keys that are written, or nothing for the
                file itself.
            labels: What to note, by its name.
        """
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
            ElsewhereError: If it stands in another place.
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

    def written(self, key: str) -> NDArray[np.bool_] | None:
        """Which elements of an array were ever written, as far as the file tells; None if all were."""
        ...


def write_arrays(path: Path, kind: ArraysKind) -> LabelledArrayWriter:
    """Begin a new file of arrays, to be used in a with statement."""
    writers: dict[ArraysKind, Callable[[Path], LabelledArrayWriter]] = {"hdf5": _Hdf5Writer, "npz": _NpzWriter}
    return writers[kind](path)


def read_arrays(path: Path, kind: ArraysKind, remedy: str = "copy the whole folder again") -> ArrayReader:
    """Open a file of arrays.

    Args:
        path: The file.
        kind: What it is.
        remedy: What to do if it is missing or damaged.

    Raises:
        BundleError: If it is missing, damaged, or open in a program that writes to it.
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

    Datasets are made through the low-level interface: the other one takes three times as long for each of them. HDF5
    gives each its place in the file at once, and the elements are written there without it, in half the time.
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
        """Note labels as attributes; longer texts than a header of HDF5 should hold are left out.

        Through the low-level interface, too: every array has some, most of them the same as many others.
        """
        target = self._last[1] if place == self._last[0] else self._group(place)
        for name, label in labels.items():
            if (found := self._attribute(label)) is not None:
                value, kind, space = found
                self._create_attribute(target, name.encode(), kind, space).write(value, mtype=kind)

    def _attribute(self, label: Label) -> tuple[NDArray[Any], Any, Any] | None:
        """A label as HDF5 takes it: the value, its type and its space; None if it is left out."""
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
        if len(self._attributes) == _MOST_ATTRIBUTES:  # most are those of one tile, and not asked for again
            self._attributes.clear()
        self._attributes[key] = found
        return found

    def _space(self, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - h5py has no types
        """Those of tiles, which nearly all have one shape, are made once: h5py keeps a record of each."""
        if shape not in self._spaces:
            if len(self._spaces) == _MOST_SPACES:
                self._spaces.clear()
            self._spaces[shape] = self._space_of(shape)
        return self._spaces[shape]

    def _text(self, size: int) -> Any:  # noqa: ANN401 - h5py has no types
        """The type of texts of so many bytes."""
        if size not in self._texts:
            self._texts[size] = self._type_of(self._text_dtype("utf-8", size), logical=True)
        return self._texts[size]

    def _type(self, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401 - h5py has no types
        if dtype not in self._types:
            self._types[dtype] = self._type_of(dtype)
        return self._types[dtype]

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

    def label(self, place: str, labels: Mapping[str, Label]) -> None:
        """A zip file has no place for labels."""


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
        del key  # npz files hold whole arrays only
        return None
