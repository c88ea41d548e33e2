"""Times after programming as people write them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.times import parse_time, seconds_of, time_text, times_of

DAY = 86400.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("20s", 20),
        ("1.5min", 90),
        ("1h", 3600),
        ("1d", DAY),
        ("1mo", 30 * DAY),
        ("1y", 365 * DAY),
        (" 2 d ", 2 * DAY),
        ("1e3s", 1000),
        (".5h", 1800),
    ],
)
def test_a_number_and_a_unit_are_seconds(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "1m", "1 day", "-1s", "1s1", "nans", "1e999s", "1,5h", "1S"])
def test_anything_else_is_refused_with_the_units(text):
    with pytest.raises(ConfigError) as found:
        parse_time(text)
    assert str(found.value) == (
        f"a time is a number and one of s, min, h, d, mo, y, such as 20s, 1d or 1mo, but it is '{text}'"
    )


@given(st.integers(0, 500), st.sampled_from(["s", "min", "h", "d", "mo", "y"]))
def test_a_time_is_said_in_the_largest_unit_that_divides_it(number, unit):
    seconds = parse_time(f"{number}{unit}")
    assert parse_time(time_text(seconds)) == seconds
    said, given_number = (int(re.match(r"\d+", text).group()) for text in (time_text(seconds), f"{number}{unit}"))
    assert said <= given_number


def test_times_that_no_unit_divides_are_said_in_seconds():
    assert [time_text(each) for each in (0.0, 0.25, 61.0, 3600.0, 90.0 * DAY)] == ["0s", "0.25s", "61s", "1h", "3mo"]


def test_a_time_of_hundreds_of_digits_is_said_with_an_exponent():
    assert [time_text(each) for each in (999_999_999.0, 3e16, 1e300)] == ["999999999s", "5e+14min", "3.17098e+292y"]


@pytest.mark.parametrize(
    "times",
    [
        "1s,1h",
        ["1h", 1],
        (np.float32(1), np.int64(3600)),
        np.array([3600.0, 1.0, 1.0]),
        np.array([[1], [3600]]),
        iter(["1s", "1h"]),
    ],
)
def test_times_come_as_text_numbers_of_any_type_or_arrays_of_them(times):
    found = times_of(times)
    assert found == [1.0, 3600.0]
    assert {type(each) for each in found} == {float}


@pytest.mark.parametrize("time", [np.float32(5), np.float64(5), np.int64(5), np.array(5), 5])
def test_one_number_of_any_type_is_one_time(time):
    assert times_of(time) == [5.0]


@pytest.mark.parametrize("times", [None, b"1s", bytearray(b"1s"), {"1s": 1}, True, object(), 1j])
def test_what_is_neither_a_number_nor_a_text_is_no_time(times):
    with pytest.raises(ConfigError, match=f"such as 1d, but not a {type(times).__name__}$"):
        times_of(times)


@pytest.mark.parametrize("time", [True, np.array([True]), b"1s", None])
def test_so_it_is_within_a_list_of_times(time):
    with pytest.raises(ConfigError, match="a time is a number of seconds"):
        times_of([time])


@pytest.mark.parametrize("time", [-1, float("nan"), float("inf"), np.float32("inf"), "1e308y"])
def test_a_negative_or_endless_time_is_refused(time):
    with pytest.raises(ConfigError, match="0 seconds or more after programming"):
        seconds_of(time)


def test_minus_zero_is_zero():
    assert str(seconds_of(-0.0)) == "0.0"
