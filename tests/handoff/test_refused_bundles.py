"""Bundles that cannot be written where they are asked for, or that are damaged where only reading shows it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import h5py
import numpy as np
import pytest

from onnx_gconv import map_model, write_bundle
from onnx_gconv.devices.presets import presets
from onnx_gconv.errors import BundleError, ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.handoff import open_bundle
from onnx_gconv.handoff.manifest import read_bundle_manifest
from onnx_gconv.handoff.model_comparison import check_against_model
from onnx_gconv.handoff.model_files import _StoppedError, write_plain


@pytest.fixture
def folder(handed_off):
    bundle = handed_off("Gemm")
    bundle.close()
    return bundle.path


def change(folder, edit):
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    edit(document["layers"][0])
    path.write_text(json.dumps(document))


def refusal(folder):
    with pytest.raises(BundleError) as found:
        open_bundle(folder)
    return str(found.value)


# Writing


def refused(source, target, array=(5, 4), **options):
    with pytest.raises(ConfigError) as found:
        write_bundle(source, target, array, **options)
    return str(found.value)


def test_places_and_kinds_that_no_bundle_has(mapped, tmp_path, monkeypatch):
    source = mapped("Gemm")
    assert refused(source, "/") == "cannot write '/': give the name of a new folder"
    assert refused(source, tmp_path / "out", arrays="csv") == "arrays is one of hdf5, npz, but not 'csv'"
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    assert refused(source, tmp_path / "out") == (
        f"cannot write '{tmp_path / 'out'}': no permission to write to the folder '{tmp_path}'"
    )


def test_weights_that_were_left_out_are_counted_as_digital(parse, normal, tmp_path):
    model = parse("g (float[2,6] x) => (float y) { h = MatMul(x, A) y = MatMul(h, B) }", A=normal(6, 4), B=normal(4, 5))
    save_model(model, tmp_path / "model.onnx")
    source = map_model(tmp_path / "model.onnx", exclude=["B"]).output
    report = write_bundle(source, tmp_path / "out", (5, 4), dry_run=True)
    assert "Not mapped, and therefore digital: 1 weight of MVM ops." in " ".join(str(report).split())


def test_the_restored_model_is_not_written_to_its_end_if_nobody_wants_it(mapped, tmp_path):
    source = mapped("Gemm")
    (tmp_path / "new").mkdir()
    stopped = Event()
    stopped.set()
    with ThreadPoolExecutor(1) as executor, pytest.raises(_StoppedError):
        write_plain(load_model(source), tmp_path / "new", source, stopped, executor)


def test_a_preset_without_a_size_of_arrays_needs_one(mapped, tmp_path, monkeypatch):
    source, preset = mapped("Gemm"), presets()[0]
    module = sys.modules["onnx_gconv.handoff.write_bundle"]  # the package has the function under this name
    monkeypatch.setattr(module, "preset_of_name", lambda _name: replace(preset, array=None))
    assert refused(source, tmp_path / "out", None, preset=preset.name) == (
        f"preset '{preset.name}' has no size of an array; give it, such as --array 256x256 or array=(256, 256)"
    )
    assert refused(source, tmp_path / "out", None) == (
        "the size of an array is missing; give it as rows (inputs) by columns (outputs), such as --array 256x256 "
        "or array=(256, 256), or a preset that has one"
    )


# Reading


def test_an_array_whose_bytes_are_damaged_is_named_when_it_is_read(folder):
    path, key = folder / "conductances.h5", "L000/T0000/g_plus"
    with h5py.File(path, "a") as file:
        array = file[key][()]
        del file[key]
        packed = file.create_dataset(key, data=array, chunks=array.shape, compression="gzip")
        place = packed.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with open_bundle(folder) as found, pytest.raises(BundleError) as error:
        found.tile("L000/T0000").conductances()
    assert str(error.value).startswith(f"'{path}': array '{key}' cannot be read: ")
    assert str(error.value).endswith("; copy it again")


@pytest.mark.parametrize("starts", [[1], [], [0, 0], [0, 13]], ids=str)
def test_pieces_of_rows_that_do_not_rise(folder, starts):
    with h5py.File(folder / "conductances.h5", "a") as file:
        key = json.loads((folder / "manifest.json").read_text())["layers"][0]["scale_row_starts"]["key"]
        dtype = file[key].dtype
        del file[key]
        file[key] = np.array(starts, dtype)
    assert refusal(folder) == (
        f"'{folder / 'conductances.h5'}': array '{key}' should rise from 0 to below 13; hand off the model again"
    )


def test_a_type_that_nobody_knows(folder):
    change(folder, lambda layer: layer.update(dtype="float7"))
    assert "float7" in refusal(folder)


def test_a_manifest_that_is_no_text(folder):
    (folder / "manifest.json").write_bytes(b"\xff\xfe{}")
    text = refusal(folder)
    assert text.startswith(f"'{folder / 'manifest.json'}' cannot be read: 'utf-8' codec can't decode byte 0xff")
    assert text.endswith("; copy the bundle again")


def test_a_matrix_view_of_other_matrices(folder):
    change(folder, lambda layer: layer["matrix_view"].update(rows=12))
    assert "its matrix view does not fit the shape [13, 10]" in refusal(folder)


def test_a_stuck_cell_of_a_device_that_there_is_not(mapped, tmp_path):
    (tmp_path / "defects.json").write_text(
        '{"format": "onnx_gconv.defects", "format_version": 1, "arrays": [{"array": 0, "stuck_cells": '
        '[{"row": 1, "column": 1, "conductance_us": 20.0}]}]}'
    )
    write_bundle(mapped("Gemm"), tmp_path / "out", (5, 4), defects=tmp_path / "defects.json")
    open_bundle(tmp_path / "out").close()
    change(tmp_path / "out", lambda layer: layer["tiles"][0]["stuck"][0].update(device=2))
    said = "tile L000/T0000 has stuck cells of a device beyond the 2 that it has"
    assert said in refusal(tmp_path / "out")


def test_a_bundle_whose_model_was_never_mapped(folder, mapped):
    manifest = read_bundle_manifest(folder)
    check_against_model(folder, manifest)
    shutil.copyfile(folder / "plain.onnx", folder / "model.onnx")
    with pytest.raises(BundleError) as found:
        check_against_model(folder, manifest)
    text = str(found.value)
    assert text.startswith(f"the model of the bundle '{folder}' cannot be handed off: ")
