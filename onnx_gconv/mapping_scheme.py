"""How one weight is mapped: the converter, and what is decided besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from onnx_gconv.converters import ConductanceConverter, SinglePairConductanceConverter
from onnx_gconv.converters.clipping import Clipping
from onnx_gconv.granularity import Granularity

if TYPE_CHECKING:
    from onnx_gconv.devices.levels import ConductanceLevels

__all__ = ["LevelStorage", "MappingScheme"]

LevelStorage: TypeAlias = Literal["float", "codes"]


@dataclass(frozen=True)
class MappingScheme:
    """How a weight is mapped.

    Attributes:
        converter: The rule weight ⇄ conductances.
        granularity: What shares one scale.
        clipping: What the largest conductance stands for.
        levels: The levels that conductances are rounded to; None for any conductance in the range.
        storage: Whether levels are stored as conductances in µS, or as codes that a DequantizeLinear node decodes.
    """

    converter: ConductanceConverter = field(default_factory=SinglePairConductanceConverter)
    granularity: Granularity = Granularity()
    clipping: Clipping = Clipping()
    levels: ConductanceLevels | None = None
    storage: LevelStorage = "float"
