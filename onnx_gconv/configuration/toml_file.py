"""Reads a configuration from a TOML file; error messages name the file, the line and the key."""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from onnx_gconv.configuration.configuration import Configuration, ConfigurationSource
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.special_files import no_file_but

__all__ = ["read_configuration", "toml_content"]

_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_TABLE = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*([A-Za-z0-9_\-."' ]+?)\s*=""")

_Key = tuple[str | int, ...]


def read_configuration(path: str | os.PathLike[str]) -> Configuration:
    """Read a configuration from a TOML file.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, is no TOML, or has an unknown key or a wrong value.
    """
    return Configuration.of(*toml_content(path))


def toml_content(path: str | os.PathLike[str]) -> tuple[dict[str, Any], ConfigurationSource]:
    """Return the content of a TOML file, and the file with the lines of the keys.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or is no TOML.
    """
    file = Path(path)
    if (place := no_file_but(file)) is not None:
        raise ConfigError(f"'{file}' cannot be read: it is {place}; give the path of a TOML file")
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"'{file}' cannot be read: {error.strerror}; give the path of a TOML file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"'{file}', line {line}: not UTF-8, which TOML files are; save it as that") from None
    text = text.removeprefix("\ufeff")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        raise ConfigError(_syntax_message(file, error)) from None
    return data, ConfigurationSource(f"'{file}'", _lines(text), (file,))


def _syntax_message(file: Path, error: Exception) -> str:
    message = str(error)
    place = _PLACE.search(message)
    where = "" if place is None else f", line {place[1]}, column {place[2]}" if place[1] else ", at the end"
    return f"'{file}'{where}: no TOML: {_PLACE.sub('', message)}; correct it"


def _lines(text: str) -> dict[_Key, int]:
    """Return the lines of keys and tables. Each line is matched on its own, so keys of inline tables are missing."""
    lines: dict[_Key, int] = {}
    table: _Key = ()
    counts: Counter[_Key] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            parts = _parts(header[2])
            if header[1] == "[[":
                counts[parts] += 1
            table = ()
            for part in parts:
                table = (*table, part)
                if named := counts[tuple(name for name in table if isinstance(name, str))]:
                    table = (*table, named - 1)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_parts(key[1])), number)
    return lines


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
