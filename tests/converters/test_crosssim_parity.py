"""The single pair gives the conductances of CrossSim's balanced one-sided core."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "crosssim_one_sided.json").read_text(encoding="utf-8"))
WEIGHTS = np.array(RECORDED["W"], np.float32)
CASES = {name: case for name, case in RECORDED.items() if name[:2] in {"A_", "B_", "C_"}}
TOLERANCE = 1e-6  # of full range; CrossSim computes in other steps


def g_max_us(case):
    return 1e6 / case["Rmin"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("unit", ["normalised", "µS"])
class TestRecordedCase:
    def convert(self, case, unit):
        full = 1.0 if unit == "normalised" else g_max_us(case)
        converter = SinglePairConductanceConverter(full, full * case["Gmin_norm"])
        return full, converter, *converter.convert_to_conductances(WEIGHTS)

    def test_conductances_agree(self, case, unit):
        full, _, (g_plus, g_minus), _ = self.convert(case, unit)
        np.testing.assert_allclose(g_plus / full, case["Gpos"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(g_minus / full, case["Gneg"], rtol=0, atol=TOLERANCE)

    def test_weights_read_back_agree(self, case, unit):
        _, converter, conductances, params = self.convert(case, unit)
        back = converter.convert_back_to_weights(conductances, params)
        np.testing.assert_allclose(back, case["readback"], rtol=0, atol=TOLERANCE * case["max"])

    def test_conductances_of_crosssim_become_its_weights(self, case, unit):
        full, converter, _, params = self.convert(case, unit)
        recorded = [full * np.array(case[name], np.float32) for name in ("Gpos", "Gneg")]
        back = converter.convert_back_to_weights(recorded, params)
        np.testing.assert_allclose(back, case["readback"], rtol=0, atol=TOLERANCE * case["max"])


def test_pcm_devices_of_crosssim_have_the_scale_that_was_recorded():
    [case] = [case for name, case in CASES.items() if name.startswith("C_")]
    converter = SinglePairConductanceConverter(g_max_us(case), g_max_us(case) * case["Gmin_norm"])
    (g_plus, g_minus), params = converter.convert_to_conductances(WEIGHTS)
    recorded = RECORDED["single_pair_vs_crosssim_uS"]
    assert params["scale_ratio"] == pytest.approx(recorded["scale"], rel=1e-6)
    assert np.abs(g_plus - 25 * np.array(case["Gpos"])).max() == pytest.approx(recorded["max_dGpos"], abs=2e-6)
    assert np.abs(g_minus - 25 * np.array(case["Gneg"])).max() == pytest.approx(recorded["max_dGneg"], abs=2e-6)
