"""Device models do what aihwkit's noise models do: with the same random numbers, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from aihwkit.inference.noise import custom, hermes, pcm, reram

from onnx_gconv.devices.registry import device_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*"),
]

TIMES = [0.0, 1.0, 20.0, 3600.0, 86400.0, 31536000.0]
DRIFT = {"g_us": [0.0, 10.0, 25.0], "nu_mean": [0.08, 0.06, 0.05], "nu_spread": [0.03, 0.02, 0.01]}


def aihwkit_custom_drift():
    lists = {"g_lst": DRIFT["g_us"], "nu_mean_lst": DRIFT["nu_mean"], "nu_std_lst": DRIFT["nu_spread"]}
    return pcm.CustomDriftPCMLikeNoiseModel(lists, g_max=25.0)


# A model of ours, the one of aihwkit, and the times that both know.
MODELS = {
    "pcm": (lambda: device_model("pcm"), lambda: pcm.PCMLikeNoiseModel(g_max=25.0), TIMES),
    "pcm of another range": (
        lambda: device_model("pcm", g_max=10.0, programming_scale=2.0, drift_scale=0.5, read_scale=3.0, t_0=5.0),
        lambda: pcm.PCMLikeNoiseModel(g_max=10.0, prog_noise_scale=2.0, drift_scale=0.5, read_noise_scale=3.0, t_0=5.0),
        TIMES,
    ),
    "the preset pcm-joshi": (
        lambda: device_model("pcm-joshi", g_min=0.0),
        lambda: pcm.PCMLikeNoiseModel(g_max=25.0),
        TIMES,
    ),
    "drift of one's own": (lambda: device_model("pcm-custom-drift", **DRIFT), aihwkit_custom_drift, TIMES),
    "state-independent": (
        lambda: device_model("state-independent"),
        lambda: custom.StateIndependentNoiseModel(g_max=25.0),
        TIMES,
    ),
    "hermes, one device": (
        lambda: device_model("pcm-hermes-1"),
        lambda: hermes.HermesNoiseModel(num_devices=1),
        TIMES,
    ),
    "hermes, two devices": (
        lambda: device_model("pcm-hermes-2", g_max=15.0),
        lambda: hermes.HermesNoiseModel(num_devices=2, g_max=15.0),
        TIMES,
    ),
    "wan": (
        lambda: device_model("reram-wan2022"),
        lambda: reram.ReRamWan2022NoiseModel(g_max=40.0),
        [1.0, 86400.0, 172800.0],
    ),
    "cmo, 0.2 %": (lambda: device_model("reram-cmo"), reram.ReRamCMONoiseModel, [0.0, *TIMES[1:]]),
    "cmo, 2 %": (
        lambda: device_model("reram-cmo-hfox", acceptance_percent=2),
        lambda: reram.ReRamCMONoiseModel(acceptance_range=2),
        [0.0, *TIMES[1:]],
    ),
}


class Given:
    """A generator of normal numbers that gives the ones it has."""

    def __init__(self, numbers):
        self.numbers = numbers

    def standard_normal(self, shape, dtype):
        assert self.numbers.shape == shape
        return self.numbers.astype(dtype)


@pytest.fixture
def numbers(monkeypatch):
    """What aihwkit draws: programming, drift and reading, in this order, as often as it asks."""
    drawn = []

    def next_one(like):
        return torch.from_numpy(drawn.pop(0)).to(like.dtype)

    for module in (pcm, custom, hermes, reram):
        monkeypatch.setattr(module, "randn_like", next_one)
    return drawn


def read_by_aihwkit(model, targets, seconds):
    programmed = model.apply_programming_noise_to_conductance(torch.from_numpy(targets.copy()))
    drift = model.generate_drift_coefficients(torch.from_numpy(targets.copy()))
    return programmed.numpy(), model.apply_drift_noise_to_conductance(programmed, drift, seconds).numpy()


@pytest.mark.parametrize("case", MODELS)
def test_the_same_random_numbers_give_the_same_conductances(case, numbers):
    ours, theirs, times = MODELS[case]
    device, noise = ours(), theirs()
    targets = np.linspace(device.g_min, device.g_max, 4001)
    z = np.random.default_rng(0).normal(size=(3, targets.size))
    for seconds in times:
        numbers[:] = [z[0], z[1], z[2]]
        programmed, read = read_by_aihwkit(noise, targets, seconds)
        devices = device.program(targets, Given(z[0]))
        np.testing.assert_allclose(devices.programmed_us, programmed, rtol=1e-9, atol=1e-9)
        later = device.drift(devices, seconds, Given(z[1]))
        got = device.read(later, seconds, Given(z[2]))
        known = np.isfinite(read)  # aihwkit has no number for the logarithm of a negative conductance
        np.testing.assert_allclose(got[known], read[known], rtol=1e-6, atol=1e-6)
        assert np.isfinite(got).all()


@pytest.mark.parametrize("case", ["pcm", "hermes, two devices", "wan", "cmo, 2 %"])
def test_own_random_numbers_give_the_same_distribution(case):
    ours, theirs, times = MODELS[case]
    device, noise, samples, seconds = ours(), theirs(), 100_000, times[-2] if case != "wan" else 86400.0
    torch.manual_seed(1)
    for number, target in enumerate(np.linspace(device.g_min, device.g_max, 4)):
        targets = np.full(samples, target, np.float32)
        _, read = read_by_aihwkit(noise, targets, seconds)
        program, drift, reading = (np.random.default_rng([number, step]) for step in range(1, 4))
        got = device.read(device.drift(device.program(targets, program), seconds, drift), seconds, reading)
        error = float(np.hypot(got.std(), read.std())) / samples**0.5
        assert abs(float(got.mean(dtype=np.float64) - read.mean(dtype=np.float64))) <= 4 * error + 1e-6
        assert scipy.stats.ks_2samp(got, read).pvalue > 1e-4 / 16
