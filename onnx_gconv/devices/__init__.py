"""Models of analog devices: published ranges, levels, programming errors, drift and read noise. NumPy and data only."""

from __future__ import annotations

from onnx_gconv.devices.base_device import DeviceModel, Devices, PairModel, ReadNoise
from onnx_gconv.devices.registry import device_model, device_model_names, register_device_model

__all__ = [
    "DeviceModel",
    "Devices",
    "PairModel",
    "ReadNoise",
    "device_model",
    "device_model_names",
    "register_device_model",
]
