"""The keyword arguments that say how a model is mapped, and the configuration that is made from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.configuration.settings import (
    ConverterSettings,
    DeviceSettings,
    ModelOptions,
    ModelSettings,
    WeightOptions,
    WeightSettings,
)
from onnx_gconv.configuration.toml_file import read_configuration
from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion
from onnx_gconv.validation_messages import first_problem

__all__ = ["ConfigurationLike", "ConverterLike", "MappingOptions", "configuration_of", "require_none_for_mapped"]

ConfigurationLike: TypeAlias = str | os.PathLike[str] | Configuration
ConverterLike: TypeAlias = ConductanceConverter | ConverterSettings | str | Mapping[str, Any]

_Model = TypeVar("_Model", bound=BaseModel)


class MappingOptions(WeightOptions, ModelOptions, total=False):
    """How a model is mapped. An option that is not given, or None, has the value of the configuration, or the default.

    Each option and its default are described by `WeightSettings`, `ModelSettings` and, for `preset`, `g_max`, `g_min`
    and `unit`, `DeviceSettings` of `onnx_gconv.configuration`; also by ``onnx-gconv map --help``.
    """

    preset: str | None
    g_max: float | None
    g_min: float | None
    unit: Literal["uS", "S"] | None


def configuration_of(
    config: ConfigurationLike | None = None,
    converter: ConverterLike | None = None,
    options: MappingOptions | None = None,
    *,
    names: Mapping[str, str] | None = None,
) -> Configuration:
    """Return a configuration with a caller's options on top. Options override everything but `skip` of overrides.

    Args:
        config: A TOML file or a configuration; the defaults if None.
        converter: The rule weight ⇄ conductances: a converter, its name, or a mapping with ``name`` and the converter's
            parameters.
        options: The options.
        names: The names of options in messages, where they are not their own names.

    Raises:
        ConfigError: If the file cannot be read, a value is wrong, or options contradict each other.
        TypeError: If an option is unknown.
    """
    base = Configuration() if config is None else config
    if not isinstance(base, Configuration):
        base = read_configuration(base)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name in given:
        if name not in MappingOptions.__annotations__:
            raise TypeError(_unknown_option(name))
    if converter is not None:
        given["converter"] = converter
    names = dict(names or {})
    if parts := {name: given.pop(name) for name in DeviceSettings.model_fields if name in given}:
        spoken = [names.get(name, name) for name in parts]
        if "device" in given:
            raise ConfigError(f"{spoken[0]}: device says which devices there are, too; give all of it in one of them")
        given["device"] = parts
        names["device"] = ", ".join(spoken)
    for_weights = {name: value for name, value in given.items() if name in WeightSettings.model_fields}
    for_model = {name: value for name, value in given.items() if name in ModelSettings.model_fields}
    return base.with_settings(
        _checked(WeightSettings, for_weights, names), _checked(ModelSettings, for_model, names), names=names
    )


def require_none_for_mapped(
    converter: ConverterLike | None, config: ConfigurationLike | None, options: MappingOptions
) -> None:
    """Refuse settings of a mapping for a model that is mapped already.

    Args:
        converter: The caller's converter, see `configuration_of`.
        config: The caller's configuration; the command line makes one of its options.
        options: The caller's options.

    Raises:
        ConfigError: If any of them is given.
    """
    given = [name for name, value in options.items() if value is not None]
    if config is not None:
        given.insert(0, "a configuration")
    if converter is not None:
        given.insert(0, "a converter")
    if given:
        raise ConfigError(f"the model is mapped already, so that {given[0]} would say nothing; leave it out")


def _unknown_option(name: str) -> str:
    return f"there is no option '{name}'; {suggestion(name, sorted(MappingOptions.__annotations__))}"


def _checked(settings: type[_Model], given: Mapping[str, Any], names: Mapping[str, str]) -> _Model:
    try:
        return settings.model_validate(given)
    except ValidationError as error:
        raise first_problem(error, settings, given).error(names) from None
