"""Phase-change memory as characterized by Joshi et al., and the same with other measured drift coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.devices.base_device import FloatArray
from onnx_gconv.devices.formulas import line_between, lines_between
from onnx_gconv.devices.power_law import PowerLawDevice
from onnx_gconv.errors import ConfigError

__all__ = ["CustomDriftPcmDevice", "PcmDevice"]


class PcmDevice(PowerLawDevice):
    """Phase-change memory of a 90 nm chip of a million devices, a `PowerLawDevice`. With r = g / g_max::

        sigma  = (0.26348 + 1.9650 r - 1.1731 r^2) * g_max / 25 µS
        mean   = clip(-0.0155 ln r + 0.0244, 0.049, 0.1)
        spread = clip(-0.0125 ln r - 0.0059, 0.008, 0.045)
        q      = min(0.0088 / max(r_prog^0.65, 0.001), 0.2)

    The fit is for g_max = 25 µS; sigma scales with another g_max. q depends on r_prog, the programmed and not the
    target conductance. Source: V. Joshi et al., Accurate deep neural network inference using computational phase-change
    memory, Nature Communications 11, 2473, 2020; S. R. Nandakumar et al., Phase-change memory models for deep learning
    training and inference, ICECS 2019; coefficients and their combination as in aihwkit's PCMLikeNoiseModel
    (version 1.1.0).
    """

    name = "pcm"

    # Lines in ln r: slope, offset, lowest and highest value.
    _MEAN = (-0.0155, 0.0244, 0.049, 0.1)
    _SPREAD = (-0.0125, -0.0059, 0.008, 0.045)
    _LOG_SHARE = (-0.65, math.log(0.0088), -math.inf, math.log(0.2))

    def _programming_sigma_us(self, targets_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return self._fitted_sigma((0.26348, 1.9650, -1.1731), targets_us, scratch, fitted_g_max=25.0)

    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        logarithms = self._logarithms(targets_us, scratch[0])
        return lines_between(logarithms, self._line_in_us(self._MEAN), self._line_in_us(self._SPREAD), out=scratch[1])

    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        # exp(-0.65 ln r) is faster than a power.
        logarithms = self._logarithms(programmed_us, scratch[0])
        return np.exp(line_between(logarithms, self._line_in_us(self._LOG_SHARE)), out=logarithms)


class CustomDriftPcmDevice(PcmDevice):
    """The phase-change memory of `PcmDevice` with drift of your own: mean and spread of nu at some conductances.

    Between these conductances, both are interpolated linearly. Source: N. Li et al., Optimization of projected phase
    change memory for analog in-memory computing inference, Advanced Electronic Materials 2023; aihwkit's
    CustomDriftPCMLikeNoiseModel (version 1.1.0). That class clips the array of targets in place; this one does not.

    Args:
        g_us: At least two conductances in µS, ascending; they must cover g_min to g_max.
        nu_mean: The mean of nu at each conductance, without a unit.
        nu_spread: The standard deviation of nu at each conductance, without a unit.
        g_max: The largest target, in µS.
        g_min: The smallest target, in µS.
        settings: Further settings of `PowerLawDevice`.

    Raises:
        ConfigError: If there are fewer than two conductances, lengths differ, conductances do not ascend or do not
            cover the targets, or a value is negative or not finite.
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
        self.g_us: NDArray[np.float64] = np.asarray(g_us, np.float64)
        self.nu_mean: NDArray[np.float64] = np.asarray(nu_mean, np.float64)
        self.nu_spread: NDArray[np.float64] = np.asarray(nu_spread, np.float64)
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
        scratch: FloatArray,  # noqa: ARG002 - NumPy's interpolation always makes new arrays
    ) -> tuple[FloatArray, FloatArray]:
        mean, spread = (np.interp(targets_us, self.g_us, each) for each in (self.nu_mean, self.nu_spread))
        return mean.astype(targets_us.dtype), spread.astype(targets_us.dtype)
