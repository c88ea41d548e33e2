"""N pairs give what aihwkit's give, bit for bit, and rebuild weights within the bound."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv import converters
from onnx_gconv.converters import (
    DualPairConductanceConverter,
    NPairConductanceConverter,
    Scaling,
    SinglePairConductanceConverter,
    weight_statistics,
)
from onnx_gconv.errors import ConfigError, UnmappableWeightError

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


def cases(seed, dtype):
    rng = np.random.default_rng(seed)
    for number in range(CASES):
        shape = tuple(rng.integers(1, 6, size=number % 6))
        weights = rng.normal(scale=10.0 ** rng.integers(-3, 2), size=shape)
        if number % 20 == 7:
            weights = np.zeros(shape)
        if number % 20 == 8:
            weights = weights * 1e-9
        yield np.asarray(weights).astype(dtype), RANGES_US[number % len(RANGES_US)]


DUAL_FACTORS = [[1.0, 3.0], [3.0, 1.0], [0.3, 0.7], [1.0, 16.0], [1.0, 1.0], [2.5, 0.1]]
CONVERTERS = {"NPair": FACTORS, "DualPair": DUAL_FACTORS}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "factors"), [(name, factors) for name, lists in CONVERTERS.items() for factors in lists], ids=str
)
def test_conductances_scale_and_weights_are_bit_identical_to_those_of_aihwkit(aihwkit, name, factors, dtype):
    conductance, torch = aihwkit
    rng = np.random.default_rng(0)
    reference_class = getattr(conductance, f"{name}ConductanceConverter")
    converter_class = getattr(converters, f"{name}ConductanceConverter")
    for weights, range_us in cases(CONVERTERS[name].index(factors), dtype):
        reference = reference_class(factors, *range_us)
        expected, expected_params = reference.convert_to_conductances(torch.from_numpy(weights))
        converter = converter_class(factors, *range_us)
        found, params = converter.convert_to_conductances(weights)
        assert [array.tobytes() for array in found] == [tensor.numpy().tobytes() for tensor in expected]
        assert params["scale_ratio"] == expected_params["scale_ratio"].numpy()
        noisy = [np.asarray(array + rng.normal(size=array.shape)).astype(dtype) for array in found]
        for ours in (found, noisy):
            back = converter.convert_back_to_weights(ours, params)
            theirs = reference.convert_back_to_weights([torch.from_numpy(array) for array in ours], expected_params)
            assert back.tobytes() == theirs.numpy().tobytes()


def test_there_are_at_least_a_thousand_cases_of_each_converter_and_type():
    assert all(CASES * len(lists) > 1000 for lists in CONVERTERS.values())


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
    scaling = Scaling(float(params["scale_ratio"]))
    rebuilt = converter.decoding(scaling).decode(conductances, compute)
    error = np.abs(rebuilt.astype(np.float64) - weights.astype(np.float64)).max()
    assert error <= converter.error_bound(statistics, scaling, compute)


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


def test_params_of_a_converter_with_other_factors_are_refused():
    conductances, params = NPairConductanceConverter([1, 2]).convert_to_conductances(np.array([-1, 0.3, 1], np.float32))
    message = (
        r"params are of the factors \[1.0, 2.0\], but this converter has \[1.0, 4.0\]; convert back with the converter"
    )
    with pytest.raises(ValueError, match=message):
        NPairConductanceConverter([1, 4]).convert_back_to_weights(conductances, params)


def test_converters_with_the_same_parameters_are_equal():
    assert NPairConductanceConverter([1, 3]) == NPairConductanceConverter((1.0, 3.0))
    assert NPairConductanceConverter([1, 3]) != NPairConductanceConverter([3, 1])
    assert NPairConductanceConverter([1, 3]) != DualPairConductanceConverter([1, 3])
    assert len({NPairConductanceConverter([1, 3]), NPairConductanceConverter([1, 3])}) == 1
    assert repr(DualPairConductanceConverter([1, 3])) == (
        "DualPairConductanceConverter([1.0, 3.0], g_max=25.0, g_min=0.0)"
    )
