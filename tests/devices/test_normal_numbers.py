"""Normal numbers in single precision, compared with SciPy's distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from onnx_gconv.devices.normal_numbers import normal

COUNT = 1_000_000


def drawn(count=COUNT, dtype=np.float32, seed=1):
    return normal(np.empty(count, dtype), np.random.Generator(np.random.SFC64(seed)))


@pytest.fixture(scope="module")
def numbers():
    return drawn().astype(np.float64)


def test_they_are_normally_distributed(numbers):
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert abs(numbers.mean()) < 4 / COUNT**0.5
    assert abs(numbers.std() - 1) < 4 / (2 * COUNT) ** 0.5
    assert abs(stats.skew(numbers)) < 4 * (6 / COUNT) ** 0.5
    assert abs(stats.kurtosis(numbers)) < 4 * (24 / COUNT) ** 0.5


@pytest.mark.parametrize("limit", [2.0, 3.0, 4.0])
def test_as_many_are_far_from_zero_as_should_be(numbers, limit):
    for tail in (numbers > limit, numbers < -limit):
        expected = COUNT * stats.norm.sf(limit)
        assert abs(tail.sum() - expected) < 4.5 * expected**0.5


@pytest.mark.parametrize("lag", [1, 2, 1 << 13, 1 << 14, (1 << 14) + 1])
def test_numbers_do_not_depend_on_others(numbers, lag):
    # Those of one pair are 2^13 apart; their squares would tell what their product cannot.
    first, second = numbers[:-lag], numbers[lag:]
    for power in (1, 2):
        assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 4.5 / COUNT**0.5


def test_equal_generators_give_equal_numbers_and_others_give_others():
    assert np.array_equal(drawn(100_001), drawn(100_001))
    assert not np.isin(drawn(1000, seed=2), drawn(1000)).any()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), ((1 << 14) + 1,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_they_have_the_shape_and_type_of_the_array(shape, dtype):
    found = normal(np.empty(shape, dtype), np.random.default_rng(0))
    assert (found.shape, found.dtype) == (shape, dtype)
    assert np.isfinite(found).all()


def test_the_outermost_uniform_numbers_give_finite_ones():
    class Ends:
        bit_generator = np.random.PCG64()

        def integers(self, *_, **__):
            return np.array([0, 2**64 - 1, 2**32 - 1, 2**63], np.uint64)

    found = normal(np.empty(8, np.float32), Ends())
    assert np.isfinite(found).all()
    assert np.abs(found).max() == pytest.approx((2 * 33 * np.log(2)) ** 0.5, rel=1e-5)


def test_double_precision_is_numpys_own():
    mine, numpys = drawn(100, np.float64), np.random.Generator(np.random.SFC64(1)).standard_normal(100)
    assert np.array_equal(mine, numpys)
