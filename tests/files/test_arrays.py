"""Files of arrays give what was written to them, and nothing else."""

from __future__ import annotations

import os
import zipfile
from contextlib import closing

import h5py
import numpy as np
import pytest

from onnx_gconv.files.arrays import read_arrays, write_arrays
from onnx_gconv.files.hdf5_reader import Hdf5Reader


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 4)}])
def test_elements_of_hdf5_that_were_never_written_are_its_fill_value(tmp_path, options):
    """HDF5 leaves the memory that it is given as it is, with whatever stood there before."""
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file.create_dataset("a", (4, 4), np.float32, **options)
    for _ in range(20):
        before = np.full((4, 4), np.nan, np.float32)
        del before
        reader = read_arrays(tmp_path / "arrays.h5", "hdf5")
        assert not reader.read("a").any()
        reader.close()


def test_arrays_of_one_group_need_not_be_written_one_after_another(tmp_path):
    keys = ["L0/a", "L1/a", "L0/b", "L1/deep/a", "L0/deep/a", "L1/deep/b", "top"]
    with write_arrays(tmp_path / "arrays.h5", "hdf5") as file:
        for number, key in enumerate(keys):
            file.write(key, np.full(3, number, np.int32))
    with closing(read_arrays(tmp_path / "arrays.h5", "hdf5")) as arrays:
        assert sorted(arrays.keys()) == sorted(keys)
        assert [arrays.read(key).tolist() for key in keys] == [3 * [number] for number in range(len(keys))]


def test_names_are_attributes_of_the_groups_of_hdf5(tmp_path):
    names = {"weight": "W\u00e4rme\u2028 \x1b[1m", "known_as": "enc.lin.weight", "long": "n" * 5000, "empty": ""}
    for path in (paths := [tmp_path / "a.h5", tmp_path / "b.h5"]):
        with write_arrays(path, "hdf5") as file:
            for folder in ("L0", "L1"):
                file.write(f"{folder}/T0/g", np.ones(3, np.float32))
                file.label(folder, names)
            file.write("L0/scale", np.ones(3, np.float32))
    with h5py.File(paths[0]) as file:
        for folder in ("L0", "L1"):
            found = {name: value.decode() for name, value in file[folder].attrs.items()}
            assert found == {name: names[name] for name in ("weight", "known_as")}
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with closing(read_arrays(paths[0], "hdf5")) as arrays:
        assert sorted(arrays.keys()) == ["L0/T0/g", "L0/scale", "L1/T0/g"]


def test_more_arrays_and_labels_than_are_kept_come_back(tmp_path):
    """More shapes, labels and headers than the writer, or HDF5 for it, holds at once; groups are opened again."""
    keys = [f"L{number % 3}/T{number:04}/g" for number in range(600)]
    with write_arrays(tmp_path / "a.h5", "hdf5") as file:
        for number, key in enumerate(keys):
            file.write(key, np.arange(number % 90, dtype=np.int64))
            file.label(key, {"tile": key * (1 + number % 3), "unit": "uS", "range": (0.1, float(number))})
    with h5py.File(tmp_path / "a.h5") as file:
        for number, key in enumerate(keys):
            labels, dataset = file[key].attrs, file[key]
            assert dataset[:].tolist() == list(range(number % 90))
            assert labels["tile"].decode() == key * (1 + number % 3)
            assert (labels["unit"], labels["range"].tolist()) == (b"uS", [0.1, number])


def test_npz_has_no_place_for_names(tmp_path):
    with write_arrays(tmp_path / "a.npz", "npz") as file:
        file.write("L0/g", np.ones(3, np.float32))
        file.label("L0", {"weight": "W"})
    with closing(read_arrays(tmp_path / "a.npz", "npz")) as arrays:
        assert list(arrays.keys()) == ["L0/g"]


def cut_off(writer):
    """Let nothing more be written to a file, as when the disk is full."""
    raw = writer._raw
    os.close(raw._file)
    raw._file = os.open("/dev/null", os.O_RDONLY)


def test_an_array_that_cannot_be_written_is_an_error(tmp_path):
    file = write_arrays(tmp_path / "x.h5", "hdf5")
    file.write("a", np.ones(5000, np.float32))
    cut_off(file)
    with pytest.raises(OSError, match="Bad file descriptor") as first:
        file.write("b", np.ones(5000, np.float32))
    with pytest.raises(OSError, match="Bad file descriptor") as second, file:
        pass
    assert second.value is first.value  # whatever fails when the file is closed


def test_an_npz_file_with_an_array_of_an_unknown_npy_version(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("a.npy", b"\x93NUMPY\x09\x01" + bytes(100))
    with (
        closing(read_arrays(tmp_path / "x.npz", "npz")) as arrays,
        pytest.raises(ValueError, match=r"^its npy version is 9\.1$"),
    ):
        arrays.form("a")


def test_chunks_at_the_end_that_are_cut_off_count_too(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, filled in (("most", 4), ("all", 5)):
            file.create_dataset(name, (5,), np.float32, chunks=(2,))[:filled] = 1
    with closing(Hdf5Reader(tmp_path / "x.h5")) as arrays:
        assert arrays.written("most").tolist() == [True, True, True, True, False]
        assert arrays.written("all") is None


def test_elements_of_hdf5_without_a_fill_value_that_were_never_written_are_0(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", (2, 3), np.float32, fill_time="never")
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 7, dtype))  # what memory may hold
    with closing(Hdf5Reader(tmp_path / "x.h5")) as arrays:
        assert arrays.read("a").tolist() == [[0, 0, 0], [0, 0, 0]]
