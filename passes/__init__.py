"""Graph passes on `onnx_ir.Model`; they compose with `onnx_ir.passes.Sequential` and with other people's passes.

Each pass is imported when it is first used, so that checking a mapping does not load the code that maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_gconv.passes.check_mapping import CheckMapping, Violation
    from onnx_gconv.passes.inline_weight_functions import InlineWeightFunctions
    from onnx_gconv.passes.map_conductances import MapConductances, MappingResult
    from onnx_gconv.passes.planning.mapping_plan import MappingPlan, PlannedWeight
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

_HOMES = {
    "onnx_gconv.passes.check_mapping": ["CheckMapping", "Violation"],
    "onnx_gconv.passes.inline_weight_functions": ["InlineWeightFunctions"],
    "onnx_gconv.passes.map_conductances": ["MapConductances", "MappingResult"],
    "onnx_gconv.passes.planning.mapping_plan": ["MappingPlan", "PlannedWeight"],
    "onnx_gconv.passes.raise_opset": ["RaiseOpset"],
    "onnx_gconv.passes.replace_conductances": ["MeasuredConductances", "ReplaceConductances"],
    "onnx_gconv.passes.restore_weights": ["RestoreResult", "RestoreWeights"],
}


def __getattr__(name: str) -> object:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
