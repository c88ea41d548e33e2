"""Tiles that come back transposed, reversed or from the other device are told from tiles with noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.crossbars.arrangement import Evidence, evidence_of_rearrangement

REARRANGED = {
    "transposed": np.transpose,
    "rows_reversed": lambda array: array[::-1],
    "columns_reversed": lambda array: array[:, ::-1],
    "turned": lambda array: array[::-1, ::-1],
}


def tile(*shape, seed=0):
    """G+ of normally distributed weights: half of the cells are at 0."""
    return np.clip(np.random.default_rng(seed).normal(0, 8, shape), 0, 25).astype(np.float32)


def clear(targets, measured, partner=None):
    """The arrangements that the tile is taken for."""
    found = evidence_of_rearrangement(targets, measured.astype(np.float64) - targets, partner)
    return [name for name, evidence in found.items() if evidence.is_clear]


def noisy(array, sigma, seed=1):
    return array + np.random.default_rng(seed).normal(0, sigma, array.shape)


@pytest.mark.parametrize("name", REARRANGED)
@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0])
def test_a_rearranged_tile_is_recognized_with_its_noise(name, sigma):
    targets = tile(16, 16)
    assert clear(targets, noisy(REARRANGED[name](targets), sigma)) == [name]


def test_the_other_device_of_a_pair_is_recognized():
    weights = np.random.default_rng(0).normal(0, 8, (9, 5))
    plus, minus = (np.clip(sign * weights, 0, 25).astype(np.float32) for sign in (1, -1))
    assert clear(plus, noisy(minus, 1.0), partner=minus) == ["exchanged"]
    assert clear(plus, noisy(plus, 1.0), partner=minus) == []


@settings(max_examples=60)
@given(
    st.integers(2, 12), st.integers(2, 12), st.sampled_from([0.01, 0.3, 3.0, 30.0, 300.0]), st.integers(0, 2**32 - 1)
)
def test_noise_of_any_size_is_not_taken_for_another_arrangement(rows, columns, sigma, seed):
    targets = tile(rows, columns, seed=seed)
    assert clear(targets, noisy(targets, sigma, seed + 1), partner=tile(rows, columns, seed=seed + 2)) == []


@pytest.mark.parametrize("reading", [0.0, 12.5, 25.0])
def test_a_tile_that_reads_the_same_everywhere_is_not_taken_for_another_arrangement(reading):
    assert clear(tile(16, 16), np.full((16, 16), reading)) == []


def test_tiles_that_another_arrangement_leaves_as_they_are_look_like_none():
    square = tile(16, 16)
    symmetric = square + square.T
    assert "transposed" not in clear(symmetric, noisy(symmetric.T, 1.0))
    assert clear(np.zeros((16, 16)), noisy(np.zeros((16, 16)), 1.0)) == []


def test_what_was_not_measured_says_nothing():
    targets = tile(16, 16)
    measured = noisy(targets.T, 0.5)
    measured[::2] = np.nan
    assert clear(targets, measured) == ["transposed"]
    measured[3:] = np.nan
    measured[:, 4:] = np.nan
    assert clear(targets, measured) == []


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_errors_of_a_sixteenth_of_the_variance_of_the_targets_need_no_further_look(offset):
    targets = tile(16, 16).astype(np.float64) + offset
    for part, is_looked_at in ((0.062, False), (0.063, True)):
        errors = np.full(targets.shape, np.sqrt(part * targets.var()))
        assert bool(evidence_of_rearrangement(targets, errors, None)) == is_looked_at


def test_a_tile_of_high_conductances_that_are_near_each_other_is_recognized():
    targets = np.random.default_rng(0).uniform(20, 25, (16, 16))
    assert clear(targets, noisy(targets.T, 0.1)) == ["transposed"]


@pytest.mark.parametrize(
    ("cells", "ratio", "is_clear"),
    [
        (1000, 0.24, True),
        (1000, 0.26, False),
        (11, 0.02, False),  # 0.02 ** 5 is 3.2e-9
        (12, 0.02, True),  # 0.02 ** 5.5 is 4.5e-10
        (4, 1e-12, False),  # counts as 1e-3
        (8, 1e-12, True),
    ],
)
def test_evidence_is_clear_by_the_rule_of_the_ratio_and_the_number_of_cells(cells, ratio, is_clear):
    assert Evidence(cells, 1.0, ratio).is_clear == is_clear


def test_too_few_cells_prove_nothing_but_together_they_do():
    parts = []
    for seed in range(20):
        targets = tile(3, 3, seed=seed)
        found = evidence_of_rearrangement(targets, noisy(targets.T, 0.3, seed) - targets, None)
        parts.append(found.get("transposed", Evidence()))
    assert not any(part.is_clear for part in parts)
    whole = parts[0]
    for part in parts[1:]:
        whole |= part
    assert whole.is_clear
    assert not Evidence().is_clear
