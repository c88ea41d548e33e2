"""A bundle holds the bias of each layer, so that nobody has to read ONNX files for it."""

from __future__ import annotations

import json

import h5py
import ml_dtypes
import numpy as np
import onnx
import pytest

from onnx_gconv import open_bundle, write_bundle
from onnx_gconv.errors import BundleError, ModelError
from onnx_gconv.files.models import save_model
from onnx_gconv.passes import MapConductances

GEMM = "g ({type}[2, 13] x) => ({type} y) {{ y = Gemm <beta = 3.0> (x, W, c) }}"
IN_A_BRANCH = """
    g (bool b, float[2, 13] x) => (float y) {
        y = If (b) <then_branch = t () => (float p)
                        <float[3] c = {1.5, -2.5, 0.1}> { p = Gemm(x, W, c) },
                    else_branch = e () => (float q) { d = Constant <value = float[3] {4.0, 5.0, 6.0}> ()
                                                      h = MatMul(x, W) q = Add(d, h) }>
    }
"""


def values(*shape, dtype=np.float32):
    return np.random.default_rng(3).normal(size=shape).astype(dtype)


@pytest.fixture
def handed(parse, tmp_path):
    """Maps a model, and writes its bundle."""

    def make(text, external_data=None, opsets='"" : 17', **constants):
        options = {name: constants.pop(name) for name in ("bias_rows", "arrays", "formats") if name in constants}
        model = parse(text, opsets=opsets, **constants)
        assert MapConductances()(model).modified
        save_model(model, tmp_path / "model.gconv.onnx", external_data=external_data)
        write_bundle(tmp_path / "model.gconv.onnx", tmp_path / "model.gconv", (64, 64), overwrite=True, **options)
        return tmp_path / "model.gconv"

    return make


def found(folder, layer=0):
    """The entry of the bias and its values, read without onnx_gconv."""
    entry = json.loads((folder / "manifest.json").read_text())["layers"][layer]["bias"]
    with h5py.File(folder / "conductances.h5") as file:
        return entry, file[entry["values"]["key"]][()]


@pytest.mark.parametrize(
    ("onnx_type", "dtype", "kept"),
    [
        ("float", np.float32, np.float32),
        ("float16", np.float16, np.float32),
        ("bfloat16", ml_dtypes.bfloat16, np.float32),
        ("double", np.float64, np.float64),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (10,), (1, 10), (2, 10)])
def test_values_and_shape_are_those_of_the_initializer(handed, onnx_type, dtype, kept, shape):
    c = values(*shape, dtype=dtype) if shape else np.array(0.3, dtype)
    folder = handed(GEMM.format(type=onnx_type), W=values(13, 10, dtype=dtype), c=c)
    entry, array = found(folder)
    assert (entry["values"]["key"], entry["initializer"], entry["beta"]) == ("L000/bias", "c", 3.0)
    assert (array.dtype, array.shape) == (kept, shape)
    np.testing.assert_array_equal(array, c.astype(kept))
    with open_bundle(folder) as bundle:
        np.testing.assert_array_equal(bundle.layers[0].bias(), array, strict=True)
        bundle.verify_hashes()


def test_sums_of_integers_are_int64(handed):
    c = np.array([7, -(2**31), 2**31 - 1], np.int32)
    text = """
        g (uint8[1, 2, 6, 6] x) => (uint8 y)
            <float s = {0.1}, uint8 z = {3}, float a = {0.2}, uint8 b = {128}, float t = {0.3}, uint8 u = {5}>
            { y = QLinearConv(x, s, z, W, a, b, t, u, c) }
    """
    weight = np.random.default_rng(0).integers(0, 255, (3, 2, 3, 3)).astype(np.uint8)
    entry, array = found(handed(text, W=weight, c=c))
    assert array.dtype == np.int64
    np.testing.assert_array_equal(array, c)
    assert entry["mode"] == "digital"


def test_constants_in_branches_are_found(handed):
    folder = handed(IN_A_BRANCH, W=values(13, 3))
    # Both branches read one weight; the first use has the bias.
    np.testing.assert_array_equal(found(folder)[1], np.array([1.5, -2.5, 0.1], np.float32))


@pytest.mark.parametrize("arrays", ["hdf5", "npz"])
def test_a_bias_in_external_data_is_that_of_the_model_not_of_the_copy_that_is_being_written(handed, arrays):
    c = values(3000)
    folder = handed(
        "g (float[2, 13] x) => (float y) { h = MatMul(x, W) y = Add(h, c) }",
        W=values(13, 3000), c=c, external_data=True, arrays=arrays, formats=["npy"],
    )  # fmt: skip
    assert any(
        tensor.name == "c" and tensor.external_data
        for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
    )
    np.testing.assert_array_equal(np.load(folder / "npy" / "L000" / "bias.npy", allow_pickle=False), c, strict=True)
    with open_bundle(folder) as bundle:
        np.testing.assert_array_equal(bundle.layers[0].bias(), c, strict=True)
        bundle.verify_hashes()


def test_a_bias_whose_data_file_is_cut_is_an_error_that_names_it(parse, tmp_path):
    c = values(3000)
    model = parse("g (float[2, 13] x) => (float y) { y = Gemm(x, W, c) }", W=values(13, 3000), c=c)
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx", external_data=True)
    mapped = onnx.load(tmp_path / "mapped.onnx", load_external_data=False)
    [bias] = [tensor for tensor in mapped.graph.initializer if tensor.name == "c"]
    for entry in bias.external_data:
        if entry.key == "offset":
            entry.value = str((tmp_path / "mapped.onnx.data").stat().st_size - 8)
    onnx.save(mapped, tmp_path / "mapped.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"mapped.onnx.*external data of tensor 'c' should be 12000 bytes"):
        write_bundle(tmp_path / "mapped.onnx", tmp_path / "out", (64, 64))
    assert sorted(tmp_path.iterdir()) == before


def test_the_values_are_there_whether_rows_hold_the_bias_or_not(handed):
    c = 0.1 * values(10)
    folder = handed(GEMM.format(type="float"), W=values(13, 10), c=c, bias_rows=2)
    entry, array = found(folder)
    assert (entry["mode"], entry["rows"]) == ("rows", 2)
    np.testing.assert_array_equal(array, c)
    with open_bundle(folder) as bundle:
        added = bundle.layers[0].rebuilt_bias()
    np.testing.assert_allclose(added[0], 3 * array.astype(np.float64), rtol=0, atol=entry["max_abs_error"])


def test_a_layer_without_a_bias_has_none(handed):
    folder = handed("g (float[2, 13] x) => (float y) { y = MatMul(x, W) }", W=values(13, 10))
    with open_bundle(folder) as bundle:
        assert bundle.layers[0].record.bias is None
        assert bundle.layers[0].bias() is None
    with h5py.File(folder / "conductances.h5") as file:
        assert "bias" not in file["L000"]


def changed(folder, key, array):
    with h5py.File(folder / "conductances.h5", "a") as file:
        del file[key]
        if array is not None:
            file[key] = array


def test_a_missing_changed_or_foreign_bias_is_refused(handed):
    folder = handed(GEMM.format(type="float"), W=values(13, 10), c=values(10))
    changed(folder, "L000/bias", values(10) + 1)
    with open_bundle(folder) as bundle, pytest.raises(BundleError, match="array 'L000/bias' has changed: its SHA-256"):
        bundle.verify_hashes()
    changed(folder, "L000/bias", values(10).astype(np.float16))
    with pytest.raises(BundleError, match="'L000/bias' is float16, but it should be float32, float64 or int64; copy"):
        open_bundle(folder)
    changed(folder, "L000/bias", None)
    with pytest.raises(BundleError, match="array 'L000/bias' is missing; copy the bundle again"):
        open_bundle(folder)


def test_a_missing_or_foreign_zero_point_is_refused(handed):
    weight = np.random.default_rng(0).integers(0, 255, (13, 10)).astype(np.uint8)
    text = "g (uint8[2, 13] x) => (int32 y) <uint8 a = {3}, uint8 b = {120}> { y = MatMulInteger(x, W, a, b) }"
    folder = handed(text, W=weight)
    for array in (np.arange(3), np.zeros((2, 13, 10), np.int64), np.array([120.0])):
        changed(folder, "L000/zero_point", array)
        with pytest.raises(
            BundleError, match=r"'L000/zero_point' is .*, but it should be int64 and broadcast to \[13, 10\]; copy"
        ):
            open_bundle(folder)
    changed(folder, "L000/zero_point", None)
    with pytest.raises(BundleError, match="array 'L000/zero_point' is missing; copy the bundle again"):
        open_bundle(folder)
