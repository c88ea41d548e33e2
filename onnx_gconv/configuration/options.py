"""The keyword arguments with which callers say how a model is mapped, and the configuration that they amount to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.configuration.settings import (
    ClippingSettings,
    ConductanceDtype,
    ConverterSettings,
    DeviceSettings,
    GranularityName,
    GranularitySettings,
    ModelSettings,
    QuantizedWeights,
    SharedPolicy,
    WeightSettings,
)
from onnx_gconv.configuration.toml_file import read_configuration
from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.converters.registry import ConverterName
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.schemes.clipping import Clipping
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import LevelStorage
from onnx_gconv.validation_messages import first_problem

__all__ = ["ConfigurationLike", "ConverterLike", "MappingOptions", "configuration_of"]

ConfigurationLike: TypeAlias = str | os.PathLike[str] | Configuration
ConverterLike: TypeAlias = ConductanceConverter | ConverterSettings | ConverterName | Mapping[str, Any]

_Model = TypeVar("_Model", bound=BaseModel)


class MappingOptions(TypedDict, total=False):
    """How a model is mapped. What is not given, or None, is as the configuration says, or else the default.

    Attributes:
        device: The devices: the name of a preset, or a mapping with ``preset``, ``g_max`` and ``g_min`` in µS.
        granularity: What shares one scale: ``tensor``, ``channel``, ``tile`` or ``tile-channel``, or a mapping with
            ``kind``, ``tile`` and ``partition``. Default ``tensor``.
        clipping: What the largest conductance stands for: ``max`` for max|W|, or a mapping with ``percentile`` or
            ``value``. Default ``max``.
        levels: The levels that conductances are rounded to: how many of equal distance, a list of them in µS,
            ``preset`` or ``none``. Default ``none``.
        storage: Whether conductances are stored in µS, ``float``, or as ``codes`` of their levels. Default ``float``.
        include: Globs over the names of weights, of their parameters and modules, and of the nodes that read them and
            their op types; all weights if empty.
        exclude: Globs for weights to leave as they are.
        include_ops: Op types that are no MVM ops, but whose tables are mapped, too: ``Gather``.
        quantized: What to do with weights of integer codes: ``map`` the codes less their zero points, or ``skip``.
            Default ``map``.
        conductance_dtype: The type of the conductances of float16 and bfloat16 weights: ``float32``, or that of the
            ``weight``. Default ``float32``.
        freeze_inputs: Make constants of weights that are graph inputs too, so that a caller may replace them; below IR
            version 4 they become constants in any case. Default False.
        inline_functions: Inline local functions that use weights first; else these weights are skipped. Default True.
        upgrade_opset: Raise the opset first, with ``onnx.version_converter``, if weights cannot be mapped at the one
            that the model has. Default False.
        shared: What becomes of nodes that read a weight otherwise than as the weight of an MVM op, such as the Gather
            of a tied embedding: with ``rebuild`` they read the rebuilt weight, with ``split`` a digital copy of it.
            Default ``rebuild``.
    """

    device: DeviceSettings | str | Mapping[str, Any] | None
    granularity: Granularity | GranularitySettings | GranularityName | Mapping[str, Any] | None
    clipping: Clipping | ClippingSettings | Literal["max"] | Mapping[str, Any] | None
    levels: ConductanceLevels | int | Sequence[float] | Literal["none", "preset"] | None
    storage: LevelStorage | None
    include: Sequence[str] | None
    exclude: Sequence[str] | None
    include_ops: Sequence[str] | None
    quantized: QuantizedWeights | None
    conductance_dtype: ConductanceDtype | None
    freeze_inputs: bool | None
    inline_functions: bool | None
    upgrade_opset: bool | None
    shared: SharedPolicy | None


def configuration_of(
    config: ConfigurationLike | None = None,
    converter: ConverterLike | None = None,
    options: MappingOptions | None = None,
    *,
    names: Mapping[str, str] | None = None,
) -> Configuration:
    """A configuration, and what a caller says besides, which wins over its defaults and overrides, but not over `skip`.

    Args:
        config: A TOML file or a configuration; the defaults alone if None.
        converter: The rule weight ⇄ conductances: an object, a name, or a mapping with ``name`` and what it needs.
        options: What is said besides.
        names: What messages call each of the options, if not by its own name.

    Raises:
        ConfigError: If the file cannot be read, or a value is wrong.
        TypeError: If there is no such option.
    """
    base = Configuration() if config is None else config
    if not isinstance(base, Configuration):
        base = read_configuration(base)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in given:
        if name not in MappingOptions.__annotations__:
            raise TypeError(f"there is no option '{name}'")
    if converter is not None:
        given["converter"] = converter
    names = {} if names is None else names
    for_weights = {name: value for name, value in given.items() if name in WeightSettings.model_fields}
    for_model = {name: value for name, value in given.items() if name in ModelSettings.model_fields}
    return base.with_settings(
        _checked(WeightSettings, for_weights, names), _checked(ModelSettings, for_model, names), names=names
    )


def _checked(settings: type[_Model], given: Mapping[str, Any], names: Mapping[str, str]) -> _Model:
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        raise first_problem(error, settings, given).error(names) from None
