"""The folder of NumPy files has the arrays of the bundle, under the names of their keys."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

SCHEMES = {
    "single pair": MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)),
    "n pair by tile": MappingScheme(converters.NPairConductanceConverter([1.0, 2.0]), Granularity("tile", (6, 3))),
    "codes": MappingScheme(
        converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
        levels=ConductanceLevels.uniform(300, 1.0, 40.0),
        storage="codes",
    ),
}


@pytest.mark.parametrize("op", ["Gemm transB", "grouped Conv", "LSTM"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_there_is_a_file_for_every_array_and_no_other(handed_off, op, scheme):
    bundle = handed_off(op, scheme=SCHEMES[scheme], formats=["npy"])
    folder = bundle.path / "npy"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert (folder / "README.txt") == found.pop("README.txt")
    records = [record for layer in bundle.layers for record in layer.arrays()]
    assert set(found) == {f"{record.key}.npy" for record in records}
    with h5py.File(bundle.arrays_path) as file:
        for record in records:
            array = np.load(found[f"{record.key}.npy"], allow_pickle=False)
            assert array.dtype == file[record.key].dtype
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, file[record.key][()])


def test_a_file_opens_as_an_array_in_memory_that_is_mapped(handed_off):
    bundle = handed_off("Gemm", formats=["npy"])
    targets = np.load(bundle.path / "npy" / "L000" / "T0001" / "g_plus.npy", mmap_mode="r")
    np.testing.assert_array_equal(targets, bundle.tile("L000/T0001").conductances()["g_plus"])
