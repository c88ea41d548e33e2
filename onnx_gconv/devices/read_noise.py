"""How readings of a device are spread around what it has, for those who draw readings themselves."""

from __future__ import annotations

import math

from onnx_gconv.devices.base_device import DeviceModel, Devices, ReadNoise
from onnx_gconv.errors import ConfigError

__all__ = ["read_noise_of"]

# What gives a reading, and what says how readings are spread: of a model, and of those made from `BaseDeviceModel`.
_READINGS = (("read", "read_noise"), ("_read", "_read_noise"))


def read_noise_of(model: DeviceModel, devices: Devices, seconds: float) -> ReadNoise | None:
    """How readings of some devices are spread, as the model's `read_noise` says it.

    Args:
        model: The device model.
        devices: As its `drift` gave them for this time.
        seconds: How long after programming has ended, in seconds.

    Returns:
        Their spread; None if readings have no noise.

    Raises:
        ConfigError: If the model does not say it, or says it of other readings than it gives.
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
                f"device {name}: {kind.__name__} gives readings of its own by `{reading}`, but `{spread}` is that of "
                f"the class that it is made from; define `{spread}`, too, or take one reading (read noise: fixed)"
            )
    found = noise(devices, seconds)
    if not (found is None or isinstance(found, ReadNoise)):
        raise ConfigError(f"device {name}: `read_noise` gives a {type(found).__name__}, but no ReadNoise and not None")
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
    """Whether a class, or one that it is made from, defines a method anew, and not the other one."""
    places = [next((place for place in kind.__mro__ if name in vars(place)), None) for name in (method, other)]
    one, older = places
    return one is not None and older is not None and one is not older and issubclass(one, older)
