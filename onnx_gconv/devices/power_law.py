"""Devices whose conductance drifts with a power of time and whose readings have 1/f noise: phase-change memory."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnx_gconv.devices.base_device import (
    BaseDeviceModel,
    Devices,
    FloatArray,
    ReadNoise,
    require_sizes,
)
from onnx_gconv.devices.formulas import (
    Line,
    add_errors,
    add_noise_of_reading,
    drift_exponents,
    fitted_polynomial,
    logarithm_of_at_least,
)
from onnx_gconv.devices.normal_numbers import from_normal
from onnx_gconv.errors import ConfigError

__all__ = ["LEAST_PART", "PowerLawDevice"]

LEAST_PART = 1e-7
"""Logarithms are those of at least this part of g_max, since a conductance of 0 has none."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _OfAllTimes(Devices):
    exponents: FloatArray  # nu / drift_scale of each device
    read_shares: FloatArray  # q of each device


class PowerLawDevice(BaseDeviceModel):
    r"""A device whose programming errors, drift and 1/f read noise depend on the conductance::

        g_prog  = max(g_target + programming_scale * sigma * N(0, 1), 0)
        nu      = drift_scale * |mean + spread * N(0, 1)|
        g_drift = g_prog * ((seconds + t_0) / t_0) ** -nu
        growth  = sqrt(ln((seconds + t_0 + t_read) / (2 * t_read)))
        g_read  = max(g_drift + g_drift * read_scale * q * growth * N(0, 1), 0)

    with sigma (µS), mean and spread as functions of g_target, and q as a function of g_prog; subclasses define them.
    There is no upper limit: a conductance may exceed g_max. Source: the composition of the phase-change memory models
    of aihwkit (version 1.1.0).

    Args:
        g_max: The largest target in µS; the functions are fitted in g / g_max.
        g_min: The smallest target, in µS.
        programming_scale: A factor of the programming errors; 0 turns them off.
        drift_scale: A factor of the drift coefficients; 0 turns drift off.
        read_scale: A factor of the read noise; 0 turns it off.
        t_0: Seconds from the start of programming to the first reading. `seconds` count from there.
        t_read: Duration of a reading, in seconds.

    Raises:
        ConfigError: If the range is empty, a factor is negative, a time is not positive, or `t_read` exceeds `t_0`.
    """

    t_0_seconds: ClassVar[float] = 20.0
    t_read_seconds: ClassVar[float] = 250e-9

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
        self.programming_scale: float = float(programming_scale)
        self.drift_scale: float = float(drift_scale)
        self.read_scale: float = float(read_scale)
        self.t_0: float = float(self.t_0_seconds if t_0 is None else t_0)
        self.t_read: float = float(self.t_read_seconds if t_read is None else t_read)
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
        """The standard deviation of programming errors in µS, before conductances are clipped at 0.

        Args:
            targets_us: Targets in µS, [n].
            scratch: Memory for the computation, [2, n]; the result may be a row of it.
        """

    @abstractmethod
    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the drift coefficient before the absolute value is taken, without a unit.

        Args:
            targets_us: Targets in µS, [n].
            scratch: Memory for the computation, [2, n]; the results may be its rows.
        """

    @abstractmethod
    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        """The factor q of the read noise, relative to the conductance, without a unit.

        Args:
            programmed_us: Conductances at the end of programming in µS, [n].
            scratch: Memory for the computation, [2, n]; the result may be a row of it.
        """

    def for_all_times(self, devices: Devices, rng: np.random.Generator) -> Devices:
        """The same devices with nu and q of each, drawn and computed once; see `BaseDeviceModel.for_all_times`."""

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
        if exponent == 0:  # at 0 s, or without drift, the factor is 1 for every nu
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
        """The factor q of each device in a new array, of the shape of the conductances (in µS)."""
        scratch = np.empty((2, programmed_us.size), programmed_us.dtype)
        return self._read_share(programmed_us.reshape(-1), scratch).reshape(programmed_us.shape)

    def _growth(self, seconds: float) -> float:
        """The growth factor of 1/f noise since the end of programming, without a unit."""
        return math.sqrt(math.log((seconds + self.t_0 + self.t_read) / (2 * self.t_read)))

    def _logarithms(self, conductances_us: FloatArray, out: FloatArray) -> FloatArray:
        """ln g of conductances in µS that are raised to at least 1e-7 g_max, written to `out`."""
        return logarithm_of_at_least(conductances_us, LEAST_PART * self.g_max, out)

    def _line_in_us(self, line: Line) -> Line:
        """A line in ln(g / g_max) as a line in ln g, with g in µS."""
        slope, offset, low, high = line
        return slope, offset - slope * math.log(self.g_max), low, high

    def _fitted_sigma(
        self, coefficients: tuple[float, ...], targets_us: FloatArray, scratch: FloatArray, fitted_g_max: float
    ) -> FloatArray:
        """A sigma in µS: a polynomial of g / g_max that was fitted for `fitted_g_max`, scaled to this g_max."""
        return fitted_polynomial(coefficients, targets_us, self.g_max, self.g_max / fitted_g_max, scratch=scratch)
