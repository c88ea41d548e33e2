"""The converters give the conductances and the read-back weights of CrossSim's cores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_gconv.converters import (
    BitSlicedOffsetConductanceConverter,
    BitSlicedPairConductanceConverter,
    OffsetConductanceConverter,
    SinglePairConductanceConverter,
    TwoSidedPairConductanceConverter,
)
from onnx_gconv.devices.levels import ConductanceLevels

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "crosssim.json").read_text(encoding="utf-8"))
CASES = {name[0]: case for name, case in RECORDED.items() if name[1:2] == "_"}
TOLERANCE = 1e-6  # of full range; CrossSim computes in other steps

CONVERTERS = {
    "A": SinglePairConductanceConverter,
    "B": SinglePairConductanceConverter,
    "C": SinglePairConductanceConverter,
    "D": TwoSidedPairConductanceConverter,
    "E": OffsetConductanceConverter,
    "F": OffsetConductanceConverter,
    "G": SinglePairConductanceConverter,
    "H": OffsetConductanceConverter,
    "J": BitSlicedPairConductanceConverter,
    "K": BitSlicedOffsetConductanceConverter,
}


def conductances_of(name):
    """The recorded conductances, one array for each device, normalised; reference devices left out."""
    case = CASES[name]
    if "slices_lsb_first" in case:
        return [np.array(device) for part in case["slices_lsb_first"] for device in part]
    if "G" not in case:
        return [np.array(case["Gpos"]), np.array(case["Gneg"])]
    return [np.array(case["G"])[1 if name == "F" else 0 :]]


def weights(dtype):
    return np.array(RECORDED["W"], dtype)


def full_range_us(case, unit):
    return 1.0 if unit == "normalised" else 1e6 / case["Rmin"]


def converter_of(name, full):
    case = CASES[name]
    converter = CONVERTERS[name](g_max=full, g_min=full * case["Gmin_norm"])
    return converter.for_levels(2 ** case["cell_bits"]) if case["cell_bits"] else converter


def on_levels(conductance, converter, count):
    """Conductances rounded to uniform levels."""
    rounded = np.empty_like(conductance.reshape(-1))
    ConductanceLevels.uniform(count, converter.g_min, converter.g_max).round_chunk(conductance.reshape(-1), rounded)
    return rounded.reshape(conductance.shape)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"G", "H"}))
@pytest.mark.parametrize("unit", ["normalised", "µS"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestRecordedCase:
    def test_conductances_agree(self, name, unit, dtype):
        full = full_range_us(CASES[name], unit)
        found, _ = converter_of(name, full).convert_to_conductances(weights(dtype))
        for ours, theirs in zip(found, conductances_of(name), strict=True):
            np.testing.assert_allclose(ours / full, theirs, rtol=0, atol=TOLERANCE)

    def test_weights_read_back_agree(self, name, unit, dtype):
        converter = converter_of(name, full_range_us(CASES[name], unit))
        back = converter.convert_back_to_weights(*converter.convert_to_conductances(weights(dtype)))
        np.testing.assert_allclose(back, CASES[name]["readback"], rtol=0, atol=TOLERANCE * CASES[name]["max"])

    def test_conductances_of_crosssim_become_its_weights(self, name, unit, dtype):
        full = full_range_us(CASES[name], unit)
        converter = converter_of(name, full)
        _, params = converter.convert_to_conductances(weights(dtype))
        back = converter.convert_back_to_weights([(full * g).astype(dtype) for g in conductances_of(name)], params)
        np.testing.assert_allclose(back, CASES[name]["readback"], rtol=0, atol=TOLERANCE * CASES[name]["max"])


# W has weights half-way between two levels, which go where roundings take them. These types and units round as
# CrossSim does; its balanced core computes in float32, its offset core in float64.
@pytest.mark.parametrize(("name", "unit", "dtype"), [("G", "µS", np.float32), ("H", "normalised", np.float64)])
class TestRecordedCaseWithLevels:
    def rounded(self, name, unit, dtype):
        full = full_range_us(CASES[name], unit)
        converter = converter_of(name, full)
        found, params = converter.convert_to_conductances(weights(dtype))
        return full, converter, [on_levels(g, converter, 16) for g in found], params

    def test_conductances_agree(self, name, unit, dtype):
        full, _, found, _ = self.rounded(name, unit, dtype)
        for ours, theirs in zip(found, conductances_of(name), strict=True):
            np.testing.assert_allclose(ours / full, theirs, rtol=0, atol=TOLERANCE)

    def test_weights_read_back_agree(self, name, unit, dtype):
        _, converter, found, params = self.rounded(name, unit, dtype)
        back = converter.convert_back_to_weights(found, params)
        np.testing.assert_allclose(back, CASES[name]["readback"], rtol=0, atol=TOLERANCE * CASES[name]["max"])


@pytest.mark.parametrize("unit", ["normalised", "µS"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["G", "H"])
def test_weights_that_are_not_half_way_between_two_levels_agree_in_every_unit(name, unit, dtype):
    full = full_range_us(CASES[name], unit)
    converter = converter_of(name, full)
    found, _ = converter.convert_to_conductances(weights(dtype))
    for ours, theirs in zip(found, conductances_of(name), strict=True):
        place = (ours - converter.g_min) / (converter.g_max - converter.g_min) * 15
        is_tie = np.abs(place - np.floor(place) - 0.5) < 1e-5
        assert is_tie.sum() <= 2
        rounded = on_levels(ours, converter, 16) / full
        np.testing.assert_allclose(rounded[~is_tie], theirs[~is_tie], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("unit", ["normalised", "µS"])
def test_the_reference_devices_are_crosssims_unit_column(unit):
    full = full_range_us(CASES["F"], unit)
    reference = converter_of("F", full).reference_us / full
    np.testing.assert_allclose(CASES["F"]["G"][0], reference, rtol=0, atol=TOLERANCE)


def test_all_cases_are_looked_at():
    assert sorted(CASES) == sorted(CONVERTERS) == list("ABCDEFGHJK")


def test_pcm_devices_of_crosssim_have_the_scale_that_was_recorded():
    full = full_range_us(CASES["C"], "µS")
    (g_plus, g_minus), params = converter_of("C", full).convert_to_conductances(weights(np.float32))
    recorded = RECORDED["single_pair_vs_crosssim_uS"]
    assert params["scale_ratio"] == pytest.approx(recorded["scale"], rel=1e-6)
    assert np.abs(g_plus - 25 * np.array(CASES["C"]["Gpos"])).max() == pytest.approx(recorded["max_dGpos"], abs=2e-6)
    assert np.abs(g_minus - 25 * np.array(CASES["C"]["Gneg"])).max() == pytest.approx(recorded["max_dGneg"], abs=2e-6)
