"""Confidence intervals beside SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.simulation.spread import spread_of, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 24, 99, 999])
@pytest.mark.parametrize("share", [0.9, 0.975])
def test_quantiles_of_students_t(share, freedom):
    assert t_quantile(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=3e-3)
    assert t_quantile(1 - share, freedom) == pytest.approx(-t_quantile(share, freedom), rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=40))
def test_mean_deviation_and_interval(values):
    found = spread_of(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    reach = scipy.stats.t.ppf(0.975, len(values) - 1) * found.std / math.sqrt(len(values))
    assert found.low == pytest.approx(found.mean - reach, abs=1e-6 + 3e-3 * reach)
    assert found.high == pytest.approx(found.mean + reach, abs=1e-6 + 3e-3 * reach)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_intervals_of_shares_stay_between_the_bounds(values):
    found = spread_of(values, (0, 1))
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1
    if found.std > 1e-6:
        error = t_quantile(0.975, len(values) - 1) * found.std / math.sqrt(len(values))
        ends = scipy.special.logit(found.mean) + np.array([-1, 1]) * error / (found.mean * (1 - found.mean))
        assert [found.low, found.high] == pytest.approx(scipy.special.expit(ends), abs=1e-9)


def test_the_interval_of_cosines_is_fishers():
    values = [0.91, 0.99, 0.999]
    found = spread_of(values, (-1, 1))
    error = t_quantile(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    ends = np.arctanh(found.mean) + np.array([-1, 1]) * error / (1 - found.mean**2)
    assert [found.low, found.high] == pytest.approx(np.tanh(ends))


def test_equal_shares_have_an_interval_of_one_point():
    for value in (0.0, 0.5, 1.0):
        found = spread_of([value] * 3, (0, 1))
        assert (found.low, found.high) == (value, value)
    rounded = spread_of([1 + 2e-16, 1.0], (-1, 1))  # as cosines are
    assert (rounded.low, rounded.high) == (1, 1)


def test_intervals_of_skewed_accuracies_hold_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    chips = rng.beta(20, 1, (2000, 5)).tolist()
    shares = {}
    for bounds in (None, (0, 1)):
        spreads = [spread_of(values, bounds) for values in chips]
        shares[bounds] = np.mean([each.low <= 20 / 21 <= each.high for each in spreads])
    assert shares[None] < 0.91  # Student's t without the logit scale promises too much
    assert shares[0, 1] == pytest.approx(0.94, abs=0.015)


def test_one_number_and_infinite_ones_have_no_interval():
    one, infinite = spread_of([2.0]), spread_of([math.inf, 3.0])
    assert (one.mean, one.std, one.low, one.high) == (2.0, 0.0, None, None)
    assert (infinite.mean, infinite.low, infinite.high) == (math.inf, None, None)
