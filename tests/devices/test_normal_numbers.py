"""Normal numbers in single precision, compared with SciPy's distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from onnx_gconv.devices import normal_numbers
from onnx_gconv.devices.normal_numbers import MOST_SIDE_BY_SIDE, SideBySide, _key, from_normal, normal

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


def test_the_outermost_uniform_numbers_give_finite_ones(monkeypatch):
    words = np.array([0, 2**64 - 1, 2**32 - 1, 2**63], np.uint64)
    monkeypatch.setattr(normal_numbers, "_counters", lambda _: inverse_of_splitmix64(words))

    class Zero:
        bit_generator = None

        def bytes(self, count):
            return bytes(count)

    found = normal(np.empty(8, np.float32), Zero())
    assert np.isfinite(found).all()
    assert np.abs(found).max() == pytest.approx((2 * 33 * np.log(2)) ** 0.5, rel=1e-5)


def inverse_of_splitmix64(words):
    """The counters of which SplitMix64 gives these words."""
    found = []
    for word in words.tolist():
        mixed = word
        for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
            mixed ^= (mixed >> shift) ^ (mixed >> 2 * shift)
            mixed = mixed * pow(factor, -1, 2**64) % 2**64
        found.append(mixed)
    return np.array(found, np.uint64)


def test_uniform_numbers_are_those_of_splitmix64():
    # The first words for the seed 1234567, of the implementation in C by S. Vigna (prng.di.unimi.it/splitmix64.c). It
    # steps its counter before each word.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    key = (1234567 + 0x9E3779B97F4A7C15) % 2**64
    radii = np.empty(4, np.float32)
    turns = normal_numbers.uniform(radii, key)
    halves = np.array(expected, np.uint64).view(np.uint32)
    np.testing.assert_allclose(radii, (halves[:4] + 0.5) / 2**32, rtol=1e-6)
    np.testing.assert_array_equal(turns, halves[4:].view(np.int32))


def test_angles_are_those_of_sine_and_cosine():
    turns = np.concatenate([np.array([0, 1, -1, 2**31 - 1, -(2**31)]), np.arange(-(2**31), 2**31, 65_537)])
    turns = turns.astype(np.int32)
    logarithms = np.full(turns.size, -0.5, np.float32)  # the radius is 1
    cosines, sines, *memory = np.empty((4, turns.size), np.float32)
    normal_numbers.normal_from_logarithms(logarithms, turns, memory, cosines, sines)
    angles = turns.astype(np.float64) * (np.pi / 2 / 2**31)
    signs = 1 - 2 * (turns & 1)
    np.testing.assert_allclose(sines, np.sin(angles), rtol=0, atol=4e-6)
    np.testing.assert_allclose(cosines, signs * np.cos(angles), rtol=0, atol=4e-6)


def test_double_precision_is_numpys_own():
    mine, numpys = drawn(100, np.float64), np.random.Generator(np.random.SFC64(1)).standard_normal(100)
    assert np.array_equal(mine, numpys)


def test_arrays_side_by_side_get_the_numbers_that_each_gets_alone():
    sizes = (5, 1, 1 << 13, 4, 9999, 2)
    arrays = [np.linspace(0, 1, size, dtype=np.float32) for size in sizes]

    def generator(number):
        return np.random.Generator(np.random.SFC64(number))

    def shifted(noise, scratch, values):
        noise += values

    together = from_normal(shifted, SideBySide(sizes, generator), np.concatenate(arrays))
    alone = [from_normal(shifted, generator(number), array) for number, array in enumerate(arrays)]
    np.testing.assert_array_equal(together.view(np.uint32), np.concatenate(alone).view(np.uint32))


def test_arrays_side_by_side_are_small_and_in_single_precision():
    with pytest.raises(ValueError, match=r"^arrays side by side have 65536 elements at most, not 65537$"):
        SideBySide((MOST_SIDE_BY_SIDE, 1), np.random.default_rng)
    with pytest.raises(TypeError, match=r"in single precision only, not in float64$"):
        normal(np.empty(3), SideBySide((3,), np.random.default_rng))


@pytest.mark.parametrize("bits", [np.random.SFC64, np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_a_generator_of_any_kind_gives_a_key_of_64_bits(bits):
    one, other = (np.random.Generator(bits(3)) for _ in range(2))
    assert _key(one) == int.from_bytes(other.bytes(8), "little")
    assert one.bit_generator.random_raw() == other.bit_generator.random_raw()
