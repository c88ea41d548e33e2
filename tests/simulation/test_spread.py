"""Confidence intervals beside SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
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


def test_one_number_and_infinite_ones_have_no_interval():
    one, infinite = spread_of([2.0]), spread_of([math.inf, 3.0])
    assert (one.mean, one.std, one.low, one.high) == (2.0, 0.0, None, None)
    assert (infinite.mean, infinite.low, infinite.high) == (math.inf, None, None)
