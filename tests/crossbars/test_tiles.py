"""How matrices are cut into tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.crossbars.tiles import ArrayGeometry, parse_array, touched_pieces
from onnx_gconv.errors import ConfigError


def cut(geometry, rows, columns, *, matrices=1, is_paired=False, kernel=(1, 1)):
    return geometry.cut(matrices, rows, columns, is_paired=is_paired, kernel=kernel)


@pytest.mark.parametrize(("partition", "starts"), [("max", (0, 8, 16)), ("equal", (0, 7, 14))])
def test_max_gives_full_arrays_and_a_rest_and_equal_tiles_of_nearly_one_size(partition, starts):
    assert cut(ArrayGeometry(8, 8, partition), 20, 8).row_starts == starts


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 3), st.integers(1, 17), st.integers(1, 17),
    st.sampled_from(["max", "equal"]),
)  # fmt: skip
def test_tiles_cover_every_cell_once_and_fit_the_arrays(rows, columns, matrices, high, wide, partition):
    grid = cut(ArrayGeometry(high, wide, partition), rows, columns, matrices=matrices)
    covered = np.zeros((matrices, rows, columns), int)
    for number, tile in enumerate(grid.tiles):
        assert tile.number == number
        assert tile.shape[0] <= high
        assert tile.shape[1] <= wide
        covered[tile.matrix, slice(*tile.inputs), slice(*tile.outputs)] += 1
    assert (covered == 1).all()
    assert len(grid) == len(grid.tiles)


def test_a_pair_in_one_array_leaves_half_of_its_columns_or_rows_to_a_tile():
    assert ArrayGeometry(8, 8).capacity(is_paired=True) == (8, 8)
    assert ArrayGeometry(8, 9, pair_layout="adjacent_columns").capacity(is_paired=True) == (8, 4)
    assert ArrayGeometry(9, 8, pair_layout="interleaved_rows").capacity(is_paired=True) == (4, 8)
    assert ArrayGeometry(8, 8, pair_layout="adjacent_columns").capacity(is_paired=False) == (8, 8)


@pytest.mark.parametrize("partition", ["max", "equal"])
def test_whole_kernels_are_cut_only_between_kernels(partition):
    grid = cut(ArrayGeometry(32, 32, partition, whole_kernels=True), 9 * 16, 64, kernel=(9, 1))
    assert all(start % 9 == 0 for start in grid.row_starts)
    assert max(tile.shape[0] for tile in grid.tiles) == 27
    cuts_kernels = cut(ArrayGeometry(32, 32, partition), 9 * 16, 64, kernel=(9, 1))
    assert any(start % 9 for start in cuts_kernels.row_starts)


def test_a_kernel_that_does_not_fit_is_an_error_with_both_sizes():
    with pytest.raises(ConfigError, match=r"a kernel of 49 rows .* an array of 32x32 holds 32; take larger arrays"):
        cut(ArrayGeometry(32, 32, whole_kernels=True), 147, 64, kernel=(49, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "at least one row and one column, but this one is 0x4"),
        ((4, 4, "half"), "partition is one of equal, max, but not 'half'"),
        ((4, 4, "max", "beside"), "pair layout is one of .*, but not 'beside'"),
        ((4, 1, "max", "adjacent_columns"), "an array of 4x1 cannot hold a pair in adjacent_columns"),
    ],
)
def test_wrong_geometries_are_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ArrayGeometry(*arguments)


def test_the_size_of_an_array_is_rows_by_columns():
    assert parse_array("1152x256") == (1152, 256)
    assert parse_array("8 X 4") == (8, 4)


@pytest.mark.parametrize("text", ["", "256", "256x", "0x4", "4x-1", "axb", "2x3x4", "2.5x4"])
def test_other_texts_are_no_size(text):
    with pytest.raises(ConfigError, match=r"ROWSxCOLUMNS, e.g. 256x256, but not as"):
        parse_array(text)


def test_a_stretch_touches_the_pieces_that_it_has_cells_of():
    assert touched_pieces([0, 5, 10], 0, 5) == (0, 1)
    assert touched_pieces([0, 5, 10], 4, 11) == (0, 3)
    assert touched_pieces([0, 5, 10], 5, 10) == (1, 2)
    assert touched_pieces([0], 7, 9) == (0, 1)
