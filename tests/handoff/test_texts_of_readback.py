"""What is said when measurements are read back, and when they are of another model."""

from __future__ import annotations

import h5py
import pytest

from onnx_gconv import map_model, read_back, write_bundle
from onnx_gconv.errors import BundleError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from tests.handoff.chip import programmed


@pytest.fixture
def measured(handed_off, tmp_path):
    """Measurements of a product with one weight 'W', of one tile unless it is said otherwise."""

    def make(array=(16, 16), **options):
        handed_off("Gemm", array, **options).close()
        programmed(tmp_path / "model.gconv", dropped=0).write(tmp_path / "measured.h5")
        return tmp_path / "measured.h5"

    return make


def text_of(report):
    return " ".join(str(report).split())


@pytest.mark.parametrize(("array", "is_named"), [((16, 16), False), ((5, 4), True)])
def test_the_worst_of_several_tiles_are_named(measured, tmp_path, array, is_named):
    report = read_back(tmp_path / "model.gconv.onnx", measured(array), dry_run=True)
    assert ("Tiles with the largest errors (rms): " in text_of(report)) == is_named
    assert "No tolerance is known; give one with --tolerance to see how many devices keep it." in text_of(report)


def test_pictures_are_counted_with_their_folder(measured, tmp_path):
    pytest.importorskip("matplotlib")
    report = read_back(tmp_path / "model.gconv.onnx", measured(), dry_run=True, pictures=tmp_path / "pictures")
    count = len(list((tmp_path / "pictures").rglob("*.png")))
    assert count > 0
    assert f"Pictures: {count} in {tmp_path / 'pictures'}" in text_of(report)


@pytest.mark.parametrize(
    ("graph", "names", "said"),
    [
        ("y = MatMul(x, V)", "V", "there is no mapped weight 'W'"),
        ("h = MatMul(x, W) y = MatMul(h, V)", "WV", "it has no layer of the weight 'V'"),
        ("y = MatMul(x, W)", "w", "the weight 'W' has another shape or other devices"),
    ],
)
def test_a_bundle_of_another_model_is_refused_with_what_is_different(
    measured, parse, normal, tmp_path, graph, names, said
):
    path = measured()
    shapes = {"W": (13, 10), "V": (10, 10) if "W" in names else (13, 10), "w": (13, 9)}
    weights = {name.upper(): normal(*shapes[name]) for name in names}
    save_model(parse(f"g (float[2,13] x) => (float y) {{ {graph} }}", **weights), tmp_path / "other.onnx")
    other = map_model(tmp_path / "other.onnx").output
    with pytest.raises(BundleError) as found:
        read_back(other, path, bundle=tmp_path / "model.gconv", dry_run=True)
    assert f"was made of another model ('plain-source.onnx'): {said}; read back into the model that was" in str(
        found.value
    ).replace("model.gconv.onnx')", "plain-source.onnx')")


def test_measurements_whose_groups_are_damaged_are_refused(measured, tmp_path):
    path = measured()
    with h5py.File(path, "a") as file:
        file["other/array"] = [1.0, 2.0]
    content = path.read_bytes()
    place = content.rindex(b"SNOD")
    path.write_bytes(content[:place] + b"SNOX" + content[place + 4 :])
    with pytest.raises(BundleError) as found:
        read_back(tmp_path / "model.gconv.onnx", path, dry_run=True)
    assert str(found.value).startswith(f"'{path}' cannot be read: ")
    assert str(found.value).endswith("; write it again")


def test_a_defect_map_that_touches_no_device_is_told_as_that(mapped, tmp_path):
    (tmp_path / "defects.json").write_text(
        '{"format": "onnx_gconv.defects", "format_version": 1, "arrays": [{"array": 0, "unusable": true}]}'
    )
    report = write_bundle(mapped("Gemm"), tmp_path / "out", (16, 16), defects=tmp_path / "defects.json", dry_run=True)
    assert "No device stands on a stuck cell." in text_of(report)


def test_a_bundle_whose_tiles_hold_a_bias_that_the_model_lacks_is_refused(measured, parse, normal, tmp_path):
    path = measured((5, 4), bias_rows=3)
    save_model(parse("g (float[2,13] x) => (float y) { y = MatMul(x, W) }", W=normal(13, 10)), tmp_path / "other.onnx")
    other = map_model(tmp_path / "other.onnx").output
    with pytest.raises(BundleError, match="the weight 'W' is cut into other tiles; read back into the model that"):
        read_back(other, path, bundle=tmp_path / "model.gconv", dry_run=True)


def test_a_weight_of_which_nothing_was_measured_stays_as_it_is(parse, normal, tmp_path):
    text = "g (float[2,6] x) => (float y) { h = MatMul(x, A) y = MatMul(h, B) }"
    save_model(parse(text, A=normal(6, 4), B=normal(4, 5)), tmp_path / "model.onnx")
    mapped = map_model(tmp_path / "model.onnx").output
    write_bundle(mapped, tmp_path / "model.gconv", (8, 8))
    programmed(tmp_path / "model.gconv", tiles=lambda tile: "L000" in str(tile)).write(tmp_path / "measured.h5")
    read_back(mapped, tmp_path / "measured.h5", tmp_path / "measured.onnx")
    a, b = read_manifest(load_model(tmp_path / "measured.onnx")).weights
    assert (a.measured is None, b.measured is None) == (False, True)
