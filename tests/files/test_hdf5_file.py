"""The file through which HDF5 writes holds what any other file would, whatever is held back."""

from __future__ import annotations

import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.files import hdf5_file as file_for_hdf5
from onnx_gconv.files.hdf5_file import FileForHdf5

_Step: TypeAlias = tuple[str, int, bytes]

_OFFSETS = st.integers(0, 60)
_SMALL, _LARGE = st.binary(min_size=1, max_size=12), st.binary(min_size=13, max_size=40)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _OFFSETS, st.one_of(_SMALL, _LARGE)),
        st.tuples(st.just("write_at"), _OFFSETS, st.one_of(_SMALL, _LARGE)),
        st.tuples(st.sampled_from(["read", "truncate", "flush", "seek_end", "seek_on"]), _OFFSETS, st.just(b"")),
    ),
    max_size=40,
)


@given(steps=_STEPS)
def test_holds_what_a_file_would(steps: list[_Step]) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(file_for_hdf5, "_LARGEST_HEADER_BYTES", 12)
        patch.setattr(file_for_hdf5, "_MOST_HEADERS", 5)
        path, model = Path(folder) / "file", io.BytesIO()
        file = FileForHdf5(path)
        for kind, offset, content in steps:
            _step(file, model, kind, offset, content)
        file.close()
        assert path.read_bytes() == model.getvalue()
        assert file.failure is None


def _step(file: FileForHdf5, model: io.BytesIO, kind: str, offset: int, content: bytes) -> None:
    """Do the same to both files, and compare what they answer."""
    if kind == "write":
        assert file.seek(offset) == model.seek(offset) == file.tell()
        assert file.write(memoryview(content)) == model.write(content)
        assert file.tell() == model.tell()
    elif kind == "write_at":
        file.write_at(offset, memoryview(content))
        model.seek(offset)
        model.write(content)
        model.seek(file.tell())
    elif kind == "read":
        file.seek(offset)
        model.seek(offset)
        buffer, expected = bytearray(20), bytearray(20)
        assert file.readinto(memoryview(buffer)) == model.readinto(expected)
        assert buffer == expected
        assert file.read(7) == model.read(7)
        assert file.read() == model.read()
    elif kind == "truncate":
        size = len(model.getvalue())
        model.seek(max(offset, size))  # other than a file, it grows only when it is written to
        model.write(b"\0" * max(offset - size, 0))
        model.truncate(offset)
        assert file.truncate(offset) == offset
    elif kind == "flush":
        file.flush()
    elif kind == "seek_end":
        assert file.seek(0, os.SEEK_END) == model.seek(0, os.SEEK_END)
    else:
        model.seek(file.tell())
        assert file.seek(3, os.SEEK_CUR) == model.seek(3, os.SEEK_CUR)


def test_takes_failures_down(tmp_path: Path) -> None:
    file = FileForHdf5(tmp_path / "file")
    file.write(memoryview(b"header"))
    os.close(file._file)  # as if the disk were full
    file._file = os.open(tmp_path / "file", os.O_RDONLY)
    assert file.failure is None
    assert file.truncate(100) == 100
    first = file.failure
    assert isinstance(first, OSError)
    file.write_at(0, memoryview(b"array"))
    file.close()
    assert file.failure is first


def test_writes_to_no_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        FileForHdf5(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"
