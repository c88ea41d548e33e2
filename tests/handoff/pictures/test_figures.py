"""Figures show conductances where they stand in the layer, say what is approximated, and have nothing overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg

from onnx_gconv import converters
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

LARGE = np.random.default_rng(1).normal(size=(1200, 1160)).astype(np.float32)


def pixels(figure):
    """The colours of a figure, [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def pixels_of(panel, image):
    """The pixels of a panel."""
    box, height = panel.get_window_extent(), image.shape[0]
    rows, columns = slice(round(height - box.y1), round(height - box.y0)), slice(round(box.x0), round(box.x1))
    return image[rows, columns]


def matrices_of(layer):
    """For each device its conductances, [matrices, inputs, outputs], from the tiles."""
    view = layer.record.tile_grid
    found = {device.name: np.full((view.matrices, view.rows, view.columns), np.nan) for device in layer.record.devices}
    for tile in layer.tiles:
        for name, part in tile.conductances().items():
            found[name][tile.record.matrix, slice(*tile.record.inputs), slice(*tile.record.outputs)] = part
    return list(found.values())


@pytest.mark.parametrize(
    ("op", "partition"),
    [
        ("MatMul of a batch", "equal"), ("Gemm transB", "max"), ("one output", "equal"), ("grouped Conv", "max"),
        ("depthwise Conv", "equal"), ("ConvTranspose", "max"), ("LSTM", "equal"), ("LSTM", "max"),
    ],
)  # fmt: skip
def test_every_panel_shows_the_conductances_of_its_device(handed_off, shown, pair, op, partition):
    for layer in handed_off(op, (5, 4), scheme=pair, partition=partition).layers:
        [found] = shown(layer)
        expected = matrices_of(layer)
        assert len(found.panels) == len(expected) == 2
        for device, matrices in enumerate(expected):
            for matrix, values in enumerate(matrices):
                np.testing.assert_allclose(found.matrix(device, matrix), values, rtol=1e-6)


def test_a_dot_is_as_many_pixels_as_the_caption_says_in_the_colour_of_its_value(bundle_of, shown):
    weight = np.random.default_rng(2).normal(size=(13, 10)).astype(np.float32)
    [found] = shown(bundle_of(weight, (5, 4)).layers[0])
    assert "Each dot of 16 x 16 pixels is one cell." in found.caption
    image = pixels(found.figure)
    for panel, values in zip(found.panels, found.values, strict=True):
        colours = pixels_of(panel, image)
        has_weight = np.repeat(np.repeat(~np.isnan(values) & (values < 1e29), 16, 0), 16, 1)
        table = colormaps["viridis"]((np.nan_to_num(values) - 1.0) / 39.0, bytes=True)[..., :3]
        expected = np.repeat(np.repeat(table, 16, 0), 16, 1).astype(int)
        assert colours.shape == expected.shape
        is_right = (np.abs(colours - expected) <= 3).all(-1)
        assert is_right[2:-2, 2:-2][has_weight[2:-2, 2:-2]].all()


def test_the_largest_weights_stand_out_where_inputs_and_outputs_say(bundle_of, shown):
    """Neither transposed nor flipped, and G+ left of G-."""
    weight = np.zeros((13, 10), np.float32)
    weight[11, 1], weight[2, 9] = 1.0, -1.0
    [found] = shown(bundle_of(weight, (13, 10)).layers[0])
    left, right = (panel.get_position().x0 for panel in found.panels)
    assert left < right
    image = pixels(found.figure)
    for panel, (row, column) in zip(found.panels, [(11, 1), (2, 9)], strict=True):
        yellow = (pixels_of(panel, image) == [253, 231, 36]).all(-1)
        (top, start), (bottom, stop) = np.argwhere(yellow).min(0), np.argwhere(yellow).max(0) + 1
        assert (top // 16 - 1, start // 16 - 1) == (row, column)  # beyond the dot around the matrix
        assert (bottom - top, stop - start) == (16, 16)


def test_words_name_layer_weight_tiles_inputs_outputs_devices_and_unit(handed_off, shown):
    [found] = shown(handed_off("Gemm", (5, 4)).layers[0])
    assert found.name == "L000"
    assert found.title == "L000   W   (Gemm)"
    assert found.caption.startswith("13 x 10: inputs downwards, outputs to the right; 3 x 3 tiles for arrays of 5x4.")
    assert found.ticks() == [["T0000: 0", "T0003: 5", "T0006: 10"], ["+0: 0", "+1: 4", "+2: 8"]]
    assert [panel.get_title("left") for panel in found.panels] == ["g_plus  (counts +1)", "g_minus  (counts -1)"]
    assert found.figure.axes[-1].get_ylabel() == "target conductance in µS"
    assert "Hatched: no weight, cells of arrays at g_min." in found.caption


def test_matrices_stand_in_rows_and_ids_beside_and_below_add_up(handed_off, shown):
    [found] = shown(handed_off("depthwise Conv", (5, 4)).layers[0])
    assert "6 matrices of 6 x 1" in found.caption
    image, tiles = found.image, handed_off("depthwise Conv", (5, 4)).layers[0].tiles
    axes = found.panels[0].yaxis, found.panels[0].xaxis
    beside, below = (dict(zip(axis.get_ticklocs(), found.ticks()[side], strict=True)) for side, axis in enumerate(axes))
    for number, tile in enumerate(tiles):
        y, x = image.origin(tile.record.matrix)
        y += image.rows.dots[tile.record.inputs[0]]
        x += image.columns.dots[tile.record.outputs[0]]
        if y in beside and x in below:
            (first, row), (further, column) = beside[y].split(": "), below[x].split(": ")
            assert int(first[1:]) + int(further) == number
            assert (int(row), int(column)) == (tile.record.inputs[0], tile.record.outputs[0])
    assert len(beside) * len(below) >= 6


def test_rows_of_the_bias_are_shown_below_the_inputs_and_said(mapped, shown, tmp_path):
    write_bundle(mapped("Gemm"), tmp_path / "out", (20, 20), bias_rows=2)
    with open_bundle(tmp_path / "out") as bundle:
        [found] = shown(bundle.layers[0])
        expected = matrices_of(bundle.layers[0])
    assert "13 x 10: inputs downwards, then 2 rows of the bias" in found.caption
    np.testing.assert_allclose(found.matrix(1, 0), expected[1][0], rtol=1e-6)


def test_names_are_written_as_they_are_or_as_escapes_where_the_font_lacks_letters(bundle_of, shown):
    [found] = shown(bundle_of(np.eye(4, dtype=np.float32), (4, 4), name="a$_x$重\n").layers[0])
    assert "a$_x$\\u91cd\\n" in found.title
    pixels(found.figure)


def test_cells_without_a_weight_are_hatched_in_greys_only(bundle_of, shown):
    [found] = shown(bundle_of(np.ones((5, 5), np.float32), (4, 4)).layers[0])
    values = found.values[0]
    assert np.isnan(values).sum() == 8 * 8 - 5 * 5
    assert found.panels[0].patch.get_hatch()
    colours = pixels_of(found.panels[0], pixels(found.figure))
    zoom = found.image.rows.zoom
    unused = np.repeat(np.repeat(np.isnan(values), zoom, 0), zoom, 1)
    assert (np.ptp(colours[unused], axis=-1) == 0).all()
    assert len(np.unique(colours[unused])) > 1  # stripes
    assert (np.ptp(colours[~unused], axis=-1) > 0).mean() > 0.3


# Limits


def test_a_large_layer_shows_means_of_blocks_and_says_so(bundle_of, shown):
    layer = bundle_of(LARGE, (256, 200)).layers[0]
    [found] = shown(layer)
    assert "Each dot of 1 x 1 pixels is the mean of 2 x 2 cells (fewer where tiles end)." in found.caption
    assert "Colours end at the largest mean; single cells may have up to 40 µS." in found.caption
    for device, (matrix,) in enumerate(matrices_of(layer)):
        rows, columns = range(0, 1200, 256), range(0, 1160, 200)
        tiles = [[matrix[row : row + 256, column : column + 200] for column in columns] for row in rows]
        means = np.block([[tile.reshape(tile.shape[0] // 2, 2, -1, 2).mean((1, 3)) for tile in row] for row in tiles])
        np.testing.assert_allclose(found.matrix(device, 0), means, rtol=1e-6)
    assert found.panels[0].images[0].get_clim()[1] == max(np.max(v[np.isfinite(v) & (v < 1e29)]) for v in found.values)


def test_pages_show_single_tiles_cell_by_cell_with_their_inputs_and_outputs(bundle_of, shown):
    layer = bundle_of(LARGE, (256, 200)).layers[0]
    whole, first, second = shown(layer, pages=2)
    assert [whole.name, first.name, second.name] == ["L000", "L000_T0000", "L000_T0001"]
    assert second.title == "L000/T0001   W   (MatMul)"
    assert "is one cell." in second.caption
    assert "Ids" not in second.caption
    assert second.panels[0].images[0].get_clim() == (1.0, 40.0)
    for device, values in enumerate(layer.tiles[1].conductances().values()):
        np.testing.assert_allclose(second.matrix(device, 0), values, rtol=1e-6)
    inputs, outputs = ([int(text) for text in texts] for texts in second.ticks())
    assert (min(inputs), min(outputs)) == (0, 200)
    assert max(inputs) < 256
    assert max(outputs) < 400


def test_pages_of_large_tiles_have_a_dot_for_each_cell(bundle_of, shown):
    layer = bundle_of(np.random.default_rng(0).normal(size=(1500, 7)).astype(np.float32), (1500, 7)).layers[0]
    whole, page = shown(layer, pages=None)
    assert not whole.image.is_cell_by_cell
    assert page.image.is_cell_by_cell
    np.testing.assert_allclose(page.matrix(0, 0), layer.tiles[0].conductances()["g_plus"], rtol=1e-6)


def test_tiles_that_are_too_small_to_be_kept_apart_are_drawn_side_by_side(bundle_of, shown):
    layer = bundle_of(np.random.default_rng(2).normal(size=(900, 2)).astype(np.float32), (3, 2)).layers[0]
    [found] = shown(layer)
    [matrix] = matrices_of(layer)[0]
    assert found.matrix(0, 0).shape == (600, 2)  # two dots for each tile
    np.testing.assert_allclose(found.matrix(0, 0)[::2], (matrix[::3] + matrix[1::3]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found.matrix(0, 0)[1::2], matrix[2::3], rtol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "devices"),
    [
        (converters.SingleDeviceConductanceConverter(), 1),
        (converters.NPairConductanceConverter([1.0, 2.0, 3.0]), 6),
        (converters.NPairConductanceConverter([1.0] * 9), 18),
        (converters.BitSlicedPairConductanceConverter(bits=8, slice_bits=2), 8),
    ],
)
def test_all_devices_have_a_panel_in_one_figure_and_pairs_are_not_torn_apart(bundle_of, shown, scheme, devices):
    layer = bundle_of(np.eye(5, dtype=np.float32), (3, 3), scheme=MappingScheme(scheme)).layers[0]
    [found] = shown(layer)
    assert len(found.panels) == devices
    assert [panel.get_title("left").split("  ")[0] for panel in found.panels] == [d.name for d in layer.record.devices]
    tops = [round(panel.get_window_extent().y1) for panel in found.panels]
    assert tops[0::2] == tops[1::2] or devices == 1
    for device, [matrix] in enumerate(matrices_of(layer)):
        np.testing.assert_allclose(found.matrix(device, 0), matrix, rtol=1e-6)


# Layout


@pytest.mark.parametrize(
    ("shape", "array"),
    [((5, 5), (4, 4)), ((900, 30), (64, 64)), ((30, 900), (7, 64)), ((160, 160), (8, 8)), ((1, 1), (9, 9))],
)
def test_nothing_overlaps_and_nothing_is_cut_off(bundle_of, shown, shape, array):
    for found in shown(
        bundle_of(np.random.default_rng(0).normal(size=shape).astype(np.float32), array).layers[0], pages=1
    ):
        figure = found.figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        boxes += [text.get_window_extent(renderer) for text in (figure._supxlabel, figure._suptitle)]
        for number, box in enumerate(boxes):
            assert box.x0 >= -2
            assert box.y0 >= -2
            assert box.x1 <= figure.bbox.x1 + 2
            assert box.y1 <= figure.bbox.y1 + 2
            for other in boxes[:number]:
                apart = (
                    box.x0 >= other.x1 - 1 or other.x0 >= box.x1 - 1 or box.y0 >= other.y1 - 1 or other.y0 >= box.y1 - 1
                )
                assert apart, (number, box, other)
        for panel in found.panels:
            extent, image = panel.get_window_extent(), found.image
            assert round(extent.width, 6) == image.values.shape[2] * image.columns.zoom
            assert round(extent.height, 6) == image.values.shape[1] * image.rows.zoom
        for axis, extent in ((found.panels[0].yaxis, 1), (found.panels[0].xaxis, 0)):
            labels = [label.get_window_extent(renderer) for label in axis.get_ticklabels() if label.get_text()]
            labels.sort(key=lambda box: box.y0 if extent else box.x0)
            for one, next_one in itertools.pairwise(labels):
                assert (next_one.y0 >= one.y1 - 2) if extent else (next_one.x0 >= one.x1)


def test_a_target_that_is_a_rounding_above_g_max_is_not_beyond_the_colours(bundle_of, shown):
    """Scales of channels give some; a colour bar with pointed ends would tell of conductances that are none."""
    weight = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)
    scheme = MappingScheme(converters.SinglePairConductanceConverter(g_max=25.0, g_min=0.25), Granularity("channel"))
    [layer] = bundle_of(weight, (40, 300), scheme=scheme).layers
    largest = max(values.max() for values in layer.tiles[0].conductances().values())
    assert 25.0 < largest < 25.00001
    [found] = shown(layer)
    assert found.figure.axes[-1]._colorbar.extend == "neither"
