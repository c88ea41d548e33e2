"""Converters: rules that turn weights into conductances and back, one rule a file. They use NumPy, not ONNX."""

from __future__ import annotations

from onnx_gconv.converters.base_converter import BaseConductanceConverter
from onnx_gconv.converters.bit_sliced_offset import BitSlicedOffsetConductanceConverter
from onnx_gconv.converters.bit_sliced_pair import BitSlicedPairConductanceConverter
from onnx_gconv.converters.compute_types import FloatArray, FloatOrArray, compute_dtype, is_half_precision
from onnx_gconv.converters.conductance_converter import ConductanceConverter
from onnx_gconv.converters.custom_pair import CustomPairConductanceConverter
from onnx_gconv.converters.decoding import Decoding
from onnx_gconv.converters.dual_pair import DualPairConductanceConverter
from onnx_gconv.converters.n_pair import NPairConductanceConverter
from onnx_gconv.converters.offset import OffsetConductanceConverter
from onnx_gconv.converters.registry import CONVERTERS, register_converter
from onnx_gconv.converters.scaling import Scaling, narrowed_scale
from onnx_gconv.converters.single_device import SingleDeviceConductanceConverter
from onnx_gconv.converters.single_pair import SinglePairConductanceConverter
from onnx_gconv.converters.two_sided_pair import TwoSidedPairConductanceConverter
from onnx_gconv.converters.weight_statistics import WeightStatistics, weight_statistics

__all__ = [
    "CONVERTERS",
    "BaseConductanceConverter",
    "BitSlicedOffsetConductanceConverter",
    "BitSlicedPairConductanceConverter",
    "ConductanceConverter",
    "CustomPairConductanceConverter",
    "Decoding",
    "DualPairConductanceConverter",
    "FloatArray",
    "FloatOrArray",
    "NPairConductanceConverter",
    "OffsetConductanceConverter",
    "Scaling",
    "SingleDeviceConductanceConverter",
    "SinglePairConductanceConverter",
    "TwoSidedPairConductanceConverter",
    "WeightStatistics",
    "compute_dtype",
    "is_half_precision",
    "narrowed_scale",
    "register_converter",
    "weight_statistics",
]
