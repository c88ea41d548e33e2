"""What is no array of an HDF5 file itself: links of all kinds, and names that nothing has."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest

from onnx_gconv.files.hdf5_reader import ElsewhereError, Hdf5Reader, opening_problem


def write(path, entry):
    """A file with an array, or a link, that is called 'a'."""
    with h5py.File(path, "w") as file:
        file["a"] = entry
    return path


def test_a_name_that_no_array_has(tmp_path):
    with closing(Hdf5Reader(write(tmp_path / "x.h5", np.ones(2)))) as arrays:
        assert arrays.form("b") is None
        assert arrays.written("b") is None
        with pytest.raises(KeyError, match=r"^'b'$"):
            arrays.read("b")


@pytest.mark.parametrize("array", [np.float32(3), np.zeros((0, 4), np.float32)], ids=["a number", "no elements"])
def test_arrays_without_axes_or_elements_count_as_written(tmp_path, array):
    with closing(Hdf5Reader(write(tmp_path / "x.h5", array))) as arrays:
        assert arrays.written("a") is None
        assert arrays.read("a").tolist() == array.tolist()


def test_a_link_to_another_file_is_not_followed(tmp_path):
    path = write(tmp_path / "x.h5", h5py.ExternalLink("other.h5", "/b"))
    with closing(Hdf5Reader(path)) as arrays:
        with pytest.raises(ElsewhereError) as found:
            arrays.form("a")
        assert str(found.value) == "'a' is a link to '/b' of the file 'other.h5'"


def test_a_link_of_a_kind_that_another_program_defines_is_not_followed(tmp_path):
    path = write(tmp_path / "x.h5", h5py.ExternalLink("other.h5", "/b"))
    link = b"\x01\x08%c\x01a"  # version and flags, the kind of the link, and its name, after how long that is
    content = path.read_bytes()
    assert content.count(link % 64) == 1
    path.write_bytes(content.replace(link % 64, link % 65))
    with closing(Hdf5Reader(path)) as arrays:
        with pytest.raises(ElsewhereError) as found:
            arrays.form("a")
        assert str(found.value) == "'a' is a link of a kind of its own"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named_with_the_remedy(number):
    assert opening_problem(Path("x.h5"), OSError(number, "no locks available")) == (
        "the file system of 'x.h5' has no locks, which HDF5 asks for; copy it to another one, or set "
        "HDF5_USE_FILE_LOCKING=FALSE once nothing writes to it"
    )


def test_a_file_that_is_open_or_damaged():
    assert opening_problem(Path("x.h5"), BlockingIOError(errno.EAGAIN, "try again")) == (
        "'x.h5' is open in a program that writes to it; close it there first"
    )
    assert opening_problem(Path("x.h5"), OSError(errno.EIO, "bad superblock")) is None


def test_a_group_that_a_link_leads_to_is_not_entered(tmp_path):
    path = write(tmp_path / "x.h5", h5py.SoftLink("/real"))
    with h5py.File(path, "a") as file:
        file["real/inner/b"] = np.ones(2)
    with closing(Hdf5Reader(path)) as arrays:
        for key in ("a/inner/b", "a/none"):
            with pytest.raises(ElsewhereError) as found:
                arrays.form(key)
            assert str(found.value) == "'a' is a soft link to '/real'"
        assert arrays.form("real/inner/b")[0] == (2,)
