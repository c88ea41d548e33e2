"""Phase-change memory for which the error of a conductance pair is known, but not the errors of its two devices."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnx_gconv.devices.base_device import BaseDeviceModel, Devices, FloatArray, require_sizes
from onnx_gconv.devices.formulas import polynomial
from onnx_gconv.devices.normal_numbers import from_normal
from onnx_gconv.errors import ConfigError

__all__ = ["AfmPcmPairs"]


class AfmPcmPairs(BaseDeviceModel):
    """Pairs of phase-change memory as in the evaluation of the Analog Foundation Models. With g = g+ - g- in µS::

        sigma = 2.579741 + 0.2241969 |g| - 0.003715812 |g|^2 + 2.939751e-5 |g|^3    if |g| <= 52.5, else
                2.110296 + 0.2453487 |g| - 0.003054993 |g|^2 + 1.232976e-5 |g|^3
        h     = g + programming_scale * sigma * N(0, 1)    if |g| >= 0.6, else 0
        g+    = max(h, 0)
        g-    = max(-h, 0)

    The error of a small g may change its sign; then the device with target 0 gets the conductance. There is no drift,
    no read noise and no upper limit. Source: J. Büchel et al., Analog Foundation Models, arXiv:2505.09663, 2025, with
    the coefficients of apply_noise_model.py in IBM/analog-foundation-models. That program has one scale for each output
    of a layer, or for each output in a tile of at most 512 inputs, so that the largest |g| is 180 µS. It rounds sigma
    to float16, by up to 0.05 %, and adds 6.1e-5 to the largest weight; this model does neither.

    Args:
        programming_scale: A factor of sigma.

    Raises:
        ConfigError: If `programming_scale` is negative or not finite.
    """

    name = "pcm-afm2025"
    default_g_max: ClassVar[float] = 180.0
    granularities: tuple[str, ...] = ("channel", "tile_channel")

    _LEAST_US = 0.6
    _BRANCHES_MEET_US = 52.5
    _BELOW = (2.5797410660159494, 0.22419685954327148, -0.00371581208142707, 2.939751381126213e-05)
    _ABOVE = (2.110295720240385, 0.2453487119885723, -0.003054993405157235, 1.2329755395573392e-05)

    def __init__(self, *, programming_scale: float = 1.0) -> None:
        super().__init__()
        self.programming_scale: float = float(programming_scale)
        require_sizes(self.name, programming_scale=self.programming_scale)

    def program_pair(
        self, plus_us: FloatArray, minus_us: FloatArray, rng: np.random.Generator
    ) -> tuple[Devices, Devices]:
        """Program the devices of both polarities.

        Args:
            plus_us: The targets of the positive devices in µS, [any shape], float32 or float64.
            minus_us: The targets of the negative devices in µS, of the same shape and type; one target of each pair
                has to be 0.
            rng: Draws one error for each pair.

        Returns:
            The positive devices and the negative devices.

        Raises:
            ConfigError: If a target is outside of the range of the model, or both targets of a pair are above 0.
        """
        self._check_targets(plus_us)
        self._check_targets(minus_us)
        self._check_pairs(plus_us, minus_us)
        found = self._with_errors(plus_us - minus_us, rng)
        return (
            Devices.after_programming(plus_us, np.maximum(found, 0)),
            Devices.after_programming(minus_us, np.maximum(0 - found, 0)),  # -found would make -0.0 of 0.0
        )

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        return Devices.after_programming(targets_us, np.maximum(self._with_errors(targets_us, rng), 0))

    def _with_errors(self, signed_us: FloatArray, rng: np.random.Generator) -> FloatArray:
        def program(noise: FloatArray, scratch: FloatArray, signed_us: FloatArray) -> None:
            sizes = np.abs(signed_us, out=scratch[0])
            above, below = (polynomial(each, sizes) for each in (self._ABOVE, self._BELOW))
            noise *= np.where(sizes > self._BRANCHES_MEET_US, above, below)
            noise *= self.programming_scale
            noise += signed_us
            noise[sizes < self._LEAST_US] = 0

        return from_normal(program, rng, signed_us)

    def _check_pairs(self, plus_us: FloatArray, minus_us: FloatArray) -> None:
        if plus_us.shape != minus_us.shape or plus_us.dtype != minus_us.dtype:
            raise ConfigError(
                f"device {self.name}: targets of both polarities have one shape and type, but they are "
                f"{plus_us.dtype} {list(plus_us.shape)} and {minus_us.dtype} {list(minus_us.shape)}"
            )
        both = np.minimum(plus_us, minus_us) > 0
        if both.any():
            plus, minus = plus_us[both][0], minus_us[both][0]
            raise ConfigError(
                f"device {self.name}: the targets of a pair are {plus:g} and {minus:g} \u00b5S, but in a pair of "
                "this model one target is 0; map with the converter single-pair and g_min 0, or choose another "
                "device"
            )
