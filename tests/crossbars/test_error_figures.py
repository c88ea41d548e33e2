"""Figures of parts, joined, are those of the whole."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_gconv.crossbars.error_figures import ErrorHistogram, ProgrammingErrors, Tolerance, WeightErrors

# Far above where numbers lose digits when they are scaled down.
NUMBERS = st.floats(-1e3, 1e3).map(lambda number: number if abs(number) > 1e-200 else 0.0)
ERRORS = hnp.arrays(np.float64, st.integers(0, 30), elements=NUMBERS)
TOLERANCE = Tolerance(0.5, 0.1)


def figures(errors):
    targets = np.linspace(1, 20, errors.size)
    return ProgrammingErrors.of(targets, errors, 0, TOLERANCE)


@given(st.lists(ERRORS, min_size=1, max_size=6))
def test_joined_figures_are_those_of_all_errors_together(parts):
    joined = functools.reduce(operator.or_, map(figures, parts))
    errors = np.concatenate(parts)
    assert joined.measured == joined.cells == errors.size
    if errors.size:
        size = np.abs(errors).max()
        assert joined.mean_us == pytest.approx(errors.mean(), rel=1e-9, abs=1e-12 * size)
        assert joined.std_us == pytest.approx(errors.std(), rel=1e-9, abs=1e-12 * size)
        assert joined.rms_us == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9, abs=1e-12 * size)
        assert joined.largest_us == pytest.approx(size, rel=1e-12, abs=1e-12)
    else:
        assert (joined.std_us, joined.rms_us, joined.within_tolerance) == (None, None, None)


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.one_of(NUMBERS, st.just(np.nan))), st.data())
def test_figures_are_numpys_of_the_cells_that_were_measured_in_whatever_order_they_are_joined(errors, data):
    targets = np.linspace(1, 20, errors.size)
    cuts = sorted(data.draw(st.lists(st.integers(0, errors.size), max_size=4)))
    parts = [
        ProgrammingErrors.of(some, mine if mine.size else None, 0, TOLERANCE)
        for some, mine in zip(np.split(targets, cuts), np.split(errors, cuts), strict=True)
    ]
    joined = functools.reduce(operator.or_, data.draw(st.permutations(parts)))
    measured = errors[~np.isnan(errors)]
    assert (joined.cells, joined.measured, joined.asked) == (errors.size, measured.size, errors.size)
    allowed = TOLERANCE.allowed(targets)[~np.isnan(errors)]
    assert joined.within == np.count_nonzero(np.abs(measured) <= allowed)
    assert joined.histogram.counts.sum() == measured.size
    if measured.size:
        size = np.abs(measured).max()
        assert joined.mean_us == pytest.approx(measured.mean(), rel=1e-9, abs=1e-12 * size)
        assert joined.std_us == pytest.approx(measured.std(), rel=1e-9, abs=1e-12 * size)
        assert joined.largest_us == size
        np.testing.assert_array_equal(joined.histogram.counts, np.histogram(measured, joined.histogram.edges_us)[0])
    else:
        assert joined.to_json()["histogram"] is None


@given(st.lists(ERRORS, min_size=1, max_size=6))
def test_joined_histograms_count_every_error_in_its_bin(parts):
    joined = functools.reduce(operator.or_, map(ErrorHistogram.of, parts))
    errors = np.concatenate(parts)
    assert joined.counts.sum() == errors.size
    np.testing.assert_array_equal(joined.counts, np.histogram(errors, joined.edges_us)[0])


@given(ERRORS.filter(lambda errors: errors.size and np.abs(errors).max() > 1e-9))
def test_bins_are_as_fine_as_all_errors_fit(errors):
    histogram = ErrorHistogram.of(errors)
    largest = np.abs(errors).max()
    assert histogram.edges_us[-1] / 2 <= largest <= histogram.edges_us[-1]
    assert histogram.edges_us[0] == -histogram.edges_us[-1]


def test_errors_of_nothing_but_zeros_have_a_histogram():
    histogram = ErrorHistogram.of(np.zeros(7))
    assert histogram.counts[32] == 7
    assert histogram.counts.sum() == 7


@given(ERRORS.filter(lambda errors: errors.size and np.abs(errors).max() > 1e-9), st.integers(0, 3))
def test_parts_without_an_error_leave_the_bins_as_fine_as_they_were(errors, zeros):
    alone = ErrorHistogram.of(errors)
    for joined in (alone | ErrorHistogram.of(np.zeros(zeros)), ErrorHistogram.of(np.zeros(zeros)) | alone):
        assert joined.exponent == alone.exponent
        assert joined.counts.sum() == errors.size + zeros


@pytest.mark.parametrize(
    ("absolute", "relative", "within", "text"),
    [
        (1.0, None, [True, True, False, True], "1 µS"),
        (None, 0.1, [False, True, False, True], "10 % of the target"),
        (1.0, 0.1, [True, True, False, True], "1 µS or 10 % of the target"),
    ],
)
def test_the_larger_tolerance_counts(absolute, relative, within, text):
    tolerance = Tolerance(absolute, relative)
    targets, errors = np.array([0.0, 10.0, 10.0, 20.0]), np.array([1.0, -1.0, 1.5, 1.0])
    assert (np.abs(errors) <= tolerance.allowed(targets)).tolist() == within
    assert str(tolerance) == text
    found = ProgrammingErrors.of(targets, errors, 0, tolerance)
    assert found.within == sum(within)


def test_cells_without_a_measurement_count_only_as_cells():
    targets = np.ones((2, 3))
    nothing = ProgrammingErrors.of(targets, None, 0, TOLERANCE)
    some = ProgrammingErrors.of(targets, np.array([[0.5, np.nan, 0.0], [np.nan, np.nan, -0.5]]), 2, TOLERANCE)
    assert (nothing.cells, nothing.measured, nothing.yielded) == (6, 0, None)
    assert (some.measured, some.failed, some.yielded) == (3, 2, pytest.approx(4 / 6))
    both = nothing | some
    assert (both.cells, both.measured, both.yielded) == (12, 3, pytest.approx(4 / 6))
    assert (both.mean_us, both.std_us) == (some.mean_us, some.std_us)
    assert nothing.to_json()["histogram"] is None
    assert both.to_json()["kept_targets"] == 9


@given(st.lists(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-10, 10)), min_size=1, max_size=5))
def test_errors_of_weights_are_joined(parts):
    joined = functools.reduce(operator.or_, map(WeightErrors.of, parts))
    errors = np.concatenate(parts)
    assert (joined.weights, joined.changed) == (errors.size, np.count_nonzero(errors))
    assert joined.largest == np.abs(errors).max()
    assert joined.rms == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9, abs=1e-150)


def test_relative_errors_of_an_all_zero_weight_are_none():
    assert WeightErrors.of(np.ones(3)).to_json(0.0)["max_relative_error"] is None
