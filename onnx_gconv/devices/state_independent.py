"""A device whose errors do not depend on its conductance."""

from __future__ import annotations

from onnx_gconv.devices.base_device import FloatArray, require_sizes
from onnx_gconv.devices.power_law import PowerLawDevice

__all__ = ["StateIndependentDevice"]


class StateIndependentDevice(PowerLawDevice):
    """A device with the same errors and drift at each conductance, a `PowerLawDevice`.

    By default, sigma is 0.2 µS and nu is |0.1 + 0.05 N(0, 1)|. q is 1 / (g_max in µS). The model describes no measured
    device. Source: the defaults and the formulas of aihwkit's StateIndependentNoiseModel (version 1.1.0), whose read
    noise is g / g_max times the growth factor, taken as a number in µS.

    Args:
        g_max: The largest target, in µS.
        g_min: The smallest target, in µS.
        sigma_us: The standard deviation of programming errors, in µS.
        nu_mean: The mean of the drift coefficient, without a unit.
        nu_spread: The standard deviation of the drift coefficient, without a unit.
        settings: Further settings of `PowerLawDevice`.
    """

    name = "state-independent"

    def __init__(
        self,
        g_max: float | None = None,
        g_min: float | None = None,
        *,
        sigma_us: float = 0.2,
        nu_mean: float = 0.1,
        nu_spread: float = 0.05,
        **settings: float | None,
    ) -> None:
        super().__init__(g_max, g_min, **settings)  # type: ignore[arg-type]  # they are those of PowerLawDevice
        self.sigma_us: float = float(sigma_us)
        self.nu_mean: float = float(nu_mean)
        self.nu_spread: float = float(nu_spread)
        require_sizes(self.name, sigma_us=self.sigma_us, nu_mean=self.nu_mean, nu_spread=self.nu_spread)

    def _programming_sigma_us(self, targets_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return _filled(scratch[0, : targets_us.size], self.sigma_us)

    def _drift_moments(self, targets_us: FloatArray, scratch: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, spread = scratch[:, : targets_us.size]
        return _filled(mean, self.nu_mean), _filled(spread, self.nu_spread)

    def _read_share(self, programmed_us: FloatArray, scratch: FloatArray) -> FloatArray:
        return _filled(scratch[0, : programmed_us.size], 1 / self.g_max)


def _filled(array: FloatArray, value: float) -> FloatArray:
    array[...] = value
    return array
