"""What the manifest of a bundle says is compared with the model in the bundle, however well its checksums fit."""

from __future__ import annotations

import json

import pytest

from onnx_gconv.errors import BundleError
from onnx_gconv.handoff import open_bundle


def exchange_tiles(document, layer):
    one, other = layer["tiles"][:2]
    one["conductances"], other["conductances"] = other["conductances"], one["conductances"]


def exchange_devices(document, layer):
    for tile in layer["tiles"]:
        tile["conductances"].reverse()


LIES = {
    "a sign": (lambda _document, layer: layer["devices"][1].update(coefficient=1.0), "'devices' does not follow"),
    "both signs": (
        lambda _document, layer: [device.update(coefficient=-device["coefficient"]) for device in layer["devices"]],
        "'devices' does not follow",
    ),
    "an offset": (lambda _document, layer: layer.update(offset_us=5.0), "'offset_us' .* which gives 0.0"),
    "integer codes": (lambda _document, layer: layer.update(dtype="int8", rounded=True), "'dtype' .* gives 'float32'"),
    "axes": (
        lambda _document, layer: layer["matrix_view"].update(row_axes=[1], column_axes=[0], rows=10, columns=13),
        "than the grid gives it",
    ),
    "a factor": (lambda _document, layer: layer["matrix_view"].update(factor=-2.0), "'matrix_view' does not follow"),
    "tiles of each other": (exchange_tiles, r"'conductances' of its tile L000/T0000 does not follow"),
    "devices of each other": (exchange_devices, r"'conductances' of its tile L000/T0000 does not follow"),
    "no pairs": (lambda _document, layer: layer.update(pairs=[]), r"'pairs' .* which gives \(\(0, 1\),\)"),
    "no bias": (lambda _document, layer: layer.update(bias=None), "'bias' does not follow"),
    "a bias times 3": (lambda _document, layer: layer["bias"].update(beta=3.0), "'bias' does not follow"),
    "another name": (lambda _document, layer: layer.update(weight="X"), "'weight' .* which gives 'W'"),
    "no layers": (lambda document, _layer: document.update(layers=[]), "has 0 layers, but model.onnx has 1"),
    "no files": (lambda document, _layer: document.update(files=[]), "lists no 'model.onnx' among its files"),
    "another source": (
        lambda document, _layer: document["source"].update(sha256="0" * 64),
        "the SHA-256 of its source is not that of 'model.onnx'",
    ),
    "another count": (lambda document, _layer: document.update(total_arrays=99), "counts 99 arrays, but its layers"),
    "one name twice": (lambda _document, layer: layer["devices"][1].update(name="g_plus"), "two of its devices"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_says_something_else_than_its_model_is_found(handed_off, lie):
    change, message = LIES[lie]
    bundle = handed_off("Gemm")
    bundle.verify_hashes()
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document, document["layers"][0])
    path.write_text(json.dumps(document), encoding="utf-8")

    def check():
        with open_bundle(bundle.path) as changed:
            changed.verify_hashes()

    with pytest.raises(BundleError, match=message) as found:
        check()
    assert "; hand off the model again" in str(found.value)


@pytest.mark.parametrize("options", [{}, {"bias_rows": 2}, {"pair_layout": "adjacent_columns"}, {"partition": "equal"}])
@pytest.mark.parametrize("op", ["Gemm", "grouped Conv", "ConvTranspose", "LSTM", "MatMul of a transposed weight"])
def test_what_was_written_follows_from_the_model(handed_off, op, options):
    handed_off(op, **options).verify_hashes()


def test_a_manifest_that_is_nested_deeply_is_one_line(handed_off):
    bundle = handed_off("Gemm")
    (bundle.path / "manifest.json").write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(bundle.path)
