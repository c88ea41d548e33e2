"""Asks a device model for the spread of its readings, for callers that draw readings themselves."""

from __future__ import annotations

import math

from onnx_gconv.devices.base_device import DeviceModel, Devices, ReadNoise
from onnx_gconv.errors import ConfigError

__all__ = ["read_noise_of"]

# Pairs of methods that must agree: readings, and the spread of readings. The second pair is that of `BaseDeviceModel`.
_READINGS = (("read", "read_noise"), ("_read", "_read_noise"))


def read_noise_of(model: DeviceModel, devices: Devices, seconds: float) -> ReadNoise | None:
    """The spread of the readings of some devices, as the model's method `read_noise` returns it.

    Args:
        model: The device model.
        devices: The result of the model's `drift` for this time.
        seconds: Seconds since the end of programming.

    Returns:
        The spread of the readings; None if readings have no noise.

    Raises:
        ConfigError: If the model has no `read_noise`, overrides `read` but not `read_noise`, or returns no valid
            `ReadNoise`.
    """
    kind, name = type(model), str(getattr(model, "name", type(model).__name__))
    noise = getattr(model, "read_noise", None)
    if not callable(noise):
        raise ConfigError(
            f"device {name}: it does not say how its readings are spread, so that a model cannot draw them; give "
            "the device model a method `read_noise`, or take one reading (read noise: fixed)"
        )
    for reading, spread in _READINGS:
        if _is_newer(kind, reading, spread):
            raise ConfigError(
                f"device {name}: {kind.__name__} overrides `{reading}`, but inherits `{spread}`, which is about other "
                f"readings; define `{spread}`, too, or take one reading (read noise: fixed)"
            )
    found = noise(devices, seconds)
    if not (found is None or isinstance(found, ReadNoise)):
        raise ConfigError(f"device {name}: `read_noise` returns a {type(found).__name__}, not a ReadNoise or None")
    if found is not None:
        _check_limits(found, name)
    return found


def _check_limits(noise: ReadNoise, name: str) -> None:
    low, high = noise.low_us, noise.high_us
    if not (math.isfinite(low) and low >= 0 and (high is None or (math.isfinite(high) and high > low))):
        span = f"{low:g} to {'any' if high is None else f'{high:g}'}"
        raise ConfigError(
            f"device {name}: its readings go from {span} \u00b5S; the lowest is 0 or more, and the highest above it, "
            "or None"
        )


def _is_newer(kind: type, method: str, other: str) -> bool:
    """Whether the class that defines `method` inherits `other` from a class further up."""
    places = [next((place for place in kind.__mro__ if name in vars(place)), None) for name in (method, other)]
    one, older = places
    return one is not None and older is not None and one is not older and issubclass(one, older)
