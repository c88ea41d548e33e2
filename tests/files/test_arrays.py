"""Files of arrays give what was written to them, and nothing else."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from onnx_gconv.files.arrays import read_arrays


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
