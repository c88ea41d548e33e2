"""What the runs of one model differ by, and what that excuses."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.runtime.comparison import Rounding, Spread, compare_all, is_beyond_rounding, spread_between


def test_outputs_of_other_shapes_or_without_a_value_have_no_distance():
    assert spread_between(np.zeros(3), np.zeros(4)) == Spread(same_shape=False)
    assert spread_between(np.zeros(3), None) == Spread(same_shape=False)
    assert spread_between(None, None) == Spread(same_shape=True)


@pytest.mark.parametrize(
    ("output", "spread", "expected"),
    [
        (None, Spread(same_shape=False), True),
        (None, Spread(), False),
        (np.zeros(3), Spread(same_shape=False), True),
        (np.zeros(1000, np.int64), Spread(mismatches=1000), True),
        (np.zeros(1000, np.int64), Spread(), False),
        (np.ones(3), Spread(distance=0.5), True),
        (np.ones(3), Spread(distance=1e-7), False),
    ],
)
def test_more_than_rounding(output, spread, expected):
    assert is_beyond_rounding(output, spread) is expected


@pytest.mark.parametrize(
    ("spread", "passed", "note"),
    [
        (Spread(), False, "has the shape [3] and must have [4]"),
        (Spread(same_shape=False), True, "not compared: the original's own runs give different shapes"),
        (Spread(same_shape=False, noise="seeded"), False, "has the shape [3] and must have [4]"),
    ],
)
def test_another_shape_fails_unless_the_original_gives_others_itself(spread, passed, note):
    [found] = compare_all("all", {"y": np.zeros(4)}, {"y": np.zeros(3)}, {"y": spread}, Rounding(1, 1e-7))
    assert (found.passed, found.is_random, found.note) == (passed, passed, note)
