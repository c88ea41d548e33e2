"""Pairs with tables give what aihwkit's give, bit for bit in float32, and refuse tables that make no sense."""

from __future__ import annotations

import os

import numpy as np
import pytest

from onnx_gconv.converters import CustomPairConductanceConverter, NPairConductanceConverter, Scaling, WeightStatistics
from onnx_gconv.errors import ConfigError, UnmappableWeightError

CASES = 200
FLOAT32 = np.dtype(np.float32)


def triangle(low, high, points=5):
    """The tables of a single pair, of which one device is at `low`."""
    rising = np.maximum(np.linspace(-1, 1, points), 0) * (high - low) + low
    return [rising.tolist(), rising[::-1].tolist()]


def two_sided(low, high, points=2):
    rising = np.linspace(low, high, points)
    return [rising.tolist(), rising[::-1].tolist()]


def crooked(seed, pairs, points, low, high):
    """Tables without any order, which are not invertible."""
    return np.random.default_rng(seed).uniform(low, high, (2 * pairs, points)).tolist()


# Factors, tables, range, whether they are invertible
TABLES = [
    ([1.0], triangle(0.0, 25.0), (25.0, 0.0), True),
    ([1.0], triangle(0.789, 3.123), (3.123, 0.789), True),
    ([2.5], two_sided(1.0, 20.0, 7), (25.0, 1.0), True),
    ([1.0, 3.0], [*triangle(0.1, 24.0, 9), *triangle(0.5, 25.0, 9)], (25.0, 0.1), True),
    ([0.3, 0.7, 1.9], [*two_sided(0, 25.0, 3), *triangle(0, 10.0, 3), *two_sided(3, 9, 3)], (25.0, 0.0), True),
    ([1.0, 0.37], crooked(0, 2, 6, 0.5, 90.0), (88.199997 + 5, 0.1), False),
    ([1.7], crooked(1, 1, 23, 0.0, 25.0), (25.0, 0.0), False),
    ([1.0], two_sided(0.0, 1e-3, 100), (1e-3, 0.0), True),
]


def built(case):
    factors, tables, (g_max, g_min), invertible = case
    return CustomPairConductanceConverter(factors, tables, g_max, g_min, invertibility_test=invertible)


@pytest.fixture(scope="module")
def aihwkit():
    """aihwkit's converter, and torch."""
    try:
        import torch
        from aihwkit.inference.converter.conductance import CustomPairConductanceConverter as Reference
    except ImportError as error:
        reason = f"NO PARITY WITH AIHWKIT WAS CHECKED: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Reference, torch


def cases(number):
    rng = np.random.default_rng(number)
    for case in range(CASES):
        shape = tuple(rng.integers(1, 9, size=1 + case % 4))
        weights = rng.normal(scale=10.0 ** rng.integers(-3, 2), size=shape)
        if case % 20 == 7:
            weights = np.zeros(shape)
        if case % 20 == 8:
            weights = weights * 1e-9
        if case % 20 == 9:  # exactly at points of the grid
            weights = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=shape)
        yield np.asarray(weights).astype(np.float32)


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_conductances_scale_and_weights_are_bit_identical_to_those_of_aihwkit(aihwkit, number):
    reference_class, torch = aihwkit
    factors, tables, range_us, invertible = TABLES[number]
    reference = reference_class(factors, tables, *range_us, invertibility_test=invertible)
    converter = built(TABLES[number])
    rng = np.random.default_rng(0)
    for weights in cases(number):
        expected, expected_params = reference.convert_to_conductances(torch.from_numpy(weights))
        found, params = converter.convert_to_conductances(weights)
        assert [array.tobytes() for array in found] == [tensor.numpy().tobytes() for tensor in expected]
        assert params["scale_ratio"].tobytes() == expected_params["scale_ratio"].numpy().tobytes()
        assert params["f_lst"] == expected_params["f_lst"]
        noisy = [np.asarray(array + rng.normal(size=array.shape)).astype(np.float32) for array in found]
        for ours in (found, noisy):
            back = converter.convert_back_to_weights(ours, params)
            theirs = reference.convert_back_to_weights([torch.from_numpy(array) for array in ours], expected_params)
            assert back.tobytes() == theirs.numpy().tobytes()


def test_there_are_at_least_a_thousand_cases():
    assert CASES * len(TABLES) > 1000


@pytest.mark.parametrize("points", [2, 3, 4, 5, 8, 31, 64, 333, 1000])
def test_the_grid_is_that_of_torch(aihwkit, points):
    _, torch = aihwkit
    for reach in np.random.default_rng(points).uniform(0.01, 200, 100).astype(np.float32):
        tables = [np.linspace(0, reach, points).tolist(), np.zeros(points).tolist()]
        converter = CustomPairConductanceConverter([1.0], tables, 200, invertibility_test=False)
        expected = torch.linspace(-torch.tensor(reach), torch.tensor(reach), points).numpy()
        assert converter._interpolations[FLOAT32].grid.tobytes() == expected.tobytes()


def test_where_interpolation_leaves_its_table_by_an_ulp_it_is_clipped(aihwkit):
    reference_class, torch = aihwkit
    tables = [[0.0, 0.0, 0.0, 14.2, 24.7], [24.7, 14.2, 0.0, 0.0, 0.0]]
    weights = np.array([1.21, -1e-30, 1e-30], np.float32)
    expected, _ = reference_class([1.0], tables, invertibility_test=False).convert_to_conductances(
        torch.from_numpy(weights)
    )
    assert expected[1].min() < 0
    found, _ = CustomPairConductanceConverter([1.0], tables, invertibility_test=False).convert_to_conductances(weights)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.min() >= 0
        np.testing.assert_array_equal(ours, np.clip(theirs.numpy(), 0, None))


def test_float64_weights_come_back_as_exactly_as_float64_allows():
    weights = np.random.default_rng(0).normal(size=1000)
    converter = built(TABLES[0])
    back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
    assert np.abs(back - weights).max() < 1e-14


def test_a_triangle_is_a_single_pair():
    weights = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    found, _ = CustomPairConductanceConverter([1.0], triangle(1.0, 25.0), 25.0, 1.0).convert_to_conductances(weights)
    expected, _ = NPairConductanceConverter([1.0], 25.0, 1.0).convert_to_conductances(weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_error_bound_includes_what_crooked_tables_change():
    tables = [[0.0, 0.0, 0.0, 9.0, 25.0], [25.0, 9.0, 0.0, 0.0, 0.0]]
    converter = CustomPairConductanceConverter([1.0], tables, invertibility_test=False)
    weights = np.linspace(-1, 1, 1001, dtype=np.float32)
    back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
    statistics = WeightStatistics(-1.0, 1.0, 1001)
    bound = converter.error_bound(statistics, converter.scaling(statistics, FLOAT32), FLOAT32)
    assert np.abs(back - weights).max() == pytest.approx(3.5 / 25, rel=1e-4)
    assert np.abs(back - weights).max() <= bound < 3.5 / 25 * 1.001


def test_weights_beyond_the_grid_get_the_conductances_of_its_ends():
    converter = built(TABLES[0])
    weights = np.array([-3e38, -3.0, 7.0, 1e30], np.float32)
    for scale in (25.0, np.full(4, 25.0, np.float32)):
        out = [np.empty(4, np.float32) for _ in range(2)]
        converter.convert_chunk(weights, Scaling(scale), out)
        assert [array.tolist() for array in out] == [[0.0, 0.0, 25.0, 25.0], [25.0, 25.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("factors", "tables", "message"),
    [
        ([1.0], 3.0, "g_lst should be a list of lists of conductances in µS, but it is 3.0"),
        ([1.0], [1.0, 2.0], "g_lst should be a list of lists"),
        ([1.0], [["a", "b"], [1.0, 2.0]], "g_lst should be a list of lists"),
        ([1.0], [[1.0, 2.0]], "two lists for every factor of f_lst, for 1 of them 2, but it has 1"),
        ([1.0, 2.0], [[1.0, 2.0]] * 2, "for 2 of them 4, but it has 2"),
        ([1.0], [[1.0], [2.0]], "should have 2 to 16384 conductances, but the first has 1"),
        ([1.0], [[1.0] * 20000] * 2, "but the first has 20000"),
        (
            [1.0],
            [[1.0, 2.0], [2.0]],
            "list 2 of g_lst should have as many conductances as the first one, 2, but it has 1",
        ),
        ([1.0], [[1.0, 2.0], [2.0, 26.0]], "conductance 2 of list 2 of g_lst .* g_max = 25.0 µS, but it is 26.0"),
        ([1.0], [[-1.0, 2.0], [2.0, 1.0]], "conductance 1 of list 1 of g_lst .* but it is -1.0"),
        ([1.0], [[float("nan"), 2.0], [2.0, 1.0]], "conductance 1 of list 1 of g_lst .* but it is nan"),
        ([1.0], [[1.0, 2.0], [1.0, 2.0]], "reach 0.0 µS: no weight could be told from another"),
        ([1.0], [[0.0, 0.0, 0.0, 5.0, 25.0], [25.0, 5.0, 0.0, 0.0, 0.0]], "not invertible: the weight -0.5 .* as -0.2"),
        ([1.0], [[25.0, 0.0], [0.0, 25.0]], "not invertible: the weight -1 of -1 to 1 comes back as 1"),
        ([-1.0], triangle(0, 25), "factor 1 of f_lst should be positive and finite, but it is -1.0"),
        ([], [], "f_lst should have at least one factor"),
        (2.0, triangle(0, 25), "f_lst should be a list of factors"),
    ],
)
def test_tables_that_make_no_sense_are_refused(factors, tables, message):
    with pytest.raises(ConfigError, match=message):
        CustomPairConductanceConverter(factors, tables)


def test_the_test_can_be_switched_off_and_stays_off():
    converter = CustomPairConductanceConverter([1.0], [[25.0, 0.0], [0.0, 25.0]], invertibility_test=False)
    assert CustomPairConductanceConverter(**converter.manifest_parameters()) == converter


@pytest.mark.parametrize(
    ("count", "params", "message"),
    [
        (2, {"scale_ratio": 1.0}, "params does not contain f_lst"),
        (4, {"scale_ratio": 1.0, "f_lst": [1.0]}, "one value in f_lst for every pair of conductances"),
        (2, {"f_lst": [1.0]}, "params do not contain scale_ratio"),
        (4, {"scale_ratio": 1.0, "f_lst": [1.0, 2.0]}, "exactly 2 elements"),
    ],
)
def test_back_conversion_checks_what_it_is_given(count, params, message):
    with pytest.raises(ValueError, match=message):
        built(TABLES[0]).convert_back_to_weights([np.ones(2, np.float32)] * count, params)


def test_a_range_too_far_from_the_weights_is_refused():
    converter = CustomPairConductanceConverter([1.0], triangle(0, 1e-10), 1e-10)
    with pytest.raises(UnmappableWeightError, match=r"max\|W\| = 3e\+38, .* scale is 0.0 in float32"):
        converter.convert_to_conductances(np.array([3e38], np.float32))


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 1e38])
@pytest.mark.parametrize("reach", [25.0, 1e-3, 5e-5])
def test_the_largest_numbers_of_the_type_come_back_within_the_bound(largest, reach):
    converter = CustomPairConductanceConverter([1.0], triangle(0, reach), reach, invertibility_test=False)
    weights = (np.linspace(-1, 1, 101) * np.float64(largest)).astype(np.float32)
    statistics = WeightStatistics(-float(largest), float(largest), 101)
    scaling = converter.scaling(statistics, FLOAT32)
    bound = converter.error_bound(statistics, scaling, FLOAT32)
    for of_elements in (scaling, Scaling(np.full(101, scaling.scale, np.float32))):
        out = [np.empty_like(weights) for _ in range(2)]
        converter.convert_chunk(weights, of_elements, out)
        with np.errstate(over="ignore"):  # the bound is infinite then
            rebuilt = converter.decoding(of_elements).decode(out, FLOAT32)
        assert np.abs(np.float64(rebuilt) - weights).max() <= bound
