"""N pairs give what aihwkit's give, bit for bit, and rebuild weights within the bound, on their own and in a model."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import (
    DualPairConductanceConverter,
    NPairConductanceConverter,
    SinglePairConductanceConverter,
    weight_statistics,
)
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.file_operations import map_model, restore_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify

FACTORS = [[1.0], [1.0, 3.0], [1.0, 2.0, 3.0], [0.3, 0.7], [3.0, 1.0], [1.0, 4.0, 16.0, 64.0], [2.0]]
RANGES_US = [(25.0, 0.0), (25.0, 0.5), (25.0, 1.0), (3.123, 0.789), (88.199997, 9.0), (50.0, 0.1)]
CASES = 180


@pytest.fixture(scope="module")
def aihwkit():
    """aihwkit's converters, and torch."""
    try:
        import torch
        from aihwkit.inference.converter import conductance
    except ImportError as error:
        reason = f"NO PARITY WITH AIHWKIT WAS CHECKED: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return conductance, torch


def cases(factors, dtype):
    rng = np.random.default_rng(FACTORS.index(factors))
    for number in range(CASES):
        shape = tuple(rng.integers(1, 6, size=number % 6))
        weights = rng.normal(scale=10.0 ** rng.integers(-3, 2), size=shape)
        if number % 20 == 7:
            weights = np.zeros(shape)
        if number % 20 == 8:
            weights = weights * 1e-9
        yield np.asarray(weights).astype(dtype), RANGES_US[number % len(RANGES_US)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_conductances_scale_and_weights_are_bit_identical_to_those_of_aihwkit(aihwkit, factors, dtype):
    conductance, torch = aihwkit
    rng = np.random.default_rng(0)
    for weights, range_us in cases(factors, dtype):
        reference = conductance.NPairConductanceConverter(factors, *range_us)
        expected, expected_params = reference.convert_to_conductances(torch.from_numpy(weights))
        converter = NPairConductanceConverter(factors, *range_us)
        found, params = converter.convert_to_conductances(weights)
        assert [array.tobytes() for array in found] == [tensor.numpy().tobytes() for tensor in expected]
        assert params["scale_ratio"] == expected_params["scale_ratio"].numpy()
        noisy = [np.asarray(array + rng.normal(size=array.shape)).astype(dtype) for array in found]
        for ours in (found, noisy):
            back = converter.convert_back_to_weights(ours, params)
            theirs = reference.convert_back_to_weights([torch.from_numpy(array) for array in ours], expected_params)
            assert back.tobytes() == theirs.numpy().tobytes()


def test_there_are_at_least_a_thousand_cases_of_each_type():
    assert CASES * len(FACTORS) > 1000


def test_a_dual_pair_is_aihwkits(aihwkit):
    conductance, torch = aihwkit
    weights = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    reference = conductance.DualPairConductanceConverter([1.0, 3.0], 20.0, 1.0)
    expected, _ = reference.convert_to_conductances(torch.from_numpy(weights))
    found, _ = DualPairConductanceConverter([1.0, 3.0], 20.0, 1.0).convert_to_conductances(weights)
    assert [array.tobytes() for array in found] == [tensor.numpy().tobytes() for tensor in expected]


def test_one_pair_of_factor_one_is_a_single_pair():
    weights = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    single, _ = SinglePairConductanceConverter().convert_to_conductances(weights)
    found, _ = NPairConductanceConverter([1.0]).convert_to_conductances(weights)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in single]


def test_a_pair_is_used_only_when_those_before_it_are_full():
    weights = np.array([0.1, 0.25, 0.5, -1.0, 1.0, 0.0], np.float32)
    (p1, m1, p2, m2), params = NPairConductanceConverter([1.0, 3.0], g_max=10).convert_to_conductances(weights)
    assert params["scale_ratio"] == 40
    assert p1.tolist() == [4, 10, 10, 0, 10, 0]
    np.testing.assert_allclose(p2, [0, 0, 10 / 3, 0, 10, 0], rtol=1e-6)
    assert m1.tolist() == [0, 0, 0, 10, 0, 0]
    assert m2.tolist() == [0, 0, 0, 10, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@given(
    factors=st.lists(st.floats(0.1, 16), min_size=1, max_size=4),
    g_min=st.floats(0, 20),
    seed=st.integers(0, 10**6),
    magnitude=st.integers(-20, 20),
)
def test_rebuilt_weights_are_within_the_bound_and_conductances_within_the_range(dtype, factors, g_min, seed, magnitude):
    converter = NPairConductanceConverter(factors, 25.0, g_min)
    weights = np.clip(np.random.default_rng(seed).normal(size=50) * 2.0**magnitude, -6e4, 6e4).astype(dtype)
    conductances, params = converter.convert_to_conductances(weights)
    compute = conductances[0].dtype
    statistics = weight_statistics([weights.astype(compute)])
    low, high = converter.conductance_bounds(compute)
    assert all(low <= array.min() and array.max() <= high for array in conductances)
    assert all((np.minimum(conductances[one], conductances[other]) == low).all() for one, other in converter.pairs)
    rebuilt = converter.decoding(float(params["scale_ratio"])).decode(conductances, compute)
    error = np.abs(rebuilt.astype(np.float64) - weights.astype(np.float64)).max()
    assert error <= converter.error_bound(statistics, compute)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([], "at least one factor"),
        ([1.0, -1.0], "factor 2 of f_lst should be positive"),
        ([0.0], "factor 1 of f_lst should be positive"),
        ([float("nan")], "should be positive and finite"),
        ([float("inf")], "should be positive and finite"),
        (["a"], "should be a number"),
        (3.0, "should be a list"),
    ],
)
def test_factors_that_are_not_positive_and_finite_are_refused(factors, message):
    with pytest.raises(ConfigError, match=message):
        NPairConductanceConverter(factors)


def test_a_dual_pair_has_two_factors():
    with pytest.raises(ConfigError, match="two factors"):
        DualPairConductanceConverter([1.0])


def test_values_that_no_conductance_can_hold_are_refused():
    with pytest.raises(UnmappableWeightError, match="nan at flat index 1"):
        NPairConductanceConverter([1.0, 3.0]).convert_to_conductances(np.array([1, np.nan], np.float32))


@pytest.mark.parametrize(("count", "params"), [(3, {"scale_ratio": 1, "f_lst": [1]}), (4, {"f_lst": [1]}), (4, {})])
def test_back_conversion_checks_what_it_is_given(count, params):
    with pytest.raises(ValueError, match="contain"):
        NPairConductanceConverter([1.0, 3.0]).convert_back_to_weights([np.ones(2, np.float32)] * count, params)


def test_converters_with_the_same_parameters_are_equal():
    assert NPairConductanceConverter([1, 3]) == NPairConductanceConverter((1.0, 3.0))
    assert NPairConductanceConverter([1, 3]) != NPairConductanceConverter([3, 1])
    assert NPairConductanceConverter([1, 3]) != DualPairConductanceConverter([1, 3])
    assert len({NPairConductanceConverter([1, 3]), NPairConductanceConverter([1, 3])}) == 1
    assert repr(DualPairConductanceConverter([1, 3])) == (
        "DualPairConductanceConverter([1.0, 3.0], g_max=25.0, g_min=0.0)"
    )


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
