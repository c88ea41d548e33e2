"""Times after programming as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.times import parse_time, time_text

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
