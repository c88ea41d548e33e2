"""Parses settings that are given as ``KEY=VALUE``, with values in TOML syntax."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from onnx_gconv.errors import ConfigError

__all__ = ["settings_of"]

_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def settings_of(option: str, texts: Iterable[str], example: str) -> dict[str, Any]:
    """Parse the texts of an option, ``KEY=VALUE`` with a value in TOML syntax. A word without quotes is a text, too.

    Args:
        option: Name of the option, for messages.
        texts: The texts that were given.
        example: An example for messages, such as ``midpoint=5.0``.

    Raises:
        ConfigError: If a text has another form, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, written = text.partition("=")
        key, written = key.strip(), written.strip()
        if not equals or not _KEY.fullmatch(key):
            raise ConfigError(f"{option} is KEY=VALUE, such as {example}, but not '{text}'")
        if key in found:
            raise ConfigError(f"{option} gives {key} twice; leave one of them out")
        found[key] = _toml_value(option, key, written)
    return found


def _toml_value(option: str, key: str, written: str) -> Any:  # noqa: ANN401 - a value of any kind
    try:
        values = tomllib.loads(f"value = {written}")
    except (ValueError, RecursionError):  # no TOML, or a number with too many digits
        values = {}
    if values.keys() == {"value"}:
        return values["value"]
    if _WORD.fullmatch(written):  # a text whose quotes the shell has removed
        return written
    raise ConfigError(
        f"{option}: the value of {key} should be in TOML syntax, such as 5.0, true, [1, 3] or a word, but it is "
        f"'{written}'"
    )
