"""As many levels as the integers of a weight need: they map to a device of few levels, and come back exactly."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_gconv
from onnx_gconv.converters import (
    BitSlicedPairConductanceConverter,
    NPairConductanceConverter,
    OffsetConductanceConverter,
    SinglePairConductanceConverter,
)
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from tests.packed_models import matmul_model, quantized, run, saved


def integers(*shape, low, high, dtype=np.int8):
    found = np.random.default_rng(0).integers(low, high, shape, dtype, endpoint=True)
    found.reshape(-1)[:2] = low, high
    return found


def matmul_integer(parse, weight):
    return parse("g (uint8[2,6] x) => (int32[2,5] y) { y = MatMulInteger(x, W) }", opsets='"" : 21', W=weight)


@pytest.mark.parametrize(("low", "high", "levels"), [(-7, 7, 8), (-8, 7, 9), (-127, 127, 128), (-128, 127, 129)])
@pytest.mark.parametrize("storage", ["float", "codes"])
@pytest.mark.parametrize("g_min", [0.0, 0.3])
def test_each_magnitude_is_a_level(parse, low, high, levels, storage, g_min):
    weight = integers(6, 5, low=low, high=high)
    model = matmul_integer(parse, weight)
    converter = SinglePairConductanceConverter(g_max=22.7, g_min=g_min)
    MapConductances(converter, levels="weight", storage=storage)(model)
    [record] = read_manifest(model).weights
    assert (record.levels.count, record.levels.g_min, record.levels.g_max) == (levels, g_min, 22.7)
    assert (record.loss.max_rounding_error, record.loss.clipped) == (0.0, 0)
    assert CheckMapping().violations(model) == ()
    steps = (22.7 - g_min) / (levels - 1)
    [plus, minus] = (model.graph.initializers[item.name].const_value.numpy() for item in record.conductances)
    if storage == "codes":
        plus, minus = plus.astype(np.int64), minus.astype(np.int64)
        np.testing.assert_array_equal(plus - minus, weight)
    else:
        np.testing.assert_allclose((plus - minus) / steps, weight, atol=1e-4)
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)


@pytest.mark.parametrize(("opset", "storage"), [(20, "uint8"), (21, "uint4")])
def test_codes_of_up_to_sixteen_levels_have_four_bits_where_the_opset_has_them(tmp_path, opset, storage):
    weight = quantized(24, 64, block=32, points="none")
    original = saved(matmul_model(weight, opset=opset, accuracy_level=4), tmp_path)
    mapped = tmp_path / "mapped.onnx"
    options = {"levels": "weight", "storage": "codes"}
    [record] = onnx_gconv.map_model(original, mapped, external_data=True, **options).manifest.weights
    assert (record.levels.count, record.levels.storage) == (9, storage)
    tensors = {item.name: item for item in onnx.load(mapped, load_external_data=False).graph.initializer}
    bits = {"uint4": onnx.TensorProto.UINT4, "uint8": onnx.TensorProto.UINT8}
    assert {tensors[item.name].data_type for item in record.conductances} == {bits[storage]}
    x = {"x": np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)}
    for optimized in (True, False):
        expected = run(original, x, optimized=optimized)["y"]
        np.testing.assert_array_equal(run(mapped, x, optimized=optimized)["y"], expected)
    report = onnx_gconv.verify(original, mapped)
    assert report.passed
    assert all(item.bit_identical for item in (*report.weights, *report.outputs.comparisons))
    assert report.outputs.notes == ()  # nothing is rounded away, so that nothing is to be explained
    onnx_gconv.restore_model(mapped, tmp_path / "restored.onnx")
    restored = load_model(tmp_path / "restored.onnx").graph.initializers["W"].const_value
    np.testing.assert_array_equal(restored.numpy(), weight.stored)
    onnx_gconv.write_bundle(mapped, tmp_path / "bundle", (16, 8))
    with onnx_gconv.open_bundle(tmp_path / "bundle") as bundle:
        np.testing.assert_array_equal(bundle.layer("L000").rebuilt_weight(), weight.stored)


def test_an_offset_needs_a_level_for_each_integer(parse):
    weight = integers(6, 5, low=-8, high=7)
    model = matmul_integer(parse, weight)
    MapConductances(OffsetConductanceConverter(g_max=20.0, g_min=1.0), levels="weight")(model)
    [record] = read_manifest(model).weights
    assert record.levels.count == 17
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)


def test_channels_share_the_steps_of_the_levels(parse):
    weight = integers(6, 5, low=-7, high=7)
    weight[:, 3] = np.clip(weight[:, 3], -2, 2)
    model = matmul_integer(parse, weight)
    MapConductances(granularity="channel", levels="weight", storage="codes")(model)
    [record] = read_manifest(model).weights
    assert (record.levels.count, record.scale.minimum) == (8, record.scale.maximum)
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)


def test_weights_without_integers_have_any_conductance(parse, normal):
    model = parse("g (float[2,6] x) => (float[2,5] y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(levels="weight", storage="codes")(model)
    [record] = read_manifest(model).weights
    assert record.levels is None
    assert record.notes == (
        "it has no integers, but only integers have levels of their own: its conductances are not rounded",
    )
    fractions = ir.from_proto(matmul_model(quantized(5, 40, points="float")))
    MapConductances(levels="weight")(fractions)
    [record] = read_manifest(fractions).weights
    assert record.notes[0].startswith("it has zero points that are no integers")


def test_integers_that_need_more_levels_than_a_device_has_are_refused(parse):
    weight = integers(6, 5, low=-(2**20), high=2**20, dtype=np.int32)
    model = parse("g (float[2,6] x) => (float[2,5] y) { w = DequantizeLinear(W, s) y = MatMul(x, w) }",
                  W=weight, s=np.float32(0.1))  # fmt: skip
    with pytest.raises(UnmappableWeightError, match=r"integers up to 1048576, but devices have at most 65536 levels"):
        MapConductances(levels="weight")(model)


def test_converters_whose_levels_integers_do_not_fall_on_are_refused(parse):
    model = matmul_integer(parse, integers(6, 5, low=-7, high=7))
    with pytest.raises(UnmappableWeightError, match=r"cannot have a level for each integer with .*NPair"):
        MapConductances(NPairConductanceConverter([1.0, 3.0], g_max=20.0), levels="weight")(model)
    with pytest.raises(ConfigError, match="are levels already; leave it out"):
        MapConductances(BitSlicedPairConductanceConverter(g_max=20.0), levels="weight")(model)


@pytest.mark.parametrize("levels", [2, 5, 8, 31])
def test_fewer_levels_than_the_integers_need_are_accepted_if_that_is_asked_for(parse, tmp_path, levels):
    weight = integers(6, 5, low=-128, high=127)
    model = matmul_integer(parse, weight)
    save_model(model, tmp_path / "model.onnx")
    with pytest.raises(UnmappableWeightError, match=rf"which {levels} levels .* cannot tell apart; .*--allow-lossy"):
        onnx_gconv.map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx", levels=levels)
    [record] = onnx_gconv.map_model(
        tmp_path / "model.onnx", tmp_path / "mapped.onnx", levels=levels, allow_lossy_integers=True
    ).manifest.weights
    assert record.limited
    onnx_gconv.restore_model(tmp_path / "mapped.onnx", tmp_path / "restored.onnx")
    found = load_model(tmp_path / "restored.onnx").graph.initializers["W"].const_value.numpy().astype(int)
    gap = 128 / (levels - 1)  # of levels, in units of weight
    nearest = np.clip(np.rint(np.sign(weight) * np.rint(np.abs(weight.astype(float)) / gap) * gap), -128, 127)
    assert np.abs(found - nearest).max() <= 1  # halves may be rounded either way
    assert 0 < np.abs(found - weight).max() <= gap / 2 + 0.5
    assert record.loss.max_rounding_error == pytest.approx(np.abs(found - weight).max(), abs=1)
    report = onnx_gconv.verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    assert report.passed
    assert report.weights[0].max_abs_error == np.abs(found - weight).max()
    assert report.outputs.notes[0].startswith("the mapping rounds or clips weights on purpose")


@pytest.mark.parametrize("points", ["none", "packed"])
@pytest.mark.parametrize("storage", ["float", "codes"])
def test_packed_codes_that_come_back_as_near_ones_stay_within_their_bits(tmp_path, points, storage):
    weight = quantized(24, 60, block=32, points=points)
    original, mapped = saved(matmul_model(weight), tmp_path), tmp_path / "mapped.onnx"
    onnx_gconv.map_model(original, mapped, levels=5, storage=storage, allow_lossy_integers=True)
    report = onnx_gconv.verify(original, mapped)
    assert report.passed
    assert 0 < report.weights[0].max_abs_error <= 16 / 4 / 2 + 0.5
    onnx_gconv.restore_model(mapped, tmp_path / "restored.onnx")
    x = {"x": np.random.default_rng(1).normal(size=(3, 60)).astype(np.float32)}
    for optimized in (True, False):
        expected = run(tmp_path / "restored.onnx", x, optimized=optimized)["y"]
        np.testing.assert_array_equal(run(mapped, x, optimized=optimized)["y"], expected)


@pytest.mark.parametrize(
    ("converter", "highest", "levels"),
    [
        *((None, highest, levels) for highest, levels in ((7, 8), (5, 8), (7, 15), (127, 128), (100, 128))),
        *((OffsetConductanceConverter(g_max=20.0), highest, 15) for highest in (7, 5)),
    ],
)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_integers_map_exactly_to_a_device_of_enough_levels(parse, converter, highest, levels, granularity):
    weight = integers(6, 5, low=-highest, high=highest)
    model = matmul_integer(parse, weight)
    MapConductances(converter, levels=levels, granularity=granularity, allow_lossy_integers=True)(model)
    [record] = read_manifest(model).weights
    assert (record.levels.count, record.limited, record.loss.rms_error) == (levels, False, 0.0)
    assert CheckMapping().violations(model) == ()
    RestoreWeights()(model)
    np.testing.assert_array_equal(model.graph.initializers["W"].const_value.numpy(), weight)
