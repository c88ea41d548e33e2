"""Rules that turn weights into conductances and back, one rule a file. They know NumPy and nothing of ONNX."""

from __future__ import annotations

from collections.abc import Callable

from onnx_gconv.converters.conductance_converter import (
    ConductanceConverter,
    Decoding,
    WeightStatistics,
    compute_dtype,
    is_half_precision,
    narrowed_scale,
    weight_statistics,
)
from onnx_gconv.converters.dual_pair import DualPairConductanceConverter
from onnx_gconv.converters.n_pair import NPairConductanceConverter
from onnx_gconv.converters.single_pair import SinglePairConductanceConverter

__all__ = [
    "CONVERTERS",
    "ConductanceConverter",
    "Decoding",
    "DualPairConductanceConverter",
    "NPairConductanceConverter",
    "SinglePairConductanceConverter",
    "WeightStatistics",
    "compute_dtype",
    "is_half_precision",
    "narrowed_scale",
    "weight_statistics",
]

CONVERTERS: dict[str, Callable[..., ConductanceConverter]] = {
    converter.__name__: converter
    for converter in (SinglePairConductanceConverter, DualPairConductanceConverter, NPairConductanceConverter)
}
"""All converters, by the names that manifests give them."""
