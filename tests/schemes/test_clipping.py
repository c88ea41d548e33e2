"""Clipping at a percentile or at a value, and percentiles that are exact in flat memory."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import WeightStatistics
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.schemes import clipping
from onnx_gconv.schemes.clipping import Clipping, abs_percentiles


def pieces(weights, groups=None, size=7):
    def chunks():
        for start in range(0, weights.size, size):
            part = slice(start, start + size)
            yield weights[part], None if groups is None else groups[part]

    return chunks


def expected(weights, percentile):
    return float(np.percentile(np.abs(weights), percentile, method="inverted_cdf"))


@given(
    weights=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(1, 60),
        elements=st.sampled_from(np.float32([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 0.1, 3.5, -1e30, 1e30]).tolist())
        | st.floats(-2, 2, width=32),
    ),
    percentile=st.sampled_from([0.5, 10.0, 50.0, 90.0, 95.0, 99.9, 100.0]) | st.floats(0.01, 100),
)
def test_a_percentile_is_numpys_inverted_cdf(weights, percentile):
    [found] = abs_percentiles(pieces(weights), weights.size, 1, percentile, weights.dtype)
    assert found == expected(weights, percentile)


@given(
    data=st.data(),
    groups=st.integers(1, 5),
    percentile=st.sampled_from([10.0, 50.0, 90.0, 99.0, 100.0]),
    counters=st.sampled_from([4, 64, 1 << 22]),
)
def test_the_percentiles_of_groups_are_those_of_each_alone(data, groups, percentile, counters):
    weights = data.draw(hnp.arrays(np.float32, st.integers(groups, 80), elements=st.floats(-8, 8, width=16)))
    numbers = np.concatenate(
        [np.arange(groups), data.draw(hnp.arrays(np.intp, weights.size - groups, elements=st.integers(0, groups - 1)))]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clipping, "_MOST_COUNTERS", counters)
        found = abs_percentiles(pieces(weights, numbers), weights.size, groups, percentile, weights.dtype)
    assert found.tolist() == [expected(weights[numbers == group], percentile) for group in range(groups)]


def test_many_groups_at_once():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=60_000).astype(np.float32)
    numbers = np.arange(60_000) % 5000
    found = abs_percentiles(pieces(weights, numbers, size=1 << 14), weights.size, 5000, 75.0, weights.dtype)
    by_group = np.sort(np.abs(weights.reshape(12, 5000)), axis=0)[8]  # the ninth of twelve
    assert np.array_equal(found, by_group)


def test_the_range_ends_at_the_percentile_or_at_the_value():
    statistics = WeightStatistics(-3.0, 0.5, 10)
    assert Clipping().clipped(statistics) == statistics
    assert Clipping(percentile=90.0).clipped(statistics, 1.0) == WeightStatistics(-1.0, 0.5, 10)
    assert Clipping(value=2.0).clipped(statistics) == WeightStatistics(-2.0, 2.0, 10)
    grouped = WeightStatistics(np.array([[-3.0, -0.1]]), np.array([[0.5, 0.2]]), 10)
    found = Clipping(percentile=90.0).clipped(grouped, np.array([[1.0, 0.15]]))
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([[-1.0, -0.1]], [[0.5, 0.15]])
    assert Clipping(value=2.0).clipped(grouped).maximum.tolist() == [[2.0, 2.0]]


def test_a_percentile_of_zero_would_clip_everything():
    with pytest.raises(UnmappableWeightError, match=r"the percentile 50 of .W. is 0, .* choose a higher percentile"):
        Clipping(percentile=50.0).clipped(WeightStatistics(0.0, 1.0, 10), 0.0)
    zeros = WeightStatistics(0.0, 0.0, 10)
    assert Clipping(percentile=50.0).clipped(zeros, 0.0) == zeros


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"percentile": 99.0, "value": 1.0}, "at a percentile or at a value, but both are given: 99.0 and 1.0"),
        ({"percentile": 0.0}, "the percentile of clipping is above 0 and at most 100, but it is 0.0"),
        ({"percentile": 101.0}, "above 0 and at most 100, but it is 101.0"),
        ({"value": 0.0}, "the value of clipping is positive and finite, but it is 0.0"),
        ({"value": float("nan")}, "positive and finite, but it is nan"),
    ],
)
def test_wrong_limits_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Clipping(**arguments)
