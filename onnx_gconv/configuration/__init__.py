"""The configuration of a mapping: defaults, settings of the whole model, and overrides for selected weights.

It is given as a TOML file or as pydantic models; `Configuration.resolve` returns the mapping scheme of every weight.
"""

from __future__ import annotations

from onnx_gconv.configuration.configuration import Configuration, ResolvedSurvey
from onnx_gconv.configuration.settings import (
    ClippingSettings,
    ConverterSettings,
    DeviceSettings,
    GranularitySettings,
    ModelSettings,
    Override,
    WeightSettings,
)
from onnx_gconv.configuration.toml_file import read_configuration

__all__ = [
    "ClippingSettings",
    "Configuration",
    "ConverterSettings",
    "DeviceSettings",
    "GranularitySettings",
    "ModelSettings",
    "Override",
    "ResolvedSurvey",
    "WeightSettings",
    "read_configuration",
]
