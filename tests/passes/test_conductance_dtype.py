"""Conductances of half precision: half as large, as exact as their type, float32 where the range does not fit."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import (
    NPairConductanceConverter,
    SingleDeviceConductanceConverter,
    SinglePairConductanceConverter,
    narrowed_scale,
)
from onnx_gconv.mapping import read_manifest
from onnx_gconv.operations.operations import map_model, restore_model
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify
from onnx_gconv.verification.weights import compare_weights
from tests.scheme_choices import CONVERTERS

MODEL = "g (float16[2,30] x) => (float16[2,40] y) { y = MatMul(x, W) }"


def mapped(model, converter=None):
    MapConductances(converter, conductance_dtype="weight")(model)
    return read_manifest(model).weights[0]


def test_the_conductances_of_a_float16_weight_are_float16_and_need_no_cast(parse, normal):
    model = parse(MODEL, W=normal(30, 40, dtype=np.float16))
    record = mapped(model)
    assert (record.compute_dtype, record.notes) == ("float16", ())
    assert [node.op_type for node in model.graph] == ["Sub", "Div", "MatMul"]
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert {tensor.dtype for tensor in tensors.values()} == {ir.DataType.FLOAT16}
    assert CheckMapping().violations(model) == ()


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize("g_min", [0.0, 1.0])
def test_onnx_runtime_rebuilds_what_numpy_rebuilds(parse, run, normal, optimization, g_min):
    weight = normal(30, 40, dtype=np.float16)
    model = parse("g (float16[30,30] x) => (float16[30,40] y) { y = MatMul(x, W) }", W=weight)
    mapped(model, SinglePairConductanceConverter(g_max=25, g_min=g_min))
    [y] = run(model, optimization, x=np.eye(30, dtype=np.float16))
    RestoreWeights()(model)
    rebuilt = model.graph.initializers["W"].const_value.numpy()
    assert y.tobytes() == rebuilt.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@given(
    weight=hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=6), elements=st.floats(-1000, 1000, width=16)),
    g_min=st.sampled_from([0.0, 0.5, 5.0]),
    magnitude=st.integers(-6, 6),
)
def test_the_error_is_within_the_bound(parse, dtype, weight, g_min, magnitude):
    weight = (weight * 2.0**magnitude).astype(dtype)
    model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=weight)
    converter = SinglePairConductanceConverter(g_max=25, g_min=g_min)
    pass_ = MapConductances(converter, conductance_dtype="weight")
    [planned] = pass_.plan(model).weights
    bound = planned.conversion.error_bound(planned.statistics, planned.compute_dtype)
    pass_(model)
    assert CheckMapping().violations(model) == ()
    RestoreWeights()(model)
    rebuilt = model.graph.initializers["W"].const_value.numpy()
    error = np.abs(rebuilt.astype(np.float64) - weight.astype(np.float64)).max()
    assert error <= (bound if planned.compute_dtype == dtype else 2 * bound)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", CONVERTERS)
def test_weights_of_half_precision_are_compared_whatever_the_converter(parse, normal, name, dtype):
    text = f"g ({np.dtype(dtype).name}[2,30] x) => ({np.dtype(dtype).name}[2,40] y) {{ y = MatMul(x, W) }}"
    original, model = (parse(text, W=normal(30, 40, dtype=dtype)) for _ in range(2))
    mapped(model, CONVERTERS[name])
    [found] = compare_weights(original, model, read_manifest(model))
    assert found.passed, found


def test_an_exact_mapping_is_exact(parse, normal):
    weight = normal(30, 40, dtype=np.float16)
    model = parse(MODEL, W=weight)
    assert mapped(model, SinglePairConductanceConverter(exact=True)).compute_dtype == "float16"
    RestoreWeights()(model)
    assert model.graph.initializers["W"].const_value.numpy().tobytes() == weight.tobytes()


def test_an_exact_mapping_that_half_precision_cannot_hold_keeps_float32_and_says_so(parse):
    weight = np.array([[1000.0, 2.0**-14 * 1.001]], np.float16)
    model = parse("g (float16[2,1] x) => (float16[2,2] y) { y = MatMul(x, W) }", W=weight)
    record = mapped(model, SinglePairConductanceConverter(exact=True))
    assert record.compute_dtype == "float32"
    assert "float16 cannot hold the conductance of its value" in record.notes[0]


@pytest.mark.parametrize("largest", [1e-4, 3e-7])
def test_a_scale_that_does_not_fit_keeps_float32_and_says_so(parse, largest):
    model = parse(MODEL, W=np.full((30, 40), largest, np.float16))
    record = mapped(model)
    assert record.compute_dtype == "float32"
    assert "does not fit float16" in record.notes[0]


def test_weights_of_other_types_are_as_ever(parse, normal):
    model = parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
    assert mapped(model).compute_dtype == "float32"


@given(st.floats(1e-3, 6e4), st.sampled_from([np.float16, ml_dtypes.bfloat16]))
def test_a_narrowed_scale_is_the_next_number_below(scale, dtype):
    narrowed = narrowed_scale(scale, np.dtype(dtype))
    assert narrowed <= scale
    above = np.nextafter(np.asarray(narrowed).astype(dtype), np.asarray(np.inf).astype(dtype))
    assert float(above) > scale


def test_files_verify_and_take_half_the_space(parse, normal, tmp_path):
    ir.save(parse(MODEL, W=normal(30, 40, dtype=np.float16)), tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "wide.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "half.onnx", conductance_dtype="weight")
    verify(tmp_path / "in.onnx", tmp_path / "half.onnx").raise_if_failed()
    sizes = [(tmp_path / name).stat().st_size for name in ("half.onnx", "wide.onnx")]
    assert sizes[0] < 0.7 * sizes[1]
    restore_model(tmp_path / "half.onnx", tmp_path / "plain.onnx")


def test_conductances_whose_sum_would_overflow_stay_float32(parse, normal):
    weight = (100 * normal(4, 3)).astype(np.float16)
    model = parse("g (float16[2,4] x) => (float16 y) { y = MatMul(x, W) }", W=weight)
    converter = NPairConductanceConverter([1.0, 3.0], g_max=30_000.0)
    [planned] = MapConductances(converter, conductance_dtype="weight").plan(model).weights
    assert planned.compute_dtype == np.float32
    assert planned.notes == ("conductances are float32: float16 cannot hold the sum of its conductances",)


def test_conductances_to_whose_quotient_a_zero_is_added_stay_float32(parse, normal):
    model = parse(MODEL, W=normal(30, 40, dtype=np.float16))
    record = mapped(model, SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0))
    assert record.compute_dtype == "float32"
    assert record.notes == ("conductances are float32: float16 cannot hold the zero that its converter adds",)
