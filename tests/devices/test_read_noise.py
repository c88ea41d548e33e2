"""What a device model says of the spread of its readings is what its readings have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnx_gconv.devices import ReadNoise, device_model
from onnx_gconv.devices.base_device import BaseDeviceModel, Devices
from onnx_gconv.devices.gaussian import GaussianDevice, StuckDevices
from onnx_gconv.devices.normal_numbers import normal
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.devices.read_noise import read_noise_of
from onnx_gconv.errors import ConfigError

DAY = 86400.0
NOISY = {
    "pcm": ("pcm", {}),
    "pcm with a scale": ("pcm", {"read_scale": 2.5, "g_max": 10.0}),
    "pcm-custom-drift": (
        "pcm-custom-drift",
        {"g_us": [0, 25], "nu_mean": [0.1, 0.05], "nu_spread": [0.01, 0.01]},
    ),
    "pcm-hermes-1": ("pcm-hermes-1", {}),
    "pcm-hermes-2": ("pcm-hermes-2", {}),
    "state-independent": ("state-independent", {}),
    "reram-cmo": ("reram-cmo", {"acceptance_percent": 2}),
    "gaussian": ("gaussian", {"sigma_us": 1.0, "read_sigma_us": 0.3, "read_sigma_relative": 0.1}),
    "some are stuck": ("reram-cmo", {"stuck_low": 0.2, "stuck_high": 0.2}),
}
STEADY = {
    "pcm": ("pcm", {"read_scale": 0}, DAY),
    "reram-cmo after a day": ("reram-cmo", {"read_scale": 0}, DAY),
    "reram-cmo": ("reram-cmo", {}, 0.0),
    "reram-wan2022": ("reram-wan2022", {}, DAY),
    "gaussian": ("gaussian", {"sigma_us": 1.0}, DAY),
    "log-normal": ("log-normal", {}, DAY),
    "measured": (
        "measured",
        {"target_us": [0, 9], "seconds": [DAY], "mean_us": [[0], [9]], "sigma_us": [[1], [1]]},
        DAY,
    ),
    "some are stuck": ("log-normal", {"stuck_low": 0.5}, DAY),
}


def after(device, seconds, dtype=np.float64):
    targets = np.linspace(device.g_min, device.g_max, 500, dtype=dtype)
    devices = device.program(targets, np.random.default_rng(1))
    return device.drift(devices, seconds, np.random.default_rng(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seconds", [1.0, DAY])
@pytest.mark.parametrize("name", NOISY)
def test_a_reading_is_what_a_device_has_and_so_many_standard_deviations(name, seconds, dtype):
    kind, settings = NOISY[name]
    device = device_model(kind, **settings)
    devices = after(device, seconds, dtype)
    noise = read_noise_of(device, devices, seconds)
    assert noise.sigma_us.dtype == dtype
    assert noise.sigma_us.max() > 0
    numbers = normal(devices.drifted_us, np.random.default_rng(3))
    expected = np.clip(devices.drifted_us + noise.sigma_us * numbers, noise.low_us, noise.high_us)
    read = device.read(devices, seconds, np.random.default_rng(3))
    np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", STEADY)
def test_devices_without_noise_of_readings_say_so(name):
    kind, settings, seconds = STEADY[name]
    device = device_model(kind, **settings)
    assert read_noise_of(device, after(device, seconds), seconds) is None


def test_stuck_devices_are_read_without_noise():
    device = StuckDevices(PcmDevice(), stuck_low=0.3, stuck_high=0.3)
    devices = after(device, DAY)
    noise = read_noise_of(device, devices, DAY)
    others = device.model.read_noise(devices.others, DAY)
    stuck = ~np.isnan(devices.stuck_us)
    assert stuck.any() and not stuck.all()  # noqa: PT018
    np.testing.assert_array_equal(noise.sigma_us[stuck], 0)
    np.testing.assert_array_equal(noise.sigma_us[~stuck], others.sigma_us[~stuck])


# What is refused


class Skewed(PcmDevice):
    """Readings of its own."""

    name = "skewed"

    def _read(self, devices, seconds, rng):  # noqa: ARG002
        return devices.drifted_us * rng.uniform(0.9, 1.0)


class Loud(GaussianDevice):
    """A reading of its own, and its spread."""

    name = "loud"

    def read(self, devices, seconds, rng):  # noqa: ARG002
        return devices.drifted_us + rng.normal(size=devices.drifted_us.shape)

    def read_noise(self, devices, seconds):  # noqa: ARG002
        return ReadNoise(np.ones_like(devices.drifted_us), 0.5)


class Plain(BaseDeviceModel):
    """No noise, but a reading of its own."""

    name = "plain"

    def _devices(self, targets_us, rng):  # noqa: ARG002
        return Devices.after_programming(targets_us, targets_us)

    def read(self, devices, seconds, rng):  # noqa: ARG002
        return devices.drifted_us


def refused(expected):
    return pytest.raises(ConfigError, match=f"^{expected}$")


def test_a_model_that_does_not_say_how_readings_are_spread():
    expected = (
        "device bare: it does not say how its readings are spread, so that a model cannot draw them; give the device "
        r"model a method `read_noise`, or take one reading \(read noise: fixed\)"
    )
    bare = SimpleNamespace(name="bare", g_min=0.0, g_max=25.0)
    with refused(expected):
        read_noise_of(bare, None, DAY)
    device = GaussianDevice()
    stuck = StuckDevices(device, stuck_low=0.5)
    devices = after(stuck, DAY)
    stuck.model = bare
    with refused(expected):
        read_noise_of(stuck, devices, DAY)


def test_readings_of_ones_own_need_a_spread_of_ones_own():
    with refused(
        "device skewed: Skewed overrides `_read`, but inherits `_read_noise`, which is about other readings; "
        r"define `_read_noise`, too, or take one reading \(read noise: fixed\)"
    ):
        read_noise_of(Skewed(), after(Skewed(), DAY), DAY)
    with refused("device plain: Plain overrides `read`, but inherits `read_noise`, .*"):
        read_noise_of(Plain(), after(Plain(), DAY), DAY)
    assert read_noise_of(Loud(), after(Loud(), DAY), DAY).low_us == 0.5


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-1.0, None, "-1 to any"), (np.nan, 2.0, "nan to 2"), (2.0, 1.0, "2 to 1"), (0, np.inf, "0 to inf")],
)
def test_readings_are_conductances(low, high, said):
    odd = SimpleNamespace(name="odd", read_noise=lambda *_: ReadNoise(np.ones(1), low, high))
    with refused(
        f"device odd: its readings go from {said} \u00b5S; the lowest is 0 or more, and the highest above it, or None"
    ):
        read_noise_of(odd, None, DAY)


def test_a_spread_is_a_spread():
    odd = SimpleNamespace(name="odd", read_noise=lambda devices, seconds: 0.5)  # noqa: ARG005
    with refused("device odd: `read_noise` returns a float, not a ReadNoise or None"):
        read_noise_of(odd, None, DAY)
    with pytest.raises(ConfigError, match="a time is 0 seconds or more, but it is -1"):
        PcmDevice().read_noise(after(PcmDevice(), DAY), -1.0)
