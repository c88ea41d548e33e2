"""Bit slices hold integer codes: the digits, integers that come back exactly, and the ways of asking for too much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.converters import (
    BitSlicedOffsetConductanceConverter,
    BitSlicedPairConductanceConverter,
    WeightStatistics,
)
from onnx_gconv.errors import ConfigError

BOTH = [BitSlicedPairConductanceConverter, BitSlicedOffsetConductanceConverter]


def digits(converter, conductance):
    """The digits that conductances stand for."""
    step = (converter.g_max - converter.g_min) / (converter.natural_levels - 1)
    places = (conductance - converter.g_min) / step
    assert np.abs(places - np.rint(places)).max() < 1e-3
    return np.rint(places).astype(int)


def test_a_pair_holds_the_slices_of_the_magnitude():
    converter = BitSlicedPairConductanceConverter(8, 4, 15.0)
    weights = np.array([127.0, -127.0, 18.0, -1.0, 0.0], np.float32)
    (p1, m1, p2, m2), params = converter.convert_to_conductances(weights)
    assert params["scale_ratio"] == pytest.approx(1.0)
    assert (converter.slices, converter.device_names) == (2, ("g_plus_1", "g_minus_1", "g_plus_2", "g_minus_2"))
    assert p1.tolist() == [15, 0, 2, 0, 0]
    assert m1.tolist() == [0, 15, 0, 1, 0]
    assert p2.tolist() == [7, 0, 1, 0, 0]
    assert m2.tolist() == [0, 7, 0, 0, 0]


def test_an_offset_holds_the_slices_of_the_code_and_128():
    converter = BitSlicedOffsetConductanceConverter(8, 4, 15.0)
    weights = np.array([127.0, -127.0, 18.0, -1.0, 0.0], np.float32)
    (g1, g2), _ = converter.convert_to_conductances(weights)
    assert (converter.slices, converter.device_names) == (2, ("g_1", "g_2"))
    assert g1.tolist() == [15, 1, 2, 15, 0]
    assert g2.tolist() == [15, 0, 9, 7, 8]


@pytest.mark.parametrize("kind", BOTH)
@given(st.data(), st.sampled_from([np.float32, np.float64]), st.floats(0.1, 1000), st.sampled_from([0.0, 0.1, 0.5]))
def test_integers_up_to_the_largest_have_codes_of_their_own_and_come_back(kind, data, dtype, g_max, share):
    bits = data.draw(st.integers(2, 16))
    converter = kind(bits, data.draw(st.integers(1, min(8, bits))), g_max, g_max * share)
    largest = converter.largest_integer
    integers = np.unique(np.linspace(-largest, largest, 2001).round()).astype(dtype)
    statistics = WeightStatistics(-float(largest), float(largest), integers.size)
    scaling = converter.scaling(statistics, integers.dtype)
    out = [np.empty_like(integers) for _ in converter.device_names]
    converter.convert_chunk(integers, scaling, out)
    powers = converter.natural_levels ** np.arange(converter.slices)
    found = np.array([digits(converter, conductance) for conductance in out])
    codes = powers @ (found[::2] - found[1::2]) if converter.pairs else powers @ found - (largest + 1)
    np.testing.assert_array_equal(codes, integers)
    rebuilt = converter.decoding(scaling).decode(out, integers.dtype)
    # Half a step is only lost where a weight is no integer.
    bound = converter.error_bound(statistics, scaling, integers.dtype) - 0.5
    assert np.abs(rebuilt - integers).max() <= bound
    assert bound < 0.25 or (dtype == np.float32 and bits > 12)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_rounded_away_from_zero_whatever_the_range(kind, dtype):
    for g_max in np.random.default_rng(0).uniform(0.1, 100, 200):
        for largest in (1.0, 1.5, 0.3, 7.7):
            converter = kind(8, 4, g_max, 0.1 * g_max)
            weights = np.array([largest, 0.5 * largest, -0.5 * largest], dtype)
            back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights))
            np.testing.assert_allclose(back, largest * np.array([127, 64, -64]) / 127, rtol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_conductance_is_a_level_rounded_once(kind, dtype):
    converter = kind(8, 4, 25.0, 0.3)
    weights = np.random.default_rng(0).normal(size=2000).astype(dtype)
    levels = (0.3 + np.arange(16) * (25.0 - 0.3) / 15).astype(dtype)
    for conductance in converter.convert_to_conductances(weights)[0]:
        assert np.isin(conductance, levels).all()


@pytest.mark.parametrize(
    ("bits", "slice_bits", "pair_slices", "offset_slices"),
    [(8, 4, 2, 2), (8, 8, 1, 1), (8, 7, 1, 2), (8, 2, 4, 4), (5, 4, 1, 2), (16, 1, 15, 16), (2, 1, 1, 2)],
)
def test_codes_are_cut_into_as_few_slices_as_suffice(bits, slice_bits, pair_slices, offset_slices):
    assert BitSlicedPairConductanceConverter(bits, slice_bits).slices == pair_slices
    assert BitSlicedOffsetConductanceConverter(bits, slice_bits).slices == offset_slices


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bits": 1}, "bits should be a whole number from 2 to 16, but it is 1"),
        ({"bits": 17}, "bits should be a whole number from 2 to 16, but it is 17"),
        ({"bits": 8.0}, "but it is 8.0"),
        ({"bits": True}, "but it is True"),
        ({"bits": "8"}, "but it is '8'"),
        ({"slice_bits": 0}, "slice_bits should be a whole number from 1 to 8, but it is 0"),
        ({"bits": 16, "slice_bits": 9}, "slice_bits should be a whole number from 1 to 8, but it is 9"),
        ({"bits": 4, "slice_bits": 5}, "slice_bits should be a whole number from 1 to 4, but it is 5"),
        ({"g_max": 1.0, "g_min": 2.0}, "g_min should be smaller than g_max"),
    ],
)
def test_what_codes_and_devices_cannot_be_is_refused(kind, parameters, message):
    with pytest.raises(ConfigError, match=message):
        kind(**parameters)
