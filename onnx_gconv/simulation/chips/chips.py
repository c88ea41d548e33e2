"""The chips of a simulation: their device model, its settings and the seed, and whether weights fit the model."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsIndex, get_args

from onnx_gconv.devices.base_device import DeviceModel, is_pair_model
from onnx_gconv.devices.registry import device_model
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import SimulatedRecord
from onnx_gconv.mapping.mapped_weight import MappedWeight
from onnx_gconv.simulation.chips.chip_weight import Chip, DriftCompensation, check_compensation, check_pairs
from onnx_gconv.simulation.chips.model_state import state_of
from onnx_gconv.simulation.chips.streams import ChipStreams

__all__ = ["Chips", "check_weight", "chips_of", "scaling_notes", "whole_number"]

_SEEDS = 2**64

_SLACK = 1e-6  # of g_max: converters may round a little beyond an end of their range


@dataclass(frozen=True)
class Chips:
    """All chips of one device model and one seed.

    Attributes:
        device: The name of the device model.
        settings: The settings of the device model, as JSON values; empty if a program gave the model as an object.
        model: The device model.
        seed: The seed of all random numbers.
        compensation: How drift is compensated.
    """

    device: str
    settings: Mapping[str, Any]
    model: DeviceModel
    seed: int
    compensation: DriftCompensation

    @property
    def digest(self) -> str:
        """A hash of the device model and its state: models of one name may have other settings or measurements."""
        state = json.dumps(state_of(self.model), sort_keys=True)
        return hashlib.sha256(f"{type(self.model).__qualname__} {state}".encode()).hexdigest()

    def chip(self, number: int, seconds: float) -> Chip:
        """The chip of a number, read at a time in seconds after programming."""
        return Chip(self.model, seconds, ChipStreams(self.seed, number), self.compensation)

    def record(self, number: int, seconds: float) -> SimulatedRecord:
        """The record of a chip, as the manifest of its model holds it."""
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
    """The chips of a device model, which is given by its name or as an object.

    Raises:
        ConfigError: If no device model has that name, or a setting, the seed or the compensation is not valid.
    """
    if compensation not in get_args(DriftCompensation):
        known = ", ".join(get_args(DriftCompensation))
        raise ConfigError(f"the compensation of drift is one of {known}, but not '{compensation}'")
    seed = whole_number("seed", seed)
    if not (isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)):
        raise ConfigError(
            f'settings of a device are values by name, such as {{"read_scale": 0.5}}, but they are {settings!r}'
        )
    if isinstance(device, str):
        of_record = {name: state_of(value) for name, value in settings.items()}
        return Chips(device, of_record, device_model(device, **settings), seed, compensation)
    if settings:
        raise ConfigError(f"the setting '{next(iter(settings))}' is for a device by name; give it to the device model")
    if isinstance(device, DeviceModel) and not isinstance(device, type):
        for name in ("g_min", "g_max"):
            value = getattr(device, name)
            if not (isinstance(value, Real) and math.isfinite(value)):
                raise ConfigError(f"{name} of the device model is a number in \u00b5S, but it is {value!r}")
        return Chips(str(getattr(device, "name", type(device).__name__)), {}, device, seed, compensation)
    members = ("g_min", "g_max", "program", "drift", "read")
    missing = [name for name in members if not hasattr(device, name)]
    lacks = f", which lacks {missing[0]}" if len(missing) < len(members) and missing else ""
    raise ConfigError(f"a device is the name of a model, or a device model, but not a {type(device).__name__}{lacks}")


def whole_number(what: str, number: SupportsIndex, low: int = 0) -> int:
    """An integer of any type, such as one of NumPy, as a Python `int`.

    Args:
        what: What messages call the number.
        number: The integer.
        low: The smallest valid value.

    Raises:
        ConfigError: If `number` is not an integer, is below `low`, or needs more than 64 bits.
    """
    try:
        found = None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        found = None
    if found is None or not low <= found < _SEEDS:
        raise ConfigError(f"the {what} is a whole number from {low} to 2^64 - 1, but it is {number!r}")
    return found


def check_weight(weight: MappedWeight, chips: Chips) -> None:
    """Raise ConfigError if the device model or the compensation of drift does not fit a weight."""
    check_compensation(weight.record, chips.compensation)
    converter, model = weight.record.converter.converter(), chips.model
    slack = _SLACK * model.g_max
    if converter.g_min < model.g_min - slack or converter.g_max > model.g_max + slack:
        raise ConfigError(
            f"the weight {weight.record.quoted} has conductances from {converter.g_min:g} to {converter.g_max:g} "
            f"\u00b5S, but the device {chips.device} is valid from {model.g_min:g} to {model.g_max:g} \u00b5S; map "
            f"with --g-min {model.g_min:g} --g-max {model.g_max:g}, or choose another device"
        )
    if is_pair_model(model):
        check_pairs(weight.record)


def scaling_notes(weights: Sequence[MappedWeight], chips: Chips) -> tuple[str, ...]:
    """A note if weights are scaled in another way than those from which the device model was fitted; else nothing."""
    model = chips.model
    if not (is_pair_model(model) and model.granularities):
        return ()
    others = [
        weight.record.known_as
        for weight in weights
        if weight.record.granularity not in model.granularities
        or weight.record.converter.converter().g_max < model.g_max * (1 - _SLACK)
    ]
    if not others:
        return ()
    said = (
        f"the figures of the device {chips.device} are for weights of the granularity "
        f"{' or '.join(model.granularities)} with a g_max of {model.g_max:g} \u00b5S; {len(others)} of {len(weights)} "
        f"weights are mapped otherwise, such as '{others[0]}'; map with --granularity {model.granularities[0]} "
        f"--g-max {model.g_max:g}"
    )
    return (said,)
