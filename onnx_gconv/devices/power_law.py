"""Devices whose conductance falls with a power of time, and whose readings have 1/f noise: phase-change memory."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from onnx_gconv.devices.base_device import (
    BaseDeviceModel,
    Devices,
    FloatArray,
    ReadNoise,
    polynomial,
    require_sizes,
)
from onnx_gconv.devices.normal_numbers import normal
from onnx_gconv.errors import ConfigError

__all__ = ["PowerLawDevice"]


class PowerLawDevice(BaseDeviceModel):
    r"""A device with programming errors, drift and 1/f noise, each depending on the conductance::

        g_prog  = max(g_target + programming_scale * sigma * N(0, 1), 0)
        nu      = drift_scale * |mean + spread * N(0, 1)|
        g_drift = g_prog * ((seconds + t_0) / t_0) ** -nu
        growth  = sqrt(ln((seconds + t_0 + t_read) / (2 * t_read)))
        g_read  = max(g_drift + g_drift * read_scale * q * growth * N(0, 1), 0)

    with sigma(g_target) in µS, mean and spread of nu by g_target, and q by g_prog. There is no upper limit: a
    programming error may exceed g_max.

    Args:
        g_max: The conductance that fits are relative to, and the largest target, in µS.
        g_min: The smallest target, in µS.
        programming_scale: A factor of the errors of programming; 0 leaves them out.
        drift_scale: A factor of the drift coefficients; 0 leaves drift out.
        read_scale: A factor of the noise of readings; 0 leaves it out.
        t_0: Seconds from the start of programming to the first reading. `seconds` count from there.
        t_read: Seconds that a reading takes.

    Raises:
        ConfigError: If the range is none, a factor is negative, or a time is not positive.
    """

    t_0_seconds = 20.0
    t_read_seconds = 250e-9

    def __init__(
        self,
        g_max: float | None = None,
        g_min: float | None = None,
        *,
        programming_scale: float = 1.0,
        drift_scale: float = 1.0,
        read_scale: float = 1.0,
        t_0: float | None = None,
        t_read: float | None = None,
    ) -> None:
        super().__init__(g_max, g_min)
        self.programming_scale = float(programming_scale)
        self.drift_scale = float(drift_scale)
        self.read_scale = float(read_scale)
        self.t_0 = float(self.t_0_seconds if t_0 is None else t_0)
        self.t_read = float(self.t_read_seconds if t_read is None else t_read)
        require_sizes(
            self.name,
            programming_scale=self.programming_scale,
            drift_scale=self.drift_scale,
            read_scale=self.read_scale,
        )
        for what in ("t_0", "t_read"):
            if not (math.isfinite(value := getattr(self, what)) and value > 0):
                raise ConfigError(f"device {self.name}: {what} is positive, in seconds, but it is {value}")
        if self.t_read > self.t_0:
            raise ConfigError(f"device {self.name}: a reading of {self.t_read:g} s is longer than t_0 = {self.t_0:g} s")

    @abstractmethod
    def _programming_sigma_us(self, targets_us: FloatArray) -> FloatArray:
        """The standard deviation of programming errors before conductances are cut at 0, in µS."""

    @abstractmethod
    def _drift_moments(self, targets_us: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the drift coefficient nu before its sign is dropped, without a unit."""

    @abstractmethod
    def _read_share(self, programmed_us: FloatArray) -> FloatArray:
        """The factor q of the noise of readings, relative to the conductance, without a unit."""

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        noise = normal(targets_us, rng)
        noise *= self._programming_sigma_us(targets_us)
        noise *= self.programming_scale
        noise += targets_us
        return Devices.after_programming(targets_us, np.maximum(noise, 0, out=noise))

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        mean, spread = self._drift_moments(devices.targets_us)
        nu = normal(devices.targets_us, rng)
        nu *= spread
        nu += mean
        np.abs(nu, out=nu)
        nu *= -self.drift_scale * math.log1p(seconds / self.t_0)
        np.exp(nu, out=nu)
        nu *= devices.programmed_us
        return nu

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        noise = normal(devices.drifted_us, rng)
        noise *= self._read_share(devices.programmed_us)
        noise *= self.read_scale * self._growth(seconds)
        noise *= devices.drifted_us
        noise += devices.drifted_us
        np.maximum(noise, 0, out=noise)
        return noise

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        if not self.read_scale:
            return None
        sigma = self._read_share(devices.programmed_us) * (self.read_scale * self._growth(seconds))
        return ReadNoise(sigma * devices.drifted_us)

    def _growth(self, seconds: float) -> float:
        """By what 1/f noise has grown, without a unit."""
        return math.sqrt(math.log((seconds + self.t_0 + self.t_read) / (2 * self.t_read)))

    def _relative(self, conductances_us: FloatArray, least: float = 0.0) -> FloatArray:
        """Conductances as parts of g_max, at least `least`."""
        relative: FloatArray = conductances_us / conductances_us.dtype.type(self.g_max)
        return np.maximum(relative, least, out=relative)

    def _above_zero(self, conductances_us: FloatArray) -> FloatArray:
        """Conductances as parts of g_max, so far above 0 that they have a logarithm."""
        return self._relative(conductances_us, 1e-7)

    def _fitted_sigma(self, coefficients: tuple[float, ...], targets_us: FloatArray, fitted_g_max: float) -> FloatArray:
        """A polynomial of g / g_max in µS, which was fitted for another g_max."""
        return polynomial(coefficients, self._relative(targets_us)) * targets_us.dtype.type(self.g_max / fitted_g_max)
