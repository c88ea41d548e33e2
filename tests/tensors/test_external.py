"""Reading ranges of external data."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.external import ExternalReader


def stored(array, folder, *, offset=5):
    """A tensor whose data begins somewhere in a file of more than that."""
    (folder / "W.data").write_bytes(b"\1" * offset + array.tobytes() + b"\2" * 7)
    return ir.ExternalTensor(
        "W.data",
        offset,
        array.nbytes,
        ir.DataType.from_numpy(array.dtype),
        shape=ir.Shape(array.shape),
        name="W",
        base_dir=str(folder),
    )


@pytest.mark.parametrize("dtype", [np.int8, np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(("start", "stop"), [(0, 60), (0, 1), (7, 7), (13, 41), (59, 60)])
def test_any_range_is_read(tmp_path, dtype, start, stop):
    array = np.arange(60).astype(dtype).reshape(5, 12)
    found = np.zeros(stop - start, dtype)
    with closing(ExternalReader(stored(array, tmp_path))) as reader:
        reader.read_into(found, start)
    np.testing.assert_array_equal(found, array.reshape(-1)[start:stop])


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float64])
def test_the_bytes_of_elements_are_put_into_the_order_of_the_machine(tmp_path, monkeypatch, dtype):
    """Files hold the lowest byte first; a machine that has it last gets its own order."""
    array = np.arange(60).astype(dtype)
    found = np.empty(60, dtype)
    with closing(ExternalReader(stored(array, tmp_path))) as reader:
        monkeypatch.setattr(np, "little_endian", False)
        reader.read_into(found, 0)
        monkeypatch.undo()
    np.testing.assert_array_equal(found.byteswap(), array)


def test_several_threads_read_at_once(tmp_path):
    array = np.arange(1 << 16, dtype=np.int32)
    with closing(ExternalReader(stored(array, tmp_path))) as reader, ThreadPoolExecutor(4) as executor:

        def is_right(start):
            found = np.empty(64, np.int32)
            reader.read_into(found, start)
            return np.array_equal(found, array[start : start + 64])

        assert all(executor.map(is_right, range(0, 1 << 16, 64)))


def test_a_file_that_became_shorter_is_an_error_that_names_it(tmp_path):
    tensor = stored(np.arange(60, dtype=np.float32), tmp_path)
    with closing(ExternalReader(tensor)) as reader:
        os.truncate(tmp_path / "W.data", 100)
        with pytest.raises(ModelError) as error:
            reader.read_into(np.empty(60, np.float32), 0)
    assert str(error.value) == f"external data '{tmp_path / 'W.data'}' of tensor 'W' became shorter while read"


def test_a_file_that_is_too_short_is_refused(tmp_path):
    tensor = stored(np.arange(60, dtype=np.float32), tmp_path)
    os.truncate(tmp_path / "W.data", 100)
    with pytest.raises(ModelError, match="the file has only 100 bytes"):
        ExternalReader(tensor)


def test_it_may_be_closed_twice(tmp_path):
    reader = ExternalReader(stored(np.arange(3, dtype=np.float32), tmp_path))
    reader.close()
    reader.close()
