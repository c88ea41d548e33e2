"""The options of the pass for Olive: the settings of a mapping, under their usual names.

Nothing here needs Olive. Every setting of the models in `onnx_gconv.configuration` is an option of the pass, with the
same type, description and default.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic.fields import FieldInfo

from onnx_gconv.configuration import Configuration
from onnx_gconv.configuration.configuration import ConfigurationSource
from onnx_gconv.configuration.options import MappingOptions, configuration_of
from onnx_gconv.configuration.settings import DeviceSettings, ModelSettings, WeightSettings
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion
from onnx_gconv.version import __version__

__all__ = [
    "PassOption",
    "as_written",
    "cache_key",
    "check_names",
    "configuration_of_options",
    "options_as_written",
    "pass_options",
]


@dataclass(frozen=True)
class PassOption:
    """An option of the pass.

    Attributes:
        kind: Its type, as pydantic takes it; the value None means that the option is not given.
        sentence: Its description, with the default.
        is_path: Whether it is the path of a file.
    """

    kind: Any
    sentence: str
    is_path: bool = False


# The options of the pass that are no settings. None is called `config`: Olive lets options stand beside `type`, and
# takes a key `config` there as the table of all options.
_CONFIG_FILE = "config_file"
_EXTERNAL_DATA = "save_as_external_data"
_CACHE_KEY = "cache_key"
_OVERRIDES = "overrides"


def pass_options() -> dict[str, PassOption]:
    """Return all options of the pass by name. All of them are optional."""
    fields = WeightSettings.model_fields | DeviceSettings.model_fields | ModelSettings.model_fields
    return {
        **{name: _of_setting(field) for name, field in fields.items()},
        _OVERRIDES: _of_setting(Configuration.model_fields[_OVERRIDES]),
        _CONFIG_FILE: PassOption(
            str,
            "A TOML file that says how the model is mapped. The other options override its defaults and its overrides; "
            "weights that it skips stay skipped.",
            is_path=True,
        ),
        _EXTERNAL_DATA: PassOption(
            bool,
            "Whether tensors go to a data file beside the model. Default: if the model has one already, or would "
            "exceed 256 MiB.",
        ),
        _CACHE_KEY: PassOption(
            str,
            "Not to be given: the pass sets it to its version and the hash of config_file, so that Olive's cache does "
            "not return a model that was mapped with another version or file.",
        ),
    }


def check_names(names: Iterable[str]) -> None:
    """Check that all options exist. Olive itself would ignore unknown ones.

    Raises:
        ConfigError: If an option is unknown; the message suggests the most similar one.
    """
    known = list(pass_options())
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no option '{name}'; {suggestion(name, known)}")


def configuration_of_options(options: Mapping[str, Any]) -> Configuration:
    """Return the configuration that the options of the pass describe.

    Args:
        options: Options by name; None means not given. Options that are no settings of a mapping are ignored.

    Raises:
        ConfigError: If a value is wrong, options contradict each other, or `config_file` cannot be read.
    """
    given = {name: value for name, value in options.items() if value is not None}
    file, overrides, converter = (given.pop(name, None) for name in (_CONFIG_FILE, _OVERRIDES, "converter"))
    settings = {name: value for name, value in given.items() if name not in {_EXTERNAL_DATA, _CACHE_KEY}}
    configuration = configuration_of(file, converter, cast("MappingOptions", settings))
    if not overrides:
        return configuration
    if file is not None:
        raise ConfigError(f"overrides: config_file is given, too; write the overrides into that file, '{file}'")
    # Options override the overrides of a file, as on the command line; but they are defaults for overrides beside them.
    parts = {name: settings.pop(name) for name in DeviceSettings.model_fields if name in settings}
    weights = {name: settings[name] for name in WeightSettings.model_fields if name in settings}
    weights |= {"device": parts} if parts else {}
    weights |= {} if converter is None else {"converter": converter}
    model = {name: settings[name] for name in ModelSettings.model_fields if name in settings}
    return Configuration.of({"defaults": weights, "model": model, _OVERRIDES: overrides}, _Options())


def options_as_written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they were written in the workflow, see `as_written`; config_file, a path, stays unchanged."""
    return {name: value if name == _CONFIG_FILE else as_written(value) for name, value in options.items()}


def as_written(value: object) -> Any:  # noqa: ANN401 - as it comes
    """Return a value of a workflow as it was written.

    Olive turns each text that happens to be the name of a file or folder into an absolute path: a pattern ``encoder``
    would match nothing if there is a folder of that name where the workflow runs.
    """
    if isinstance(value, Mapping):
        return {key: as_written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_written(item) for item in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return value


def cache_key(config_file: str | os.PathLike[str] | None) -> str:
    """Return the key that distinguishes runs of the pass with equal options: its version, and the hash of the file."""
    key = f"onnx_gconv {__version__}"
    return key if config_file is None else f"{key}, {hashlib.sha256(Path(config_file).read_bytes()).hexdigest()[:16]}"


class _Options(ConfigurationSource):
    """The options of a pass as the source of a configuration: settings without the names of tables."""

    def place(self, *key: str | int) -> str:
        """Return the name of an option in messages."""
        return super().place(*(key[1:] if key[:1] in {("defaults",), ("model",)} else key))


def _of_setting(field: FieldInfo) -> PassOption:
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    sentence = " ".join((field.description or "").split())
    if field.default not in {None, ()} and "Default: " not in sentence:
        sentence += f" Default: {json.dumps(field.default)}."
    return PassOption(kind, sentence)
