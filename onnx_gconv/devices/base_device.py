"""What a device does after it was told a conductance: programming, drift and reading."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, TypeGuard, runtime_checkable

import numpy as np

from onnx_gconv.devices.formulas import FloatArray
from onnx_gconv.errors import ConfigError

__all__ = [
    "BaseDeviceModel",
    "DeviceModel",
    "Devices",
    "FloatArray",
    "PairModel",
    "ReadNoise",
    "are_from_zero_to",
    "foreign_devices",
    "is_pair_model",
    "require_sizes",
]


@dataclass(frozen=True, eq=False)
class Devices:
    """Some devices of a chip, at one moment. All arrays have one shape and one type, float32 or float64.

    Attributes:
        targets_us: The conductances that they were told, in µS.
        programmed_us: Those that they had when programming had ended, in µS.
        drifted_us: Those that they have now, on average over many readings, in µS.
        seconds: How long ago programming ended.
    """

    targets_us: FloatArray
    programmed_us: FloatArray
    drifted_us: FloatArray
    seconds: float = 0.0

    @classmethod
    def after_programming(cls, targets_us: FloatArray, programmed_us: FloatArray) -> Devices:
        """Devices that have just been programmed, both in µS, and have not drifted yet."""
        return cls(targets_us, programmed_us, programmed_us)


@dataclass(frozen=True, eq=False)
class ReadNoise:
    """One reading gives ``clip(drifted_us + sigma_us * N(0, 1), low_us, high_us)``.

    Attributes:
        sigma_us: The standard deviation of readings before they are cut, in µS, of the shape and type of the devices.
        low_us: The smallest reading, in µS; the same for all devices of a model.
        high_us: The largest reading, in µS; None for any.
    """

    sigma_us: FloatArray
    low_us: float = 0.0
    high_us: float | None = None


@runtime_checkable
class DeviceModel(Protocol):
    """A model of devices, which are programmed once, drift, and are read as often as one likes.

    A generator with the same seed gives the same devices. So one chip at several times is had with one generator for
    programming, another one for drift that starts from the same seed for each time, and any for reading: drift
    coefficients belong to the devices and not to the time.

    A model whose readings are normally distributed may have a method ``read_noise(devices, seconds)`` besides, which
    says how readings of each device are spread, as `BaseDeviceModel.read_noise` does: so that a model of a chip can
    draw readings while it runs.
    """

    @property
    def g_min(self) -> float:
        """The smallest conductance, in µS, for which the model is valid."""

    @property
    def g_max(self) -> float:
        """The largest conductance, in µS, for which the model is valid."""

    def program(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Devices that were just programmed, [any shape]."""

    def drift(self, devices: Devices, seconds: float, rng: np.random.Generator) -> Devices:
        """The same devices so many seconds after programming has ended."""

    def read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        """What one reading of each device gives, in µS, so many seconds after programming has ended."""


class PairModel(DeviceModel, Protocol):
    """A model of the two devices of a single pair, of which one is told 0, and whose errors belong together.

    Its `program` gives devices whose partners are told 0. `drift` and `read` take the devices of either polarity.
    """

    @property
    def granularities(self) -> tuple[str, ...]:
        """What shares a scale where the model was fitted, such as ``channel``; empty if that does not matter."""

    def program_pair(
        self, plus_us: FloatArray, minus_us: FloatArray, rng: np.random.Generator
    ) -> tuple[Devices, Devices]:
        """The devices of both polarities, just programmed, [any shape]; the weight is G+ - G-."""


def is_pair_model(model: DeviceModel) -> TypeGuard[PairModel]:
    """Whether a device model is one of pairs."""
    return callable(getattr(model, "program_pair", None))


class BaseDeviceModel(ABC):
    """What models of devices share: the range, and checks of what they are given.

    A model defines `_devices`, and `_drifted`, `_read` and `_read_noise` if there is such a thing; each gets arrays of
    one type and gives arrays of that type.

    Args:
        g_max: The largest conductance, in µS.
        g_min: The smallest conductance, in µS.

    Raises:
        ConfigError: If the range is none, or is larger than the one that was measured.
    """

    name: ClassVar[str]
    default_g_max: ClassVar[float] = 25.0
    default_g_min: ClassVar[float] = 0.0

    def __init__(self, g_max: float | None = None, g_min: float | None = None) -> None:
        self.g_max = float(self.default_g_max if g_max is None else g_max)
        self.g_min = float(self.default_g_min if g_min is None else g_min)
        if not (math.isfinite(self.g_max) and 0 <= self.g_min < self.g_max):
            raise ConfigError(
                f"device {self.name}: g_min is at least 0 and below g_max, but they are {self.g_min:g} and "
                f"{self.g_max:g} \u00b5S"
            )

    def program(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Devices that were just programmed.

        Args:
            targets_us: The conductances that they are told, in µS, [any shape], float32 or float64.
            rng: Draws the errors of programming.

        Raises:
            ConfigError: If a target is outside of the range of the model, or not finite.
        """
        self._check_targets(targets_us)
        return self._devices(targets_us, rng)

    def drift(self, devices: Devices, seconds: float, rng: np.random.Generator) -> Devices:
        """The same devices later.

        Args:
            devices: As `program` gave them.
            seconds: How long after programming has ended, in seconds.
            rng: Draws how each device drifts; from the same seed for each time of one chip.

        Raises:
            ConfigError: If the time is negative, or the model knows nothing of it.
        """
        self._check_time(seconds)
        return replace(devices, drifted_us=self._drifted(devices, seconds, rng), seconds=seconds)

    def for_all_times(self, devices: Devices, rng: np.random.Generator) -> Devices:  # noqa: ARG002
        """The same devices, with what `drift` and `read` would compute anew for each time.

        They give the same conductances, and take more memory. `drift` of them need not draw how each device drifts.

        Args:
            devices: As `program` gave them.
            rng: As `drift` would be given.
        """
        return devices

    def read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        """What one reading of each device gives, in µS.

        Args:
            devices: As `drift` gave them for this time.
            seconds: How long after programming has ended, in seconds.
            rng: Draws the noise of this reading.

        Raises:
            ConfigError: If the time is negative, or the model knows nothing of it.
        """
        self._check_time(seconds)
        return self._read(devices, seconds, rng)

    def read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        """How readings of each device are spread around what it has.

        Args:
            devices: As `drift` gave them for this time.
            seconds: How long after programming has ended, in seconds.

        Returns:
            The spread of what `read` gives; None if readings have no noise.

        Raises:
            ConfigError: If the time is negative, or the model knows nothing of it.
        """
        self._check_time(seconds)
        return self._read_noise(devices, seconds)

    @abstractmethod
    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Devices that were told targets within the range; `Devices.after_programming` makes them."""

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        """What programmed conductances have become, in µS."""
        return devices.programmed_us

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        """What a reading gives, in µS."""
        return devices.drifted_us

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:  # noqa: ARG002
        """How what `_read` gives is spread; None if it has no noise."""
        return None

    def _check_targets(self, targets_us: FloatArray) -> None:
        if not isinstance(targets_us, np.ndarray):
            raise ConfigError(f"device {self.name}: targets are a NumPy array, not a {type(targets_us).__name__}")
        if targets_us.dtype not in (np.float32, np.float64):
            raise ConfigError(f"device {self.name}: targets are float32 or float64, not {targets_us.dtype}")
        slack = 4 * float(np.finfo(targets_us.dtype).eps) * self.g_max  # converters may round a little beyond an end
        if targets_us.size == 0 or (self.g_min == 0 and are_from_zero_to(targets_us, self.g_max + slack)):
            return
        low, high = float(targets_us.min()), float(targets_us.max())
        if not self.g_min - slack <= low <= high <= self.g_max + slack:
            wrong = low if not low >= self.g_min - slack else high
            raise ConfigError(
                f"device {self.name}: a target is {wrong:g} \u00b5S, but the model is valid from {self.g_min:g} to "
                f"{self.g_max:g} \u00b5S; map with that range, or choose another device"
            )

    def _check_time(self, seconds: float) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ConfigError(f"device {self.name}: a time is 0 seconds or more, but it is {seconds}")


def are_from_zero_to(conductances_us: FloatArray, most_us: float) -> bool:
    """Whether conductances are sure to be numbers from 0 to one in µS; those of other types, and -0.0, are not.

    Read as integers without a sign, bits of numbers from 0 on have the order of the numbers, and those of infinity, NaN
    and all that has a sign are larger: one look at each is enough.
    """
    dtype = conductances_us.dtype
    if dtype not in (np.float32, np.float64):
        return False
    integer = np.dtype(f"u{dtype.itemsize}")
    return bool(conductances_us.view(integer).max(initial=0) <= dtype.type(most_us).view(integer))


def require_sizes(device: str, **sizes: float) -> None:
    """Raise ConfigError unless settings of a device are finite and 0 or more."""
    for name, value in sizes.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"device {device}: {name} is 0 or more, but it is {value}")


def foreign_devices() -> ConfigError:
    """The error of a model that is given devices of another one."""
    return ConfigError("these devices were programmed by another model; give what `program` of this one gave")
