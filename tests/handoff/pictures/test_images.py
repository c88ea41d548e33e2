"""Images have every cell, or block of cells, once, where it belongs, in memory that does not grow with the layer."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.handoff.pictures.image import LayerImage, Subject

GAP = np.inf


@st.composite
def grids(draw):
    geometry = ArrayGeometry(
        draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.sampled_from(["max", "equal"]))
    )
    sizes = st.integers(1, 90)
    return geometry.cut(draw(st.integers(1, 7)), draw(sizes), draw(sizes), is_paired=False, kernel=(1, 1))


def starts_of(grid):
    return (*grid.row_starts, grid.rows), (*grid.column_starts, grid.columns)


def block_of(cells, high, wide, extreme):
    """What stands for the blocks of a tile, computed block by block."""
    found = np.full((-(-cells.shape[0] // high), -(-cells.shape[1] // wide)), -np.inf)
    for row, column in np.ndindex(found.shape):
        block = cells[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        block = block[~np.isnan(block)]
        if block.size:
            found[row, column] = block.flat[np.abs(block).argmax()] if extreme else block.mean()
    return found


@settings(deadline=None, max_examples=30)
@given(grids(), st.integers(20, 300), st.booleans(), st.integers(0, 1 << 30))
def test_every_cell_counts_in_one_dot_of_its_tile_and_nothing_else_has_a_value(grid, pixels, is_measured, seed):
    cells = np.random.default_rng(seed).normal(size=(grid.matrices, grid.rows, grid.columns))
    if is_measured:
        cells[cells > 1.0] = np.nan
    image = LayerImage(range(grid.matrices), starts_of(grid), 1, pixels, is_measured=is_measured)
    for tile in grid.tiles:
        image.add(tile, [cells[tile.matrix, slice(*tile.inputs), slice(*tile.outputs)]])
    slot = max(tile.shape[0] for tile in grid.tiles), max(tile.shape[1] for tile in grid.tiles)
    seen = np.zeros(image.values.shape[1:], int)
    for tile in grid.tiles:
        part = cells[tile.matrix, slice(*tile.inputs), slice(*tile.outputs)]
        expected = block_of(part, image.rows.block, image.columns.block, is_measured)
        y, x = image.origin(tile.matrix)
        y += image.rows.dots[tile.inputs[0]]
        x += image.columns.dots[tile.outputs[0]]
        place = slice(y, y + expected.shape[0]), slice(x, x + expected.shape[1])
        np.testing.assert_allclose(image.values[0][place], expected, rtol=1e-6, atol=1e-7)
        seen[place] += 1
        room = [-(-size // block) for size, block in zip(slot, (image.rows.block, image.columns.block), strict=True)]
        beyond = image.values[0][y : y + room[0], x : x + room[1]].copy()
        beyond[: expected.shape[0], : expected.shape[1]] = np.nan
        assert np.isnan(beyond).all()  # room without a weight
    assert seen.max() == 1
    assert (np.isnan(image.values[0]) | (image.values[0] == GAP))[seen == 0].all()


@settings(deadline=None, max_examples=30)
@given(grids(), st.integers(200, 900))
def test_images_fit_into_their_room_unless_there_are_more_tiles_than_pixels(grid, pixels):
    image = LayerImage(range(grid.matrices), starts_of(grid), 1, pixels, is_measured=False)
    high, wide = image.values.shape[1] * image.rows.zoom, image.values.shape[2] * image.columns.zoom
    assert max(high, wide) <= 1.3 * pixels


@pytest.mark.parametrize(
    ("matrices", "rows", "columns", "array"),
    [(960, 9, 1, 256), (1, 4096, 4096, 256), (1, 2048, 2048, 4), (1, 100_000, 3, 256), (20_000, 3, 3, 256)],
)
def test_layers_of_any_kind_have_images_of_a_modest_size(matrices, rows, columns, array):
    grid = ArrayGeometry(array, array).cut(matrices, rows, columns, is_paired=False, kernel=(1, 1))
    image = LayerImage(range(matrices), starts_of(grid), 1, 800, is_measured=False)
    assert max(image.values.shape[1] * image.rows.zoom, image.values.shape[2] * image.columns.zoom) <= 1100
    assert min(image.rows.slot * image.rows.zoom, image.columns.slot * image.columns.zoom) >= 1


def test_a_thin_layer_is_widened_so_that_its_columns_can_be_told_apart():
    image = LayerImage(range(1), ((0, 5000), (0, 4)), 1, 800, is_measured=False)
    assert image.columns.block == 1
    assert image.columns.zoom >= 16


def test_memory_does_not_grow_with_the_layer():
    """Tiles of 2 MB, 134 MB of them."""
    geometry = ArrayGeometry(512, 512)
    grid = geometry.cut(1, 4096, 4096, is_paired=False, kernel=(1, 1))
    layer = SimpleNamespace(g_min=0.0, g_max=1.0, devices=[SimpleNamespace(name="g")])
    errors = np.random.default_rng(0).normal(size=(512, 512))
    tracemalloc.start()
    try:
        image = LayerImage(range(1), starts_of(grid), 1, 800, is_measured=True)
        subject = Subject(layer, lambda _tile: {"g": errors})
        for tile in grid.tiles:
            image.add(tile, subject.read(SimpleNamespace(id="L000/T", shape=tile.shape)))
        subject.colors(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6
