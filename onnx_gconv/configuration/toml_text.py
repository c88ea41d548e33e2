"""Writes a configuration as TOML, which `read_configuration` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx_gconv.configuration.configuration import Configuration
from onnx_gconv.configuration.settings import SETTING_NAMES, ConverterSettings
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError

__all__ = ["toml_string", "toml_text", "toml_value"]


def toml_text(configuration: Configuration) -> str:
    """Return a configuration as the text of a TOML file; settings that were not given are left out.

    Raises:
        ConfigError: If it has a converter or levels given as objects, or settings on top of overrides, which a file
            cannot express.
    """
    _check_has_a_form(configuration)
    data = configuration.model_dump(exclude_none=True, exclude_unset=True)
    lines: list[str] = []
    for table in ("defaults", "model"):
        if table in data:
            lines += [f"[{table}]", *_settings(data[table]), ""]
    for override in data.get("overrides", ()):
        lines += ["[[overrides]]", *_settings(override), ""]
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value)


def toml_string(text: str) -> str:
    """Return a text as a TOML string; characters that could end a comment or change the display are escaped."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"  # noqa: PLR2004 - what four digits hold


def _settings(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        yield f"{name} = {toml_value(value)}"


def _check_has_a_form(configuration: Configuration) -> None:
    if any(getattr(configuration._on_top, name) is not None for name in SETTING_NAMES):  # noqa: SLF001 - of this package
        raise ConfigError(
            "settings on top of a configuration cannot be written; give them to its defaults or overrides"
        )
    for settings in (configuration.defaults, *configuration.overrides):
        if not isinstance(settings.converter, (ConverterSettings, type(None))):
            what = type(settings.converter).__name__
            raise ConfigError(f"a converter that is an object, a {what}, cannot be written; give its name and settings")
        if isinstance(settings.levels, ConductanceLevels):
            raise ConfigError("levels that are an object cannot be written; give their number, or a list in µS")
