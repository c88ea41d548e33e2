"""Arrays of .npz files that stay on disk and are read a few rows at a time."""

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

_LOCAL_HEADER = 30  # bytes; the last four are the lengths of the name and of the extra field that follow it
_LENGTHS = 26

_REORDERED = 1 << 26  # bytes at once


@dataclass(frozen=True)
class ArrayForm:
    """The header of an array in an .npz file, read without the elements.

    Attributes:
        shape: Shape of the array.
        dtype: Type of its elements.
        is_fortran: Whether elements are in Fortran order: the first axis changes fastest.
        start: Number of bytes before the elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        """The size of all elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_form(archive: zipfile.ZipFile, name: str) -> ArrayForm:
    """Read the header of an array.

    Args:
        archive: The .npz file.
        name: The name of the array, as it was given to ``numpy.savez``.

    Raises:
        ValueError: If the header is damaged, or has an npy version that only structured arrays need.
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
        start: Offset of the first element in the file, in bytes.
        shape: The shape, with at least one axis.
        dtype: The type in the file.
        read_as: Converts rows when they are read.
        source: The user's file, for messages.
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
        """The size in the file of one row along the first axis, in bytes."""
        return math.prod(self.shape[1:]) * self._dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The size in the file, in bytes."""
        return len(self) * self.row_bytes

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read some rows into memory.

        Raises:
            ConfigError: If the file cannot be read any more, or has become shorter.
        """
        start, stop, _ = rows.indices(len(self))
        shape = (max(stop - start, 0), *self.shape[1:])
        count = math.prod(shape)
        try:
            # Each call opens the file again, because threads that share a file object would share its position.
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
    """Return an array of an .npz file that stays on disk.

    The whole array is read once, piece by piece, so that damage is found before anything is computed. An array that is
    not compressed and in C order is later read from the .npz file itself. Any other array is unpacked to a file first,
    because it is read once for each chip.

    Args:
        archive: The open .npz file.
        name: The name of the array.
        form: Its header.
        path: The .npz file.
        spool: A folder for unpacked arrays.
        read_as: Converts rows when they are read.

    Raises:
        ConfigError: If the disk has no room for the unpacked array.
        ValueError: If the file is damaged; `zipfile` and `zlib` raise their own errors for damage, too.
    """
    info = archive.getinfo(_member(archive, name))
    if info.file_size < form.start + form.nbytes:
        there, needed = info.file_size - form.start, form.nbytes
        raise ValueError(f"the array {name!r} has {there:,} bytes, but {needed:,} by its shape {list(form.shape)}")
    is_in_place = info.compress_type == zipfile.ZIP_STORED and not form.is_fortran
    with archive.open(info) as member:
        if is_in_place:
            while member.read(_CHUNK):  # zipfile compares the checksum at the end
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
    """Return the offset of an uncompressed member's content, which is not in the directory of the zip file."""
    file = cast("IO[bytes]", archive.fp)
    file.seek(info.header_offset + _LENGTHS)
    lengths = file.read(_LOCAL_HEADER - _LENGTHS)
    return info.header_offset + _LOCAL_HEADER + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))


def _require_room(name: str, form: ArrayForm, path: Path, spool: Path) -> None:
    """Refuse an array for which the disk has no room: a small file may hold terabytes of zeros."""
    needed = form.nbytes * (2 if form.is_fortran else 1)
    if (free := shutil.disk_usage(spool).free) < needed:
        raise ConfigError(
            f"{path}: the array {name!r} is unpacked to {needed:,} bytes, but '{spool}' has {free:,} left; save it "
            "with numpy.savez, which does not compress, in C order, or let TMPDIR name a folder on a larger disk"
        )


def _reordered(file: Path, form: ArrayForm) -> Path:
    """Write the elements of a Fortran-ordered file in C order; return the new file."""
    there = np.memmap(file, form.dtype, "r", form.start, form.shape, "F")
    rows = max(1, _REORDERED // max(1, form.nbytes // max(1, form.shape[0])))
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix="array-", delete=False) as other:
        for start in range(0, form.shape[0], rows):
            np.ascontiguousarray(there[start : start + rows]).tofile(other)
    return Path(other.name)
