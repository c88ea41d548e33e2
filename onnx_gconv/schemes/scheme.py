"""How one weight is mapped: the converter, and what is decided besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from onnx_gconv.converters import ConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity

__all__ = ["LevelStorage", "MappingScheme"]

LevelStorage: TypeAlias = Literal["float", "codes"]


@dataclass(frozen=True)
class MappingScheme:
    """How a weight is mapped.

    Attributes:
        converter: The rule weight ⇄ conductances. With levels, it becomes the one for devices with these.
        granularity: What shares one scale.
        clipping: What the largest conductance stands for.
        levels: The levels that conductances are rounded to; None for any conductance in the range. Codes of a converter
            whose conductances are levels already get these.
        storage: Whether conductances are stored in µS, or as codes of levels that the graph decodes.

    Raises:
        ConfigError: If the parts contradict each other.
    """

    converter: ConductanceConverter = field(default_factory=SinglePairConductanceConverter)
    granularity: Granularity = field(default_factory=Granularity)
    clipping: Clipping = field(default_factory=Clipping)
    levels: ConductanceLevels | None = None
    storage: LevelStorage = "float"

    def __post_init__(self) -> None:
        if self.storage not in get_args(LevelStorage):
            raise ConfigError(f"storage is one of {', '.join(get_args(LevelStorage))}, but not '{self.storage}'")
        converter, levels = self.converter, self.levels
        natural = converter.natural_levels
        if levels is None and self.is_coded:
            if natural is None:
                raise ConfigError("level codes need levels: say how many levels the devices have")
            levels = ConductanceLevels.uniform(natural, converter.g_min, converter.g_max)
            object.__setattr__(self, "levels", levels)
        if levels is not None:
            self._check_levels(converter, levels)
            if levels.is_uniform:
                object.__setattr__(self, "converter", converter.for_levels(levels.count))
        if converter.is_exact and not self.clipping.is_at_maximum:
            raise ConfigError("exact mapping and clipping contradict each other: clipped weights do not come back")

    @property
    def is_coded(self) -> bool:
        """Whether codes of the levels are stored, not the conductances in µS."""
        return self.storage == "codes"

    @staticmethod
    def _check_levels(converter: ConductanceConverter, levels: ConductanceLevels) -> None:
        if converter.is_exact:
            raise ConfigError("exact mapping and levels contradict each other: rounded conductances are not exact")
        if (levels.g_min, levels.g_max) != (converter.g_min, converter.g_max):
            raise ConfigError(
                f"the levels go from {levels.g_min:g} to {levels.g_max:g} µS, but the devices from "
                f"{converter.g_min:g} to {converter.g_max:g} µS; give both the same range"
            )
