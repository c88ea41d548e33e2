"""Adds the pass of this package to Olive's list of passes.

Olive finds passes only in one file: its own, or the one that ``olive run --package-config`` names instead. So a
workflow with passes of Olive and of other packages needs a file that lists all of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.special_files import no_file_but

__all__ = ["INSTALL_OLIVE", "merged_package_config", "own_package_config", "package_config_of_olive"]

INSTALL_OLIVE = "pip install 'onnx_gconv[olive]'"

_FILE = "olive_config.json"
_PASSES = "passes"


def own_package_config() -> dict[str, Any]:
    """Return the package configuration with only the pass of this package."""
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def package_config_of_olive() -> Path:
    """Return the file in which the installed Olive lists its passes. Olive is not imported, because that takes seconds.

    Raises:
        ConfigError: If Olive is not installed.
    """
    found = importlib.util.find_spec("olive")
    if found is None:
        raise ConfigError(f"Olive is not installed; {INSTALL_OLIVE}, or name the package configuration to add to")
    for folder in found.submodule_search_locations or ():
        if (file := Path(folder, _FILE)).is_file():
            return file
    where = found.origin or ", ".join(found.submodule_search_locations or ())
    raise ConfigError(
        f"the package olive in '{where}' has no {_FILE}, so it is not Olive, or a version that is not supported; "
        f"{INSTALL_OLIVE}"
    )


def merged_package_config(base: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return a package configuration of Olive with the pass of this package added.

    Args:
        base: The JSON file to which the pass is added; the installed Olive's file if None.

    Raises:
        ConfigError: If the file cannot be read, is no package configuration, or has another pass of that name; or if
            Olive is not installed.
    """
    file = package_config_of_olive() if base is None else Path(base)
    merged = _content(file)
    passes = merged.setdefault(_PASSES, {})
    if not isinstance(passes, dict):
        raise ConfigError(f"'{file}': passes should be a table of passes by their names; give a file as Olive has it")
    for name, entry in own_package_config()[_PASSES].items():
        # Olive compares names without regard to case.
        for other in [other for other in passes if other.lower() == name.lower()]:
            if _module_path(passes[other]) != entry["module_path"]:
                raise ConfigError(
                    f"'{file}' has a pass {other} already, with the module_path {_module_path(passes[other])!r}; "
                    "take it out, as Olive tells passes apart by their names alone"
                )
            del passes[other]
        passes[name] = entry
    return merged


def _module_path(entry: object) -> object:
    return entry.get("module_path") if isinstance(entry, dict) else None


def _content(file: Path) -> dict[str, Any]:
    if (place := no_file_but(file)) is not None:
        raise ConfigError(f"'{file}' cannot be read: it is {place}; give a JSON file")
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"'{file}' cannot be read: {error.strerror}; give a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'{file}' is no JSON: {error}; give a package configuration of Olive") from None
    if not isinstance(content, dict):
        raise ConfigError(f"'{file}' is no package configuration of Olive, which is a table with the key passes")
    return content
