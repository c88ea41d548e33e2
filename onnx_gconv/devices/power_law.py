"""Devices whose conductance falls with a power of time, and whose readings have 1/f noise: phase-change memory."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from onnx_gconv.devices.base_device import (
    BaseDeviceModel,
    Devices,
    FloatArray,
    ReadNoise,
    require_sizes,
)
from onnx_gconv.devices.formulas import (
    add_errors,
    add_noise_of_reading,
    drift_exponents,
    fitted_polynomial,
    unit_parts,
)
from onnx_gconv.devices.normal_numbers import from_normal
from onnx_gconv.errors import ConfigError

__all__ = ["PowerLawDevice"]


@dataclass(frozen=True, eq=False, kw_only=True)
class _OfAllTimes(Devices):
    exponents: FloatArray  # nu of each device before it is scaled
    read_shares: FloatArray  # q of each device


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
    def _programming_sigma_us(self, targets_us: FloatArray, scratch: FloatArray) -> FloatArray:
        """The standard deviation of programming errors before conductances are cut at 0, in µS.

        Args:
            targets_us: Some targets, in µS, [any number].
            scratch: Memory for what is computed, [2, as many]; the result may be a part of it.
        """

    @abstractmethod
    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the drift coefficient nu before its sign is dropped, without a unit.

        `scratch` is as for `_programming_sigma_us`.
        """

    @abstractmethod
    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        """The factor q of the noise of readings, relative to the conductance, without a unit.

        `scratch` is as for `_programming_sigma_us`.
        """

    def for_all_times(self, devices: Devices, rng: np.random.Generator) -> Devices:
        """The same devices, with nu and q of each, as `BaseDeviceModel.for_all_times` gives them."""

        def exponents(noise: FloatArray, scratch: FloatArray, targets_us: FloatArray) -> None:
            drift_exponents(noise, *self._drift_moments(targets_us, scratch), 1.0)

        return _OfAllTimes(
            devices.targets_us,
            devices.programmed_us,
            devices.drifted_us,
            devices.seconds,
            exponents=from_normal(exponents, rng, devices.targets_us),
            read_shares=self._read_shares(devices.programmed_us),
        )

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        def program(noise: FloatArray, scratch: FloatArray, targets_us: FloatArray) -> None:
            add_errors(noise, self._programming_sigma_us(targets_us, scratch), self.programming_scale, targets_us)

        return Devices.after_programming(targets_us, from_normal(program, rng, targets_us))

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        exponent = -self.drift_scale * math.log1p(seconds / self.t_0)
        if exponent == 0:  # at 0 s nothing has drifted, whatever nu is
            return devices.programmed_us
        if isinstance(devices, _OfAllTimes):
            drifted = devices.exponents * devices.exponents.dtype.type(exponent)
            np.exp(drifted, out=drifted)
            drifted *= devices.programmed_us
            return drifted

        def drift(noise: FloatArray, scratch: FloatArray, targets_us: FloatArray, programmed_us: FloatArray) -> None:
            drift_exponents(noise, *self._drift_moments(targets_us, scratch), exponent)
            np.exp(noise, out=noise)
            noise *= programmed_us

        return from_normal(drift, rng, devices.targets_us, devices.programmed_us)

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        scale = self.read_scale * self._growth(seconds)

        def read_known(noise: FloatArray, _: FloatArray, drifted_us: FloatArray, shares: FloatArray) -> None:
            add_noise_of_reading(noise, shares, scale, drifted_us)

        if isinstance(devices, _OfAllTimes):
            return from_normal(read_known, rng, devices.drifted_us, devices.read_shares)

        def read(noise: FloatArray, scratch: FloatArray, drifted_us: FloatArray, programmed_us: FloatArray) -> None:
            read_known(noise, scratch, drifted_us, self._read_share(programmed_us, scratch))

        return from_normal(read, rng, devices.drifted_us, devices.programmed_us)

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        if not self.read_scale:
            return None
        share = self._read_shares(devices.programmed_us)
        return ReadNoise(share * (self.read_scale * self._growth(seconds)) * devices.drifted_us)

    def _read_shares(self, programmed_us: FloatArray) -> FloatArray:
        """What `_read_share` gives, in memory of its own, of the shape of the conductances."""
        scratch = np.empty((2, programmed_us.size), programmed_us.dtype)
        return self._read_share(programmed_us.reshape(-1), scratch).reshape(programmed_us.shape)

    def _growth(self, seconds: float) -> float:
        """By what 1/f noise has grown, without a unit."""
        return math.sqrt(math.log((seconds + self.t_0 + self.t_read) / (2 * self.t_read)))

    def _relative(self, conductances_us: FloatArray, out: FloatArray, least: float = 0.0) -> FloatArray:
        """Conductances as parts of g_max, at least `least`."""
        return unit_parts(conductances_us, self.g_max, least, out)

    def _above_zero(self, conductances_us: FloatArray, out: FloatArray) -> FloatArray:
        """Conductances as parts of g_max, so far above 0 that they have a logarithm."""
        return self._relative(conductances_us, out, 1e-7)

    def _fitted_sigma(
        self, coefficients: tuple[float, ...], targets_us: FloatArray, scratch: FloatArray, fitted_g_max: float
    ) -> FloatArray:
        """A polynomial of g / g_max in µS, which was fitted for another g_max."""
        return fitted_polynomial(coefficients, targets_us, self.g_max, self.g_max / fitted_g_max, scratch=scratch)
