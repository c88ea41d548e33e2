"""A device model of your own: programming noise in proportion to the target, and a loss for each decade of time."""

import numpy as np

import onnx_gconv as gconv
from onnx_gconv.devices import Devices, register_device_model
from onnx_gconv.devices.base_device import BaseDeviceModel
from onnx_gconv.models import model_path


@register_device_model
class ForgetfulDevice(BaseDeviceModel):
    """Programming noise with a standard deviation of 5 % of the target, and a loss of 1 % for each decade of time."""

    name = "forgetful"

    def _devices(self, targets_us: np.ndarray, rng: np.random.Generator) -> Devices:
        errors = rng.standard_normal(targets_us.shape, targets_us.dtype) * targets_us.dtype.type(0.05)
        return Devices.after_programming(targets_us, np.maximum(targets_us * (1 + errors), 0))

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> np.ndarray:
        del rng  # the loss is the same for all devices
        return devices.programmed_us * devices.targets_us.dtype.type(1 - 0.01 * np.log10(1 + seconds))


gconv.map_model(model_path("digits_mlp.onnx"), "mapped.onnx", g_max=25.0)
report = gconv.simulate("mapped.onnx", "forgetful", times=["1s", "1d"], repeats=5, metric="sqnr")
for time in report.times:
    print(f"{time.seconds:.0f} s: {time.spread.mean:.1f} dB")

# Output:
# 1 s: 23.1 dB
# 86400 s: 16.5 dB
