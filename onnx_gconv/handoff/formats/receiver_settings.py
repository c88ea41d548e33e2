"""What simulators of accelerators ask for that no mapped model knows: converters, and bits of numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError

__all__ = ["SETTINGS", "ReceiverSettings", "Setting", "cells_in_a_row", "figures_text"]

_MOST_BITS = 64


@dataclass(frozen=True)
class Setting:
    """One figure.

    Attributes:
        description: What it is.
        default: Its value if nobody gives one; None if it follows from the mapping.
        origin: Where the default is from.
    """

    description: str
    default: int | None
    origin: str


SETTINGS: Mapping[str, Setting] = {
    "input_bits": Setting(
        "bits of a number that goes into a layer",
        8,
        "that of the networks that come with NeuroSim, ZigZag and AccelForge",
    ),
    "dac_bits": Setting(
        "bits of an input that are driven at once",
        1,
        "one bit after the other, as in NeuroSim, and in ISAAC and NeuRRAM as AccelForge has them",
    ),
    "adc_bits": Setting(
        "bits of an analog-to-digital converter",
        8,
        "that of ISAAC and NeuRRAM as AccelForge has them, and of ZigZag's analog example",
    ),
    "weight_bits": Setting("bits of a weight", None, "what the devices of the mapping hold"),
}
"""All figures, by the names of the options that give them."""


@dataclass(frozen=True)
class ReceiverSettings:
    """The figures that a user has given; of the others, the defaults.

    Attributes:
        input_bits: Bits of a number that goes into a layer.
        dac_bits: Bits of it that are driven at once.
        adc_bits: Bits of an analog-to-digital converter.
        weight_bits: Bits of a weight; None if they follow from the mapping.
        given: The names of those that a user has given.

    Raises:
        ConfigError: If one is no number of bits, or more bits are driven at once than there are.
    """

    input_bits: int
    dac_bits: int
    adc_bits: int
    weight_bits: int | None
    given: frozenset[str]

    def __post_init__(self) -> None:
        for name in SETTINGS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not 1 <= value <= _MOST_BITS):
                raise ConfigError(f"{name} is a number of bits from 1 to {_MOST_BITS}, but it is {value}")
        if self.dac_bits > self.input_bits:
            raise ConfigError(
                f"{self.dac_bits} bits cannot be driven at once (dac_bits) of inputs of {self.input_bits} (input_bits)"
            )

    @classmethod
    def of(cls, given: Mapping[str, int | None]) -> ReceiverSettings:
        """The settings in which figures that are None are not given."""
        known = {name: value for name, value in given.items() if value is not None}
        defaults = {name: setting.default for name, setting in SETTINGS.items()}
        return cls(**{**defaults, **known}, given=frozenset(known))  # type: ignore[arg-type] # only weight_bits is None

    def unused(self, names: Collection[str]) -> list[str]:
        """Those that a user has given, though none of these names is theirs."""
        return [name for name in SETTINGS if name in self.given and name not in names]

    @staticmethod
    def sentence(name: str) -> str:
        """What a setting is."""
        return SETTINGS[name].description

    def described(self, name: str) -> str:
        """What README.txt says of one, e.g. ``adc_bits 6 (bits of an analog-to-digital converter): given``."""
        setting = SETTINGS[name]
        source = "given" if name in self.given else f"not given; {setting.origin}"
        return f"{name} {getattr(self, name)} ({setting.description}): {source}"


def figures_text(figures: Iterable[str]) -> str:
    """What README.txt says of figures that the mapping does not have."""
    return "Figures that the mapping does not have:\n" + "".join(f"- {figure}\n" for figure in figures)


def cells_in_a_row(layer: Layer) -> int:
    """How many columns of arrays a weight has: one for each device, or for each pair that stands in one column."""
    stacked = len(layer.pairs) if layer.geometry.pair_layout == "interleaved_rows" else 0
    return len(layer.record.conductances) - stacked
