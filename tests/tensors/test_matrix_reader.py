"""Blocks of matrices, read from files and from memory."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.errors import ModelError
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.tensors.matrix_reader import MatrixReader, stored_from_matrices


@st.composite
def layouts(draw):
    """A tensor of up to five axes, each of which counts matrices, rows or columns, in any order."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(shape))))
    cuts = sorted(draw(st.tuples(st.integers(0, len(shape)), st.integers(0, len(shape)))))
    axes = order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]
    layout = MatrixLayout.of(shape, [], shape, matrix_axes=axes[0], row_axes=axes[1], column_axes=axes[2])
    return tuple(shape), axes, layout


def matrices_of(array, axes, layout):
    return array.transpose([*axes[0], *axes[1], *axes[2]]).reshape(layout.matrices, layout.rows, layout.columns)


def stored_in_a_file(array, folder, skipped=12):
    path = folder / "weight.data"
    path.write_bytes(b"\0" * skipped + array.tobytes())
    return ir.ExternalTensor(
        path.name, skipped, array.nbytes, ir.DataType.FLOAT, shape=ir.Shape(array.shape), name="W", base_dir=folder
    )


@given(layouts(), st.data())
def test_any_block_of_any_layout_is_what_numpy_cuts(tmp_path_factory, found, data):
    shape, axes, layout = found
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    matrix = data.draw(st.integers(0, layout.matrices - 1))
    rows, columns = (
        tuple(sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))))
        for size in (layout.rows, layout.columns)
    )
    expected = matrices_of(array, axes, layout)[matrix, slice(*rows), slice(*columns)]
    for tensor in (ir.Tensor(array), stored_in_a_file(array, tmp_path_factory.getbasetemp())):
        with MatrixReader(tensor, layout) as reader:
            np.testing.assert_array_equal(reader.read(matrix, rows, columns), expected)


@given(layouts())
def test_matrices_become_the_stored_tensor_again(found):
    shape, axes, layout = found
    array = np.arange(math.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(stored_from_matrices(matrices_of(array, axes, layout), layout), array)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    layout = MatrixLayout.of((4, 6), [], (4, 6), matrix_axes=(), row_axes=(0,), column_axes=(1,))
    with MatrixReader(stored_in_a_file(array, tmp_path), layout) as reader:
        (tmp_path / "weight.data").write_bytes(b"\0" * 40)
        with pytest.raises(ModelError, match="'W' became shorter while read"):
            reader.read(0, (2, 4), (0, 6))
