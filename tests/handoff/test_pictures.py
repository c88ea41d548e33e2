"""Pictures show every cell where it stands, in the colour of its conductance."""

from __future__ import annotations

import hashlib
import io
import sys

import matplotlib as mpl
import matplotlib.image
import numpy as np
import onnx
import pytest
from matplotlib import colormaps

from onnx_gconv import converters
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import open_bundle, write_bundle, write_error_pictures, write_pictures
from onnx_gconv.handoff.pictures import error_pictures, layer_pictures
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme

PAIR = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0))
TARGETS = (colormaps["viridis"](np.arange(256), bytes=True)[:, :3]).astype(int)
ERRORS = (colormaps["RdBu_r"](np.arange(256), bytes=True)[:, :3]).astype(int)


def pixels(png):
    """The colours of a PNG file, [height, width, 3], from 0 to 255."""
    return np.rint(matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3] * 255).astype(int)


def words(picture):
    return " ".join(text.get_text() for text in picture.figure.texts)


def assert_shows(colors, table, low, high, expected):
    """The colours are those of the values, of the 256 that a colour map has; next to an edge one of both."""
    place = (np.asarray(expected, np.float64) - low) / (high - low) * 256
    near = [np.clip(np.floor(place + step), 0, 255).astype(int) for step in (-1e-3, 1e-3)]
    is_right = [(table[numbers] == colors).all(-1) for numbers in near]
    assert np.logical_or(*is_right).all(), np.argwhere(~np.logical_or(*is_right))


def cells_of(image, place):
    """The colours of all cells of a place, looked up in the middle of each of them."""
    high, wide = place.cell
    rows = place.top + ((np.arange(place.inputs[1] - place.inputs[0]) + 0.5) * high).astype(int)
    columns = place.left + ((np.arange(place.outputs[1] - place.outputs[0]) + 0.5) * wide).astype(int)
    return image[np.ix_(rows, columns)]


@pytest.fixture
def bundle_of(parse, tmp_path):
    """Writes the bundle of a weight of a MatMul, and opens it."""
    opened = []

    def make(weight, array, *, scheme=PAIR, name="W", **options):
        model = parse(f"g (float[1, {weight.shape[0]}] x) => (float y) {{ y = MatMul(x, W) }}", W=weight)
        model.graph.initializers["W"].name = name
        MapConductances(scheme=scheme)(model)
        save_model(model, tmp_path / "mapped.onnx")
        write_bundle(tmp_path / "mapped.onnx", tmp_path / "bundle", array, overwrite=True, **options)
        opened.append(open_bundle(tmp_path / "bundle"))
        return opened[-1]

    yield make
    for bundle in opened:
        bundle.close()


# Targets


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_pictures_are_files_of_the_bundle_with_size_and_checksum(handed_off, arrays):
    bundle = handed_off("LSTM", pictures=True, arrays=arrays)
    listed = {file.path: file for file in bundle.manifest.files}
    for layer in ("L000", "L001"):
        content = (bundle.path / "pictures" / f"{layer}.png").read_bytes()
        assert listed[f"pictures/{layer}.png"].bytes == len(content)
        assert listed[f"pictures/{layer}.png"].sha256 == hashlib.sha256(content).hexdigest()
    assert {file.name for file in (bundle.path / "pictures").iterdir()} == {"L000.png", "L001.png"}
    bundle.verify_hashes()
    (bundle.path / "pictures" / "L000.png").write_bytes(b"\0" * listed["pictures/L000.png"].bytes)
    with pytest.raises(BundleError, match=r"L000.png' has changed"):
        bundle.verify_hashes()


def test_without_being_asked_for_nothing_is_drawn(handed_off):
    assert not (handed_off("Gemm").path / "pictures").exists()


def test_the_largest_weights_stand_out_where_inputs_and_outputs_say(bundle_of):
    """Read from the picture alone: no cell is transposed or flipped, and G+ stands left of G-."""
    weight = np.zeros((13, 10), np.float32)
    weight[11, 1], weight[2, 9] = 1.0, -1.0
    [picture] = layer_pictures(bundle_of(weight, (5, 4)).layers[0])
    found = pixels(picture.png())
    found[:150] = 255  # title and scale bar
    is_low, is_high = ((found == TARGETS[end]).all(-1) for end in (0, 255))
    half = found.shape[1] // 2
    for part, (row, column) in ((slice(0, half), (11, 1)), (slice(half, None), (2, 9))):
        cells, high = (np.argwhere(found[:, part]) for found in (is_low | is_high, is_high))
        (top, left), (bottom, right) = cells.min(0), cells.max(0) + 1
        cell = high.max(0) + 1 - high.min(0)
        assert cell[0] == cell[1] == np.sqrt(len(high))
        if (row, column) == (11, 1):  # the second of three inputs of the last tiles, the second output
            assert bottom - high.max(0)[0] - 1 == cell[0]
            assert high.min(0)[1] - left == cell[1]
        else:  # the third input, the last output
            assert high.min(0)[0] - top == 2 * cell[0]
            assert high.max(0)[1] + 1 == right


@pytest.mark.parametrize(
    "op", ["MatMul of a batch", "Gemm transB", "one output", "grouped Conv", "depthwise Conv", "ConvTranspose", "LSTM"]
)
@pytest.mark.parametrize("partition", ["max", "equal"])
def test_the_colour_of_every_cell_is_its_conductance(handed_off, op, partition):
    bundle = handed_off(op, (5, 4), scheme=PAIR, partition=partition)
    for layer in bundle.layers:
        [picture] = layer_pictures(layer)
        image = pixels(picture.png())
        tiles = {(tile.record.matrix, tile.record.inputs, tile.record.outputs): tile for tile in layer.tiles}
        assert len(picture.cells) == 2 * len(tiles)
        for place in picture.cells:
            targets = tiles[place.matrix, place.inputs, place.outputs].conductances()[place.device]
            assert_shows(cells_of(image, place), TARGETS, 1.0, 40.0, targets)
        boxes = np.zeros(image.shape[:2], int)
        for place in picture.cells:
            height, width = (
                round((ends[1] - ends[0]) * size)
                for ends, size in zip((place.inputs, place.outputs), place.cell, strict=True)
            )
            boxes[place.top : place.top + height, place.left : place.left + width] += 1
        assert boxes.max() == 1


def test_tiles_are_arranged_as_the_layer_is(handed_off):
    [picture] = layer_pictures(handed_off("MatMul", (5, 4)).layers[0])
    places = {(place.inputs[0], place.outputs[0]): place for place in picture.cells if place.device == "g_plus"}
    assert sorted(places) == [(row, column) for row in (0, 5, 10) for column in (0, 4, 8)]
    assert places[0, 4].top == places[0, 0].top < places[5, 0].top < places[10, 0].top
    assert places[5, 0].left == places[0, 0].left < places[0, 4].left < places[0, 8].left


def test_words_name_layer_weight_tiles_inputs_outputs_devices_and_unit(handed_off):
    [picture] = layer_pictures(handed_off("Gemm", (5, 4)).layers[0])
    texts = [text.get_text() for text in picture.figure.texts]
    assert picture.name == "L000"
    assert "L000   W   (Gemm)" in texts
    assert "target conductance in µS" in texts
    assert {f"T000{number}" for number in range(9)} < set(texts)
    assert {"0\u20134", "5\u20139", "10\u201312", "outputs 0\u20133", "4\u20137", "8\u20139"} < set(texts)
    assert {"g_plus   (counts +1)", "g_minus   (counts \u22121)"} < set(texts)
    assert "no weight: cell of the array at g_min" in texts


def test_names_are_written_as_they_are_or_as_escapes_where_the_font_lacks_letters(bundle_of):
    [picture] = layer_pictures(bundle_of(np.eye(4, dtype=np.float32), (4, 4), name="a$_x$重\n").layers[0])
    assert "a$_x$\\u91cd\\n" in words(picture)
    assert picture.png()


def test_pixels_of_unused_cells_are_hatched_in_greys_only(bundle_of):
    [picture] = layer_pictures(bundle_of(np.ones((5, 5), np.float32), (4, 4)).layers[0])
    last = next(place for place in picture.cells if place.inputs == (4, 5) and place.outputs == (4, 5))
    cell = int(last.cell[0])
    beyond = pixels(picture.png())[last.top + cell : last.top + 4 * cell, last.left : last.left + 4 * cell]
    assert (beyond == beyond[..., :1]).all()
    assert len(np.unique(beyond)) == 2


# Limits

LARGE = np.random.default_rng(1).normal(size=(1200, 1160)).astype(np.float32)


@pytest.fixture
def large(bundle_of):
    """A layer with more cells than an overview has pixels for."""
    return bundle_of(LARGE, (256, 200))


def blocks(values):
    """Values as blocks of 2 x 2, [rows, columns, 4]."""
    high, wide = values.shape[0] // 2, values.shape[1] // 2
    return values.reshape(high, 2, wide, 2).transpose(0, 2, 1, 3).reshape(high, wide, 4)


def block_colors(picture, place):
    high, wide = (round((ends[1] - ends[0]) / 2) for ends in (place.inputs, place.outputs))
    return pixels(picture.png())[place.top : place.top + high, place.left : place.left + wide]


def test_a_large_layer_has_an_overview_of_means_and_pages_with_every_cell(large):
    overview, *pages = layer_pictures(large.layers[0])
    assert overview.name == "L000"
    assert [page.name for page in pages] == ["L000_T0000", "L000_T0005", "L000_T0024", "L000_T0029"]
    assert "Cell by cell, on 4 pages: 30 of 30 tiles." in words(overview)
    assert "Each pixel is the mean of 2 x 2 cells." in words(overview)
    assert "Page 2 of 4: inputs 0\u20131023, outputs 1000\u20131159." in words(pages[1])

    tiles = {(tile.record.inputs, tile.record.outputs): tile.conductances() for tile in large.layers[0].tiles}
    largest = max(blocks(targets).mean(-1).max() for tile in tiles.values() for targets in tile.values())
    place = next(one for one in overview.cells if one.inputs == (1024, 1200) and one.outputs == (800, 1000))
    means = blocks(tiles[place.inputs, place.outputs][place.device]).mean(-1)
    assert_shows(block_colors(overview, place), TARGETS, 1.0, largest, means)

    assert {(place.inputs, place.outputs) for page in pages for place in page.cells} == set(tiles)
    place = next(one for one in pages[2].cells if one.device == "g_minus")
    targets = tiles[place.inputs, place.outputs]["g_minus"]
    assert_shows(cells_of(pixels(pages[2].png()), place), TARGETS, 1.0, 40.0, targets)


def test_tiles_that_have_no_page_are_counted_and_can_be_had(bundle_of, tmp_path):
    bundle = bundle_of(LARGE[:, :20], (130, 20))
    report = write_pictures(bundle, tmp_path / "some", pages=1)
    assert [file.name for file in report.files] == ["L000.png", "L000_T0000.png"]
    assert sorted(report.files) == sorted((tmp_path / "some").iterdir())
    [layer] = report.layers
    assert (layer.tiles, layer.tiles_in_overview, layer.tiles_cell_by_cell) == (10, 10, 7)
    assert layer.cells_per_pixel == (2, 1)
    [note] = report.notes
    assert note.startswith("Pictures show 7 of 10 tiles of L000 cell by cell, the others only in overviews; for all")
    assert "write_pictures(bundle, folder, layers=[...], pages=None)" in note
    report = write_pictures(bundle, tmp_path / "all", layers=["W"], pages=None)
    assert [file.name for file in report.files] == ["L000.png", "L000_T0000.png", "L000_T0007.png"]
    assert report.notes == ()


def test_the_report_of_the_hand_off_names_the_pictures(handed_off, tmp_path):
    handed_off("LSTM")
    report = write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "out", (5, 4), pictures=True)
    assert [file.name for file in report.pictures.files] == ["L000.png", "L001.png"]
    assert set(report.pictures.files) < set(report.files)
    assert all(file.exists() for file in report.files)
    assert report.to_json()["pictures"][1]["files"] == ["L001.png"]
    assert "out/pictures (2 files)" in "".join(str(report).splitlines())
    assert "cell by cell" not in str(report)


def test_tiles_that_are_too_small_to_be_kept_apart_are_drawn_without_gaps(bundle_of):
    weight = np.random.default_rng(2).normal(size=(1500, 20)).astype(np.float32)
    [layer] = bundle_of(weight, (3, 20)).layers
    overview = next(layer_pictures(layer, pages=0))
    assert "Tiles are too small to be kept apart." in words(overview)
    place = overview.cells[0]
    assert (place.inputs, place.outputs) == ((0, 1500), (0, 20))
    assert "Each 1 x " in words(overview) or "Each pixel" in words(overview)


def test_tiles_too_large_for_a_page_are_named_with_the_reason(bundle_of, tmp_path):
    bundle_of(np.ones((2100, 3), np.float32), (2100, 3))
    report = write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (2100, 3), pictures=True)
    note = "Pictures of L000: its tiles are too large to be drawn cell by cell."
    assert report.pictures.notes == (note,)
    assert note in str(report)


def test_many_devices_are_spread_over_several_pictures(bundle_of, tmp_path):
    scheme = MappingScheme(converters.NPairConductanceConverter([1.0] * 9))
    bundle = bundle_of(np.eye(3, dtype=np.float32), (3, 3), scheme=scheme)
    first, second = layer_pictures(bundle.layers[0])
    assert (first.name, second.name) == ("L000", "L000_2")
    devices = [place.device for picture in (first, second) for place in picture.cells]
    assert devices == [device.name for device in bundle.layers[0].record.devices]
    assert len(second.cells) == 2


# Errors


def errors_of(values):
    """Errors that a function of tile, device and targets gives."""
    return lambda tile: {name: values(tile, name, targets) for name, targets in tile.conductances().items()}


def test_colours_of_errors_are_symmetrical_around_white_at_0(bundle_of):
    [layer] = bundle_of(np.ones((6, 5), np.float32), (3, 5)).layers
    errors = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]] * 3)
    [picture] = error_pictures(layer, errors_of(lambda *_: errors))
    assert "measured minus target in µS" in words(picture)
    assert {"\u22122", "\u22121", "0", "1", "2"} < {text.get_text() for text in picture.figure.texts}
    assert len(picture.cells) == 4
    for place in picture.cells:
        colors = cells_of(pixels(picture.png()), place)
        np.testing.assert_array_equal(colors[0], ERRORS[[0, 64, 128, 192, 255]])
        assert colors[0, 2].min() > 240
        assert colors[0, 0, 2] > colors[0, 0, 0]  # negative is blue
        assert colors[0, 4, 0] > colors[0, 4, 2]  # positive is red


def test_a_few_large_errors_do_not_pale_the_others_and_are_counted(bundle_of):
    [layer] = bundle_of(np.ones((40, 50), np.float32), (40, 50)).layers

    def errors(_tile, device, targets):
        found = np.where(np.indices(targets.shape).sum(0) % 2, 0.5, -0.5)
        if device == "g_minus":
            found[7, 3] = -30.0
        return found

    [picture] = error_pictures(layer, errors_of(errors))
    assert "The largest error of the layer is \u221230 µS (tile L000/T0000, g_minus, row 7, column 3)." in words(
        picture
    )
    assert "Measured: 4,000 of 4,000 cells of all devices." in words(picture)
    limit = next(text.get_text() for text in picture.figure.texts if text.get_text().startswith("≥"))
    assert 0.5 <= float(limit[2:]) < 0.51
    assert "Colours end at the 99th percentile of cells; 1 cells (0.03%) are at or beyond the ends." in words(picture)
    place = next(place for place in picture.cells if place.device == "g_minus")
    colors = cells_of(pixels(picture.png()), place)
    np.testing.assert_array_equal(colors[7, 3], ERRORS[0])
    assert_shows(colors[0], ERRORS, -float(limit[2:]), float(limit[2:]), np.where(np.arange(50) % 2, 0.5, -0.5))


def test_cells_and_devices_without_a_measurement_are_grey_and_counted(bundle_of):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    errors = np.full((4, 4), 0.25)
    errors[1, 2] = np.nan
    [picture] = error_pictures(layer, lambda _tile: {"g_plus": errors})
    assert "not measured" in words(picture)
    assert "Measured: 15 of 32 cells of all devices." in words(picture)
    plus, minus = (cells_of(pixels(picture.png()), place) for place in picture.cells)
    is_grey = np.ptp(plus, axis=-1) == 0
    assert np.argwhere(is_grey).tolist() == [[1, 2]]
    assert (np.ptp(minus, axis=-1) == 0).all()
    assert minus.max() < 200


def test_without_any_measurement_all_is_grey(bundle_of):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    [picture] = error_pictures(layer, lambda _tile: {})
    assert "Measured: 0 of 32 cells of all devices." in words(picture)
    assert all((np.ptp(cells_of(pixels(picture.png()), place), axis=-1) == 0).all() for place in picture.cells)


def test_without_any_error_all_is_white(bundle_of):
    [layer] = bundle_of(np.ones((4, 4), np.float32), (4, 4)).layers
    [picture] = error_pictures(layer, errors_of(lambda _tile, _device, targets: np.zeros_like(targets)))
    assert all((cells_of(pixels(picture.png()), place) == ERRORS[128]).all() for place in picture.cells)


def test_an_overview_of_errors_shows_the_one_furthest_from_0_of_each_block(large):
    found = {}

    def errors(tile, device, targets):
        key = tile.id, device
        if key not in found:
            found[key] = np.random.default_rng(len(found)).normal(size=targets.shape)
            found[key][:2, :2] = np.nan
            found[key][4, 5] = np.nan
        return found[key]

    overview = next(error_pictures(large.layers[0], errors_of(errors), pages=0))
    assert "Each pixel is the error furthest from 0 of 2 x 2 cells." in words(overview)
    ids = {(tile.record.inputs, tile.record.outputs): tile.id for tile in large.layers[0].tiles}
    place = overview.cells[7]
    values = blocks(found[ids[place.inputs, place.outputs], place.device])
    colors = block_colors(overview, place)
    assert np.ptp(colors[0, 0]) == 0
    values[0, 0] = 1.0  # all four are missing
    extremes = np.take_along_axis(values, np.nanargmax(np.abs(values), -1)[..., None], -1)[..., 0]
    sizes = np.concatenate([np.nanmax(np.abs(blocks(one)), -1, initial=0.0).ravel() for one in found.values()])
    limit = np.quantile(sizes[sizes > 0], 0.99)
    colors[0, 0] = ERRORS[255]
    extremes[0, 0] = limit
    assert_shows(colors, ERRORS, -limit, limit, np.clip(extremes, -limit, limit))


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"g_up": np.zeros((4, 4))}, r"tile L000/T0000 has no device 'g_up'; there are g_plus, g_minus"),
        ({"g_plus": np.zeros((4, 3))}, r"L000/T0000, g_plus, have the shape \[4, 3\], but the tile is \[4, 4\]"),
        ({"g_plus": np.full((4, 4), np.inf)}, r"L000/T0000, g_plus, row 0, column 0 is inf; give a number, or NaN"),
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


# Files


def test_equal_bundles_have_pictures_of_equal_bytes_whatever_the_users_settings(mapped, tmp_path):
    source = mapped("Conv")
    write_bundle(source, tmp_path / "a", (5, 4), pictures=True)
    settings = {
        "font.family": "serif", "text.hinting": "none", "text.color": "red", "figure.facecolor": "blue",
        "savefig.dpi": 30, "savefig.bbox": "tight", "figure.dpi": 300, "image.cmap": "gray", "text.parse_math": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        write_bundle(source, tmp_path / "b", (5, 4), pictures=True)
    for file in (path for path in (tmp_path / "a").rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file.name


def test_the_state_of_pyplot_and_its_settings_is_left_alone(handed_off):
    before = dict(mpl.rcParams)
    handed_off("Gemm", pictures=True)
    assert dict(mpl.rcParams) == before
    assert not sys.modules.get("matplotlib.pyplot") or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_without_matplotlib_there_is_one_line_that_says_how_to_get_it(mapped, handed_off, tmp_path, monkeypatch):
    source, bundle = mapped("Gemm"), handed_off("Gemm")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    before = sorted(tmp_path.iterdir())
    message = r"^pictures need Matplotlib, which is missing; pip install 'onnx_gconv\[report\]'$"
    with pytest.raises(ConfigError, match=message):
        write_bundle(tmp_path / "no-such-model.onnx", tmp_path / "out", (5, 4), pictures=True)
    for pictures in (False, True):
        with pytest.raises(ConfigError, match=message):
            write_pictures(bundle, tmp_path / "out") if pictures else next(layer_pictures(bundle.layers[0]))
    assert sorted(tmp_path.iterdir()) == before
    write_bundle(source, tmp_path / "out", (5, 4))


def test_pictures_need_a_new_folder(handed_off, tmp_path):
    bundle = handed_off("Gemm")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match=r"there' exists; choose another name"):
        write_pictures(bundle, tmp_path / "there")
    with pytest.raises(ConfigError, match=r"nowhere' does not exist; create it first"):
        write_pictures(bundle, tmp_path / "nowhere" / "pictures")
    with pytest.raises(ConfigError, match="pages is 0 or more, or None for all tiles, but not -1"):
        write_pictures(bundle, tmp_path / "new", pages=-1)
    with pytest.raises(BundleError, match="has no layer 'L007'"):
        write_pictures(bundle, tmp_path / "new", layers=["L007"])
    assert not (tmp_path / "new").exists()


def test_a_data_file_cannot_take_the_place_of_the_pictures(mapped, tmp_path):
    source = mapped("Conv", external_data=True)
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "pictures"
    onnx.save(model, source)
    source.with_name("model.gconv.onnx.data").rename(tmp_path / "pictures")
    with pytest.raises(ConfigError, match="'pictures' has a name that the bundle needs"):
        write_bundle(source, tmp_path / "out", (5, 4))
