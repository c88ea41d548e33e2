"""The operations from file to file: map, inspect, check and restore a model, and check a configuration.

Each is imported when it is first used: a check of a mapping needs nothing of what makes one, and is done sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_gconv.operations.check import CheckReport, check_model
    from onnx_gconv.operations.configuration_check import ConfigurationReport
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
    "MappingReport",
    "RestoreReport",
    "check_configuration",
    "check_model",
    "default_mapped_path",
    "default_restored_path",
    "inspect_model",
    "map_model",
    "restore_model",
    "survey_model",
]

_HOMES = {
    "CheckReport": "operations.check",
    "check_model": "operations.check",
    "ConfigurationReport": "operations.configuration_check",
    "MappingReport": "passes.report",
    "RestoreReport": "passes.report",
}


def __getattr__(name: str) -> object:
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"onnx_gconv.{_HOMES.get(name, 'operations.operations')}"), name)
