"""The interface of device models: how devices are programmed to target conductances, drift, and are read."""

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
        targets_us: The target conductances, in µS.
        programmed_us: The conductances at the end of programming, in µS.
        drifted_us: The conductances now, averaged over many readings, in µS.
        seconds: Seconds since the end of programming.
    """

    targets_us: FloatArray
    programmed_us: FloatArray
    drifted_us: FloatArray
    seconds: float = 0.0

    @classmethod
    def after_programming(cls, targets_us: FloatArray, programmed_us: FloatArray) -> Devices:
        """Devices that have just been programmed and have not drifted yet; both arguments in µS."""
        return cls(targets_us, programmed_us, programmed_us)


@dataclass(frozen=True, eq=False)
class ReadNoise:
    """Normal read noise: one reading gives ``clip(drifted_us + sigma_us * N(0, 1), low_us, high_us)``.

    Attributes:
        sigma_us: The standard deviation of readings before the clip, in µS, of the shape and type of the devices.
        low_us: The smallest possible reading, in µS; the same for all devices of a model.
        high_us: The largest possible reading, in µS; None for no limit.
    """

    sigma_us: FloatArray
    low_us: float = 0.0
    high_us: float | None = None


@runtime_checkable
class DeviceModel(Protocol):
    """A model of devices that are programmed once, drift, and can be read any number of times.

    A generator with the same seed gives the same devices. To simulate one chip at several times, program it with one
    generator, and give `drift` a new generator with the same seed at each time: drift coefficients belong to the
    devices, not to the time. `read` may have any generator.

    Methods return new arrays, and leave those that they are given as they are: devices that were programmed once are
    read at several times. A simulation gives them arrays that cannot be written to.

    A model with normally distributed readings may also have a method ``read_noise(devices, seconds)``. It returns the
    spread of the readings of each device, as `BaseDeviceModel.read_noise` does. An ONNX model of a chip needs it to
    draw a new reading in each run.
    """

    @property
    def g_min(self) -> float:
        """The smallest conductance, in µS, for which the model is valid."""

    @property
    def g_max(self) -> float:
        """The largest conductance, in µS, for which the model is valid."""

    def program(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Program devices to targets in µS, [any shape]."""

    def drift(self, devices: Devices, seconds: float, rng: np.random.Generator) -> Devices:
        """The same devices `seconds` after the end of programming."""

    def read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        """Read each device once, `seconds` after the end of programming; conductances in µS."""


class PairModel(DeviceModel, Protocol):
    """A model of conductance pairs with correlated errors; one device of each pair has the target 0.

    `program` programs devices whose partners have the target 0. `drift` and `read` take the devices of either polarity.
    """

    @property
    def granularities(self) -> tuple[str, ...]:
        """The granularities for which the model was fitted, such as ``channel``; empty if it holds for all."""

    def program_pair(
        self, plus_us: FloatArray, minus_us: FloatArray, rng: np.random.Generator
    ) -> tuple[Devices, Devices]:
        """Program the devices of both polarities to targets in µS, [any shape]; the weight is G+ - G-."""


def is_pair_model(model: DeviceModel) -> TypeGuard[PairModel]:
    """Whether a device model is a `PairModel`."""
    return callable(getattr(model, "program_pair", None))


class BaseDeviceModel(ABC):
    """The common part of device models: the range of targets, and checks of arguments.

    A subclass defines `_devices`. It also defines `_drifted` if its devices drift, and `_read` and `_read_noise` if
    readings have noise. All of them return arrays of the type of their arguments.

    Args:
        g_max: The largest conductance, in µS; None for the default of the model.
        g_min: The smallest conductance, in µS; None for the default of the model.

    Raises:
        ConfigError: If the range is empty, negative or not finite, or is larger than the range that was measured.
    """

    name: ClassVar[str]
    default_g_max: ClassVar[float] = 25.0
    default_g_min: ClassVar[float] = 0.0

    def __init__(self, g_max: float | None = None, g_min: float | None = None) -> None:
        self.g_max: float = float(self.default_g_max if g_max is None else g_max)
        self.g_min: float = float(self.default_g_min if g_min is None else g_min)
        if not (math.isfinite(self.g_max) and 0 <= self.g_min < self.g_max):
            raise ConfigError(
                f"device {self.name}: g_min is at least 0 and below g_max, but they are {self.g_min:g} and "
                f"{self.g_max:g} \u00b5S"
            )

    def program(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Program devices.

        Args:
            targets_us: The target conductances in µS, [any shape], float32 or float64.
            rng: Draws the programming errors.

        Raises:
            ConfigError: If a target is outside of the range of the model, or not finite.
        """
        self._check_targets(targets_us)
        return self._devices(targets_us, rng)

    def drift(self, devices: Devices, seconds: float, rng: np.random.Generator) -> Devices:
        """The same devices at a later time.

        Args:
            devices: The result of `program`.
            seconds: Seconds since the end of programming.
            rng: Draws the drift coefficients; give it the same seed for each time of one chip.

        Raises:
            ConfigError: If the time is negative, or outside of the times for which the model is valid.
        """
        self._check_time(seconds)
        return replace(devices, drifted_us=self._drifted(devices, seconds, rng), seconds=seconds)

    def for_all_times(self, devices: Devices, rng: np.random.Generator) -> Devices:  # noqa: ARG002
        """The same devices with cached intermediate results that `drift` and `read` would compute again for each time.

        The devices give the same conductances, but take more memory. `drift` may then ignore its generator.

        Args:
            devices: The result of `program`.
            rng: Draws the drift coefficients, as in `drift`.
        """
        return devices

    def read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:
        """Read each device once.

        Args:
            devices: The result of `drift` for this time.
            seconds: Seconds since the end of programming.
            rng: Draws the noise of this reading.

        Returns:
            The readings in µS, of the shape and type of the devices.

        Raises:
            ConfigError: If the time is negative, or outside of the times for which the model is valid.
        """
        self._check_time(seconds)
        return self._read(devices, seconds, rng)

    def read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:
        """The spread of readings around the conductance of each device.

        Args:
            devices: The result of `drift` for this time.
            seconds: Seconds since the end of programming.

        Returns:
            The spread of the results of `read`; None if readings have no noise.

        Raises:
            ConfigError: If the time is negative, or outside of the times for which the model is valid.
        """
        self._check_time(seconds)
        return self._read_noise(devices, seconds)

    @abstractmethod
    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        """Program devices to targets in µS that are within the range; make them with `Devices.after_programming`."""

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        """The drifted conductances in µS, by default those at the end of programming."""
        return devices.programmed_us

    def _read(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        """One reading of each device in µS, by default without noise."""
        return devices.drifted_us

    def _read_noise(self, devices: Devices, seconds: float) -> ReadNoise | None:  # noqa: ARG002
        """The spread of the results of `_read`; None if they have no noise."""
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
    """A quick test whether all conductances are from 0 to `most_us`, both in µS.

    False may also mean that an element is -0.0, or that the type is not float32 or float64.

    As unsigned integers, the bit patterns of floats from 0 on have the order of the floats, and those of infinity, NaN
    and negative numbers are larger. So one comparison of integers finds all elements that are out of range.
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
    """The error that a model raises if it gets devices that another model has programmed."""
    return ConfigError("these devices were programmed by another model; give what `program` of this one gave")
