"""Layers of packed codes on tiles: what a chip's toolchain computes with them, and what comes back from the chip."""

from __future__ import annotations

import json

import h5py
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_gconv
from onnx_gconv import handoff
from onnx_gconv.errors import BundleError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping
from tests.handoff.chip import programmed
from tests.packed_models import experts_model, matmul_model, quantized, run, saved


def handed_off(model, folder, size=(16, 4)):
    mapped = folder / "mapped.onnx"
    onnx_gconv.map_model(saved(model, folder), mapped)
    report = onnx_gconv.write_bundle(mapped, folder / "bundle", size)
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    with h5py.File(folder / "bundle" / manifest["arrays"]["path"]) as file:
        arrays = {name: found[()] for name, found in _datasets(file)}
    return mapped, report, manifest["layers"], arrays


def _datasets(file):
    found = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
    return found


def matrices_of(layer, arrays):
    """The weights that the conductances of all tiles and the scales of blocks give, [matrices, inputs, outputs].

    It follows docs/bundle.md, with nothing of onnx_gconv.
    """
    view, scale = layer["matrix_view"], arrays[layer["scale"]["array"]["key"]]
    codes = np.empty((view["matrices"], view["rows"], view["columns"]))
    for tile in layer["tiles"]:
        plus, minus = (arrays[item["key"]].astype(np.float64) for item in tile["conductances"])
        place = tile["matrix"], slice(*tile["inputs"]), slice(*tile["outputs"])
        codes[place] = (plus - minus) / scale[tile["matrix"], 0, 0]
    said = layer["dequantization"]
    scales = np.repeat(arrays[said["scales"]["key"]], said["block"], axis=said["axis"])
    scales = np.moveaxis(scales, said["axis"], -1)[..., : view["rows"]]
    return codes * scales.reshape(view["matrices"], view["columns"], view["rows"]).transpose(0, 2, 1)


@pytest.mark.parametrize("points", ["none", "packed", "float"])
def test_tiles_of_a_matrix_multiply_as_onnx_runtime_does(tmp_path, points):
    weight = quantized(10, 40, points=points)
    mapped, _, [layer], arrays = handed_off(matmul_model(weight), tmp_path)
    x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    [matrix] = matrices_of(layer, arrays)
    np.testing.assert_allclose(x @ matrix, run(mapped, {"x": x})["y"], rtol=1e-4, atol=1e-4)
    packing = layer["packing"]
    assert (packing["bits"], packing["shape"], packing["block"]) == (4, [10, 3, 8], 16)
    assert layer["zero_point"] is None
    found = arrays[packing["zero_point"]["key"]]
    np.testing.assert_array_equal(np.broadcast_to(found, weight.points.shape), weight.points)
    assert layer["rounded"] == (points != "float")  # numbers that are no integers are not to be rounded


def test_tiles_of_experts_compute_what_onnx_runtime_computes(tmp_path):
    first, second = quantized(3, 128, 64, block=32, seed=1), quantized(3, 64, 64, block=32, seed=2)
    mapped, _, layers, arrays = handed_off(experts_model(first, second, experts=3), tmp_path, (32, 64))
    by_name = {layer["weight"]: matrices_of(layer, arrays) for layer in layers}
    rng = np.random.default_rng(5)
    x, router = rng.normal(size=(6, 64)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    expected = run(mapped, {"x": x, "router": router})["y"]
    found = np.zeros_like(expected, dtype=np.float64)
    for token, chosen in enumerate(np.argsort(-router, axis=1)[:, :2]):
        shares = np.exp(router[token, chosen]) / np.exp(router[token, chosen]).sum()
        for share, expert in zip(shares, chosen, strict=True):
            hidden = x[token] @ by_name["fc1"][expert]
            gate, linear = hidden[0::2], hidden[1::2]
            activated = gate / (1 + np.exp(-gate)) * linear  # as swiglu with alpha = 1 and beta = 0
            found[token] += share * (activated @ by_name["fc2"][expert])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("rows", "warned"), [(64, True), (32, False)])
def test_the_readme_says_that_weights_are_codes_and_where_their_scales_are(tmp_path, rows, warned):
    handed_off(matmul_model(quantized(8, 64, block=32)), tmp_path, (rows, 8))
    [readme] = tmp_path.rglob("README.txt")
    text = readme.read_text(encoding="utf-8")
    assert "its weights are integer codes less their zero points; scales are digital:" in text
    assert 'array "L000/block_scales", along axis 1 in blocks of 32\n' in text
    assert ("columns of tiles sum blocks of different scales" in text) == warned


def test_columns_that_sum_blocks_of_different_scales_are_warned_of(tmp_path):
    weight = quantized(8, 64, block=32)
    _, report, _, _ = handed_off(matmul_model(weight), tmp_path, (64, 8))
    assert "Warning: columns of 1 tile sum blocks of inputs with different scales" in str(report)
    assert report.to_json()["layers"][0]["tiles_of_several_blocks"] == 1
    (tmp_path / "small").mkdir()
    _, report, _, _ = handed_off(matmul_model(weight), tmp_path / "small", (32, 8))
    assert "Warning" not in str(report)


def test_a_bundle_gives_the_bytes_that_its_conductances_stand_for(tmp_path):
    weight = quantized(10, 40, points="packed")
    _, _, _, _ = handed_off(matmul_model(weight), tmp_path)
    with handoff.open_bundle(tmp_path / "bundle") as bundle:
        [layer] = bundle.layers
        np.testing.assert_array_equal(layer.rebuilt_weight(), weight.stored)
        np.testing.assert_array_equal(layer.block_scales(), weight.scales)


def test_a_bundle_whose_packing_is_none_of_its_codes_is_refused(tmp_path):
    handed_off(matmul_model(quantized(10, 40)), tmp_path)
    path = tmp_path / "bundle" / "manifest.json"
    document = json.loads(path.read_text())
    document["layers"][0]["packing"]["shape"] = [10, 1, 8]
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"codes of 4 bits and of the shape \[10, 40\] are not packed in bytes of"):
        handoff.open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(("bits", "points"), [(2, "packed"), (4, "packed"), (4, "float"), (8, "none")])
def test_measured_conductances_give_codes_that_their_bits_hold(tmp_path, bits, points):
    weight = quantized(10, 40, bits=bits, points=points)
    mapped, _, _, _ = handed_off(matmul_model(weight), tmp_path)
    chip = programmed(tmp_path / "bundle", sigma=20 / 2**bits, dropped=0.0, dtype=np.float32)
    chip.write(tmp_path / "measured.npz")
    measured = tmp_path / "measured.onnx"
    onnx_gconv.read_back(mapped, tmp_path / "measured.npz", measured, bundle=tmp_path / "bundle", limits=(-50, 100))
    x = {"x": np.eye(40, dtype=np.float32)}
    optimized, plain = (run(measured, x, optimized=flag)["y"] for flag in (True, False))
    onnx_gconv.restore_model(measured, tmp_path / "restored.onnx")
    np.testing.assert_array_equal(run(tmp_path / "restored.onnx", x)["y"], optimized)
    np.testing.assert_allclose(plain, optimized, atol=1e-6)
    model = onnx.load(tmp_path / "restored.onnx")
    [found] = [numpy_helper.to_array(item) for item in model.graph.initializer if item.name == "W"]
    assert found.shape == weight.stored.shape
    assert (found != weight.stored).any()
    graph = load_model(measured)
    assert CheckMapping().violations(graph) == ()
    assert read_manifest(graph).weights[0].measured.saturated
    assert onnx_gconv.verify(saved(matmul_model(weight), tmp_path), measured).passed


def test_simulated_chips_give_packed_bytes(tmp_path):
    weight = quantized(10, 40, points="packed")
    original, mapped = saved(matmul_model(weight), tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped)
    onnx_gconv.program_model(mapped, tmp_path / "chip.onnx", device="pcm", seed=3)
    x = {"x": np.eye(40, dtype=np.float32)}
    found = run(tmp_path / "chip.onnx", x)["y"]
    expected = run(original, x)["y"]
    assert 0 < np.abs(found - expected).max() < np.abs(expected).max()
    np.savez(tmp_path / "inputs.npz", **x)
    report = onnx_gconv.simulate(mapped, "pcm", times="1 s", repeats=2, inputs=tmp_path / "inputs.npz")
    assert report.to_json()


@pytest.mark.parametrize(
    ("attributes", "shape", "tiles"),
    [("axis = 0, block_size = 3", (2, 4), 1), ("axis = 1", (4,), 0), ("axis = 0", (6,), 1), ("axis = 1", (), 0)],
)
def test_scales_of_codes_that_are_dequantized_are_in_the_bundle(parse, tmp_path, attributes, shape, tiles):
    codes = np.random.default_rng(0).integers(-8, 8, (6, 4), np.int8)
    scales = np.random.default_rng(1).uniform(0.1, 1, shape).astype(np.float32)
    text = "g (float[2,6] x) => (float[2,4] y) { w = DequantizeLinear <%s> (W, s) y = MatMul(x, w) }"
    model = parse(text % attributes, opsets='"" : 21', W=codes, s=scales)
    save_model(model, tmp_path / "model.onnx")
    onnx_gconv.map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    report = onnx_gconv.write_bundle(tmp_path / "mapped.onnx", tmp_path / "bundle", (8, 8))
    assert sum(layer.tiles_of_several_blocks for layer in report.layers) == tiles
    assert ("Warning: columns of 1 tile sum blocks" in str(report)) == bool(tiles)
    with handoff.open_bundle(tmp_path / "bundle") as bundle:
        np.testing.assert_array_equal(bundle.layer("L000").block_scales(), scales)
        assert bundle.layer("L000").record.dequantization.scale == "s"
