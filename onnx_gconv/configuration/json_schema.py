"""Describes the configuration file for editors."""

from __future__ import annotations

from typing import Any

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.devices.presets import presets
from onnx_gconv.files.json_schema import schema_text

__all__ = ["json_schema"]


_DRAFT = "http://json-schema.org/draft-07/schema#"  # the one that editors for TOML know


def json_schema() -> str:
    """The JSON Schema of the configuration file, as text."""
    schema = Configuration.model_json_schema()
    names = [preset.name for preset in presets()]
    schema["$defs"]["DeviceSettings"]["properties"]["preset"]["enum"] = names
    for settings in ("WeightSettings", "Override"):
        short, *_ = schema["$defs"][settings]["properties"]["device"]["anyOf"]
        short["enum"] = names
    return schema_text(_for_toml(schema), _DRAFT)


def _for_toml(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without null, which TOML does not have, and without the titles that only repeat a key."""
    found = dict(schema)
    if found.get("default", ...) is None or isinstance(found.get("default"), dict):  # what is not given is left out
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
