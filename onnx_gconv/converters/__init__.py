"""Rules that turn weights into conductances and back, one rule a file. They know NumPy and nothing of ONNX."""

from __future__ import annotations

from onnx_gconv.converters.conductance_converter import (
    ConductanceConverter,
    Decoding,
    WeightStatistics,
    compute_dtype,
    is_half_precision,
    narrowed_scale,
    weight_statistics,
)
from onnx_gconv.converters.single_pair import SinglePairConductanceConverter

__all__ = [
    "ConductanceConverter",
    "Decoding",
    "SinglePairConductanceConverter",
    "WeightStatistics",
    "compute_dtype",
    "is_half_precision",
    "narrowed_scale",
    "weight_statistics",
]
