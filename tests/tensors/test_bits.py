"""Tensors are compared bit by bit, wherever their elements lie."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import Decoding
from onnx_gconv.errors import ModelError
from onnx_gconv.tensors import bits as element_bits
from onnx_gconv.tensors.bits import ElementBits, has_same_elements, is_transposed
from onnx_gconv.tensors.rebuilt import RebuiltTensor

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8]


def in_memory(array, _):
    return ir.tensor(array)


def viewed(array, _):
    """The view of an array that lies in memory column by column, such as a transpose that an exporter folded."""
    return ir.Tensor(np.asfortranarray(array))


def external(array, folder):
    """A tensor in external data, behind some other bytes."""
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    path.write_bytes(b"12345" + array.tobytes())
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.ExternalTensor(path.name, 5, array.nbytes, dtype, shape=ir.Shape(array.shape), name="W", base_dir=folder)


def streamed(array, _):
    """A tensor that is computed from another one."""
    decoding = Decoding(coefficients=(1.0,), offset_us=0.0, scale=1.0, zero=0.0)
    wide = array if array.itemsize >= 4 else array.astype(np.float32)
    return RebuiltTensor([ir.tensor(wide)], decoding, dtype=ir.DataType.from_numpy(array.dtype), name="W")


@pytest.fixture(params=[in_memory, viewed, external, streamed])
def tensor(request, tmp_path):
    return lambda array: request.param(array, tmp_path)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(element_bits, "_TILE", 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranges_blocks_and_samples_are_the_bits_of_the_elements(tensor, normal, dtype):
    array = normal(5, 7, dtype=dtype)
    expected = array.view(f"u{array.itemsize}")
    with ElementBits(tensor(array)) as bits:
        np.testing.assert_array_equal(bits.read(3, 20), expected.reshape(-1)[3:20])
        np.testing.assert_array_equal(bits.block(range(1, 4), range(2, 6)), expected[1:4, 2:6])
        np.testing.assert_array_equal(bits.block(range(1, 4), range(7)), expected[1:4])
        assert bits.sample([0, 34, 8]) == expected.reshape(-1)[[0, 34, 8]].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposed_matrix_is_recognized_tile_by_tile(tensor, normal, small_tiles, dtype):
    array = normal(8, 5, dtype=dtype)
    assert is_transposed(tensor(array), tensor(np.ascontiguousarray(array.T)))


@pytest.mark.parametrize("index", [(0, 0), (7, 4), (3, 2), (6, 0)])
def test_one_other_element_makes_no_transpose_and_no_equal(tensor, normal, small_tiles, index):
    array = normal(8, 5)
    other = array.copy()
    other[index] += 1
    assert not is_transposed(tensor(array), tensor(np.ascontiguousarray(other.T)))
    assert not has_same_elements(tensor(array), tensor(other))


def test_a_matrix_of_another_shape_is_no_transpose(tensor, normal):
    array = normal(4, 6)
    assert not is_transposed(tensor(array), tensor(array))
    assert not is_transposed(tensor(array), tensor(normal(6, 4, dtype=np.float64)))


def test_shapes_do_not_count_for_equal_elements_but_types_do(tensor, normal):
    array = normal(4, 6)
    assert has_same_elements(tensor(array), tensor(array.reshape(1, 24)))
    assert not has_same_elements(tensor(array), tensor(array.astype(np.float64)))
    assert not has_same_elements(tensor(array), tensor(normal(4, 7)))


def test_zeros_of_different_signs_differ(tensor):
    zeros = np.zeros((2, 2), np.float32)
    assert not has_same_elements(tensor(zeros), tensor(-zeros))


def test_external_data_that_becomes_shorter_is_an_error(tmp_path, normal):
    tensor = external(normal(4, 4), tmp_path)
    with ElementBits(tensor) as bits:
        (tmp_path / tensor.location).write_bytes(b"")
        with pytest.raises(ModelError, match="'W' became shorter while read"):
            bits.read(0, 16)


def test_external_data_outside_of_the_folder_is_refused(tmp_path, normal):
    tensor = external(normal(4, 4), tmp_path)
    (tmp_path / "inner").mkdir()
    outside = ir.ExternalTensor(
        "../0.bin", 5, tensor.length, tensor.dtype, shape=tensor.shape, name="W", base_dir=tmp_path / "inner"
    )
    with pytest.raises(ModelError, match="outside the model's folder"):
        ElementBits(outside)
