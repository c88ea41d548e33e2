"""Files of arrays that are damaged, encrypted or packed in unknown ways: an error of a type that is told says so."""

from __future__ import annotations

import io
import zipfile
from contextlib import closing

import h5py
import numpy as np
import pytest

from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.arrays import read_arrays
from onnx_gconv.runtime.given_inputs import load_inputs
from onnx_gconv.runtime.inputs import InputSpec

ARRAY = np.full((4, 4), 3.0, np.float32)
DEFLATED, LZMA = zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA


def npy(array=ARRAY):
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0))
    return content.getvalue()


def put(*places):
    """Bytes in other places; those after ``directory`` are of the entry of the file in the list at the end."""

    def change(content):
        directory = bytes(content).index(b"PK\x01\x02")
        for place, value in places:
            content[place if isinstance(place, int) else directory + int(place.split()[1])] = value

    return change


def flip(content):
    content[60] ^= 0xFF
    content[70] ^= 0xFF


DAMAGES = {
    "a bit of the data": (npy(), 0, put((200, 1)), "Bad CRC-32"),
    "the magic number of a member": (npy(), 0, put((0, 0)), "Bad magic number"),
    "the name of a member": (npy(), 0, put((30, 88)), "differ"),
    "nothing in a member": (b"", 0, None, "EOF"),
    "a header that is cut off": (npy()[:40], 0, None, "EOF"),
    "a header that opens a bracket": (npy().replace(b"(4, 4), }", b"(4, 4, ( "), 0, None, "EOF in multi-line"),
    "a shape without memory for it": (npy().replace(b"(4, 4), }  ", b"(4, 4e18)}"), 0, None, "."),
    "a size without memory for it": (npy().replace(b"(4, 4), }" + 12 * b" ", b"(4, 99999999999999),}"), 0, None, "."),
    "compression of an unknown kind": (npy(), 0, put((8, 99), ("directory 10", 99)), "compression method is not supp"),
    "encryption": (npy(), 0, put((6, 1), ("directory 8", 1)), "encrypted"),
    "a version of the future": (npy(), 0, put(("directory 6", 200)), "zip file version 20.0"),
    "deflated data": (npy(), DEFLATED, flip, "decompressing data|Bad CRC-32"),
    "data in lzma": (npy(), LZMA, flip, "Corrupt input data"),
}


@pytest.fixture(params=DAMAGES)
def damaged(request, tmp_path):
    """An npz file with one array 'x' that is damaged, and what is said of it."""
    content, method, change, said = DAMAGES[request.param]
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as file:
        file.writestr("x.npy", content)
    if change is not None:
        changed = bytearray((tmp_path / "x.npz").read_bytes())
        change(changed)
        (tmp_path / "x.npz").write_bytes(changed)
    return tmp_path / "x.npz", said


def test_a_damaged_npz_file_of_arrays(damaged):
    path, said = damaged
    with pytest.raises((BundleError, ValueError), match=said) as found, closing(read_arrays(path, "npz")) as arrays:
        arrays.read("x")
    assert str(found.value)


def test_a_damaged_npz_file_of_inputs(damaged):
    path, _ = damaged
    with pytest.raises(ConfigError) as found:
        load_inputs(path, [InputSpec("x", np.dtype(np.float32), (4, 4))])
    assert str(found.value).startswith(f"{path}: ")


def test_a_damaged_group_of_an_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["L000/x"] = ARRAY
    content = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(content.replace(b"SNOD", b"SNOX"))
    with pytest.raises(BundleError, match=r"bad symbol table node signature\); copy the whole folder again"):
        read_arrays(tmp_path / "x.h5", "hdf5").close()
