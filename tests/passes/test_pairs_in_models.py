"""Models whose weights are held by several pairs rebuild them, keep integer codes, verify and restore."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import DualPairConductanceConverter, NPairConductanceConverter
from onnx_gconv.mapping import read_manifest
from onnx_gconv.operations.operations import map_model, restore_model
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify

CONVERTERS = [
    DualPairConductanceConverter([1.0, 3.0]),
    NPairConductanceConverter([1.0, 2.0, 4.0], g_max=50, g_min=1),
    NPairConductanceConverter([2.0]),
]


@pytest.mark.parametrize("converter", CONVERTERS, ids=repr)
@pytest.mark.parametrize("optimization", ["none", "all"])
def test_onnx_runtime_rebuilds_what_numpy_rebuilds(parse, run, normal, converter, optimization):
    model = parse("g (float[6,6] x) => (float[6,5] y) { y = MatMul(x, W) }", W=normal(6, 5))
    MapConductances(converter)(model)
    [record] = read_manifest(model).weights
    assert [item.device for item in record.conductances] == list(converter.device_names)
    assert record.converter.converter() == converter
    assert CheckMapping().violations(model) == ()
    [y] = run(model, optimization, x=np.eye(6, dtype=np.float32))
    RestoreWeights()(model)
    assert y.tobytes() == model.graph.initializers["W"].const_value.numpy().tobytes()


@pytest.mark.parametrize("converter", CONVERTERS, ids=repr)
def test_integer_codes_come_back_exactly(parse, run, converter):
    codes = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    model = parse("g (uint8[2,16] x) => (int32[2,16] y) { y = MatMulInteger(x, W) }", W=codes)
    x = np.random.default_rng(0).integers(0, 255, (2, 16)).astype(np.uint8)
    expected = run(model, "all", x=x)
    MapConductances(converter)(model)
    assert run(model, "none", x=x)[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("converter", CONVERTERS, ids=repr)
@pytest.mark.parametrize("external_data", [False, True])
def test_files_map_verify_and_restore(parse, normal, tmp_path, converter, external_data):
    ir.save(parse("g (float[2,30] x) => (float[2,40] y) { y = MatMul(x, W) }", W=normal(30, 40)), tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx", converter, external_data=external_data)
    verify(tmp_path / "in.onnx", tmp_path / "out.onnx").raise_if_failed()
    restore_model(tmp_path / "out.onnx", tmp_path / "plain.onnx")


def test_a_pair_that_is_not_at_g_min_is_found(parse, normal):
    model = parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
    MapConductances(CONVERTERS[0])(model)
    for name in ("W.g_plus_2", "W.g_minus_2"):
        model.graph.initializers[name].const_value = ir.tensor(np.full((3, 4), 2.0, np.float32), name=name)
    [violation] = CheckMapping().violations(model)
    assert "neither device of the pair" in violation.message
