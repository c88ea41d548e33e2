"""Settings that simulators of accelerators need and no mapped model has: bits of converters, weights and inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.sample import Bits

__all__ = ["SETTINGS", "ReceiverSettings", "Setting", "cells_in_a_row", "figures_text"]

_MOST_BITS = 64


@dataclass(frozen=True)
class Setting:
    """A setting that a user may give.

    Attributes:
        description: What the setting is.
        default: The value if a user gives none; None if it follows from the mapping.
        origin: Where the default comes from.
    """

    description: str
    default: int | None
    origin: str


SETTINGS: Mapping[str, Setting] = {
    "bits": Setting("bits of the integers of weights and of inputs", None, "what fits the format"),
    "dac_bits": Setting(
        "bits of an input that are driven at once",
        1,
        "one bit after the other, as in NeuroSim and in AccelForge's models of ISAAC and NeuRRAM",
    ),
    "adc_bits": Setting(
        "bits of an analog-to-digital converter",
        8,
        "as in AccelForge's models of ISAAC and NeuRRAM, and in ZigZag's analog example",
    ),
}
"""All settings, by the names of the options that give them."""

_INPUT_BITS = 8


@dataclass(frozen=True)
class ReceiverSettings:
    """The settings that a user has given, and defaults for the others.

    Attributes:
        bits: Bits of weights and inputs; None if the user has not given them.
        dac_bits: Bits of an input that are driven at once.
        adc_bits: Bits of an analog-to-digital converter.
        given: The names of the settings that the user has given.

    Raises:
        ConfigError: If a value is no number of bits, or more bits are driven at once than an input has.
    """

    bits: Bits | None
    dac_bits: int
    adc_bits: int
    given: frozenset[str]

    def __post_init__(self) -> None:
        for name in ("dac_bits", "adc_bits"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 1 <= value <= _MOST_BITS:
                raise ConfigError(f"{name} is a number of bits from 1 to {_MOST_BITS}, but it is {value}")
        if self.dac_bits > self.input_bits:
            raise ConfigError(
                f"dac_bits is {self.dac_bits}, but inputs have {self.input_bits} bits; give {self.input_bits} or fewer"
            )

    @classmethod
    def of(cls, bits: Bits | None, dac_bits: int | None, adc_bits: int | None) -> ReceiverSettings:
        """The settings; arguments that are None were not given by the user."""
        values = {"bits": bits, "dac_bits": dac_bits, "adc_bits": adc_bits}
        given = frozenset(name for name, value in values.items() if value is not None)
        return cls(
            bits,
            _default("dac_bits") if dac_bits is None else dac_bits,
            _default("adc_bits") if adc_bits is None else adc_bits,
            given,
        )

    @property
    def input_bits(self) -> int:
        """Bits of a number that goes into a layer."""
        return _INPUT_BITS if self.bits is None else self.bits.inputs

    @property
    def weight_bits(self) -> int | None:
        """Bits of a weight; None if they follow from the mapping."""
        return None if self.bits is None else self.bits.weights

    def unused(self, names: Collection[str]) -> list[str]:
        """The settings that the user has given although they are not among these names."""
        return [name for name in SETTINGS if name in self.given and name not in names]

    def described(self, weights: str) -> tuple[str, ...]:
        """The lines of README.txt that give each setting and its origin.

        Args:
            weights: The text on bits of weights if the user has not given them.
        """
        is_given = self.bits is not None
        source = "given" if is_given else "not given; as in the networks that come with NeuroSim, ZigZag and AccelForge"
        converters = (
            f"{name} {getattr(self, name)} ({SETTINGS[name].description}): "
            f"{'given' if name in self.given else f'not given; {SETTINGS[name].origin}'}"
            for name in ("dac_bits", "adc_bits")
        )
        bits = f"bits of weights {self.weight_bits}: given" if is_given else f"bits of weights: not given; {weights}"
        return f"bits of inputs {self.input_bits}: {source}", bits, *converters


def _default(name: str) -> int:
    value = SETTINGS[name].default
    assert value is not None  # noqa: S101 - converters have one
    return value


def figures_text(figures: Iterable[str]) -> str:
    """The part of README.txt that lists figures that the mapping does not have."""
    return "Figures that the mapping does not have:\n" + "".join(f"- {figure}\n" for figure in figures)


def cells_in_a_row(layer: Layer) -> int:
    """Number of cells of a weight in a row of the arrays, each in its own column.

    That is one for each device; with interleaved rows, a pair stands in one column and counts once.
    """
    stacked = len(layer.pairs) if layer.geometry.pair_layout == "interleaved_rows" else 0
    return len(layer.record.conductances) - stacked
