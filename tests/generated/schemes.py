"""A random way to map weights for each generated model."""

from __future__ import annotations

import numpy as np

from onnx_gconv.converters import (
    BitSlicedOffsetConductanceConverter,
    BitSlicedPairConductanceConverter,
    ConductanceConverter,
    CustomPairConductanceConverter,
    DualPairConductanceConverter,
    NPairConductanceConverter,
    OffsetConductanceConverter,
    SingleDeviceConductanceConverter,
    SinglePairConductanceConverter,
    TwoSidedPairConductanceConverter,
)
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

__all__ = ["random_scheme"]

_RISING = [0.0, 5.0, 10.0, 15.0, 20.0]


def random_scheme(seed: int) -> MappingScheme:
    """The scheme of a seed: any converter, granularity, clipping, levels and storage."""
    rng = np.random.default_rng([seed, 4])
    converter = _converter(rng)
    kind = ("tensor", "channel", "tile", "tile_channel")[rng.integers(4)]
    tile = (int(rng.integers(1, 6)), int(rng.integers(1, 6))) if kind.startswith("tile") else None
    granularity = Granularity(kind, tile, ("equal", "max")[rng.integers(2)])  # type: ignore[arg-type]
    clipping = (*[Clipping()] * 5, Clipping(percentile=90.0), *[Clipping(value=0.3)] * 2)[rng.integers(8)]
    levels, storage = None, "float"
    least = 3 if isinstance(converter, OffsetConductanceConverter) else 2  # its middle is a level, too
    if rng.integers(2):
        storage = ("float", "codes")[rng.integers(2)]
        if rng.integers(4):
            levels = ConductanceLevels.uniform(max(int(rng.integers(2, 600)), least), converter.g_min, converter.g_max)
        else:
            between = np.sort(rng.uniform(converter.g_min, converter.g_max, 6))
            levels = ConductanceLevels.of_table([converter.g_min, *between.tolist(), converter.g_max])
    return MappingScheme(converter, granularity, clipping, levels, storage)  # type: ignore[arg-type]


def _converter(rng: np.random.Generator) -> ConductanceConverter:
    g_min = (0.0, 0.5)[rng.integers(2)]
    makers = (
        lambda: SinglePairConductanceConverter(g_min=g_min),
        lambda: DualPairConductanceConverter([1.0, 3.0], g_min=g_min),
        lambda: NPairConductanceConverter([1.0, 2.0, 0.5], g_min=g_min),
        lambda: CustomPairConductanceConverter([1.0], [_RISING, _RISING[::-1]]),
        SingleDeviceConductanceConverter,
        lambda: TwoSidedPairConductanceConverter(g_min=g_min),
        lambda: OffsetConductanceConverter(g_min=g_min),
        lambda: BitSlicedPairConductanceConverter(bits=8, slice_bits=3, g_min=g_min),
        lambda: BitSlicedOffsetConductanceConverter(bits=9, slice_bits=4, g_min=g_min),
    )
    return makers[rng.integers(len(makers))]()
