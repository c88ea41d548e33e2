"""A bundle that is not what was written is refused with one line that names the file and what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from onnx_gconv.errors import BundleError
from onnx_gconv.handoff import open_bundle, read_back


@pytest.fixture
def folder(handed_off):
    bundle = handed_off("Gemm", csv=True)
    bundle.close()
    return bundle.path


def change(folder, edit):
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def refused(folder, message):
    with pytest.raises(BundleError, match=message) as found:
        open_bundle(folder)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_other_folders_are_no_bundles(tmp_path):
    refused(tmp_path, r"is no bundle: it has no manifest.json; give the folder NAME.gconv")
    refused(tmp_path / "nowhere", "is no bundle")
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, "its format is None, not 'onnx_gconv.bundle'")


def test_a_newer_version_is_refused_with_what_to_do(folder):
    change(folder, lambda document: document.update(format_version=2))
    refused(folder, "has format version 2, this version reads 1; use the version of onnx_gconv that wrote the bundle")


@pytest.mark.parametrize("text", ["", "[]", '{"format": ', '{"format": "onnx_gconv.bundle", "format_version": 1}'])
def test_a_damaged_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    refused(folder, r"manifest.json' is (damaged|no manifest)")


@pytest.mark.parametrize("name", ["model.onnx", "plain.onnx", "targets.csv"])
def test_a_missing_or_shortened_file_is_refused(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    refused(folder, rf"{name}' has \d+ bytes, but it should have \d+")
    (folder / name).unlink()
    refused(folder, rf"{name}' cannot be read: No such file")


def test_missing_and_damaged_arrays_are_refused(folder):
    path = folder / "conductances.h5"
    content = path.read_bytes()
    path.write_bytes(b"no arrays")
    refused(folder, r"conductances.h5' cannot be read")
    path.unlink()
    refused(folder, r"conductances.h5' is missing")
    path.write_bytes(content)
    open_bundle(folder).close()


def test_a_missing_dataset_is_named(folder):
    with h5py.File(folder / "conductances.h5", "a") as file:
        del file["L000/T0002/g_minus"]
    refused(folder, r"conductances.h5': array 'L000/T0002/g_minus' is missing")


def test_a_dataset_of_another_shape_or_type_is_named(folder):
    with h5py.File(folder / "conductances.h5", "a") as file:
        array = file["L000/T0000/g_plus"][()]
        del file["L000/T0000/g_plus"]
        file["L000/T0000/g_plus"] = array[:-1]
    refused(folder, r"array 'L000/T0000/g_plus' is float32 \[4, 4\], but it should be float32 \[5, 4\]")
    with h5py.File(folder / "conductances.h5", "a") as file:
        del file["L000/T0000/g_plus"]
        file["L000/T0000/g_plus"] = array.astype(np.float64)
    refused(folder, r"is float64 \[5, 4\], but it should be float32")


def test_an_array_that_was_changed_fails_the_check_of_hashes(folder):
    with h5py.File(folder / "conductances.h5", "a") as file:
        file["L000/T0003/g_plus"][0, 0] = 1.25
    with (
        open_bundle(folder) as bundle,
        pytest.raises(BundleError, match="'L000/T0003/g_plus' has changed: its SHA-256"),
    ):
        bundle.verify_hashes()


@pytest.mark.parametrize("name", ["model.onnx", "plain.onnx", "targets.csv"])
def test_a_file_that_was_changed_fails_the_check_of_hashes(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[20] ^= 1
    (folder / name).write_bytes(content)
    with open_bundle(folder) as bundle, pytest.raises(BundleError, match=f"{name}' has changed: its SHA-256"):
        bundle.verify_hashes()


@pytest.mark.parametrize("value", [-1.0, 26.0, np.nan, np.inf])
def test_a_conductance_out_of_range_is_named_with_its_cell(folder, value):
    with h5py.File(folder / "conductances.h5", "a") as file:
        file["L000/T0001/g_minus"][2, 1] = value
    with open_bundle(folder) as bundle:
        bundle.tile("L000/T0000").conductances()
        with pytest.raises(BundleError, match=rf"tile L000/T0001, g_minus, row 2, column 1 is {value:g} µS, but the "):
            bundle.tile("L000/T0001").conductances()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_scale_that_is_none_is_refused(folder, value):
    with h5py.File(folder / "conductances.h5", "a") as file:
        file["L000/scale"][0, 0, 0] = value
    refused(folder, f"'L000/scale' holds the scale {value:g}, but scales are positive and finite")


def test_a_zero_that_is_none_is_refused(folder):
    with h5py.File(folder / "conductances.h5", "a") as file:
        file["L000/zero"][0, 0, 0] = np.inf
    refused(folder, "'L000/zero' holds inf, but zeros are finite")


def test_an_empty_dataset_is_named(folder):
    with h5py.File(folder / "conductances.h5", "a") as file:
        del file["L000/T0002/g_minus"]
        file["L000/T0002/g_minus"] = h5py.Empty("f4")
    refused(folder, "'L000/T0002/g_minus' cannot be read: it is an empty dataset without a shape; copy it again")


def test_arrays_too_large_for_memory_are_an_error(folder):
    change(folder, lambda document: document["geometry"].update(rows=2**50))
    with (
        open_bundle(folder) as bundle,
        pytest.raises(BundleError, match=r"no memory for an array of 1125899906842624x4"),
    ):
        bundle.tile("L000/T0000").physical_arrays()


def test_a_manifest_that_contradicts_itself_is_refused(folder):
    original = (folder / "manifest.json").read_text()
    edits = {
        "it has 8 tiles, but its grid has 9": lambda layer: layer["tiles"].pop(),
        r"tile L000/T0001 is not where the grid has it": lambda layer: layer["tiles"][1].update(grid=[1, 1]),
        r"tile L000/T0001 has other inputs or outputs": lambda layer: layer["tiles"][1].update(inputs=[0, 4]),
        r"tile L000/T0001 does not have an array for each": lambda layer: layer["tiles"][1]["conductances"].pop(),
        r"names other pieces of the scale": lambda layer: layer["tiles"][0].update(scale_rows=[0, 2]),
        r"its matrix view does not fit the shape \[13, 11\]": lambda layer: layer.update(shape=[13, 11]),
        r"it gives the scale as 0.0 everywhere, but its array has": lambda layer: layer["scale"].update(value=0.0),
        r"the axes \[1, 1\] are not each of 2 axes once": lambda layer: layer["matrix_view"].update(row_axes=[1]),
        r"the axes \[1\] are not each of 2 axes once": lambda layer: layer["matrix_view"].update(row_axes=[]),
        r"its pairs name a device beyond the 2": lambda layer: layer.update(pairs=[[0, 2]]),
        r"layers.0.tiles.0.conductances.0.sha256": lambda layer: layer["tiles"][0]["conductances"][0].update(
            sha256="x"
        ),
    }
    for message, edit in edits.items():
        (folder / "manifest.json").write_text(original)
        change(folder, lambda document, edit=edit: edit(document["layers"][0]))
        refused(folder, message)


def test_paths_out_of_the_folder_are_refused(folder):
    for path in ("../model.onnx", "/etc/passwd"):
        change(folder, lambda document, path=path: document["files"][0].update(path=path))
        refused(folder, "is outside of the bundle")
    change(folder, lambda document: document["files"][0].update(path="model.onnx"))
    change(folder, lambda document: document["arrays"].update(path="../conductances.h5"))
    refused(folder, "is outside of the bundle")


def replace_with_a_link(file, other):
    file["L000/T0000/g_plus"] = h5py.ExternalLink(os.fspath(other), "/secret")


def replace_with_foreign_bytes(file, other):
    file["L000/T0000"].create_dataset("g_plus", (5, 4), np.float32, external=[(os.fspath(other), 0, 80)])


def replace_with_a_virtual_dataset(file, other):
    layout = h5py.VirtualLayout((5, 4), np.float32)
    layout[:] = h5py.VirtualSource(os.fspath(other), "secret", (5, 4))
    file["L000/T0000"].create_virtual_dataset("g_plus", layout)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (replace_with_a_link, "'L000/T0000/g_plus' is a link to '/secret' of the file '.*other.h5'"),
        (replace_with_foreign_bytes, "its elements stand in another file"),
        (replace_with_a_virtual_dataset, "it is a virtual dataset, put together from others"),
    ],
)
def test_arrays_that_lie_in_other_files_are_refused(folder, tmp_path, edit, reason):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros((5, 4), np.float32)
    with h5py.File(folder / "conductances.h5", "a") as file:
        del file["L000/T0000/g_plus"]
        edit(file, tmp_path / "other.h5")
    refused(folder, f"array 'L000/T0000/g_plus' cannot be read: {reason}; copy it again")


def test_npz_with_objects_is_refused_and_never_unpickled(handed_off):
    bundle = handed_off("Gemm", arrays="npz")
    bundle.close()
    path = bundle.arrays_path
    shutil.copy(path, f"{path}.old")
    with zipfile.ZipFile(f"{path}.old") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name == "L000/T0000/g_plus.npy":
                with new.open(name, "w") as member:
                    np.save(member, np.array([[print] * 4] * 5, object), allow_pickle=True)
            else:
                new.writestr(name, old.read(name))
    refused(bundle.path, r"'L000/T0000/g_plus' is object \[5, 4\], but it should be float32")


def test_layers_and_tiles_that_are_not_there_are_errors_with_examples(handed_off):
    bundle = handed_off("Gemm")
    assert bundle.layer("W") is bundle.layer("L000")
    with pytest.raises(BundleError, match=r"has no layer 'V'; there are L000 \(W\)"):
        bundle.layer("V")
    with pytest.raises(BundleError, match=r"has no layer 'L0000'; did you mean 'L000'\?"):
        bundle.layer("L0000")
    with pytest.raises(BundleError, match=r"has no tile 'L000/T0099'; ids are like L000/T0000"):
        bundle.tile("L000/T0099")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("tiles", 0, "conductances", 0), ("tiles", 1, "conductances", 0)),
        (("tiles", 0, "conductances", 1), ("tiles", 0, "conductances", 0)),
        (("scale", "array"), ("zero", "array")),
    ],
)
def test_two_arrays_of_one_key_are_damage(handed_off, one, other):
    bundle = handed_off("Gemm").path
    document = json.loads((bundle / "manifest.json").read_text())
    found = [document["layers"][0], document["layers"][0]]
    for number, path in enumerate((one, other)):
        for key in path:
            found[number] = found[number][key]
    found[0]["key"] = found[1]["key"]
    (bundle / "manifest.json").write_text(json.dumps(document))
    message = rf"manifest\.json' is damaged: two arrays have the key '{found[1]['key']}'; copy the bundle again"
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)
    with pytest.raises(BundleError, match=message):
        read_back(bundle.parent / "model.gconv.onnx", bundle, as_if_measured=True, dry_run=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("g_max", 30.0),
        ("g_min", 0.5),
        ("offset_us", 1.0),
        ("compute_dtype", "float64"),
        ("granularity", "channel"),
        ("pairs", []),
        (
            "devices",
            [
                {"name": "g_plus", "coefficient": 2, "initializer": "a"},
                {"name": "g_minus", "coefficient": -1, "initializer": "b"},
            ],
        ),
    ],
)
def test_readings_are_not_read_back_by_another_rule_than_that_of_the_model(handed_off, name, value):
    bundle = handed_off("Gemm").path
    source = bundle.parent / "model.gconv.onnx"
    assert read_back(source, bundle, as_if_measured=True, dry_run=True).errors.measured
    document = json.loads((bundle / "manifest.json").read_text())
    document["layers"][0][name] = value
    (bundle / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(
        BundleError, match=rf"was made of another model .*: the weight 'W' has another '{name}'; read back"
    ):
        read_back(source, bundle, as_if_measured=True, dry_run=True)
