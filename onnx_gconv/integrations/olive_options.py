"""The options of the pass for Olive: the settings of a mapping, under the names that they have everywhere.

Nothing here needs Olive. What the settings models of `onnx_gconv.configuration` know is an option of the pass: its
type, its sentence and its default are theirs.
"""

from __future__ import annotations

import difflib
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
        kind: Its type, as pydantic takes it; None stands for what is not given.
        sentence: What it is, and its default.
        is_path: Whether it is the path of a file.
    """

    kind: Any
    sentence: str
    is_path: bool = False


# What the pass has besides settings. They are named so that they can stand beside `type`, as Olive allows: it takes
# `config` there for the table of all options.
_CONFIG_FILE = "config_file"
_EXTERNAL_DATA = "save_as_external_data"
_CACHE_KEY = "cache_key"
_OVERRIDES = "overrides"


def pass_options() -> dict[str, PassOption]:
    """All options of the pass, by name. None of them has to be given."""
    fields = WeightSettings.model_fields | DeviceSettings.model_fields | ModelSettings.model_fields
    return {
        **{name: _of_setting(field) for name, field in fields.items()},
        _OVERRIDES: _of_setting(Configuration.model_fields[_OVERRIDES]),
        _CONFIG_FILE: PassOption(
            str,
            "A TOML file that says how the model is mapped. What the other options say wins over its defaults and "
            "overrides, but for the weights that it skips.",
            is_path=True,
        ),
        _EXTERNAL_DATA: PassOption(
            bool,
            "Whether tensors go to a data file beside the model. Default: if the model has one already, or would "
            "exceed 256 MiB.",
        ),
        _CACHE_KEY: PassOption(
            str,
            "Not to be given: the pass fills in its version and what config_file holds, so that Olive's cache does not "
            "answer with a model that was mapped by others.",
        ),
    }


def check_names(names: Iterable[str]) -> None:
    """Check that there are such options. Olive itself would ignore those that there are not.

    Raises:
        ConfigError: If there is no option of a name.
    """
    known = list(pass_options())
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            there = f"the nearest one that there is: {nearest[0]}" if nearest else f"there are {', '.join(known)}"
            raise ConfigError(f"there is no option '{name}'; {there}")


def configuration_of_options(options: Mapping[str, Any]) -> Configuration:
    """How a model is mapped.

    Args:
        options: Options by name; what is None is not given. Those that concern no mapping are left aside.

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
        raise ConfigError(f"overrides: config_file, '{file}', is where overrides belong then; write them there")
    # Options win over the overrides of a file, as on the command line; overrides beside them refine what they say.
    parts = {name: settings.pop(name) for name in DeviceSettings.model_fields if name in settings}
    weights = {name: settings[name] for name in WeightSettings.model_fields if name in settings}
    weights |= {"device": parts} if parts else {}
    weights |= {} if converter is None else {"converter": converter}
    model = {name: settings[name] for name in ModelSettings.model_fields if name in settings}
    return Configuration.of({"defaults": weights, "model": model, _OVERRIDES: overrides}, _Options())


def options_as_written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the workflow has them, but for the path of a file."""
    return {name: value if name == _CONFIG_FILE else as_written(value) for name, value in options.items()}


def as_written(value: object) -> Any:  # noqa: ANN401 - as it comes
    """A value of a workflow as it was written.

    Olive makes an absolute path of each text that happens to be the name of a file or a folder: a pattern ``encoder``
    would match nothing only because there is a folder of that name where the workflow runs.
    """
    if isinstance(value, Mapping):
        return {key: as_written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_written(item) for item in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return value


def cache_key(config_file: str | os.PathLike[str] | None) -> str:
    """What tells apart runs of the pass besides the values of its options: its version, and the content of a file."""
    key = f"onnx_gconv {__version__}"
    return key if config_file is None else f"{key}, {hashlib.sha256(Path(config_file).read_bytes()).hexdigest()[:16]}"


class _Options(ConfigurationSource):
    """Options of a pass, whose settings do not stand in tables."""

    def place(self, *key: str | int) -> str:
        """What messages call an option."""
        return super().place(*(key[1:] if key[:1] in {("defaults",), ("model",)} else key))


def _of_setting(field: FieldInfo) -> PassOption:
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    sentence = " ".join((field.description or "").split())
    if field.default not in {None, ()} and "Default: " not in sentence:
        sentence += f" Default: {json.dumps(field.default)}."
    return PassOption(kind, sentence)
