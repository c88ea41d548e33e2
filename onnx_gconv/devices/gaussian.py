"""Generic device models, when only the size of errors is known: normal errors, log-normal errors, stuck devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_gconv.devices.base_device import (
    BaseDeviceModel,
    DeviceModel,
    Devices,
    FloatArray,
    PairModel,
    ReadNoise,
    foreign_devices,
    is_pair_model,
    require_sizes,
)
from onnx_gconv.devices.formulas import add_errors
from onnx_gconv.devices.normal_numbers import from_normal
from onnx_gconv.devices.read_noise import read_noise_of
from onnx_gconv.errors import ConfigError

__all__ = ["GaussianDevice", "LogNormalDevice", "StuckDevices", "StuckPairs"]


class GaussianDevice(BaseDeviceModel):
    """A device with normal errors, absolute or relative to the conductance, and without drift::

        g_prog = clip(g_target + sqrt(sigma_us^2 + (sigma_relative * g_target)^2) * N(0, 1), 0)
        g_read = clip(g_prog + sqrt(read_sigma_us^2 + (read_sigma_relative * g_prog)^2) * N(0, 1), 0)

    Conductances are at least 0 and have no upper limit. The model describes no measured device; it is like the generic
    error models of CrossSim and aihwkit.

    Args:
        g_max: The largest target, in µS.
        g_min: The smallest target, in µS.
        sigma_us: The absolute part of programming errors, in µS.
        sigma_relative: The part of programming errors that grows with the target, as a fraction of it.
        read_sigma_us: The absolute part of the read noise, in µS.
        read_sigma_relative: The part of the read noise that grows with the conductance, as a fraction of it.

    Raises:
        ConfigError: If the range is empty, or a value is negative or not finite.
    """

    name = "gaussian"

    def __init__(
        self,
        g_max: float | None = None,
        g_min: float | None = None,
        *,
        sigma_us: float = 0.0,
        sigma_relative: float = 0.0,
        read_sigma_us: float = 0.0,
        read_sigma_relative: float = 0.0,
    ) -> None:
        super().__init__(g_max, g_min)
        self.sigma_us: float = float(sigma_us)
        self.sigma_relative: float = float(sigma_relative)
        self.read_sigma_us: float = float(read_sigma_us)
        self.read_sigma_relative: float = float(read_sigma_relative)
        require_sizes(
            self.name,
            sigma_us=self.sigma_us,
            sigma_relative=self.sigma_relative,
            read_sigma_us=self.read_sigma_us,
            read_sigma_relative=self.read_sigma_relative,
        )

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        programmed = _with_normal_errors(targets_us, self.sigma_us, self.sigma_relative, rng)
        return Devices.after_programming(targets_us, programmed)

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        return _with_normal_errors(devices.drifted_us, self.read_sigma_us, self.read_sigma_relative, rng)

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:  # noqa: ARG002
        if not (self.read_sigma_us or self.read_sigma_relative):
            return None
        return ReadNoise(np.hypot(self.read_sigma_us, self.read_sigma_relative * devices.drifted_us))


class LogNormalDevice(BaseDeviceModel):
    """A device whose programmed conductance is its target times a log-normal factor, and which does not drift::

        g_prog = g_target * exp(sigma * N(0, 1))

    The median of g_prog is the target; its mean is larger by the factor exp(sigma^2 / 2). The model describes no
    measured device; the variation of ReRAM is often given in this form.

    Args:
        g_max: The largest target, in µS.
        g_min: The smallest target, in µS.
        sigma: The standard deviation of ln g_prog.

    Raises:
        ConfigError: If the range is empty, or sigma is negative or not finite.
    """

    name = "log-normal"

    def __init__(self, g_max: float | None = None, g_min: float | None = None, *, sigma: float = 0.1) -> None:
        super().__init__(g_max, g_min)
        self.sigma: float = float(sigma)
        require_sizes(self.name, sigma=self.sigma)

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        def program(noise: FloatArray, _: FloatArray, targets_us: FloatArray) -> None:
            noise *= self.sigma
            np.exp(noise, out=noise)
            noise *= targets_us

        return Devices.after_programming(targets_us, from_normal(program, rng, targets_us))


@dataclass(frozen=True, eq=False, kw_only=True)
class _StuckAmong(Devices):
    others: Devices  # all devices as they would be if none was stuck
    stuck_us: FloatArray  # the conductance of each stuck device, NaN for all others


class StuckDevices:
    """Devices of another model, some of which are stuck at an end of the range whatever their target is.

    A stuck device keeps its conductance: it does not drift, and its readings have no noise. Programming draws which
    devices are stuck, each with the same probability and independently of the others.

    Args:
        model: The model of the devices that are not stuck.
        stuck_low: The fraction of devices that are stuck at g_min.
        stuck_high: The fraction of devices that are stuck at g_max.

    Raises:
        ConfigError: If a fraction is negative, or both together are above 1.
    """

    name = "stuck"

    def __init__(self, model: DeviceModel, *, stuck_low: float = 0.0, stuck_high: float = 0.0) -> None:
        self.model: DeviceModel = model
        self.stuck_low: float = float(stuck_low)
        self.stuck_high: float = float(stuck_high)
        self.g_min: float = model.g_min
        self.g_max: float = model.g_max
        if is_pair_model(model) and not is_pair_model(self):
            raise ConfigError(f"{type(model).__name__} is a model of pairs; take StuckPairs for it")
        if not (0 <= self.stuck_low <= 1 and 0 <= self.stuck_high <= 1 and self.stuck_low + self.stuck_high <= 1):
            raise ConfigError(
                f"fractions of stuck devices are 0 or more and at most 1 together, but they are {self.stuck_low:g} and "
                f"{self.stuck_high:g}"
            )

    def program(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Program devices to targets in µS, and draw which of them are stuck; see `DeviceModel.program`."""
        return self._some_stuck(self.model.program(targets_us, rng), rng)

    def drift(self, devices: Devices, seconds: float, rng: np.random.Generator) -> Devices:
        """The same devices `seconds` after the end of programming; see `DeviceModel.drift`."""
        among = _stuck_among(devices)
        others = self.model.drift(among.others, seconds, rng)
        drifted = np.where(np.isnan(among.stuck_us), others.drifted_us, among.stuck_us)
        return replace(among, others=others, drifted_us=drifted, seconds=seconds)

    def read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        """Read each device once, in µS; see `DeviceModel.read`."""
        among = _stuck_among(devices)
        return np.where(np.isnan(among.stuck_us), self.model.read(among.others, seconds, rng), among.stuck_us)

    def read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        """The spread of readings: that of the other model, but 0 for stuck devices; None if no reading has noise."""
        among = _stuck_among(devices)
        noise = read_noise_of(self.model, among.others, seconds)
        if noise is None:
            return None
        none = np.zeros_like(noise.sigma_us)
        return replace(noise, sigma_us=np.where(np.isnan(among.stuck_us), noise.sigma_us, none))

    def _some_stuck(self, devices: Devices, rng: np.random.Generator) -> Devices:
        """Replace some programmed devices by stuck ones."""
        targets_us = devices.targets_us
        chance = rng.random(targets_us.shape, np.float32)
        stuck = np.full_like(targets_us, np.nan)
        stuck[chance < self.stuck_low + self.stuck_high] = self.g_max
        stuck[chance < self.stuck_low] = self.g_min
        programmed = np.where(np.isnan(stuck), devices.programmed_us, stuck)
        return _StuckAmong(targets_us, programmed, programmed, 0.0, others=devices, stuck_us=stuck)


class StuckPairs(StuckDevices):
    """Stuck devices among those of a `PairModel`; each device of a pair is stuck independently of its partner.

    Args:
        model: The model of the devices that are not stuck.
        stuck_low: The fraction of devices that are stuck at g_min.
        stuck_high: The fraction of devices that are stuck at g_max.

    Raises:
        ConfigError: If a fraction is negative, or both together are above 1.
    """

    model: PairModel

    def __init__(self, model: PairModel, *, stuck_low: float = 0.0, stuck_high: float = 0.0) -> None:
        super().__init__(model, stuck_low=stuck_low, stuck_high=stuck_high)
        self.granularities: tuple[str, ...] = model.granularities

    def program_pair(
        self, plus_us: FloatArray, minus_us: FloatArray, rng: np.random.Generator
    ) -> tuple[Devices, Devices]:
        """Program the devices of both polarities, and draw which are stuck; see `PairModel.program_pair`."""
        plus, minus = self.model.program_pair(plus_us, minus_us, rng)
        return self._some_stuck(plus, rng), self._some_stuck(minus, rng)


def _stuck_among(devices: Devices) -> _StuckAmong:
    if not isinstance(devices, _StuckAmong):
        raise foreign_devices()
    return devices


def _with_normal_errors(
    conductances_us: FloatArray, absolute_us: float, relative: float, rng: np.random.Generator
) -> FloatArray:
    if not (absolute_us or relative):
        return conductances_us

    def change(noise: FloatArray, scratch: FloatArray, conductances_us: FloatArray) -> None:
        sigma = np.multiply(relative, conductances_us, out=scratch[0])
        add_errors(noise, np.hypot(absolute_us, sigma, out=sigma), 1.0, conductances_us)

    return from_normal(change, rng, conductances_us)
