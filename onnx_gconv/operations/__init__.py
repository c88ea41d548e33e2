"""The operations from file to file: map, inspect, explain, check and restore a model, and check a configuration.

Each operation is imported when it is first used: checking a mapping then loads nothing that only mapping needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_gconv.operations.check import CheckReport, check_model
    from onnx_gconv.operations.configuration_check import ConfigurationReport
    from onnx_gconv.operations.explain import explain_weight
    from onnx_gconv.operations.explanation import Explanation
    from onnx_gconv.operations.operations import (
        check_configuration,
        default_mapped_path,
        default_restored_path,
        inspect_model,
        map_model,
        restore_model,
        survey_model,
    )
    from onnx_gconv.passes.report import MappingReport, RestoreReport

__all__ = [
    "CheckReport",
    "ConfigurationReport",
    "Explanation",
    "MappingReport",
    "RestoreReport",
    "check_configuration",
    "check_model",
    "default_mapped_path",
    "default_restored_path",
    "explain_weight",
    "inspect_model",
    "map_model",
    "restore_model",
    "survey_model",
]

_HOMES = {
    "onnx_gconv.operations.check": ["CheckReport", "check_model"],
    "onnx_gconv.operations.configuration_check": ["ConfigurationReport"],
    "onnx_gconv.operations.explain": ["explain_weight"],
    "onnx_gconv.operations.explanation": ["Explanation"],
    "onnx_gconv.operations.operations": [
        "check_configuration",
        "default_mapped_path",
        "default_restored_path",
        "inspect_model",
        "map_model",
        "restore_model",
        "survey_model",
    ],
    "onnx_gconv.passes.report": ["MappingReport", "RestoreReport"],
}


def __getattr__(name: str) -> object:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
