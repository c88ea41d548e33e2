"""A single device gives what aihwkit's gives, bit for bit, and a constant weight comes back."""

from __future__ import annotations

import os

import numpy as np
import pytest

from onnx_gconv.converters import Scaling, SingleDeviceConductanceConverter
from onnx_gconv.errors import UnmappableWeightError

CASES = 1200
RANGES_US = [(None, None), (25.0, 0.0), (25.0, 1.0), (3.123, 0.789), (50.0, 0.1), (1e-3, 0.0)]


@pytest.fixture(scope="module")
def aihwkit():
    """aihwkit's converter, and torch."""
    try:
        import torch
        from aihwkit.inference.converter.conductance import SingleDeviceConductanceConverter as Reference
    except ImportError as error:
        reason = f"NO PARITY WITH AIHWKIT WAS CHECKED: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Reference, torch


def cases(dtype):
    rng = np.random.default_rng(0)
    for number in range(CASES):
        shape = tuple(rng.integers(1, 6, size=1 + number % 4))
        weights = rng.normal(scale=10.0 ** rng.integers(-3, 2), loc=rng.choice([0, 0, 5, -0.1]), size=shape)
        if number % 20 == 8:
            weights = weights * 1e-9
        if number % 20 == 9:
            weights = np.abs(weights)
        weights = weights.astype(dtype)
        if weights.min() < weights.max():  # constant weights are a documented difference
            yield weights, RANGES_US[number % len(RANGES_US)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conductances_scale_and_weights_are_bit_identical_to_those_of_aihwkit(aihwkit, dtype):
    reference_class, torch = aihwkit
    rng = np.random.default_rng(1)
    count = 0
    for weights, range_us in cases(dtype):
        count += 1
        reference, converter = reference_class(*range_us), SingleDeviceConductanceConverter(*range_us)
        expected, expected_params = reference.convert_to_conductances(torch.from_numpy(weights))
        [found], params = converter.convert_to_conductances(weights)
        assert found.tobytes() == expected.numpy().tobytes()
        for name in ("scale_ratio", "min"):
            assert params[name].tobytes() == expected_params[name].numpy().tobytes()
        for ours in (found, np.asarray(found + rng.normal(size=found.shape)).astype(dtype)):
            theirs = reference.convert_back_to_weights(torch.from_numpy(ours), expected_params)
            for given in ([ours], ours):
                assert converter.convert_back_to_weights(given, params).tobytes() == theirs.numpy().tobytes()
    assert count > 1000


def test_default_range_and_text_are_those_of_aihwkit(aihwkit):
    reference, _ = aihwkit
    ours, expected = SingleDeviceConductanceConverter(), reference()
    assert (ours.g_max, ours.g_min, str(ours)) == (expected.g_max, expected.g_min, str(expected))


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-30, 3e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_weight_which_aihwkit_turns_into_nan_comes_back_exactly(aihwkit, value, dtype):
    reference_class, torch = aihwkit
    weights = np.full((2, 3), value, dtype)
    expected, _ = reference_class().convert_to_conductances(torch.from_numpy(weights))
    assert torch.isnan(expected).all()
    converter = SingleDeviceConductanceConverter()
    [found], params = converter.convert_to_conductances(weights)
    assert (found == 9.0).all()
    assert params["scale_ratio"] == pytest.approx((88.199997 - 9) * 1e7, rel=1e-6)
    assert converter.convert_back_to_weights([found], params).tobytes() == weights.tobytes()


def test_weights_too_close_to_each_other_for_a_scale_are_treated_as_constant():
    weights = np.array([1e-45, 3e-45], np.float32)
    converter = SingleDeviceConductanceConverter()
    [found], params = converter.convert_to_conductances(weights)
    assert np.isfinite(params["scale_ratio"])
    assert (found == 9.0).all()


def test_the_smallest_weight_is_at_g_min_and_the_largest_at_g_max():
    [found], params = SingleDeviceConductanceConverter(20, 10).convert_to_conductances([-1.0, 0.0, 3.0])
    assert found.tolist() == [10.0, 12.5, 20.0]
    assert (params["scale_ratio"], params["min"]) == (2.5, -1.0)


def test_limits_begin_at_the_zero():
    assert SingleDeviceConductanceConverter(20, 10).limits(Scaling(2.5, -1.0)) == (-1.0, 3.0)


@pytest.mark.parametrize(
    ("count", "params", "message"),
    [
        (2, {"scale_ratio": 1.0, "min": 0.0}, "exactly 1 element$"),
        (1, {"min": 0.0}, "params do not contain scale_ratio"),
        (1, {"scale_ratio": 1.0}, "params do not contain min"),
    ],
)
def test_back_conversion_checks_what_it_is_given(count, params, message):
    with pytest.raises(ValueError, match=message):
        SingleDeviceConductanceConverter().convert_back_to_weights([np.ones(2, np.float32)] * count, params)


def test_weights_whose_range_overflows_are_refused():
    with pytest.raises(
        UnmappableWeightError, match=r"max W - min W = 6e\+38, .* scale is 0.0 in float32; rescale .* than g_max = 88.2"
    ):
        SingleDeviceConductanceConverter().convert_to_conductances(np.array([-3e38, 3e38], np.float32))
