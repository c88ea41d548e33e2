"""Which elements share a scale, and how the scales stand in the graph."""

import math

import numpy as np
import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.granularity import Granularity, parse_tile
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.schemes.scale_grid import ScaleGrid

LAYOUTS = {
    "matmul": (MatrixLayout.of((6, 4), [], (6, 4), matrix_axes=(), row_axes=(0,), column_axes=(1,)), 1),
    "matmul transposed before": (
        MatrixLayout.of((4, 6), [("transpose", (1, 0))], (6, 4), matrix_axes=(), row_axes=(0,), column_axes=(1,)),
        1,
    ),
    "matmul of a vector": (MatrixLayout.of((5,), [], (5,), matrix_axes=(), row_axes=(0,), column_axes=()), 1),
    "batch": (
        MatrixLayout.of((2, 3, 5, 4), [], (2, 3, 5, 4), matrix_axes=(0, 1), row_axes=(2,), column_axes=(3,)),
        1,
    ),
    "conv": (
        MatrixLayout.of((8, 3, 2, 2), [], (8, 3, 2, 2), matrix_axes=(), row_axes=(1, 2, 3), column_axes=(0,)),
        1,
    ),
    "grouped conv": (
        MatrixLayout.of((8, 3, 2, 2), [], (2, 4, 3, 2, 2), matrix_axes=(0,), row_axes=(2, 3, 4), column_axes=(1,)),
        1,
    ),
    "transposed conv": (
        MatrixLayout.of((6, 4, 3, 3), [], (6, 4, 3, 3), matrix_axes=(), row_axes=(0,), column_axes=(1, 2, 3)),
        9,
    ),
    "grouped transposed conv": (
        MatrixLayout.of((6, 4, 3, 3), [], (2, 3, 4, 3, 3), matrix_axes=(0,), row_axes=(1,), column_axes=(2, 3, 4)),
        9,
    ),
    "lstm": (MatrixLayout.of((2, 12, 5), [], (2, 12, 5), matrix_axes=(0,), row_axes=(2,), column_axes=(1,)), 1),
    "flattened and transposed": (
        MatrixLayout.of(
            (24,),
            [("reshape", (4, 6)), ("transpose", (1, 0))],
            (6, 4),
            matrix_axes=(),
            row_axes=(0,),
            column_axes=(1,),
        ),
        1,
    ),
}
GRANULARITIES = [
    Granularity("channel"),
    Granularity("tile", (3, 2)),
    Granularity("tile", (2, 3), "max"),
    Granularity("tile", (4, 4), "equal"),
    Granularity("tile_channel", (4, 4)),
    Granularity("tile", (1000, 1000)),
]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_graph_form_expands_to_the_scale_of_each_element(name, granularity):
    layout, columns_per_channel = LAYOUTS[name]
    grid = ScaleGrid.of(layout, granularity, columns_per_channel)
    values = np.random.default_rng(0).random(grid.shape)
    size = math.prod(layout.shape)
    by_element = values.reshape(-1)[grid.groups(0, size)].reshape(layout.shape)

    stored = grid.stored(values)
    assert stored.shape == grid.stored_shape
    assert np.array_equal(grid.values(stored), values)
    if grid.form == "tiles":
        expanded = stored
        for step in grid.gathers:
            expanded = np.take(expanded, step.indices, axis=step.axis)
        assert expanded.shape == grid.expanded_shape
        expanded = expanded.transpose(grid.permutation).reshape(layout.shape)
    else:
        expanded = np.broadcast_to(stored, layout.shape)
    assert np.array_equal(expanded, by_element)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_groups_are_the_pieces_of_the_matrices(name, granularity):
    layout, columns_per_channel = LAYOUTS[name]
    grid = ScaleGrid.of(layout, granularity, columns_per_channel)
    size = math.prod(layout.shape)
    matrix, row, column = (layout.index(role, 0, size) for role in ("matrix", "row", "column"))
    rows = np.searchsorted(grid.row_starts, row, side="right") - 1
    columns = np.searchsorted(grid.column_starts, column, side="right") - 1
    expected = (matrix * len(grid.row_starts) + rows) * len(grid.column_starts) + columns
    assert np.array_equal(grid.groups(0, size), expected)
    assert np.array_equal(grid.groups(size // 3, size // 2 + 1), expected[size // 3 : size // 2 + 1])


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("matmul", (1, 4), 1),
        ("matmul transposed before", (4, 1), 0),
        ("conv", (8, 1, 1, 1), 0),
        ("grouped conv", (8, 1, 1, 1), 0),
        ("transposed conv", (1, 4, 1, 1), 1),
        ("lstm", (2, 12, 1), None),
        ("batch", (2, 3, 1, 4), None),
    ],
)
def test_scales_of_output_channels_broadcast(name, shape, axis):
    layout, columns_per_channel = LAYOUTS[name]
    grid = ScaleGrid.of(layout, Granularity("channel"), columns_per_channel)
    assert (grid.form, grid.stored_shape, grid.axis) == ("broadcast", shape, axis)


def test_the_channels_of_a_grouped_transposed_convolution_are_gathered():
    layout, columns_per_channel = LAYOUTS["grouped transposed conv"]
    grid = ScaleGrid.of(layout, Granularity("channel"), columns_per_channel)
    assert (grid.form, grid.stored_shape) == ("tiles", (2, 1, 4))


def test_a_weight_that_fits_one_tile_has_one_scale():
    layout, _ = LAYOUTS["conv"]
    grid = ScaleGrid.of(layout, Granularity("tile", (512, 512)), 1)
    assert (grid.form, grid.stored_shape, grid.count) == ("number", (), 1)


@pytest.mark.parametrize(
    ("partition", "size", "limit", "starts"),
    [
        ("equal", 1030, 512, (0, 344, 687)),
        ("max", 1030, 512, (0, 512, 1024)),
        ("equal", 700, 512, (0, 350)),
        ("equal", 512, 512, (0,)),
        ("max", 1, 512, (0,)),
    ],
)
def test_an_axis_is_cut_as_the_partition_says(partition, size, limit, starts):
    assert Granularity("tile", (limit, limit), partition).starts(size, limit) == starts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "row"}, "granularity is one of tensor, channel, tile, tile_channel, but not 'row'"),
        ({"kind": "tile"}, "granularity tile needs the size of a tile"),
        ({"kind": "channel", "tile": (8, 8)}, "granularity channel has no tiles"),
        ({"kind": "tile", "tile": (0, 8)}, r"a tile has at least one row and one column, but this one is \(0, 8\)"),
        ({"kind": "tile", "tile": (8, 8), "partition": "any"}, "partition is one of equal, max, but not 'any'"),
    ],
)
def test_wrong_granularities_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Granularity(**arguments)


def test_a_tile_is_read_from_text():
    assert parse_tile("256x128") == (256, 128)
    with pytest.raises(ConfigError, match=r"a tile is given as ROWSxCOLUMNS, e\.g\. 256x256, but not as '256'"):
        parse_tile("256")


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1 << 22), (16, 1 << 22), (16, 3)])
def test_values_of_groups_are_expanded_and_reduced_over_any_stretch(name, granularity, shortest, longest, monkeypatch):
    monkeypatch.setattr("onnx_gconv.schemes.scale_grid._SHORTEST_PERIOD", shortest)
    monkeypatch.setattr("onnx_gconv.schemes.scale_grid._LONGEST_PERIOD", longest)
    layout, columns_per_channel = LAYOUTS[name]
    grid = ScaleGrid.of(layout, granularity, columns_per_channel)
    rng = np.random.default_rng(0)
    size = math.prod(layout.shape)
    values, elements = rng.random(grid.shape), rng.normal(size=size)
    for start, stop in [(0, size), (1, size), (size // 3, size // 2 + 1), (size - 1, size), (0, 1), (2, size - 1)]:
        if start >= stop:
            continue
        groups = grid.groups(start, stop)
        assert np.array_equal(grid.expanded(values, start, stop), values.reshape(-1)[groups])
        single = grid.expanded(values, start, stop, np.dtype(np.float32))
        assert single.dtype == np.float32
        assert np.array_equal(single, values.astype(np.float32).reshape(-1)[groups])
        for ufunc, empty in ((np.minimum, np.inf), (np.maximum, -np.inf)):
            expected, found = np.full(grid.count, empty), np.full(grid.count, empty)
            ufunc.at(expected, groups, elements[start:stop])
            reduced, reduced_groups = grid.reduced(ufunc, elements[start:stop], start)
            ufunc.at(found, reduced_groups, reduced)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ((), (0,), "pieces of 6 rows begin at 0 and rise, but here at $"),
        ((1, 3), (0,), "pieces of 6 rows begin at 0 and rise, but here at 1, 3$"),
        ((0, 6), (0,), "pieces of 6 rows begin at 0 and rise, but here at 0, 6$"),
        ((0,), (0, 2, 2), "pieces of 4 columns begin at 0 and rise, but here at 0, 2, 2$"),
        ((0,), (0, -1), "pieces of 4 columns begin at 0 and rise, but here at 0, -1$"),
        ((0,), (0, 3, 1, *range(9)), r"here at 0, 3, 1, 0, 1, 2, 3, 4, \.\.\.$"),
    ],
)
def test_pieces_that_do_not_rise_within_the_matrix_are_refused(rows, columns, message):
    with pytest.raises(ValueError, match=message):
        ScaleGrid(LAYOUTS["matmul"][0], rows, columns)
