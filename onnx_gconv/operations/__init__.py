"""The operations from file to file: map, inspect and restore a model, and check a configuration."""

from __future__ import annotations

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
    "ConfigurationReport",
    "MappingReport",
    "RestoreReport",
    "check_configuration",
    "default_mapped_path",
    "default_restored_path",
    "inspect_model",
    "map_model",
    "restore_model",
    "survey_model",
]
