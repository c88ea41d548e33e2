"""Phase-change memory as characterized by Joshi et al., and with drift that somebody measured otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_gconv.devices.base_device import FloatArray
from onnx_gconv.devices.formulas import line_between, lines_between
from onnx_gconv.devices.power_law import PowerLawDevice
from onnx_gconv.errors import ConfigError

__all__ = ["CustomDriftPcmDevice", "PcmDevice"]


class PcmDevice(PowerLawDevice):
    """Phase-change memory on a 90 nm chip of a million devices, with r = g / g_max::

        sigma  = (0.26348 + 1.9650 r - 1.1731 r^2) * g_max / 25 µS
        mean   = clip(-0.0155 ln r + 0.0244, 0.049, 0.1)
        spread = clip(-0.0125 ln r - 0.0059, 0.008, 0.045)
        q      = min(0.0088 / max(r_prog^0.65, 0.001), 0.2)

    Fitted for g_max = 25 µS; for another one sigma grows with it. Source: V. Joshi et al., Accurate deep neural network
    inference using computational phase-change memory, Nature Communications 11, 2473, 2020; S. R. Nandakumar et al.,
    Phase-change memory models for deep learning training and inference, ICECS 2019; coefficients and composition as
    aihwkit's PCMLikeNoiseModel (version 1.1.0), whose q is that of the programmed and not of the target conductance.
    """

    name = "pcm"

    # Lines of the logarithm.
    _MEAN = (-0.0155, 0.0244, 0.049, 0.1)
    _SPREAD = (-0.0125, -0.0059, 0.008, 0.045)
    _LOG_SHARE = (-0.65, math.log(0.0088), -math.inf, math.log(0.2))

    def _programming_sigma_us(self, targets_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return self._fitted_sigma((0.26348, 1.9650, -1.1731), targets_us, scratch, fitted_g_max=25.0)

    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        logarithms = np.log(self._above_zero(targets_us, scratch[0]), out=scratch[0])
        return lines_between(logarithms, self._MEAN, self._SPREAD, out=scratch[1])

    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        # A logarithm and an exponential take less time than a power.
        logarithms = np.log(self._above_zero(programmed_us, scratch[0]), out=scratch[0])
        return np.exp(line_between(logarithms, self._LOG_SHARE), out=logarithms)


class CustomDriftPcmDevice(PcmDevice):
    """Phase-change memory whose drift coefficients were measured: mean and spread of nu at some conductances.

    Between them both are interpolated linearly. All else is as for `PcmDevice`. Source: N. Li et al., Optimization of
    projected phase change memory for analog in-memory computing inference, Advanced Electronic Materials 2023;
    aihwkit's CustomDriftPCMLikeNoiseModel (version 1.1.0), which clips the targets that it is given in place; this one
    does not.

    Args:
        g_us: At least two conductances in ascending order, in µS, from g_min to g_max or beyond.
        nu_mean: The mean of nu at each of them.
        nu_spread: The standard deviation of nu at each of them.
        g_max: As for `PowerLawDevice`, and so the other settings.

    Raises:
        ConfigError: If there are fewer than two, lengths differ, conductances do not ascend, values are negative or not
            finite, or the range of the targets is larger.
    """

    name = "pcm-custom-drift"

    def __init__(
        self,
        g_us: Sequence[float],
        nu_mean: Sequence[float],
        nu_spread: Sequence[float],
        g_max: float | None = None,
        g_min: float | None = None,
        **settings: float | None,
    ) -> None:
        super().__init__(g_max, g_min, **settings)  # type: ignore[arg-type]  # they are those of PowerLawDevice
        self.g_us, self.nu_mean, self.nu_spread = (np.asarray(each, np.float64) for each in (g_us, nu_mean, nu_spread))
        what = f"device {self.name}:"
        lengths = len(self.g_us), len(self.nu_mean), len(self.nu_spread)
        if len(set(lengths)) > 1 or lengths[0] < 2:  # noqa: PLR2004 - a line needs two points
            have = ", ".join(map(str, lengths))
            raise ConfigError(f"{what} g_us, nu_mean and nu_spread have one length of 2 or more, but they have {have}")
        for name in ("g_us", "nu_mean", "nu_spread"):
            values = getattr(self, name)
            if not (np.isfinite(values).all() and values.min() >= 0):
                raise ConfigError(f"{what} {name} is 0 or more everywhere, but it has {values.min():g}")
        if not (np.diff(self.g_us) > 0).all():
            raise ConfigError(f"{what} g_us ascends, but it is {', '.join(f'{each:g}' for each in self.g_us)}")
        if not self.g_us[0] <= self.g_min < self.g_max <= self.g_us[-1]:
            raise ConfigError(
                f"{what} drift is given from {self.g_us[0]:g} to {self.g_us[-1]:g} \u00b5S, but targets go from "
                f"{self.g_min:g} to {self.g_max:g} \u00b5S; give it for all of them"
            )

    def _drift_moments(
        self,
        targets_us: FloatArray,
        scratch: FloatArray,  # noqa: ARG002 - NumPy's interpolation has memory of its own
    ) -> tuple[FloatArray, FloatArray]:
        mean, spread = (np.interp(targets_us, self.g_us, each) for each in (self.nu_mean, self.nu_spread))
        return mean.astype(targets_us.dtype), spread.astype(targets_us.dtype)
