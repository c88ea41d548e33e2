"""Phase-change memory of the IBM HERMES project chip, with one or two devices for each polarity of a weight."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnx_gconv.devices.base_device import FloatArray
from onnx_gconv.devices.formulas import line_between, logarithm_of_at_least, polynomial
from onnx_gconv.devices.power_law import LEAST_PART, PowerLawDevice
from onnx_gconv.errors import ConfigError

__all__ = ["HermesOneDevice", "HermesTwoDevices"]


class _HermesDevice(PowerLawDevice):
    _sigma: ClassVar[tuple[float, ...]]
    # The limit of r below which the fit is clip(slope * ln r + offset, least, most): limit, slope, offset, least, most.
    _spread_below: ClassVar[tuple[float, float, float, float, float]]
    _spread: ClassVar[tuple[float, ...]]
    _share_below: ClassVar[tuple[float, float, float, float, float]]
    _share: ClassVar[tuple[float, ...]]

    _MEAN_BELOW = (0.0945, -0.0387, -0.0182, 0.0720, 0.13)
    _MEAN = (0.0736, -0.0126, -0.0436)
    t_read_seconds: ClassVar[float] = 512e-9

    def __init__(self, g_max: float | None = None, g_min: float | None = None, **settings: float | None) -> None:
        super().__init__(g_max, g_min, **settings)  # type: ignore[arg-type]  # they are those of PowerLawDevice
        if self.g_max > self.default_g_max:
            raise ConfigError(
                f"device {self.name}: it was characterized up to {self.default_g_max:g} \u00b5S, but g_max is "
                f"{self.g_max:g} \u00b5S"
            )

    def _programming_sigma_us(self, targets_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return self._fitted_sigma(self._sigma, targets_us, scratch, fitted_g_max=self.default_g_max)

    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        relative = self._relative(targets_us, scratch)
        return (
            _joined(relative, self._MEAN_BELOW, self._MEAN),
            _joined(relative, self._spread_below, self._spread),
        )

    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return _joined(self._relative(programmed_us, scratch), self._share_below, self._share)

    def _relative(self, conductances_us: FloatArray, scratch: FloatArray) -> FloatArray:
        relative: FloatArray = np.divide(conductances_us, conductances_us.dtype.type(self.g_max), out=scratch[0])
        return relative


def _joined(
    relative: FloatArray,
    below: tuple[float, float, float, float, float],
    coefficients: tuple[float, ...],
) -> FloatArray:
    """A fit in two parts: a polynomial of r = g / g_max, and a clipped line in ln r for r below a limit."""
    limit, slope, offset, least, most = below
    logarithms = logarithm_of_at_least(relative, LEAST_PART, np.empty_like(relative))
    line = line_between(logarithms, (slope, offset, least, most))
    return np.where(relative < relative.dtype.type(limit), line, polynomial(coefficients, relative))


class HermesOneDevice(_HermesDevice):
    """One PCM device for each polarity, up to 10.35 µS, a `PowerLawDevice`. With r = g / g_max::

        sigma  = (0.15781817 + 2.32443916 r - 2.16310839 r^2 + 0.68841818 r^3) * g_max / 10.35 µS
        mean   = clip(-0.0387 ln r - 0.0182, 0.0720, 0.13)   if r < 0.0945, else 0.0736 - 0.0126 r - 0.0436 r^2
        spread = clip(-0.0120 ln r - 0.0023, 0.0124, 0.04)   if r < 0.3039, else 0.0104 + 0.0116 r - 0.0165 r^2
        q      = clip(-0.0078 ln r + 0.0038, 0.0179, 0.04)   if r < 0.1591, else
                 0.0088 + 0.0768 r - 0.1352 r^2 + 0.0664 r^3, of the programmed conductance

    `seconds` count from 200 s after programming. Source: M. Le Gallo et al., A 64-core mixed-signal in-memory compute
    chip based on phase-change memory for deep neural network inference, Nature Electronics 6, 2023; coefficients and
    their combination as in aihwkit's HermesNoiseModel (version 1.1.0).
    """

    name = "pcm-hermes-1"
    default_g_max: ClassVar[float] = 10.35
    t_0_seconds: ClassVar[float] = 200.0
    _sigma = (0.15781817, 2.32443916, -2.16310839, 0.68841818)
    _spread_below = (0.3039, -0.0120, -0.0023, 0.0124, 0.04)
    _spread = (0.0104, 0.0116, -0.0165)
    _share_below = (0.1591, -0.0078, 0.0038, 0.0179, 0.04)
    _share = (0.0088, 0.0768, -0.1352, 0.0664)


class HermesTwoDevices(_HermesDevice):
    """Two PCM devices in parallel for each polarity, as one of up to 20.7 µS, a `PowerLawDevice`. With r = g / g_max::

        sigma  = (0.16603222 + 4.71806468 r - 8.48101252 r^2 + 4.68961419 r^3) * g_max / 20.7 µS
        mean   = as in `HermesOneDevice`
        spread = clip(-0.0117 ln r - 0.0057, 0.0091, 0.04)   if r < 0.3055, else 0.0073 + 0.0093 r - 0.0118 r^2
        q      = clip(-0.0117 ln r - 0.0069, 0.015, 0.04)    if r < 0.16, else
                 0.0123 + 0.0211 r - 0.0280 r^2 + 0.0069 r^3, of the programmed conductance

    `seconds` count from 300 s after programming. Source: the paper and program of `HermesOneDevice`.
    """

    name = "pcm-hermes-2"
    default_g_max: ClassVar[float] = 20.7
    t_0_seconds: ClassVar[float] = 300.0
    _sigma = (0.16603222, 4.71806468, -8.48101252, 4.68961419)
    _spread_below = (0.3055, -0.0117, -0.0057, 0.0091, 0.04)
    _spread = (0.0073, 0.0093, -0.0118)
    _share_below = (0.16, -0.0117, -0.0069, 0.015, 0.04)
    _share = (0.0123, 0.0211, -0.0280, 0.0069)
