"""Arrays of .npz files that stay there, and are read a few rows at a time."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from numpy.typing import NDArray

__all__ = ["ArrayForm", "StoredArray", "array_form", "stored_array"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_CHUNK = 1 << 22  # bytes

_LOCAL_HEADER = 30  # bytes, of which the last four are the lengths of what follows: a name, and what else there is
_LENGTHS = 26

_REORDERED = 1 << 26  # bytes at once


@dataclass(frozen=True)
class ArrayForm:
    """What the header of an array says, which is read without its elements.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        is_fortran: Whether the first axis is the one that changes first in the file.
        start: How many bytes stand in front of the elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        """The size of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_form(archive: zipfile.ZipFile, name: str) -> ArrayForm:
    """What the header of an array says.

    Args:
        archive: The .npz file.
        name: The array, as ``numpy.savez`` was given it.

    Raises:
        ValueError: If the header is damaged, or of a version that only arrays of records have.
    """
    with archive.open(_member(archive, name)) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"input {name!r} has the npy version {'.'.join(map(str, version))}")
        shape, is_fortran, dtype = _HEADERS[version](member)
        return ArrayForm(shape, dtype, is_fortran, member.tell())


class StoredArray:
    """An array whose elements are in a file, in C order. Several threads may read it at once.

    Args:
        path: The file.
        start: Where the elements begin, in bytes.
        shape: The shape, of one axis at least.
        dtype: The type in the file.
        read_as: What is made of rows when they are read.
        source: The file of the user, for messages.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        read_as: Callable[[NDArray[Any]], NDArray[Any]],
        source: str,
    ) -> None:
        self.shape = shape
        self._path = path
        self._start = start
        self._dtype = dtype
        self._read_as = read_as
        self._source = source
        self.dtype: np.dtype[Any] = read_as(np.empty(0, dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """The size of one row along the first axis in the file."""
        return math.prod(self.shape[1:]) * self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The size in the file."""
        return len(self) * self.row_bytes

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some rows, in memory.

        Raises:
            ConfigError: If they cannot be read any more.
        """
        start, stop, _ = rows.indices(len(self))
        shape = (max(stop - start, 0), *self.shape[1:])
        count = math.prod(shape)
        try:
            # Each call opens the file for itself: several threads would move one position.
            read = np.fromfile(self._path, self._dtype, count, offset=self._start + start * self.row_bytes)
        except OSError as error:
            raise ConfigError(f"{self._source}: cannot be read any more ({error.strerror or error})") from error
        if read.size != count:
            raise ConfigError(f"{self._source}: has become shorter while it was read; write it again")
        return self._read_as(read.reshape(shape))


def stored_array(
    archive: zipfile.ZipFile,
    name: str,
    form: ArrayForm,
    *,
    path: Path,
    spool: Path,
    read_as: Callable[[NDArray[Any]], NDArray[Any]],
) -> StoredArray:
    """An array of an .npz file that stays on disk.

    All of it is read once, a piece at a time, so that damage is found before anything is computed. One that is not
    compressed is then read where it is. Others are unpacked to a file of their own first, since one pass over them is
    needed for each chip.

    Args:
        archive: The open .npz file.
        name: The array.
        form: What its header says.
        path: The .npz file.
        spool: A folder for arrays that are unpacked.
        read_as: What is made of rows when they are read.

    Raises:
        ConfigError: If there is no room for what is unpacked.
        ValueError: If the file is damaged; `zipfile` and `zlib` have errors of their own for that.
    """
    info = archive.getinfo(_member(archive, name))
    if info.file_size < form.start + form.nbytes:
        there, needed = info.file_size - form.start, form.nbytes
        raise ValueError(f"the array {name!r} has {there:,} bytes, but {needed:,} by its shape {list(form.shape)}")
    is_in_place = info.compress_type == zipfile.ZIP_STORED and not form.is_fortran
    with archive.open(info) as member:
        if is_in_place:
            while member.read(_CHUNK):  # which compares the checksum at the end
                pass
            return StoredArray(
                path, _start(archive, info) + form.start, form.shape, form.dtype, read_as=read_as, source=str(path)
            )
        _require_room(name, form, path, spool)
        with tempfile.NamedTemporaryFile(dir=spool, prefix="array-", delete=False) as file:
            while piece := member.read(_CHUNK):
                file.write(piece)
    unpacked = Path(file.name)
    if not form.is_fortran:
        return StoredArray(unpacked, form.start, form.shape, form.dtype, read_as=read_as, source=str(path))
    try:
        reordered = _reordered(unpacked, form)
    finally:
        unpacked.unlink()
    return StoredArray(reordered, 0, form.shape, form.dtype, read_as=read_as, source=str(path))


def _member(archive: zipfile.ZipFile, name: str) -> str:
    return f"{name}.npy" if f"{name}.npy" in archive.namelist() else name


def _start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where the content of a member begins that is not compressed. The directory of a zip file does not say it."""
    file = cast("IO[bytes]", archive.fp)
    file.seek(info.header_offset + _LENGTHS)
    lengths = file.read(_LOCAL_HEADER - _LENGTHS)
    return info.header_offset + _LOCAL_HEADER + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))


def _require_room(name: str, form: ArrayForm, path: Path, spool: Path) -> None:
    """Refuse what the disk has no room for: a small file may hold terabytes of zeros."""
    needed = form.nbytes * (2 if form.is_fortran else 1)
    if (free := shutil.disk_usage(spool).free) < needed:
        raise ConfigError(
            f"{path}: the array {name!r} is unpacked to {needed:,} bytes, but '{spool}' has {free:,} left; save it "
            "with numpy.savez, which does not compress, in C order, or let TMPDIR name a folder on a larger disk"
        )


def _reordered(file: Path, form: ArrayForm) -> Path:
    """A file with the same elements in C order."""
    there = np.memmap(file, form.dtype, "r", form.start, form.shape, "F")
    rows = max(1, _REORDERED // max(1, form.nbytes // max(1, form.shape[0])))
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix="array-", delete=False) as other:
        for start in range(0, form.shape[0], rows):
            np.ascontiguousarray(there[start : start + rows]).tofile(other)
    return Path(other.name)
