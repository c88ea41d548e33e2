"""The levels of a device: codes, conductances, and what rounding to them may cost."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.devices import levels as module
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError


@st.composite
def some_levels(draw):
    g_min = draw(st.sampled_from([0.0, 0.25, 1.0, 50.0]))
    if draw(st.booleans()):
        return ConductanceLevels.uniform(draw(st.integers(2, 3000)), g_min, g_min + draw(st.floats(0.5, 500)))
    gaps = draw(st.lists(st.floats(0.01, 10), min_size=1, max_size=40))
    return ConductanceLevels.of_table([g_min, *(g_min + np.cumsum(gaps))])


@given(levels=some_levels(), dtype=st.sampled_from([np.float32, np.float64]), data=st.data())
def test_a_conductance_is_rounded_to_the_nearest_level(levels, dtype, data):
    dtype = np.dtype(dtype)
    parts = data.draw(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1)))
    conductances = (levels.g_min + parts * (levels.g_max - levels.g_min)).astype(dtype)
    codes = levels.codes(conductances)
    rounded = np.empty_like(conductances)
    levels.round_chunk(conductances, rounded)
    assert codes.dtype == levels.code_dtype
    assert levels.decode(codes, dtype).tobytes() == rounded.tobytes()
    exact = np.abs(rounded.astype(float) - conductances.astype(float))
    assert np.all(exact <= levels.error_bound_us(dtype))
    nearest = np.abs(conductances.astype(float)[:, None] - levels.values(np.float64)).min(axis=1)
    assert np.all(exact <= nearest + 16 * np.finfo(dtype).eps * levels.g_max)


@given(levels=some_levels(), dtype=st.sampled_from([np.float32, np.float64]))
def test_levels_are_fixed_points_and_codes_are_their_numbers(levels, dtype):
    values = levels.values(dtype)
    assert np.all(np.diff(values) > 0)
    assert levels.codes(values).tolist() == list(range(levels.count))
    assert levels.first_between(values) is None
    assert values[0] == dtype(levels.g_min)
    assert abs(float(values[-1]) - levels.g_max) <= 4 * np.finfo(dtype).eps * levels.g_max


@given(levels=some_levels())
def test_the_manifest_gives_the_levels_back(levels):
    assert ConductanceLevels.from_manifest(levels.manifest()) == levels
    assert hash(ConductanceLevels.from_manifest(levels.manifest())) == hash(levels)


def test_conductances_beyond_the_range_get_its_ends():
    for levels in (ConductanceLevels.uniform(5, 1.0, 9.0), ConductanceLevels.of_table([1.0, 2.0, 9.0])):
        assert levels.codes(np.float32([0.0, 0.99, 9.01, 100.0])).tolist() == [0, 0, levels.count - 1, levels.count - 1]


def test_halfway_the_even_code_counts_and_the_lower_level_of_a_table():
    assert ConductanceLevels.uniform(5, 0.0, 4.0).codes(np.float32([0.5, 1.5, 2.5])).tolist() == [0, 2, 2]
    assert ConductanceLevels.of_table([0.0, 1.0, 2.0]).codes(np.float32([0.5, 1.5])).tolist() == [0, 1]


def test_the_shape_of_a_code_follows_the_number_of_levels():
    assert ConductanceLevels.uniform(256, 0.0, 1.0).code_dtype == np.uint8
    assert ConductanceLevels.uniform(257, 0.0, 1.0).code_dtype == np.uint16
    assert ConductanceLevels.uniform(1 << 16, 0.0, 1.0).codes(np.float32([[1.0]])).tolist() == [[65535]]


@pytest.mark.parametrize(
    "levels", [ConductanceLevels.uniform(7, 1.0, 9.0), ConductanceLevels.of_table([0.0, 3.0, 4.0])]
)
def test_blocks_do_not_show(levels, monkeypatch):
    conductances = np.random.default_rng(0).uniform(0, 9, 100).astype(np.float32)
    whole = levels.codes(conductances)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 7)
    assert np.array_equal(levels.codes(conductances), whole)
    rounded = conductances.copy()
    levels.round_chunk(rounded, rounded)
    assert np.array_equal(rounded, levels.decode(whole, np.dtype(np.float32)))
    rounded[50] = np.nextafter(rounded[50], np.float32(100))
    assert levels.first_between(rounded) == 50


def test_a_code_without_a_level_stands_for_no_conductance():
    for levels in (ConductanceLevels.uniform(5, 1.0, 9.0), ConductanceLevels.of_table([1.0, 2.0, 9.0])):
        found = levels.decode(np.uint8([1, 200, levels.count]), np.dtype(np.float32))
        assert np.isnan(found).tolist() == [False, True, True]
    full = ConductanceLevels.uniform(256, 0.0, 1.0)
    assert full.decode(np.uint8([255]), np.dtype(np.float64)) == pytest.approx(1.0)


def test_its_text_makes_it_again():
    for levels in (ConductanceLevels.uniform(5, 1.0, 9.0), ConductanceLevels.of_table([1.0, 2.0, 9.0])):
        assert eval(repr(levels)) == levels  # noqa: S307 - that is the test
    assert ConductanceLevels.uniform(5, 1.0, 9.0) != ConductanceLevels.of_table([1.0, 3.0, 5.0, 7.0, 9.0])
    assert ConductanceLevels.uniform(5, 1.0, 9.0) != 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConductanceLevels.uniform(1, 0.0, 1.0), "an integer from 2 to 65536, but it is 1"),
        (lambda: ConductanceLevels.uniform(float("nan"), 0.0, 1.0), "but it is nan"),
        (lambda: ConductanceLevels.uniform(65537, 0.0, 1.0), "but it is 65537"),
        (lambda: ConductanceLevels.uniform(4, 1.0, 1.0), "but these are 1.0 and 1.0 µS"),
        (lambda: ConductanceLevels.uniform(4, -1.0, 1.0), "but these are -1.0 and 1.0 µS"),
        (lambda: ConductanceLevels.of_table([1.0]), "a table has 2 to 65536 levels, but this one has 1"),
        (lambda: ConductanceLevels.of_table([0.0, 2.0, 1.0]), "levels of a table ascend, but after 2 µS comes 1 µS"),
        (lambda: ConductanceLevels.of_table([0.0, float("nan")]), "level 1 of the table is nan µS, no conductance"),
        (
            lambda: ConductanceLevels.uniform(65536, 50.0, 50.1),
            "levels 0 and 1 are both 50.0 µS in float32; use fewer levels",
        ),
        (lambda: ConductanceLevels.of_table([1.0, 1.0 + 1e-9]), "both 1.0 µS in float32"),
        (lambda: ConductanceLevels.of_table([-1.0, 1.0]), "level 0 of the table is -1.0 µS, no conductance"),
    ],
)
def test_wrong_levels_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda: ConductanceLevels.uniform(16, 0.0, 1e300), lambda: ConductanceLevels.of_table([0.0, 1.0, 2e38])]
)
def test_levels_that_float32_does_not_hold_are_refused(make):
    with pytest.raises(ConfigError, match=r"levels are at most 1e\+38 µS, but the highest one is (1e\+300|2e\+38)"):
        make()
