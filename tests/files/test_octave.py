"""Files of GNU Octave's `save -hdf5` are read as what they were in Octave."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from onnx_gconv.files.arrays import read_arrays

FILE = Path(__file__).parents[1] / "data" / "octave.h5"


@pytest.fixture
def octave():
    reader = read_arrays(FILE, "hdf5")
    yield reader
    reader.close()


def test_variables_and_fields_have_the_names_that_they_have_in_octave(octave):
    assert sorted(octave.keys()) == [
        "L000/T0000/g_plus",
        "L000/T0000/g_plus_success",
        "L000/T0001/g_minus",
        "L000/T0001/g_plus",
        "L000/T0001/g_plus_success",
        "pulses",
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("L000/T0000/g_plus", np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)),
        ("L000/T0000/g_plus_success", np.array([[1, 0, 1], [1, 1, 0]], np.uint8)),
        ("L000/T0001/g_plus", np.array([[3.5]])),
        ("L000/T0001/g_plus_success", np.array([[True]])),
    ],
)
def test_matrices_and_scalars_are_what_they_were(octave, key, expected):
    found = octave.read(key)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert octave.form(key)[0] == expected.shape
    assert octave.written(key) is None


def test_an_empty_matrix_has_its_shape(octave):
    assert octave.form("L000/T0001/g_minus")[0] == (0, 0)


def test_what_is_not_there_has_no_form(octave):
    assert octave.form("L000/T0002/g_plus") is None
    assert octave.form("L000") is None


def test_other_files_with_groups_of_that_name_are_not_taken_for_octave(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["L000/value/T0000/value/g_plus/value"] = np.zeros((3, 2))
    reader = read_arrays(tmp_path / "other.h5", "hdf5")
    assert list(reader.keys()) == ["L000/value/T0000/value/g_plus/value"]
    reader.close()


def test_elements_that_were_never_written_are_those_of_the_matrix_in_octave(tmp_path):
    with h5py.File(tmp_path / "new.h5", "w") as file:
        variable = file.create_group("m")
        variable.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
        variable["type"] = np.bytes_(b"matrix")
        variable.create_dataset("value", (3, 2), np.float64, chunks=(1, 2))[0] = 5  # of a matrix of 2 rows
    reader = read_arrays(tmp_path / "new.h5", "hdf5")
    assert reader.form("m")[0] == (2, 3)
    assert reader.read("m").tolist() == [[5, 0, 0], [5, 0, 0]]
    assert reader.written("m").tolist() == [[True, False, False], [True, False, False]]
    reader.close()
