"""Filamentary ReRAM: devices of the NeuRRAM chip, and devices with a conductive metal oxide."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from onnx_gconv.devices.base_device import (
    BaseDeviceModel,
    Devices,
    FloatArray,
    ReadNoise,
    require_sizes,
)
from onnx_gconv.devices.formulas import add_errors, polynomial
from onnx_gconv.devices.normal_numbers import from_normal
from onnx_gconv.errors import ConfigError

__all__ = ["CmoReramDevice", "WanReramDevice"]

_DAY = 86400.0


class WanReramDevice(BaseDeviceModel):
    """ReRAM of the NeuRRAM chip, with published errors 1 s, 1 day and 2 days after programming.

    The conductance is g = max(g_target + noise_scale * sigma * N(0, 1), 0). With r = g_target / g_max, sigma in µS is::

        1 s    : 0.348 + 16.030 r - 43.853 r^2 + 45.393 r^3 - 16.815 r^4
        1 day  : 0.701 + 22.086 r - 50.773 r^2 + 47.095 r^3 - 16.458 r^4
        2 days : 0.782 + 20.274 r - 43.507 r^2 + 37.062 r^3 - 11.934 r^4

    The error is drawn again for each time, because the published figures do not say how the errors of a device at two
    times are correlated. Programming, and so also 0 s, has the errors of 1 s. There is no read noise. Source: W. Wan et
    al., A compute-in-memory chip based on resistive random-access memory, Nature 608, 2022; polynomials of aihwkit's
    ReRamWan2022NoiseModel (version 1.1.0). They were fitted for g_max = 40 µS and, as in aihwkit, are not scaled for
    another g_max.

    Args:
        g_max: The largest target, in µS; there, r = 1.
        g_min: The smallest target, in µS.
        noise_scale: A factor of the errors.
    """

    name = "reram-wan2022"
    default_g_max: ClassVar[float] = 40.0
    _SIGMAS: ClassVar[dict[float, tuple[float, ...]]] = {
        1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
        _DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
        2 * _DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
    }

    def __init__(self, g_max: float | None = None, g_min: float | None = None, *, noise_scale: float = 1.0) -> None:
        super().__init__(g_max, g_min)
        self.noise_scale: float = float(noise_scale)
        require_sizes(self.name, noise_scale=self.noise_scale)

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        return Devices.after_programming(targets_us, self._with_errors(targets_us, 1.0, rng))

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        return devices.programmed_us if seconds == 0 else self._with_errors(devices.targets_us, seconds, rng)

    def _with_errors(self, targets_us: FloatArray, seconds: float, rng: np.random.Generator) -> FloatArray:
        def program(noise: FloatArray, scratch: FloatArray, targets_us: FloatArray) -> None:
            relative = np.divide(targets_us, targets_us.dtype.type(self.g_max), out=scratch[0])
            add_errors(noise, polynomial(self._SIGMAS[seconds], relative, scratch[1]), self.noise_scale, targets_us)

        return from_normal(program, rng, targets_us)

    def _check_time(self, seconds: float) -> None:
        super()._check_time(seconds)
        if seconds and seconds not in self._SIGMAS:
            raise ConfigError(
                f"device {self.name}: errors were published for 1 s, 1 day and 2 days after programming, but the time "
                f"is {seconds:g} s; choose one of 0s, 1s, 1d and 2d, or another device"
            )


class CmoReramDevice(BaseDeviceModel):
    """ReRAM of HfOx with a conductive metal oxide: programming errors, relaxation and read noise.

    Conductances in µS, seconds t after programming, and for an acceptance range of 0.2 % or 2 % of the target::

        g_prog  = g_target + programming_scale * (a0 + a1 * g_target) * N(0, 1)
        g_drift = g_prog + drift_scale * (-0.08900206 ln t + (0.04201137 ln t + 0.41183342) * N(0, 1))
        g_read  = clip(g_drift + read_scale * 0.0277316483 * log10(g_drift) * sqrt(ln((t + 1e-6) / 2e-6)) * N(0, 1),
                       g_min, g_max)

    with a0, a1 = 0.00081107, 0.00106879 for 0.2 %, and 0.0112185391, 0.01129027418 for 2 %. At 0 s there is no
    relaxation, and readings give g_prog. If g_drift is 1 µS or less, there is no read noise. Source: D. F. Falcone et
    al., All-in-One Analog AI Hardware: On-Chip Training and Inference with Conductive-Metal-Oxide/HfOx ReRAM Devices,
    arXiv:2502.04524, 2025; figures and their combination as in aihwkit's ReRamCMONoiseModel (version 1.1.0). In that
    class the noise is NaN if g_drift is negative, and unknown acceptance ranges silently count as 0.2 %.

    Args:
        g_max: The largest target, in µS.
        g_min: The smallest target, in µS.
        acceptance_percent: How far from its target a device may be when programming ends: 0.2 or 2.
        programming_scale: A factor of the programming errors.
        drift_scale: A factor of relaxation and its spread.
        read_scale: A factor of the read noise.
    """

    name = "reram-cmo"
    default_g_max: ClassVar[float] = 88.199997
    default_g_min: ClassVar[float] = 9.0
    _SIGMAS: ClassVar[dict[float, tuple[float, ...]]] = {
        0.2: (0.00081107, 0.00106879),
        2.0: (0.0112185391, 0.01129027418),
    }
    _T_READ = 1e-6

    def __init__(
        self,
        g_max: float | None = None,
        g_min: float | None = None,
        *,
        acceptance_percent: float = 0.2,
        programming_scale: float = 1.0,
        drift_scale: float = 1.0,
        read_scale: float = 1.0,
    ) -> None:
        super().__init__(g_max, g_min)
        if acceptance_percent not in self._SIGMAS:
            known = " and ".join(f"{each:g}" for each in self._SIGMAS)
            raise ConfigError(
                f"device {self.name}: acceptance ranges of {known} percent were characterized, but it is "
                f"{acceptance_percent:g}"
            )
        self.acceptance_percent: float = float(acceptance_percent)
        self.programming_scale: float = float(programming_scale)
        self.drift_scale: float = float(drift_scale)
        self.read_scale: float = float(read_scale)
        require_sizes(
            self.name,
            programming_scale=self.programming_scale,
            drift_scale=self.drift_scale,
            read_scale=self.read_scale,
        )

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        def program(noise: FloatArray, scratch: FloatArray, targets_us: FloatArray) -> None:
            noise *= polynomial(self._SIGMAS[self.acceptance_percent], targets_us, scratch[0])
            noise *= self.programming_scale
            noise += targets_us

        return Devices.after_programming(targets_us, from_normal(program, rng, targets_us))

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        if seconds == 0:
            return devices.programmed_us

        def drift(noise: FloatArray, _: FloatArray, programmed_us: FloatArray) -> None:
            noise *= self.drift_scale * (0.04201137 * math.log(seconds) + 0.41183342)
            noise += self.drift_scale * -0.08900206 * math.log(seconds)
            noise += programmed_us

        return from_normal(drift, rng, devices.programmed_us)

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        if seconds == 0:
            return devices.programmed_us

        def read(noise: FloatArray, scratch: FloatArray, drifted_us: FloatArray) -> None:
            noise *= np.log10(np.maximum(drifted_us, 1, out=scratch[0]), out=scratch[0])
            noise *= self.read_scale * 0.0277316483 * self._growth(seconds)
            noise += drifted_us
            np.clip(noise, self.g_min, self.g_max, out=noise)

        return from_normal(read, rng, devices.drifted_us)

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        if seconds == 0 or not self.read_scale:
            return None
        sigma = np.log10(np.maximum(devices.drifted_us, 1))
        sigma *= self.read_scale * 0.0277316483 * self._growth(seconds)
        return ReadNoise(sigma, self.g_min, self.g_max)

    def _growth(self, seconds: float) -> float:
        """The growth factor of the read noise since the end of programming, without a unit."""
        return math.sqrt(math.log((seconds + self._T_READ) / (2 * self._T_READ)))

    def _check_time(self, seconds: float) -> None:
        super()._check_time(seconds)
        if 0 < seconds < 1:
            raise ConfigError(
                f"device {self.name}: relaxation was fitted from 1 s on, but the time is {seconds:g} s; choose 0s, or "
                "1s and more"
            )
