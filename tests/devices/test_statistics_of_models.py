"""Device models draw what their references draw, and a comparison sees where one does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from onnx_gconv.devices.base_device import Devices
from onnx_gconv.devices.normal_numbers import normal
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.devices.registry import DEVICE_MODELS
from tests.devices import statistics_of_models
from tests.devices.references import cases_of_aihwkit, other_cases
from tests.devices.statistics_of_models import compared, largest_factor_difference, main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*"),
]

CASES = {case.name: case for case in (*cases_of_aihwkit(), *other_cases())}
TESTS = 600  # about those of all models


def test_every_device_model_is_compared():
    assert {type(case.device) for case in CASES.values()} == set(DEVICE_MODELS.values())


@pytest.mark.parametrize("name", CASES)
def test_own_random_numbers_give_the_same_distribution(name):
    found = compared(CASES[name], 20_000, seed=0)
    assert found.problems(TESTS) == []
    moments = 1 + len(CASES[name].seconds)
    assert len(found.points) == len(CASES[name].parts) * (moments - (name == "reram-wan2022"))
    assert {seconds for seconds, _ in found.left_out} == ({0.0} if name == "reram-wan2022" else set())


class Shifted(PcmDevice):
    """Programmed too high by a twentieth of a standard deviation."""

    def _devices(self, targets_us, rng):
        devices = super()._devices(targets_us, rng)
        return Devices.after_programming(targets_us, devices.programmed_us + np.float32(0.05))


class TooWide(PcmDevice):
    """With errors that are too large by a twentieth."""

    def _programming_sigma_us(self, targets_us, scratch):
        return 1.05 * super()._programming_sigma_us(targets_us, scratch)


class Uniform(PcmDevice):
    """With errors of the right size that are not normal."""

    def _devices(self, targets_us, rng):
        shares = scipy.stats.norm.cdf(normal(targets_us, rng))
        sigma = self._programming_sigma_us(targets_us, np.empty((2, targets_us.size), targets_us.dtype))
        errors = np.sqrt(12) * (shares - 0.5) * sigma
        return Devices.after_programming(targets_us, np.maximum(targets_us + errors, 0).astype(targets_us.dtype))


class LateDrift(PcmDevice):
    """With a mean of drift that is too small by 1e-5 of its value."""

    def _drift_moments(self, targets_us, scratch):
        mean, spread = super()._drift_moments(targets_us, scratch)
        return mean * targets_us.dtype.type(1 - 1e-5), spread


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Shifted, "standard errors apart"),
        (TooWide, "the standard deviations are"),
        (Uniform, "of two distributions, p = "),
        (LateDrift, "with the same numbers they differ by "),
    ],
)
def test_a_model_that_differs_is_found(wrong, message):
    case = dataclasses.replace(CASES["pcm"], device=wrong(), parts=(0.5, 1.0), seconds=(86400.0,))
    problems = compared(case, 50_000, seed=0).problems(TESTS)
    assert any(message in problem for problem in problems)
    assert all(problem.startswith("pcm") for problem in problems)


@pytest.mark.parametrize("compensation", ["global", "column"])
def test_factors_that_compensate_drift_are_those_of_aihwkit(compensation):
    assert largest_factor_difference(compensation, seed=1) <= 1e-6


def test_the_table_and_what_was_left_out_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(statistics_of_models, "MOST_STANDARD_ERRORS", 5.0)
    assert main(["--samples", "500", "reram-wan", "log-normal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["reram-wan2022", "aihwkit", "24"]
    assert lines[2].split()[:3] == ["log-normal", "formula", "18"]
    assert any(line.startswith("left out: reram-wan2022, 0, 2, 10, 20, 30, 40 \u00b5S read at 0 s: ") for line in lines)
    monkeypatch.setattr(statistics_of_models, "MOST_STANDARD_ERRORS", 0.0)
    assert main(["--samples", "500", "log-normal"]) == 1
    assert "exceeded: log-normal, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no-such-model"])
