"""Chips of a device model: what they are of, which one, and whether a weight fits them."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsIndex

from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.devices.registry import device_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import SimulatedRecord
from onnx_gconv.mapping.located import MappedWeight
from onnx_gconv.simulation.chip_weight import Chip, DriftCompensation
from onnx_gconv.simulation.streams import ChipStreams

__all__ = ["Chips", "check_range", "chips_of", "whole_number"]

_SEEDS = 2**64

_SLACK = 1e-6  # of g_max: converters may round a little beyond an end of their range


@dataclass(frozen=True)
class Chips:
    """All chips of a device model and a seed.

    Attributes:
        device: Its name.
        settings: Its settings, as JSON values; empty for a device model that a program gives as an object.
        model: The device model.
        seed: Of all random numbers.
        compensation: Whether drift is compensated.
    """

    device: str
    settings: Mapping[str, Any]
    model: DeviceModel
    seed: int
    compensation: DriftCompensation

    @property
    def digest(self) -> str:
        """What tells the device model from others of its name, such as one with other measurements."""
        state = json.dumps(getattr(self.model, "__dict__", {}), default=_as_list, sort_keys=True)
        return hashlib.sha256(f"{type(self.model).__qualname__} {state}".encode()).hexdigest()

    def chip(self, number: int, seconds: float) -> Chip:
        """One of them at a time."""
        return Chip(self.model, seconds, ChipStreams(self.seed, number), self.compensation)

    def record(self, number: int, seconds: float) -> SimulatedRecord:
        """What the manifest says of that one."""
        return SimulatedRecord(
            device=self.device,
            settings=dict(self.settings),
            seconds=seconds,
            seed=self.seed,
            chip=number,
            drift_compensation=self.compensation,
        )


def chips_of(
    device: str | DeviceModel, settings: Mapping[str, Any], seed: SupportsIndex, compensation: DriftCompensation
) -> Chips:
    """The chips of a device model by its name, or of a device model.

    Raises:
        ConfigError: If there is none of that name, a setting is wrong, or the seed is none.
    """
    if compensation not in {"none", "global"}:
        raise ConfigError(f"the compensation of drift is 'none' or 'global', but not '{compensation}'")
    seed = whole_number("seed", seed)
    if isinstance(device, str):
        known = json.loads(json.dumps(dict(settings), default=_as_list))
        return Chips(device, known, device_model(device, **settings), seed, compensation)
    if settings:
        raise ConfigError(f"the setting '{next(iter(settings))}' is for a device by name; give it to the device model")
    if isinstance(device, DeviceModel) and not isinstance(device, type):
        for name in ("g_min", "g_max"):
            value = getattr(device, name)
            if not (isinstance(value, Real) and math.isfinite(value)):
                raise ConfigError(f"{name} of the device model is a number in \u00b5S, but it is {value!r}")
        return Chips(str(getattr(device, "name", type(device).__name__)), {}, device, seed, compensation)
    raise ConfigError(f"a device is the name of a model, or a device model, but not a {type(device).__name__}")


def whole_number(what: str, number: SupportsIndex, low: int = 0) -> int:
    """A seed, or another whole number, as Python's own.

    Raises:
        ConfigError: If it is none, below `low`, or of more than 64 bits.
    """
    try:
        found = None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = None
    if found is None or not low <= found < _SEEDS:
        raise ConfigError(f"the {what} is a whole number from {low} to 2^64 - 1, but it is {number!r}")
    return found


def check_range(weight: MappedWeight, chips: Chips) -> None:
    """Raise ConfigError if a weight was mapped to conductances for which the device model is not valid."""
    converter, model = weight.record.converter.converter(), chips.model
    slack = _SLACK * model.g_max
    if converter.g_min < model.g_min - slack or converter.g_max > model.g_max + slack:
        raise ConfigError(
            f"the weight '{weight.record.name}' has conductances from {converter.g_min:g} to {converter.g_max:g} "
            f"\u00b5S, but the device {chips.device} is valid from {model.g_min:g} to {model.g_max:g} \u00b5S; map "
            f"with --g-min {model.g_min:g} --g-max {model.g_max:g}, or choose another device"
        )


def _as_list(value: Any) -> Any:  # noqa: ANN401 - a setting of any kind
    """What JSON has no form for: arrays of NumPy are lists; of all else the type is said, the same in each process."""
    return value.tolist() if hasattr(value, "tolist") else f"<{type(value).__qualname__}>"
