"""The scheme of a mapping: converter, granularity, clipping, levels, storage and parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from onnx_gconv.converters import ConductanceConverter, SinglePairConductanceConverter, WeightStatistics
from onnx_gconv.devices.levels import MOST_LEVELS, ConductanceLevels
from onnx_gconv.errors import ConfigError, UnmappableWeightError
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.parts import PartsChoice

__all__ = ["LEVELS_OF_WEIGHT", "LevelStorage", "MappingScheme", "SchemeLevels"]

LevelStorage: TypeAlias = Literal["float", "codes"]

SchemeLevels: TypeAlias = ConductanceLevels | Literal["weight"]

LEVELS_OF_WEIGHT: Final = "weight"
"""The setting of levels that gives each weight as many levels as its integers need."""

# Conductances of integers count as levels if they are at most this far from one, in steps. Roundings are much smaller;
# conductances between levels are much farther away.
_ROUNDINGS_OF_A_STEP = 1e-3


@dataclass(frozen=True)
class MappingScheme:
    """How a weight is mapped.

    Attributes:
        converter: The rule weight ⇄ conductances. With uniform levels, it is replaced by `converter.for_levels`.
        granularity: Which elements share one scale.
        clipping: The |W| that the largest conductance stands for.
        levels: The levels to which conductances are rounded; None for any conductance in the range. ``"weight"``: each
            weight of integers gets as many levels as its integers need (see `for_integers`). With storage ``codes`` and
            a converter whose conductances already are levels, None is replaced by these levels.
        storage: ``float``: conductances are stored in µS. ``codes``: they are stored as level codes, which the graph
            decodes.
        parts: Whether the weight consists of several matrices side by side that share no scale: those found in the
            graph (``auto``), matrices with the given numbers of outputs, or a single matrix (``none``).

    Raises:
        ConfigError: If the settings contradict each other.
    """

    converter: ConductanceConverter = field(default_factory=SinglePairConductanceConverter)
    granularity: Granularity = field(default_factory=Granularity)
    clipping: Clipping = field(default_factory=Clipping)
    levels: SchemeLevels | None = None
    storage: LevelStorage = "float"
    parts: PartsChoice = "auto"

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
        if levels == LEVELS_OF_WEIGHT and natural is not None:
            raise ConfigError(f"the conductances of {converter} are levels already; leave out the levels of weights")
        if levels == LEVELS_OF_WEIGHT and converter.is_exact:
            raise ConfigError(
                "integers on levels of their own come back exactly with a converter that is not exact: leave out exact"
            )
        if isinstance(levels, ConductanceLevels):
            self._check_levels(converter, levels)
            if levels.is_uniform:
                object.__setattr__(self, "converter", converter.for_levels(levels.count))
        if converter.is_exact and not self.clipping.is_at_maximum:
            raise ConfigError("exact mapping and clipping contradict each other: clipped weights do not come back")

    @property
    def is_coded(self) -> bool:
        """Whether level codes are stored instead of conductances in µS."""
        return self.storage == "codes"

    def for_integers(self, largest: int) -> MappingScheme:
        """The scheme with as many levels as the integers of a weight need, so that each integer falls on a level.

        Args:
            largest: The largest magnitude of the integers.

        Raises:
            UnmappableWeightError: If devices cannot have so many levels, or the converter does not put integers on
                levels.
        """
        converter, largest = self.converter, max(largest, 1)
        for count in (largest + 1, 2 * largest + 1):
            if count <= MOST_LEVELS and _are_on_levels(converter, count, largest):
                levels = ConductanceLevels.uniform(count, converter.g_min, converter.g_max)
                return replace(self, levels=levels)
        if largest >= MOST_LEVELS:
            raise UnmappableWeightError(
                f"consists of integers up to {largest}, but devices have at most {MOST_LEVELS} levels; map it without "
                "levels"
            )
        raise UnmappableWeightError(
            f"cannot have a level for each integer with {converter}; take a single pair or an offset, or say how many "
            "levels there are"
        )

    def integer_on_levels(self, largest: int) -> int | None:
        """The integer that the largest conductance has to stand for, so that all integers fall on levels.

        Args:
            largest: The largest magnitude of the integers.

        Returns:
            The integer; None if there are no uniform levels, or too few of them.
        """
        levels = self.levels
        if not isinstance(levels, ConductanceLevels) or not levels.is_uniform:
            return None
        for held in (largest, (levels.count - 1) // 2, levels.count - 1):
            if held >= max(largest, 1) and _are_on_levels(self.converter, levels.count, held):
                return held
        return None

    def without_levels(self) -> MappingScheme:
        """The scheme without levels, for weights that do not consist of integers."""
        return replace(self, levels=None, storage="float")

    @staticmethod
    def _check_levels(converter: ConductanceConverter, levels: ConductanceLevels) -> None:
        if converter.is_exact:
            raise ConfigError("exact mapping and levels contradict each other: rounded conductances are not exact")
        if (levels.g_min, levels.g_max) != (converter.g_min, converter.g_max):
            raise ConfigError(
                f"the levels go from {levels.g_min:g} to {levels.g_max:g} µS, but the devices from "
                f"{converter.g_min:g} to {converter.g_max:g} µS; give both the same range"
            )


def _are_on_levels(converter: ConductanceConverter, count: int, largest: int) -> bool:
    """Whether all integers up to the magnitude `largest` fall on levels if devices have `count` of them."""
    try:
        converter = converter.for_levels(count)
    except ConfigError:
        return False
    integers = np.arange(-largest, largest + 1, dtype=np.float64)
    statistics = WeightStatistics(minimum=-float(largest), maximum=float(largest), count=integers.size)
    conductances = [np.empty_like(integers) for _ in converter.device_names]
    converter.convert_chunk(integers, converter.scaling(statistics, integers.dtype), conductances)
    step = (converter.g_max - converter.g_min) / (count - 1)
    numbers = (np.stack(conductances) - converter.g_min) / step
    return bool(np.abs(numbers - np.rint(numbers)).max() <= _ROUNDINGS_OF_A_STEP)
