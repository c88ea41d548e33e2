"""Measurements that cannot be are refused with one line that names tile and cell, and nothing is written."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from onnx_gconv import converters, map_model, read_back
from onnx_gconv.errors import BundleError, ConfigError, ModelError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.chip import programmed

SCHEME = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0), Granularity())
KEY = "L000/T0004/g_minus"  # the second of three rows of tiles, and the second of three columns


@pytest.fixture
def chip(handed_off):
    bundle = handed_off("Gemm", (5, 4), scheme=SCHEME)
    bundle.close()
    return programmed(bundle.path, dropped=0)


@pytest.fixture(params=["measured.h5", "measured.npz"])
def refused(request, chip, tmp_path):
    """Reads back what the chip measured, and gives the one line by which it is refused."""

    def read(message, error=BundleError, *, mapped="model.gconv.onnx", measured=None, output="out.onnx", **options):
        chip.write(tmp_path / request.param)
        before = sorted(path for path in tmp_path.rglob("*"))
        with pytest.raises(error, match=message) as found:
            read_back(tmp_path / mapped, tmp_path / (measured or request.param), tmp_path / output, **options)
        assert "\n" not in str(found.value)
        assert sorted(path for path in tmp_path.rglob("*")) == before
        return str(found.value)

    return read


def test_a_cell_that_is_no_number(chip, refused):
    chip.measured[KEY][3, 1] = np.nan
    text = refused(
        r"tile L000/T0004, g_minus, row 3, column 1 \(input 8, output 5 of 'W'\) is nan, no conductance; mark cells "
        r"that could not be measured with false in an array 'L000/T0004/g_minus_success'$"
    )
    assert "measured." in text  # the file


def test_an_infinite_cell(chip, refused):
    chip.measured[KEY][0, 0] = np.inf
    refused(r"row 0, column 0 \(input 5, output 4 of 'W'\) is inf")


def test_an_infinite_cell_of_half_precision_below_a_limit_that_is_infinite_there(chip, refused):
    chip.measured[KEY] = chip.measured[KEY].astype(np.float16)
    chip.measured[KEY][0, 0] = np.inf
    refused(r"row 0, column 0 \(input 5, output 4 of 'W'\) is inf, no conductance", limits=(0, 1e6))


@pytest.mark.parametrize("value", [-9.0, 50.0, 4000.0])
def test_a_cell_out_of_range(chip, refused, value):
    chip.measured[KEY][2, 3] = value
    chip.measured[KEY][2, 2] = -100.0
    refused(
        r"row 2, column 2 .* is -100 µS, out of the range -8.75 .. 49.75 µS \(and 1 more cells of the array\); give "
    )
    chip.measured[KEY][2, 2] = 1.0
    refused(
        rf"row 2, column 3 .* is {value:g} µS, out of the range -8.75 .. 49.75 µS; give conductances in µS, or a wider"
    )


def test_the_range_may_be_given(chip, refused, tmp_path):
    chip.measured[KEY][2, 3] = 400.0
    chip.write(tmp_path / "wide.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "wide.h5", tmp_path / "m.onnx", limits=(-10, 500))
    assert report.errors.largest_us > 300
    for limits in [(3, 3), (5, 1), (0, np.inf), (np.nan, 3)]:
        refused("limits are the lowest and the highest conductance in µS", ConfigError, limits=limits)
    refused(r"the limits 0\.\.1e\+39 µS reach beyond 3.40282e\+38, the larg", ConfigError, limits=(0, 1e39))


def test_limits_beyond_the_type_of_the_conductances(handed_off, tmp_path, parse, normal):
    half = normal(4, 4).astype(np.float16)
    save_model(parse("g (float16[1,4] x) => (float16 y) { y = MatMul(x, W) }", W=half), tmp_path / "half.onnx")
    map_model(tmp_path / "half.onnx", tmp_path / "half.gconv.onnx", conductance_dtype="weight")
    write_bundle(tmp_path / "half.gconv.onnx", tmp_path / "half.gconv", (4, 4))
    with pytest.raises(ConfigError, match=r"reach beyond 65504, the largest conductance in float16, the type"):
        read_back(tmp_path / "half.gconv.onnx", tmp_path / "half.gconv", limits=(0, 7e4), dry_run=True)


def test_a_wrong_shape(chip, refused):
    chip.measured[KEY] = np.ones((5, 3))
    refused(
        r"array 'L000/T0004/g_minus' has the shape \[5, 3\], but tile L000/T0004 has 5 inputs and 4 outputs; write it"
    )


def test_a_transposed_array(chip, refused):
    chip.measured[KEY] = np.ones((4, 5))
    refused(r"has the shape \[4, 5\], but .* 5 inputs and 4 outputs; it seems to be transposed; write it as \[5, 4\]")


def test_a_mask_of_another_shape(chip, refused):
    chip.success[KEY] = np.ones((5, 3), bool)
    refused(r"array 'L000/T0004/g_minus_success' has the shape \[5, 3\]")


@pytest.mark.parametrize("mask", [np.full((5, 4), 2, np.uint8), np.full((5, 4), 0.5), np.full((5, 4), -1, np.int8)])
def test_a_mask_of_other_values(chip, refused, mask):
    chip.success[KEY] = mask
    refused("'L000/T0004/g_minus_success' is .* but it should hold true and false")


def test_a_mask_may_be_of_ones_and_zeros(chip, tmp_path):
    chip.success[KEY] = np.arange(20).reshape(5, 4) % 2
    chip.write(tmp_path / "m.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "m.h5", tmp_path / "m.onnx")
    assert report.errors.failed == 10


def test_a_mask_without_an_array(chip, refused, tmp_path):
    del chip.measured[KEY]
    chip.success[KEY] = np.ones((5, 4), bool)
    refused("'L000/T0004/g_minus_success' is there, but the array 'L000/T0004/g_minus' is missing; add it")
    chip.success[KEY] = np.zeros((5, 4), bool)  # nothing of the tile could be measured
    chip.write(tmp_path / "m.h5")
    report = read_back(tmp_path / "model.gconv.onnx", tmp_path / "m.h5", tmp_path / "m.onnx")
    assert report.errors.failed == 20
    assert report.errors.yielded == pytest.approx(1 - 20 / 260)


def test_codes_are_no_conductances(chip, refused):
    chip.measured[KEY] = np.ones((5, 4), np.uint8)
    refused("array 'L000/T0004/g_minus' is uint8, but conductances are floating-point numbers in µS")


def test_a_file_of_other_arrays(chip, refused):
    chip.measured = {"g_plus": np.ones((13, 10)), "L001/T0000/g_plus": np.ones((5, 4))}
    refused("holds no measurement: none of its 2 arrays has a key of the bundle .*, such as 'L000/T0000/g_minus'")


def test_a_missing_file(refused):
    refused("nowhere.h5' does not exist; give a file of measured arrays", measured="nowhere.h5")


def test_a_file_of_another_kind(refused, tmp_path):
    (tmp_path / "table.csv").write_text("1,2\n")
    refused("table.csv' is no file of arrays; measured arrays come as .h5, .hdf5, .npz", measured="table.csv")
    (tmp_path / "broken.h5").write_text("no HDF5")
    refused("broken.h5' cannot be read", measured="broken.h5")
    (tmp_path / "broken.npz").write_text("no zip")
    refused("broken.npz' cannot be read", measured="broken.npz")


def test_pickled_objects_are_not_read(chip, refused, tmp_path):
    np.savez(tmp_path / "objects.npz", **{KEY: np.array([[{}] * 4] * 5, object)})
    refused(f"array '{KEY}' cannot be read", measured="objects.npz")


def test_a_folder_with_two_files(chip, refused, tmp_path):
    for name in ("measured.h5", "measured.npz"):
        chip.write(tmp_path / "model.gconv" / name)
    refused("there are both .*measured.h5' and .*measured.npz'; name the one that is meant", measured="model.gconv")


def test_a_folder_that_is_no_bundle(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    refused("folder' is no bundle: it has no manifest.json", measured="folder")


def test_a_bundle_that_is_not_found(refused, tmp_path):
    shutil.move(tmp_path / "model.gconv", tmp_path / "elsewhere")
    refused("is not found beside it or beside .*model.gconv.onnx'; name it with --bundle FOLDER")
    refused("elsewhere2' is no bundle", bundle=tmp_path / "elsewhere2")


def test_a_bundle_that_contradicts_itself(refused, tmp_path):
    path = tmp_path / "model.gconv" / "manifest.json"
    document = json.loads(path.read_text())
    document["layers"][0]["tiles"].pop()
    path.write_text(json.dumps(document))
    refused(r"manifest.json': layer L000 \('W'\): it has 8 tiles, but its grid has 9; copy the bundle again")


def test_a_bundle_of_another_version(refused, tmp_path):
    path = tmp_path / "model.gconv" / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))
    refused("has format version 7, this version reads 1")


def test_a_bundle_of_other_weights(refused, parse, normal, tmp_path):
    other = parse("g (float[2,13] x) => (float y) { y = MatMul(x, W) }", W=normal(13, 10, seed=9))
    save_model(other, tmp_path / "other.onnx")
    map_model(tmp_path / "other.onnx", tmp_path / "other.gconv.onnx", SCHEME.converter)
    refused(
        "was made of another model \\('model.gconv.onnx'\\): tile L000/T0000 of 'W' has other targets than those "
        "that were handed off; read back into the model that was handed off, such as model.onnx of the bundle",
        mapped="other.gconv.onnx",
        bundle=tmp_path / "model.gconv",
    )


@pytest.mark.parametrize(
    ("weights", "text", "problem"),
    [
        ({"V": (13, 10)}, "y = MatMul(x, V)", "there is no mapped weight 'W'"),
        ({"W": (13, 11)}, "y = MatMul(x, W)", "the weight 'W' has another shape or other devices"),
    ],
)
def test_a_bundle_of_another_model(refused, parse, normal, tmp_path, weights, text, problem):
    tensors = {name: normal(*shape) for name, shape in weights.items()}
    save_model(parse(f"g (float[2,13] x) => (float y) {{ {text} }}", **tensors), tmp_path / "other.onnx")
    map_model(tmp_path / "other.onnx", tmp_path / "other.gconv.onnx", SCHEME.converter)
    folder = tmp_path / "model.gconv"
    refused(f"was made of another model .*: {problem}", mapped="other.gconv.onnx", bundle=folder)


def test_a_model_that_is_not_mapped(refused):
    refused("plain-source.onnx': the model carries no mapping", ModelError, mapped="plain-source.onnx")


def test_a_model_that_is_no_model(refused, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    refused("text.onnx'", ModelError, mapped="text.onnx")


@pytest.mark.parametrize("option", ["tolerance_us", "tolerance_relative"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_a_tolerance_that_is_none(refused, option, value):
    refused(rf"\({option}\) is positive and finite, but it is", ConfigError, **{option: value})


def test_an_unknown_treatment_of_failed_cells(refused):
    refused("failed cells keep their 'target' or count as 'measured', but not 'zero'", ConfigError, failed_cells="zero")


@pytest.mark.parametrize(
    "output", ["model.gconv.onnx", "model.gconv/plain.onnx", "model.gconv/model.onnx", "none/m.onnx"]
)
def test_outputs_that_would_destroy_something(refused, output):
    refused("cannot|exist|input", ConfigError, output=output)


MASKS = {
    "text": np.full((5, 4), "yes"),
    "complex numbers": np.ones((5, 4), np.complex64),
    "records": np.zeros((5, 4), [("x", "?")]),
    "dates": np.zeros((5, 4), "M8[s]"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_foreign_types(chip, tmp_path, kind):
    chip.write(tmp_path / "measured.npz")
    with np.load(tmp_path / "measured.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "foreign.npz", **arrays | {f"{KEY}_success": MASKS[kind]})
    with pytest.raises(BundleError, match=rf"'{KEY}_success' is .*, but it should hold true and false \(or 1 and 0\)$"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "foreign.npz", dry_run=True)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (h5py.ref_dtype, lambda file: file[KEY].ref),
        (h5py.string_dtype(), lambda _: "yes"),
        (h5py.vlen_dtype("i4"), lambda _: np.array([1], "i4")),
    ],
    ids=["references", "text", "lists"],
)
def test_masks_of_types_that_only_hdf5_has(chip, tmp_path, dtype, value):
    chip.write(tmp_path / "measured.h5")
    with h5py.File(tmp_path / "measured.h5", "a") as file:
        mask = file.create_dataset(f"{KEY}_success", shape=(5, 4), dtype=dtype)
        mask[0, 0] = value(file)
    with pytest.raises(BundleError, match=f"'{KEY}_success' is object, but it should hold true and false"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", dry_run=True)


def test_a_file_whose_groups_cannot_be_read(chip, refused, tmp_path):
    with h5py.File(tmp_path / "damaged.h5", "w") as file:
        file[KEY] = np.zeros((5, 4))
    content = (tmp_path / "damaged.h5").read_bytes()
    (tmp_path / "damaged.h5").write_bytes(content.replace(b"SNOD", b"SNOX"))
    refused(r"damaged.h5' cannot be read: .*bad symbol table node signature.*; write it again", measured="damaged.h5")


def test_damage_while_the_model_is_written_leaves_what_was_there(chip, tmp_path, monkeypatch):
    from onnx_gconv.handoff.measured.measurements import Measurements

    chip.write(tmp_path / "m.h5")
    read_back(tmp_path / "model.gconv.onnx", tmp_path / "m.h5", tmp_path / "out.onnx")
    before = (tmp_path / "out.onnx").read_bytes()
    original, calls = Measurements.array, iter(range(1000))

    def damaged(self, *args):
        if next(calls) > 20:  # 18 arrays are read to be compared
            raise BundleError("gone")
        return original(self, *args)

    monkeypatch.setattr(Measurements, "array", damaged)
    with pytest.raises(BundleError, match="gone"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "m.h5", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == before
    assert load_model(tmp_path / "out.onnx") is not None
    assert not list(tmp_path.glob(".*"))


def test_tiles_of_other_arrays(refused, chip, tmp_path):
    write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "other.gconv", (4, 4))
    refused("has the shape", bundle=tmp_path / "other.gconv")


def test_an_empty_dataset(chip, tmp_path):
    chip.write(tmp_path / "measured.h5")
    with h5py.File(tmp_path / "measured.h5", "a") as file:
        del file[KEY]
        file[KEY] = h5py.Empty("f4")
    with pytest.raises(
        BundleError, match=f"array '{KEY}' cannot be read: it is an empty dataset without a shape; write"
    ):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.h5", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_bundle_that_lacks_a_layer_of_the_model_is_refused(parse, normal, tmp_path):
    """Else what was measured of that layer would be left out without a word."""
    model = parse(
        "g (float[2,5] x) => (float[2,4] y) { h = MatMul(x, W) y = MatMul(h, V) }", W=normal(5, 4), V=normal(4, 4)
    )
    save_model(model, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "model.gconv.onnx")
    write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "model.gconv", (4, 4))
    path = tmp_path / "model.gconv" / "manifest.json"
    document = json.loads(path.read_text())
    del document["layers"][1]
    path.write_text(json.dumps(document))
    with pytest.raises(
        BundleError, match=r"was made of another model .*: it has no layer of the weight 'V'; read back into"
    ):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "model.gconv", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_file_of_a_bundle_that_no_file_can_be_is_a_line(chip, tmp_path):
    path = tmp_path / "model.gconv" / "manifest.json"
    document = json.loads(path.read_text())
    document["files"][0]["path"] = "n" * 300
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="cannot be read: File name too long; copy the bundle again"):
        open_bundle(tmp_path / "model.gconv")
    chip.write(tmp_path / "measured.npz")
    read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.npz", tmp_path / "out.onnx")  # it needs no such file
    document["files"][0]["path"] = "a\0b"
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="a file in it has a null character in its name; copy the bundle again"):
        read_back(tmp_path / "model.gconv.onnx", tmp_path / "measured.npz", tmp_path / "other.onnx")
