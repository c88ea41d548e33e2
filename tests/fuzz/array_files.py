"""Damages files of arrays, HDF5 and npz: their structure and what they hold."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from tests.fuzz.mutators import FLOATS, Random, chosen, mutated_bytes, steps
from tests.fuzz.readings import NotJudgedError

__all__ = ["arrays_of_hdf5", "arrays_of_npz", "arrays_of_octave", "equal_arrays", "mutated_hdf5", "mutated_npz"]

_TYPES = ("<f2", "<f8", ">f4", "<i4", "|u1", "|b1", "<c8", "<U3", "|S2", "<M8[s]", "<f16", "V4")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_HEADERS = (
    (b"(", b"((("), (b"}", b""), (b"<f4", b"|O"), (b"<f4", b"<f8"), (b"False", b"True"), (b"4", b"-4"),
    (b"4", b"999999999999"),
    (b"4", b"4, 4"), (b"'descr'", b"'other'"), (b"{", b"\x00"), (b"\n", b" "), (b"<f4", b"[('a', '<f4')]"),
    (b"4", b"9" * 60),
    (b"\x93NUMPY\x01", b"\x93NUMPY\x02"), (b"\x93NUMPY\x01", b"\x93NUMPY\x07"), (b"v\x00", b"\xff\xff"),
)  # fmt: skip


def arrays_of_npz(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, as NumPy reads them."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def arrays_of_hdf5(content: bytes) -> dict[str, np.ndarray]:
    """The datasets of a file, as h5py reads them; those that stand in other places are left out.

    Raises:
        NotJudgedError: If elements of one were never written.
    """
    found: dict[str, np.ndarray] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
            if not _is_written(item):
                raise NotJudgedError(f"'{name}' was never written")
            found[name] = item[()]

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(take)
    return found


def arrays_of_octave(content: bytes) -> dict[str, np.ndarray]:
    """The matrices of a file of Octave's; only of those whose names are all groups with a type and a value."""
    found = arrays_of_hdf5(content)
    return {
        "/".join(key.split("/")[::2]): array.T.astype(np.bool_) if _is_truth(found, key, array) else array.T
        for key, array in found.items()
        if len(key.split("/")) % 2 == 0 and set(key.split("/")[1::2]) == {"value"}
    }


def _is_truth(arrays: Mapping[str, np.ndarray], key: str, array: np.ndarray) -> bool:
    """Whether a matrix is one of truth values, which Octave stores as integers."""
    kind = arrays.get(f"{key.removesuffix('value')}type")
    return kind is not None and kind.tobytes().startswith(b"bool") and array.dtype.kind in "iub"


def _is_written(dataset: h5py.Dataset) -> bool:
    if dataset.chunks is None:
        return not dataset.size or dataset.id.get_storage_size() > 0
    chunks = math.prod(-(-size // part) for size, part in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() == chunks)


def mutated_npz(content: bytes, random: Random) -> bytes:
    """A damaged npz file: its bytes, its members, or their headers."""
    if random.random() < 0.4:
        return mutated_bytes(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    if random.random() < 0.5:
        name = chosen(random, list(members))
        changed = _changed(np.load(io.BytesIO(members[name])), random)
        members[name] = _npy(changed)
    for _ in steps(random):
        if members:
            _mutate_members(members, random)
    buffer = io.BytesIO()
    method = chosen(random, _METHODS) if random.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return mutated_bytes(buffer.getvalue(), random) if random.random() < 0.1 else buffer.getvalue()


def _mutate_members(members: dict[str, bytes], random: Random) -> None:
    name = chosen(random, list(members))
    data = members[name]
    match int(random.integers(6)):
        case 0:
            del members[name]
        case 1:
            other = chosen(random, list(members))
            members[name], members[other] = members[other], data
        case 2:
            members[chosen(random, (f"{name}x", name.upper(), "x", "a/../b.npy", "readme.txt", f"{name}/"))] = data
        case 3:
            old, new = chosen(random, _HEADERS)
            members[name] = data.replace(old, new, 1)
        case 4:
            members[name] = mutated_bytes(data, random)
        case _:
            members[name] = data[: int(random.integers(len(data) + 1))]


def mutated_hdf5(content: bytes, random: Random) -> bytes:
    """A damaged HDF5 file: its bytes, its datasets and groups, or what these hold."""
    if random.random() < 0.5:
        return mutated_bytes(content, random)
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "a") as file:
        for _ in steps(random):
            _mutate_datasets(file, random)
    return buffer.getvalue()


def _mutate_datasets(file: h5py.File, random: Random) -> None:
    keys: list[str] = []
    file.visititems(lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None)
    if not keys:
        return
    key = chosen(random, keys)
    array = file[key][()]
    edit: Callable[[h5py.File, str, Any, Random, Sequence[str]], None] = chosen(random, _EDITS)
    edit(file, key, array, random, keys)


def _with_values(file: h5py.File, key: str, array: Any, random: Random, _keys: Sequence[str]) -> None:
    del file[key]
    changed = _changed(array, random)
    try:
        file[key] = changed.astype("S") if changed.dtype.kind == "U" else changed
    except TypeError:  # HDF5 has no such type
        file[key] = np.float64(0)


def _exchanged(file: h5py.File, key: str, _array: Any, random: Random, keys: Sequence[str]) -> None:
    other = chosen(random, keys)
    if other != key:
        file.move(key, "between")
        file.move(other, key)
        file.move("between", other)


def _removed(file: h5py.File, key: str, _array: Any, _random: Random, _keys: Sequence[str]) -> None:
    del file[key]


def _linked(file: h5py.File, key: str, _array: Any, random: Random, keys: Sequence[str]) -> None:
    del file[key]
    others = (h5py.SoftLink(f"/{chosen(random, keys)}"), h5py.SoftLink(f"/{key}"), h5py.ExternalLink("other.h5", "/x"))
    file[key] = chosen(random, others)


def _in_chunks(file: h5py.File, key: str, array: Any, random: Random, _keys: Sequence[str]) -> None:
    del file[key]
    options = {"compression": chosen(random, (None, "gzip", "lzf")), "fletcher32": bool(random.integers(2))}
    if getattr(array, "ndim", 0) and array.size:
        made = file.create_dataset(key, array.shape, array.dtype, chunks=True, maxshape=(None,) * array.ndim, **options)
        if random.integers(2):
            made[...] = array
        elif random.integers(2):
            made[:1] = array[:1]


def _of_another_kind(file: h5py.File, key: str, array: Any, random: Random, _keys: Sequence[str]) -> None:
    del file[key]
    shape = getattr(array, "shape", ())
    match int(random.integers(5)):
        case 0:
            file.create_group(f"{key}/inner")
        case 1:
            file[key] = h5py.Empty("f4")
        case 2:
            types = (h5py.string_dtype(), h5py.vlen_dtype("f4"), h5py.ref_dtype, h5py.enum_dtype({"no": 0, "yes": 1}))
            file.create_dataset(key, shape, chosen(random, types))
        case 3:
            layout = h5py.VirtualLayout(shape or (1,), np.float32)
            file.create_virtual_dataset(key, layout)
        case _:
            file[key] = np.dtype("f4")


def _renamed(file: h5py.File, key: str, _array: Any, random: Random, _keys: Sequence[str]) -> None:
    new = chosen(random, (f"{key}_success", f"x/{key}", key.upper(), "x" * 300, "ä", f"{key}/y"))
    if new not in file and not new.startswith(f"{key}/"):
        file.move(key, new)


_EDITS = (_with_values, _with_values, _exchanged, _removed, _linked, _in_chunks, _of_another_kind, _renamed)


def _changed(array: Any, random: Random) -> np.ndarray:
    """An array of other values, another shape or another type."""
    array = np.asarray(array)
    match int(random.integers(8)):
        case 0:
            return array.T.copy()
        case 1:
            with np.errstate(all="ignore"):
                return array.astype(chosen(random, _TYPES), casting="unsafe") if array.dtype.kind in "fiub" else array
        case 2:
            return array.reshape(-1)
        case 3:
            return array[:-1] if array.ndim and array.size else array[None]
        case 4:
            return array[None]
        case 5 if array.dtype.kind == "f" and array.size:
            return (array * chosen(random, (1e-6, 1e6, -1.0, 1.001))).astype(array.dtype)
        case _ if array.dtype.kind == "f" and array.size:
            changed = array.copy()
            with np.errstate(all="ignore"):
                changed.reshape(-1)[int(random.integers(array.size))] = chosen(random, FLOATS)
            return changed
        case _ if array.dtype.kind in "iub" and array.size:
            changed = array.copy()
            changed.reshape(-1)[int(random.integers(array.size))] = chosen(random, (0, 1, 2, 100))
            return changed
    return array


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def equal_arrays(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether two files hold the same."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype
        and one[key].shape == other[key].shape
        and one[key].tobytes() == other[key].tobytes()
        for key in one
    )
