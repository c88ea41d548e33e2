"""Describes the configuration file as a JSON Schema, for editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.converters.converter_kind import ConverterKind, ConverterSetting
from onnx_gconv.converters.registry import CONVERTER_KINDS, converter_registry
from onnx_gconv.devices.presets import presets
from onnx_gconv.files.json_schema import schema_text

__all__ = ["json_schema", "text_for_editors"]


_DRAFT = "http://json-schema.org/draft-07/schema#"  # the draft that editors for TOML support


def json_schema(*, installed: bool = True) -> str:
    """Return the JSON Schema of the configuration file, as text.

    Args:
        installed: Whether converters of installed packages, and those that the program has registered, are described,
            too.
    """
    return text_for_editors(Configuration.model_json_schema(), ("WeightSettings", "Override"), installed=installed)


def text_for_editors(schema: dict[str, Any], settings: Iterable[str], *, installed: bool) -> str:
    """Return the text of the JSON Schema of a TOML file, with the names of presets and converters.

    Args:
        schema: The schema, as pydantic gives it, with the tables of devices and converters. It is changed.
        settings: The names of its tables that have a device and a converter.
        installed: Whether converters of installed packages, and those that the program has registered, are described,
            too.
    """
    tables = schema["$defs"]
    devices = [preset.name for preset in presets()]
    tables["DeviceSettings"]["properties"]["preset"]["enum"] = devices
    others = converter_registry().installed() if installed else ()
    converters = [*CONVERTER_KINDS, *(kind.name for kind in others)]
    converter = tables["ConverterSettings"]
    converter["additionalProperties"] = False
    named = converter["properties"]["name"]
    converter["properties"]["name"] = {"description": named["description"], "enum": converters, "type": "string"}
    for setting, described in _settings_of((*CONVERTER_KINDS.values(), *others)).items():
        converter["properties"].setdefault(setting, described)
    for name in settings:
        properties = tables[name]["properties"]
        properties["device"]["anyOf"][0]["enum"] = devices
        properties["converter"]["anyOf"][0] = {"enum": converters, "type": "string"}
    return schema_text(_for_toml(schema), _DRAFT)


_TYPES = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}


def _settings_of(kinds: Iterable[ConverterKind]) -> dict[str, dict[str, Any]]:
    """Return the schemas of the settings of converters, from the descriptions of their constructors."""
    users: dict[str, list[tuple[ConverterKind, ConverterSetting]]] = {}
    for kind in kinds:
        for setting in kind.settings.values():
            users.setdefault(setting.name, []).append((kind, setting))
    found: dict[str, dict[str, Any]] = {}
    for name, uses in users.items():
        of = "; ".join(f"For {kind.name}: {setting}" for kind, setting in uses)
        types = {_TYPES.get(getattr(setting.annotation, "__name__", str(setting.annotation))) for _, setting in uses}
        [type_] = types if len(types) == 1 else [None]
        found[name] = {"description": f"{of}."} | ({} if type_ is None else {"type": type_})
    return found


def _for_toml(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without null, which TOML does not have, and without the titles that only repeat a key."""
    found = {key: value for key, value in schema.items() if key != "examples"}
    if found.get("default", ...) is None or isinstance(found.get("default"), dict):  # these mean "not given"
        del found["default"]
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    for table in ("properties", "$defs"):
        if table in found:
            found[table] = {name: _without_title(_for_toml(inner)) for name, inner in found[table].items()}
    if "items" in found:
        found["items"] = _for_toml(found["items"])
    if "anyOf" in found:
        choices = [_for_toml(choice) for choice in found.pop("anyOf") if choice != {"type": "null"}]
        found |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    return found


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}
