"""Pictures of measured minus target: symmetrical colours, what is beyond them, and cells that were not measured."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from onnx_gconv.errors import BundleError
from onnx_gconv.handoff import read_back, write_error_pictures
from tests.handoff.chip import programmed

MISSING = -1e30


def errors_of(values):
    """Errors that a function of tile, device and targets gives."""
    return lambda tile: {name: values(tile, name, targets) for name, targets in tile.conductances().items()}


def extend_of(found):
    """Whether the colour bar says that there are values beyond both of its ends."""
    return found.figure.axes[-1]._colorbar.extend


def test_colours_of_errors_are_symmetrical_around_white_at_0(bundle_of, shown):
    [layer] = bundle_of(np.ones((6, 5), np.float32), (3, 5)).layers
    errors = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]] * 3)
    [found] = shown(layer, errors_of(lambda *_: errors))
    assert found.figure.axes[-1].get_ylabel() == "measured minus target in µS"
    assert extend_of(found) == "neither"
    for device, panel in enumerate(found.panels):
        image = panel.images[0]
        assert image.get_clim() == (-2.0, 2.0)
        np.testing.assert_array_equal(found.matrix(device, 0), np.vstack([errors, errors]))
        low, zero, high = (np.array(image.cmap(image.norm(value))[:3]) for value in (-2.0, 0.0, 2.0))
        assert zero.min() > 0.98
        assert low[2] > low[0]  # negative is blue
        assert high[0] > high[2]  # positive is orange
        grey = [colour @ [0.3, 0.59, 0.11] for colour in (low, zero, high)]
        assert grey[0] < grey[2] - 0.1 < grey[1]  # signs of the largest errors can be told apart in print


def test_a_few_large_errors_do_not_pale_the_others_and_are_counted(bundle_of, shown):
    [layer] = bundle_of(np.ones((40, 50), np.float32), (40, 50)).layers

    def errors(_tile, device, targets):
        found = np.where(np.indices(targets.shape).sum(0) % 2, 0.5, -0.5)
        if device == "g_minus":
            found[7, 3] = -30.0
        return found

    [found] = shown(layer, errors_of(errors))
    assert "The largest error is -30 µS (tile L000/T0000, g_minus, row 7, column 3)." in found.caption
    assert "Measured: 4,000 of 4,000 cells of all devices" in found.caption
    assert "Colours end at the 99th percentile of cells; 4,000 are there or beyond." in found.caption
    assert found.panels[0].images[0].get_clim() == (-0.5, 0.5)
    assert found.matrix(1, 0)[7, 3] == -0.5
    assert extend_of(found) == "both"


def test_cells_and_devices_without_a_measurement_are_black_and_counted(bundle_of, shown):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    errors = np.full((4, 4), 0.25)
    errors[1, 2] = np.nan
    [found] = shown(layer, lambda _tile: {"g_plus": errors})
    assert "Measured: 15 of 32 cells of all devices; the others are black." in found.caption
    assert np.argwhere(found.matrix(0, 0) == np.float32(MISSING)).tolist() == [[1, 2]]
    assert (found.matrix(1, 0) == np.float32(MISSING)).all()
    assert to_rgb(found.panels[0].images[0].cmap.get_under()) == (0, 0, 0)
    canvas = FigureCanvasAgg(found.figure)
    canvas.draw()
    box = found.panels[0].get_window_extent()
    zoom, height = found.image.rows.zoom, found.figure.bbox.height
    row, column = (int(edge + 2.5 * zoom) for edge in (height - box.y1, box.x0))
    assert np.asarray(canvas.buffer_rgba())[row, column + zoom, :3].tolist() == [0, 0, 0]
    assert np.asarray(canvas.buffer_rgba())[row, column, :3].max() > 100


def test_without_any_measurement_all_is_black(bundle_of, shown):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    [found] = shown(layer, lambda _tile: {})
    assert "Measured: 0 of 32 cells of all devices" in found.caption
    assert all((found.matrix(device, 0) == np.float32(MISSING)).all() for device in (0, 1))


def test_without_any_error_all_is_white(bundle_of, shown):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    [found] = shown(layer, errors_of(lambda _tile, _device, targets: np.zeros_like(targets)))
    low, high = found.panels[0].images[0].get_clim()
    assert low == -high < 0
    assert (found.matrix(0, 0) == 0).all()


def test_a_large_layer_shows_the_error_furthest_from_0_of_each_block_and_pages_have_the_same_colours(bundle_of, shown):
    weight = np.random.default_rng(1).normal(size=(900, 810)).astype(np.float32)
    [layer] = bundle_of(weight, (256, 200)).layers
    errors = np.random.default_rng(0).normal(size=(900, 810))
    errors[:2, :2] = errors[4, 5] = np.nan

    def of(tile):
        return {"g_plus": errors[slice(*tile.record.inputs), slice(*tile.record.outputs)]}

    found, page = shown(layer, of, pages=1)
    assert "is the error furthest from 0 of 2 x 2 cells (fewer where tiles end)." in found.caption
    blocks = errors.reshape(450, 2, 405, 2).transpose(0, 2, 1, 3).reshape(450, 405, 4)
    blocks[0, 0] = 0.0
    extremes = np.take_along_axis(blocks, np.nanargmax(np.abs(blocks), -1)[..., None], -1)[..., 0]
    limit = np.quantile(np.abs(extremes).reshape(-1)[1:], 0.99)
    expected = np.clip(extremes, -limit, limit)
    expected[0, 0] = MISSING
    np.testing.assert_allclose(found.matrix(0, 0), expected, rtol=1e-5)
    assert found.panels[0].images[0].get_clim() == page.panels[0].images[0].get_clim()
    cells = errors[:256, :200]
    expected = np.where(np.isnan(cells), MISSING, np.clip(cells, -limit, limit))
    np.testing.assert_allclose(page.matrix(0, 0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"g_up": np.zeros((4, 4))}, r"tile L000/T0000 has no device 'g_up'; did you mean g_plus\?"),
        ({"noise": np.zeros((4, 4))}, r"tile L000/T0000 has no device 'noise'; there are g_plus, g_minus"),
        ({"g_plus": np.zeros((4, 3))}, r"L000/T0000, g_plus, have the shape \[4, 3\], but the tile is \[4, 4\]"),
        ({"g_plus": np.full((4, 4), np.inf)}, r"L000/T0000, g_plus, row 0, column 0 is inf; give a number, or NaN"),
        ({"g_plus": np.full((4, 4), -np.inf)}, r"L000/T0000, g_plus, row 0, column 0 is -inf; give a number, or NaN"),
    ],
)
def test_errors_that_do_not_fit_a_tile_are_refused_and_nothing_is_left(bundle_of, tmp_path, errors, message):
    bundle = bundle_of(np.ones((4, 4), np.float32), (4, 4))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BundleError, match=message):
        write_error_pictures(bundle, tmp_path / "errors", lambda _tile: errors)
    assert sorted(tmp_path.iterdir()) == before


def test_error_pictures_of_all_layers_are_written(handed_off, tmp_path):
    steps = []
    report = write_error_pictures(
        handed_off("LSTM"), tmp_path / "errors", errors_of(lambda _tile, _device, targets: 0.01 * targets),
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [file.name for file in report.files] == ["L000.png", "L001.png"]
    assert sorted(report.files) == sorted((tmp_path / "errors").iterdir())
    assert [step[1] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1] == ("pictures", len(steps), len(steps))


@pytest.mark.parametrize("bias_rows", [0, 2])
def test_read_back_draws_what_the_chip_is_off_by(handed_off, tmp_path, monkeypatch, bias_rows):
    bundle = handed_off("Gemm", bias_rows=bias_rows)
    chip = programmed(bundle.path, tiles=lambda tile: not tile.endswith("T0003"))
    chip.write(bundle.path / "measured.h5")
    seen = []
    from onnx_gconv.handoff.pictures import figure

    draw = figure.draw
    monkeypatch.setattr(figure, "draw", lambda image, *rest, **known: seen.append(image) or draw(image, *rest, **known))
    report = read_back(tmp_path / "model.gconv.onnx", bundle.path, pictures=tmp_path / "errors", dry_run=True)
    assert [file.name for file in report.pictures.files] == ["L000.png"]
    [image], [layer] = seen, bundle.layers
    for tile in layer.tiles:
        y, x = image.rows.dots[slice(*tile.record.inputs)], image.columns.dots[slice(*tile.record.outputs)]
        for device, record in enumerate(tile.record.conductances):
            expected = np.nan_to_num(chip.errors[record.key], nan=-np.inf)
            np.testing.assert_allclose(image.values[device][np.ix_(y, x)], expected, rtol=1e-5, atol=1e-5)
