"""Pictures are files of a bundle, one of each layer or of each tile as well; the report says what they lack."""

from __future__ import annotations

import hashlib
import sys

import matplotlib as mpl
import numpy as np
import onnx
import pytest

from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.handoff import write_bundle, write_error_pictures, write_pictures


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_pictures_are_files_of_the_bundle_with_size_and_checksum(handed_off, arrays):
    bundle = handed_off("LSTM", pictures=True, arrays=arrays)
    listed = {file.path: file for file in bundle.manifest.files}
    for layer in ("L000", "L001"):
        content = (bundle.path / "pictures" / f"{layer}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert listed[f"pictures/{layer}.png"].bytes == len(content)
        assert listed[f"pictures/{layer}.png"].sha256 == hashlib.sha256(content).hexdigest()
    assert {file.name for file in (bundle.path / "pictures").iterdir()} == {"L000.png", "L001.png"}
    bundle.verify_hashes()
    (bundle.path / "pictures" / "L000.png").write_bytes(b"\0" * listed["pictures/L000.png"].bytes)
    with pytest.raises(BundleError, match=r"L000.png' has changed"):
        bundle.verify_hashes()


def test_without_being_asked_for_nothing_is_drawn(handed_off):
    assert not (handed_off("Gemm").path / "pictures").exists()


def test_a_bundle_with_all_pictures_has_one_of_each_tile(handed_off):
    bundle = handed_off("one output", pictures="all")
    names = ["L000.png", "L000_T0000.png", "L000_T0001.png", "L000_T0002.png"]
    assert sorted(file.name for file in (bundle.path / "pictures").iterdir()) == names
    assert [file.path for file in bundle.manifest.files if "pictures" in file.path] == [f"pictures/{n}" for n in names]
    bundle.verify_hashes()


def test_pictures_of_another_kind_are_refused(mapped, tmp_path):
    with pytest.raises(ConfigError, match="pictures is True, False or 'all', but not 'tiles'"):
        write_bundle(mapped(), tmp_path / "out", (5, 4), pictures="tiles")


def test_tiles_that_are_not_drawn_cell_by_cell_are_counted_and_can_be_had(bundle_of, tmp_path):
    weight = np.random.default_rng(1).normal(size=(1200, 20)).astype(np.float32)
    bundle = bundle_of(weight, (400, 20))
    report = write_pictures(bundle, tmp_path / "layers")
    assert [file.name for file in report.files] == ["L000.png"]
    [layer] = report.layers
    assert (layer.layer, layer.weight, layer.tiles, layer.tiles_in_overview) == ("L000", "W", 3, 3)
    assert (layer.tiles_cell_by_cell, layer.cells_per_pixel, layer.remark) == (0, (2, 1), None)
    [note] = report.notes
    assert note == "Pictures show 0 of 3 tiles of L000 cell by cell; --pictures all (pictures='all') draws each."
    no_errors = {device: np.zeros((400, 20)) for device in ("g_plus", "g_minus")}
    errors = write_error_pictures(bundle, tmp_path / "errors", lambda _: no_errors)
    [note] = errors.notes
    assert note == (
        "Pictures show 0 of 3 tiles of L000 cell by cell; a dot of the others is the error furthest from 0 of several "
        "cells."
    )
    report = write_pictures(bundle, tmp_path / "some", pages=2)
    assert sorted(report.files) == sorted((tmp_path / "some").iterdir())
    assert len(report.files) == 3
    assert report.layers[0].tiles_cell_by_cell == 2
    steps = []
    report = write_pictures(
        bundle, tmp_path / "all", layers=["W"], pages=None, progress=lambda *step: steps.append(step)
    )
    assert [file.name for file in report.files] == ["L000.png", *(f"L000_T{number:04d}.png" for number in range(3))]
    assert report.notes == ()
    assert steps == [("pictures", number, 6) for number in range(1, 7)]


def test_the_report_of_the_hand_off_names_the_pictures(handed_off, tmp_path):
    handed_off("LSTM")
    report = write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "out", (5, 4), pictures=True)
    assert [file.name for file in report.pictures.files] == ["L000.png", "L001.png"]
    assert set(report.pictures.files) < set(report.files)
    assert all(file.exists() for file in report.files)
    assert report.to_json()["pictures"][1]["files"] == ["L001.png"]
    assert report.to_json()["pictures"][1]["cells_per_pixel"] == [1, 1]
    text = "".join(str(report).split())  # where lines are broken depends on the length of the path
    assert "out/pictures(2files)" in text
    assert "cell by cell" not in str(report)


def test_tiles_too_large_for_a_page_are_named_with_the_reason(bundle_of, tmp_path):
    bundle_of(np.ones((2100, 3), np.float32), (2100, 3))
    report = write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (2100, 3), pictures="all")
    note = "Pictures of L000: its tiles are too large to be drawn cell by cell."
    assert report.pictures.notes == (note,)
    assert note in str(report)


# Files


def test_equal_bundles_have_pictures_of_equal_bytes_whatever_the_users_settings(mapped, tmp_path):
    source = mapped("Conv")
    write_bundle(source, tmp_path / "a", (5, 4), pictures=True)
    settings = {
        "font.family": "serif", "text.hinting": "none", "text.color": "red", "figure.facecolor": "blue",
        "savefig.dpi": 30, "savefig.bbox": "tight", "figure.dpi": 300, "image.cmap": "gray", "text.parse_math": True,
        "axes.facecolor": "green", "xtick.labelsize": 30, "hatch.color": "red",
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
    message = r"^pictures need Matplotlib, which is missing; pip install matplotlib$"
    with pytest.raises(ConfigError, match=message):
        write_bundle(tmp_path / "no-such-model.onnx", tmp_path / "out", (5, 4), pictures=True)
    with pytest.raises(ConfigError, match=message):
        write_pictures(bundle, tmp_path / "out")
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


def test_a_folder_that_cannot_be_filled_is_an_error_and_nothing_is_left(handed_off, tmp_path, monkeypatch):
    bundle = handed_off("Gemm")
    before = sorted(tmp_path.iterdir())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(ConfigError, match=r"cannot write '.*new': No space left on device; free some space"):
        write_pictures(bundle, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


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
