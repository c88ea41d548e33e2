"""A measured tensor is the targets with the measured cells in place, whatever stretch of it is read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.crossbars import tiled_tensor
from onnx_gconv.crossbars.tiled_tensor import TiledTensor
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.tensors.matrix_reader import stored_from_matrices

# Shape, steps, split shape, and the axes of matrices, rows and columns.
LAYOUTS = {
    "inputs by outputs": ((13, 10), [], (13, 10), (), (0,), (1,)),
    "outputs by inputs": ((10, 13), [], (10, 13), (), (1,), (0,)),
    "batch": ((3, 13, 10), [], (3, 13, 10), (0,), (1,), (2,)),
    "convolution": ((7, 3, 3, 2), [], (7, 3, 3, 2), (), (1, 2, 3), (0,)),
    "grouped convolution": ((9, 2, 3, 2), [], (3, 3, 2, 3, 2), (0,), (2, 3, 4), (1,)),
    "transposed convolution": ((7, 4, 3, 2), [], (7, 4, 3, 2), (), (0,), (1, 2, 3)),
    "kernel axes first": ((3, 2, 3, 7), [("transpose", (3, 2, 0, 1))], (7, 3, 3, 2), (), (1, 2, 3), (0,)),
    "one number": ((1, 1), [], (1, 1), (), (0,), (1,)),
}  # fmt: skip


def example(name, array, partition="max", dtype=np.float32):
    shape, steps, split, matrix_axes, row_axes, column_axes = LAYOUTS[name]
    layout = MatrixLayout.of(shape, steps, split, matrix_axes=matrix_axes, row_axes=row_axes, column_axes=column_axes)
    grid = ArrayGeometry(*array, partition).cut(
        layout.matrices, layout.rows, layout.columns, is_paired=True, kernel=(1, 1)
    )
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(layout.matrices, layout.rows, layout.columns)).astype(dtype)
    measured = rng.normal(size=targets.shape)
    measured[rng.random(targets.shape) < 0.2] = np.nan
    expected = np.where(np.isnan(measured), targets, measured.astype(dtype))

    def of_tile(number):
        if number % 5 == 3:
            return None
        tile = grid.tiles[number]
        return measured[tile.matrix, slice(*tile.inputs), slice(*tile.outputs)]

    for tile in grid.tiles:
        if tile.number % 5 == 3:
            place = tile.matrix, slice(*tile.inputs), slice(*tile.outputs)
            expected[place] = targets[place]
    tensor = TiledTensor(ir.tensor(stored_from_matrices(targets, layout)), layout, grid, of_tile)
    return tensor, stored_from_matrices(expected, layout)


@pytest.mark.parametrize("partition", ["max", "equal"])
@pytest.mark.parametrize("array", [(4, 3), (1, 1), (100, 100), (5, 100)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_measured_cells_stand_in_their_places(name, array, partition):
    tensor, expected = example(name, array, partition)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert tensor.dtype == ir.DataType.FLOAT


@settings(max_examples=200)
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    array=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    strip=st.integers(1, 200),
    chunk=st.integers(1, 64),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_stretch_is_that_of_the_whole(name, array, strip, chunk, ends):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled_tensor, "_STRIP_ELEMENTS", strip)
        patch.setattr(tiled_tensor, "CHUNK_ELEMENTS", chunk)
        tensor, expected = example(name, array)
        start, stop = sorted(round(end * tensor.size) for end in ends)
        parts = [part.copy() for part in tensor.chunks(start, stop)]
    assert all(part.size == chunk for part in parts[:-1])
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.float32), *parts]), expected.reshape(-1)[start:stop])


def test_float64_stays_float64():
    tensor, expected = example("convolution", (4, 3), dtype=np.float64)
    assert tensor.dtype == ir.DataType.DOUBLE
    np.testing.assert_array_equal(tensor.numpy(), expected)


@pytest.mark.parametrize("name", ["inputs by outputs", "outputs by inputs", "batch", "transposed convolution"])
def test_every_tile_is_read_once_where_strips_begin_with_tiles(name):
    tensor, _ = example(name, (4, 3))
    read, numbers = tensor._measured, []

    def counted(number):
        numbers.append(number)
        return read(number)

    tensor._measured = counted
    for _ in tensor.chunks():
        pass
    if name == "transposed convolution":
        assert set(numbers) == set(range(len(tensor._tiles)))
    else:
        assert sorted(numbers) == list(range(len(tensor._tiles)))


def test_only_a_row_of_tiles_is_put_together_at_once():
    tensor, _ = example("inputs by outputs", (4, 3))
    assert tensor._starts.tolist() == [0, 40, 80, 120]
    tensor, _ = example("outputs by inputs", (4, 3))
    assert tensor._starts.tolist() == [0, 39, 78, 117]
    tensor, _ = example("kernel axes first", (4, 3))
    assert tensor._starts.tolist() == [0]  # the slowest axis, the height of kernels, does not cut the matrices
