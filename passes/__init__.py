"""Graph passes on `onnx_ir.Model`; they compose with `onnx_ir.passes.Sequential` and with other people's passes."""

from __future__ import annotations

from onnx_gconv.passes.check_mapping import CheckMapping, Violation
from onnx_gconv.passes.inline_weight_functions import InlineWeightFunctions
from onnx_gconv.passes.map_conductances import MapConductances, MappingResult
from onnx_gconv.passes.mapping_plan import MappingPlan, PlannedWeight
from onnx_gconv.passes.raise_opset import RaiseOpset
from onnx_gconv.passes.replace_conductances import MeasuredConductances, ReplaceConductances
from onnx_gconv.passes.restore_weights import RestoreResult, RestoreWeights

__all__ = [
    "CheckMapping",
    "InlineWeightFunctions",
    "MapConductances",
    "MappingPlan",
    "MappingResult",
    "MeasuredConductances",
    "PlannedWeight",
    "RaiseOpset",
    "ReplaceConductances",
    "RestoreResult",
    "RestoreWeights",
    "Violation",
]
