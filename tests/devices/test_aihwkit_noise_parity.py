"""Device models do what aihwkit's noise models do: with the same random numbers, number for number."""

from __future__ import annotations

import numpy as np
import pytest

from tests.devices.references import cases_of_aihwkit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*"),
]


class Given:
    """A generator of normal numbers that gives the ones it has."""

    def __init__(self, numbers):
        self.numbers = numbers

    def standard_normal(self, shape, dtype):
        assert self.numbers.shape == shape
        return self.numbers.astype(dtype)


@pytest.mark.parametrize("case", cases_of_aihwkit(), ids=lambda case: case.name)
def test_the_same_random_numbers_give_the_same_conductances(case):
    device, reference = case.device, case.reference
    targets = np.linspace(device.g_min, device.g_max, 4001)
    z = tuple(np.random.default_rng(0).normal(size=(3, targets.size)))
    for seconds in (*case.seconds, 20.0):
        if case.name == "reram-wan2022" and seconds in (0.0, 20.0):
            continue  # aihwkit knows nothing of these times
        devices = device.program(targets, Given(z[0]))
        np.testing.assert_allclose(devices.programmed_us, reference.programmed(targets, z), rtol=1e-9, atol=1e-9)
        later = device.drift(devices, seconds, Given(z[1]))
        got, read = device.read(later, seconds, Given(z[2])), reference.read(targets, seconds, z)
        known = np.isfinite(read)  # aihwkit has no number for the logarithm of a negative conductance
        np.testing.assert_allclose(got[known], read[known], rtol=1e-6, atol=1e-6)
        assert np.isfinite(got).all()
