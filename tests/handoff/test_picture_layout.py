"""Where cells stand in pictures, and which values stand for blocks of cells."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.handoff.picture_layout import fit, overview_window, page_windows
from onnx_gconv.handoff.picture_values import ErrorFigures, Samples


@st.composite
def grids(draw):
    sizes = st.one_of(st.integers(1, 40), st.integers(1, 3000))
    geometry = ArrayGeometry(draw(sizes), draw(sizes), draw(st.sampled_from(["max", "equal"])))
    rows = min(draw(sizes), geometry.rows * 30)
    columns = min(draw(sizes), geometry.columns * 30)
    matrices = draw(st.one_of(st.just(1), st.integers(1, 30)))
    return geometry.cut(matrices, rows, columns, is_paired=False, kernel=(1, 1))


def boxes(layout):
    """The pixels of every field: matrix, field, first row and column, height and width."""
    for matrix in layout.matrices:
        y, x = layout.origin(matrix)
        for row in range(layout.rows.fields):
            for column in range(layout.columns.fields):
                yield (
                    (matrix, row, column),
                    (y + layout.rows.first_pixel(row), x + layout.columns.first_pixel(column)),
                    (layout.rows.slot, layout.columns.slot),
                )


@given(grids(), st.integers(300, 1200))
def test_an_overview_fits_and_its_tiles_do_not_overlap(grid, pixels):
    layout = fit(grid, overview_window(grid), pixels)
    assert max(layout.shape) <= 1.2 * pixels
    covered = np.zeros(layout.shape, np.int8)
    for _, (top, left), (height, width) in boxes(layout):
        assert top > 0
        assert left > 0
        assert top + height < layout.shape[0]
        assert left + width < layout.shape[1]
        covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1


@given(grids(), st.integers(300, 1200))
def test_pages_show_every_tile_once_cell_by_cell(grid, pixels):
    windows = list(page_windows(grid, pixels))
    if max(grid.tile(0, 0, 0).shape) > 2048:
        assert not windows
        return
    shown = [number for window in windows for number in window.numbers(grid)]
    assert sorted(shown) == list(range(len(grid)))
    assert all(len(list(window.numbers(grid))) == len(window) for window in windows)
    for window in {windows[0], windows[-1]}:
        layout = fit(grid, window, pixels, cell_by_cell=True)
        assert layout.is_cell_by_cell
        assert max(layout.shape) <= max(1.2 * pixels, max(grid.tile(0, 0, 0).shape) + 40)


@st.composite
def small_grids(draw):
    geometry = ArrayGeometry(draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    sizes = st.integers(1, 90)
    return geometry.cut(draw(st.integers(1, 3)), draw(sizes), draw(sizes), is_paired=False, kernel=(1, 1))


@given(small_grids(), st.integers(20, 90), st.sampled_from(["mean", "extreme"]), st.randoms(use_true_random=False))
def test_every_cell_counts_in_its_block_and_in_no_other(grid, pixels, blocks, random):
    """Against blocks that are gathered cell by cell."""
    layout = fit(grid, overview_window(grid), pixels)
    values = np.random.default_rng(random.randrange(1 << 30)).normal(size=(grid.matrices, grid.rows, grid.columns))
    if blocks == "extreme":
        values[values > 1.5] = np.nan
    samples, cells = Samples(layout, ["g"], blocks), {}
    for tile in grid.tiles:
        part = values[tile.matrix, slice(*tile.inputs), slice(*tile.outputs)]
        samples.add(tile, {"g": part})
        for (row, column), value in np.ndenumerate(part):
            field = tile.matrix, layout.rows.field(tile.grid[0]), layout.columns.field(tile.grid[1])
            first = layout.rows.field_range(field[1])[0], layout.columns.field_range(field[2])[0]
            block = (
                (tile.inputs[0] + row - first[0]) // layout.rows.scale.cells,
                (tile.outputs[0] + column - first[1]) // layout.columns.scale.cells,
            )
            cells.setdefault((*field, *block), []).append(value)
    seen = 0
    for matrix, row, column in {key[:3] for key in cells}:
        found = samples.field("g", matrix, row, column)
        for (high, wide), value in np.ndenumerate(found):
            of_block = np.array(cells[matrix, row, column, high, wide])
            of_block = of_block[~np.isnan(of_block)]
            seen += 1
            if not of_block.size:
                assert np.isnan(value)
            elif blocks == "mean":
                np.testing.assert_allclose(value, of_block.mean(), rtol=1e-6, atol=1e-7)
            else:
                assert value == np.float32(of_block[np.abs(of_block).argmax()])
    assert seen == len(cells)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.floats(1, 1e6))
def test_colours_of_errors_leave_out_one_in_a_hundred_at_most(errors, far):
    errors = np.array([*errors, errors[0] * far])
    figures = ErrorFigures()
    figures.add("L000/T0000", "g", errors.reshape(1, -1))
    sizes = np.abs(errors).astype(np.float32)
    assert abs(figures.largest) == max(abs(errors)) or np.float32(abs(figures.largest)) == sizes.max()
    assert figures.measured == errors.size
    if figures.limit < abs(figures.largest):
        assert figures.beyond == (sizes >= np.float32(figures.limit)).sum() <= 0.01 * errors.size + 1
        assert figures.limit * 1.25 < abs(figures.largest)
        assert figures.limit <= 1.02 * np.quantile(sizes, 0.99, method="higher") + 1e-38
    else:
        assert figures.beyond == 0
