"""A plan holds every decision: what is mapped with which scale, what is skipped, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.passes import MapConductances
from onnx_gconv.passes.planning import loss, scan
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme
from onnx_gconv.tensors import streamed as streamed_tensor

TEXT = "g (float[4,4] x) => (float[4,4] y) { [first] a = MatMul(x, W) [second] y = MatMul(a, V) }"


@pytest.fixture
def small_parts(monkeypatch):
    """Weights are scanned in parts of 5 elements."""
    for module in (loss, scan):
        monkeypatch.setattr(module, "PART_ELEMENTS", 5)


def test_it_holds_the_scale_and_the_statistics_of_every_weight(parse, normal):
    plan = MapConductances().plan(parse(TEXT, W=normal(4, 4), V=2 * normal(4, 4)))
    first, second = plan.weights
    assert (first.found.name, second.found.name) == ("W", "V")
    assert first.statistics.max_abs == float(np.abs(normal(4, 4)).max())
    assert first.statistics.count == 16
    assert second.conversion.scaling.scale == first.conversion.scaling.scale / 2
    assert (first.dtype, first.compute_dtype, first.notes) == (np.float32, np.float32, ())


def test_large_weights_are_scanned_in_parts(small_parts, parse, normal):
    [first, second] = MapConductances().plan(parse(TEXT, W=normal(4, 4), V=normal(4, 4, seed=1))).weights
    for weight, array in [(first, normal(4, 4)), (second, normal(4, 4, seed=1))]:
        statistics = weight.statistics
        assert (statistics.minimum, statistics.maximum, statistics.count) == (array.min(), array.max(), 16)


@pytest.mark.parametrize("index", [0, 4, 5, 14, 15])
def test_a_value_that_is_not_finite_is_found_in_any_part(small_parts, parse, normal, index):
    v = normal(4, 4)
    v.flat[index] = np.nan
    v.flat[15] = np.inf if index < 15 else np.nan
    plan = MapConductances().plan(parse(TEXT, W=normal(4, 4), V=v))
    [(weight, reason)] = plan.refused
    assert weight.name == "V"
    assert f"has the value nan at flat index {index};" in reason


def test_progress_grows_with_every_part_up_to_all_bytes(small_parts, parse, normal):
    steps = []
    mapping = MapConductances(progress=lambda done, total: steps.append((done, total)))
    mapping.plan(parse(TEXT, W=normal(4, 4), V=normal(4, 4)))
    assert steps == [(done, 128) for done in (20, 40, 60, 64, 84, 104, 124, 128)]


def test_an_error_of_the_caller_ends_the_scan(small_parts, parse, normal):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MapConductances(progress=stop).plan(parse(TEXT, W=normal(4, 4), V=normal(4, 4)))


def test_refused_weights_do_not_keep_the_others_from_being_planned(parse, normal):
    plan = MapConductances().plan(parse(TEXT, W=np.full((4, 4), np.inf, np.float32), V=normal(4, 4)))
    assert [weight.found.name for weight in plan.weights] == ["V"]
    with pytest.raises(UnmappableWeightError, match="the weight 'W' has the value inf"):
        plan.raise_if_refused()


def test_a_plan_without_refused_weights_raises_nothing(parse, normal):
    MapConductances().plan(parse(TEXT, W=normal(4, 4), V=normal(4, 4))).raise_if_refused()


def test_refused_weights_may_be_looked_at_among_the_skipped_ones(parse, normal):
    plan = MapConductances().plan(parse(TEXT, W=np.full((4, 4), np.nan, np.float32), V=normal(4, 4)))
    shown = plan.refused_as_skipped()
    assert shown.refused == ()
    assert [weight.found.name for weight in shown.weights] == ["V"]
    [skipped] = shown.skipped
    assert (skipped.name, skipped.shape, skipped.reason, skipped.is_mvm) == ("W", (4, 4), "refused_values", True)
    assert skipped.detail.startswith("has the value nan at flat index 0")
    assert skipped.consumers == ("first (MatMul)",)


def test_a_range_too_far_from_a_weight_refuses_it(parse, normal):
    plan = MapConductances(SinglePairConductanceConverter(1e-10), unit="uS").plan(
        parse(TEXT, W=np.full((4, 4), 1e38, np.float32), V=normal(4, 4))
    )
    [(weight, reason)] = plan.refused
    assert weight.name == "W"
    assert "the scale is 0.0 in float32" in reason


def test_only_weights_that_lose_bits_in_float32_are_mapped_exactly_in_float64(parse, normal):
    w = normal(4, 4)
    w[0, 0], w[1, 1] = 1e-44, 1e4
    plan = MapConductances(SinglePairConductanceConverter(exact=True)).plan(parse(TEXT, W=w, V=normal(4, 4)))
    assert [weight.compute_dtype for weight in plan.weights] == [np.float64, np.float32]
    assert [len(weight.notes) for weight in plan.weights] == [1, 0]


@pytest.mark.parametrize("granularity", [Granularity("channel"), Granularity("tile", (3, 2))], ids=str)
def test_a_value_that_is_not_finite_is_named_with_its_index_in_the_whole_weight(parse, granularity):
    weight = np.ones((8, 4), np.float32)
    weight[5, 2] = np.nan
    model = parse("g (float[2,8] x) => (float y) { y = MatMul(x, W) }", W=weight)
    with pytest.raises(UnmappableWeightError, match=r"'W' has the value nan at flat index 22; no conductance"):
        MapConductances(scheme=MappingScheme(granularity=granularity))(model)


@pytest.mark.parametrize("granularity", [Granularity("channel"), Granularity("tile", (3, 2))], ids=str)
def test_each_group_has_the_scale_of_its_own_largest_weight(parse, normal, granularity, monkeypatch):
    monkeypatch.setattr(streamed_tensor, "CHUNK_ELEMENTS", 8)
    weight = normal(8, 4)
    model = parse("g (float[2,8] x) => (float y) { y = MatMul(x, W) }", W=weight)
    [planned] = MapConductances(scheme=MappingScheme(granularity=granularity)).plan(model).weights
    grid, scale = planned.conversion.grid, planned.conversion.scaling.scale.reshape(-1)
    groups = grid.groups(0, 32)
    for group in range(grid.count):
        largest = np.abs(weight.reshape(-1)[groups == group]).max()
        assert scale[group] == np.float32(1) / largest * np.float32(25)
    assert planned.statistics.max_abs == np.abs(weight).max()


def test_memory_does_not_grow_with_parts_times_groups(monkeypatch, parse, normal):
    for module in (loss, scan):
        monkeypatch.setattr(module, "PART_ELEMENTS", 1 << 12)
    w = normal(512, 1024)
    model = parse("g (float[4,512] x) => (float y) { y = MatMul(x, W) }", W=w)
    scheme = MappingScheme(SinglePairConductanceConverter(), Granularity("tile_channel", (8, 8)))
    tracemalloc.start()
    [planned] = MapConductances(scheme=scheme).plan(model).weights
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * w.nbytes  # the 128 parts of 65,536 groups each would have 128 MiB
    largest = np.abs(w).reshape(64, 8, 1024).max(axis=1)
    expected = (1 / largest) * np.float32(25)
    np.testing.assert_array_equal(planned.conversion.scaling.scale.astype(np.float32), expected[None])


@pytest.mark.parametrize("granularity", [Granularity(), Granularity("tile_channel", (5, 3))], ids=str)
def test_what_a_weight_loses_is_that_of_all_its_elements_whatever_blocks_it_is_computed_in(
    monkeypatch, parse, normal, granularity
):
    w = normal(40, 20)
    model = parse("g (float[4,40] x) => (float y) { y = MatMul(x, W) }", W=w)
    levels = ConductanceLevels.uniform(8, 0.0, 25.0)
    scheme = MappingScheme(SinglePairConductanceConverter(), granularity, levels=levels)
    whole = MapConductances(scheme=scheme).plan(model).weights[0].loss
    monkeypatch.setattr(loss, "_LOSS_ELEMENTS", 7)
    parts = MapConductances(scheme=scheme).plan(model).weights[0].loss
    assert parts.count == whole.count == 800
    assert parts.max_rounding_error == whole.max_rounding_error
    assert parts.rms_error == pytest.approx(whole.rms_error, rel=1e-12)
    assert whole.rms_weight == pytest.approx(np.sqrt(np.mean(w.astype(np.float64) ** 2)), rel=1e-12)
