"""Whatever is changed in a manifest or a defect map: it is read, or refused with one line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_gconv import converters, inspect_model, open_bundle, read_back, restore_model, write_bundle
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import GconvError
from onnx_gconv.files.models import save_model
from onnx_gconv.mapping import MANIFEST_KEY
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from tests.handoff.changed_json import changed

DEFECTS = {
    "format": "onnx_gconv.defects",
    "format_version": 1,
    "array_count": 90,
    "array_size": [8, 6],
    "arrays": [
        {"array": 0, "unusable_rows": [1], "stuck_cells": [{"row": 0, "column": 0, "conductance_us": 3.0}]},
        {"array": 2, "unusable": True},
    ],
}
MODELS = {
    "codes of channels of tiles": (
        """g (float[2, 13] x, float[1, 4, 5, 5] z) => (float y, float u)
           { y = Gemm <beta = 2.0> (x, W, c) u = Conv <group = 2> (z, K) }""",
        {"W": (13, 10), "c": (10,), "K": (6, 2, 3, 3)},
        MappingScheme(
            converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
            Granularity("tile_channel", (4, 3)),
            levels=ConductanceLevels.uniform(64, 1.0, 40.0),
            storage="codes",
        ),
    ),
    "several pairs": (
        """g (float[2, 13] x, float[4, 1, 5] z) => (float y, float v)
           { t = Transpose <perm = [1, 0]> (W) h = MatMul(x, t) y = Add(h, c)
             v, w = LSTM <hidden_size = 3> (z, L, R) }""",
        {"W": (10, 13), "c": (10,), "L": (1, 12, 5), "R": (1, 12, 3)},
        MappingScheme(converters.NPairConductanceConverter([1.0, 2.0], g_max=40.0, g_min=1.0), Granularity("channel")),
    ),
    "integers": (
        "g (uint8[2, 13] x) => (int32 y) <uint8 a = {3}, uint8 b = {120}> { y = MatMulInteger(x, W, a, b) }",
        {"W": (13, 10)},
        MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0), Granularity()),
    ),
}
FEW = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module", params=MODELS)
def folder(request, parse, tmp_path_factory):
    """A folder with a mapped model, and a bundle of it that was placed by a defect map."""
    folder = tmp_path_factory.mktemp("changed")
    text, shapes, scheme = MODELS[request.param]
    rng = np.random.default_rng(0)
    constants = {name: 0.2 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if request.param == "integers":
        constants = {"W": rng.integers(0, 255, shapes["W"]).astype(np.uint8)}
    model = parse(text, **constants)
    MapConductances(scheme=scheme)(model)
    save_model(model, folder / "model.onnx")
    (folder / "defects.json").write_text(json.dumps(DEFECTS))
    options = {"defects": folder / "defects.json", "spare_rows": 1, "bias_rows": 1, "arrays": "npz"}
    write_bundle(folder / "model.onnx", folder / "bundle", (8, 6), **options)
    return folder


def is_done(work):
    """Do something; whether it was not refused, with a message of one line."""
    message = ""
    try:
        work()
    except GconvError as error:
        message = str(error)
    assert "\n" not in message
    return not message


def read_everything(folder):
    with open_bundle(folder) as bundle:
        for layer in bundle.layers:
            layer.rebuilt_weight()
            layer.rebuilt_bias()
            for tile in layer.tiles:
                tile.scale()
                tile.physical_arrays()
                tile.stuck_cells()
        bundle.verify_hashes()


@FEW
@given(data=st.data())
def test_a_bundle_with_another_manifest(folder, data):
    path = folder / "bundle" / "manifest.json"
    original = path.read_text()
    document = data.draw(changed(json.loads(original))).document
    try:
        path.write_text(json.dumps(document))
        if is_done(lambda: read_everything(folder / "bundle")):
            is_done(lambda: read_back(folder / "model.onnx", folder / "bundle", folder / "measured.onnx"))
    finally:
        path.write_text(original)


@FEW
@given(data=st.data())
def test_a_mapped_model_with_another_manifest(folder, data):
    model = onnx.load(folder / "model.onnx")
    [entry] = [item for item in model.metadata_props if item.key == MANIFEST_KEY]
    document = data.draw(changed(json.loads(entry.value))).document
    entry.value = json.dumps(document)
    source, out = folder / "changed.onnx", folder / "out"
    onnx.save(model, source)
    is_done(lambda: str(inspect_model(source)))
    is_done(lambda: restore_model(source, folder / "restored.onnx"))
    is_done(lambda: read_back(source, folder / "bundle", folder / "measured.onnx"))
    options = {"formats": ["csv", "npy"], "bias_rows": 1, "overwrite": True}
    if is_done(lambda: write_bundle(source, out, (8, 6), **options)):
        read_everything(out)


@FEW
@given(data=st.data())
def test_a_changed_defect_map(folder, data):
    document = data.draw(changed(DEFECTS)).document
    (folder / "changed.json").write_text(json.dumps(document))
    options = {"defects": folder / "changed.json", "spare_rows": 1, "overwrite": True}
    if is_done(lambda: write_bundle(folder / "model.onnx", folder / "placed", (8, 6), **options)):
        read_everything(folder / "placed")
