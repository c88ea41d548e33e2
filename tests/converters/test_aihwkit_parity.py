"""The single pair gives what aihwkit's gives, bit for bit, and refuses what aihwkit should not let pass."""

from __future__ import annotations

import os

import numpy as np
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import UnmappableWeightError

CASES_OF_A_KIND = 180
RANGES_US = [
    (25.0, 0.0),
    (25.0, 0.5),
    (25.0, 1.0),
    (3.123, 0.789),
    (88.199997, 9.0),
    (1.0, 0.0),
    (50.0, 0.1),
    (1e-3, 0.0),
]
REFUSED_RANGES_US = [(-1.0, None), (25.0, -1.0), (25.0, 25.0), (1.0, 2.0), (0.0, None), (None, 25.0), (None, 30.0)]


def normal(rng, shape):
    return rng.normal(scale=10.0 ** rng.integers(-3, 2), size=shape)


def uniform(rng, shape):
    return rng.uniform(-1, 1, size=shape)


def all_zero(_, shape):
    return np.zeros(shape)


def tiny(rng, shape):
    return rng.choice([-1, 1], size=shape) * 10.0 ** rng.uniform(-30, -7, size=shape)


def large(rng, shape):
    return rng.choice([-1, 1], size=shape) * 10.0 ** rng.uniform(1, 38, size=shape)


def with_negative_zeros(rng, shape):
    return rng.choice([-0.0, 0.0, 0.25, -0.75], size=shape)


def of_all_magnitudes(rng, shape):
    return rng.normal(size=shape) * 10.0 ** rng.integers(-44, 30, size=shape)


KINDS = [normal, uniform, all_zero, tiny, large, with_negative_zeros, of_all_magnitudes]


@pytest.fixture(scope="module")
def aihwkit():
    """aihwkit's converter, and torch. Its absence may go unnoticed nowhere where tests gate a change."""
    try:
        import torch
        from aihwkit.inference.converter.conductance import SinglePairConductanceConverter as Reference
    except ImportError as error:
        reason = (
            f"NO PARITY WITH AIHWKIT WAS CHECKED: {error}; pip install torch scipy scikit-learn requests tqdm && "
            "pip install --no-deps aihwkit==1.1.0"
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Reference, torch


def cases(kind, dtype):
    rng = np.random.default_rng(KINDS.index(kind))
    for number in range(CASES_OF_A_KIND):
        shape = rng.integers(1, 5, size=number % 6)
        yield np.asarray(kind(rng, shape)).astype(dtype), RANGES_US[number % len(RANGES_US)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
class TestRandomWeights:
    def test_conductances_and_scale_are_bit_identical(self, aihwkit, kind, dtype):
        reference, torch = aihwkit
        for weights, (g_max, g_min) in cases(kind, dtype):
            (g_plus, g_minus), params = SinglePairConductanceConverter(g_max, g_min).convert_to_conductances(weights)
            expected, expected_params = reference(g_max, g_min).convert_to_conductances(torch.from_numpy(weights))
            same = [g_plus.tobytes(), g_minus.tobytes(), params["scale_ratio"].tobytes()] == [
                expected[0].numpy().tobytes(),
                expected[1].numpy().tobytes(),
                expected_params["scale_ratio"].numpy().tobytes(),
            ]
            assert same, (weights, g_max, g_min)

    def test_weights_converted_back_are_bit_identical(self, aihwkit, kind, dtype):
        reference, torch = aihwkit
        for weights, (g_max, g_min) in cases(kind, dtype):
            converter, expected = SinglePairConductanceConverter(g_max, g_min), reference(g_max, g_min)
            back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
            expected_back = expected.convert_back_to_weights(
                *expected.convert_to_conductances(torch.from_numpy(weights))
            )
            assert back.tobytes() == expected_back.numpy().tobytes(), (weights, g_max, g_min)

    def test_conductances_moved_by_noise_are_converted_back_bit_identically(self, aihwkit, kind, dtype):
        reference, torch = aihwkit
        rng = np.random.default_rng(0)
        for weights, (g_max, g_min) in cases(kind, dtype):
            converter = SinglePairConductanceConverter(g_max, g_min)
            clean, params = converter.convert_to_conductances(weights)
            noisy = [np.asarray(g + 0.05 * g_max * rng.normal(size=g.shape)).astype(dtype) for g in clean]
            back = converter.convert_back_to_weights(noisy, params)
            expected_back = reference(g_max, g_min).convert_back_to_weights(
                [torch.from_numpy(g) for g in noisy], {"scale_ratio": torch.tensor(params["scale_ratio"])}
            )
            assert back.tobytes() == expected_back.numpy().tobytes(), (weights, g_max, g_min)


def test_there_are_at_least_a_thousand_cases_of_each_type():
    assert CASES_OF_A_KIND * len(KINDS) > 1000


def test_params_of_aihwkit_are_understood(aihwkit):
    reference, torch = aihwkit
    weights = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    conductances, params = reference(20.0, 1.0).convert_to_conductances(torch.from_numpy(weights))
    back = SinglePairConductanceConverter(20.0, 1.0).convert_back_to_weights([g.numpy() for g in conductances], params)
    assert back.tobytes() == reference(20.0, 1.0).convert_back_to_weights(conductances, params).numpy().tobytes()


def test_default_range_and_text_are_those_of_aihwkit(aihwkit):
    reference, _ = aihwkit
    ours, expected = SinglePairConductanceConverter(), reference()
    assert (ours.g_max, ours.g_min, str(ours)) == (expected.g_max, expected.g_min, str(expected))


@pytest.mark.parametrize(("g_max", "g_min"), REFUSED_RANGES_US)
def test_a_range_that_aihwkit_refuses_is_refused_with_its_words(aihwkit, g_max, g_min):
    reference, _ = aihwkit
    with pytest.raises(ValueError, match="should be") as expected:
        reference(g_max, g_min)
    with pytest.raises(ValueError, match="^" + str(expected.value)):
        SinglePairConductanceConverter(g_max, g_min)


@pytest.mark.parametrize(("conductances", "params"), [(1, {"scale_ratio": 1.0}), (3, {"scale_ratio": 1.0}), (2, {})])
def test_a_call_that_aihwkit_refuses_is_refused_with_its_words(aihwkit, conductances, params):
    reference, torch = aihwkit
    with pytest.raises(ValueError, match="contain") as expected:
        reference().convert_back_to_weights([torch.ones(2)] * conductances, params)
    with pytest.raises(ValueError, match="^" + str(expected.value)):
        SinglePairConductanceConverter().convert_back_to_weights([np.ones(2, np.float32)] * conductances, params)


@pytest.mark.parametrize("g_max", [float("nan"), float("inf")])
def test_a_range_without_end_that_aihwkit_accepts_is_refused(aihwkit, g_max):
    reference, _ = aihwkit
    reference(g_max)
    with pytest.raises(ValueError, match="g_max should be finite"):
        SinglePairConductanceConverter(g_max)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_aihwkit_turns_into_nan_is_refused(aihwkit, value):
    reference, torch = aihwkit
    weights = np.array([[0.5, 1.0], [value, 2.0]], np.float32)
    conductances, params = reference().convert_to_conductances(torch.from_numpy(weights))
    assert torch.isnan(reference().convert_back_to_weights(conductances, params)).all()
    with pytest.raises(UnmappableWeightError, match=rf"the value {value} at flat index 2\b"):
        SinglePairConductanceConverter().convert_to_conductances(weights)
