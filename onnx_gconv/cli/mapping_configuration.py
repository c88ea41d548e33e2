"""Builds the configuration of a mapping from command line options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_gconv.cli.toml_values import settings_of
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx_gconv.cli.mapping_flags import MappingFlags
    from onnx_gconv.configuration import Configuration
    from onnx_gconv.configuration.options import MappingOptions
    from onnx_gconv.converters.converter_kind import ConverterKind

__all__ = ["converter_of", "mapping_configuration", "mapping_options"]


def mapping_configuration(flags: MappingFlags) -> Configuration:
    """Build the configuration: that of the file if one is given, overridden by the options.

    Raises:
        ConfigError: If the file is wrong, an option has a wrong value, or options contradict each other.
    """
    from onnx_gconv.cli.mapping_flags import option_names
    from onnx_gconv.configuration.options import configuration_of

    names = {name: option for name, option in option_names().items() if vars(flags)[name] is not None}
    names |= {
        "converter": _name_of_converter(flags),
        "granularity": "--granularity" if flags.tile is None else "--tile",
        "clipping": "--clip-value" if flags.clip_percentile is None else "--clip-percentile",
        "storage": "--level-codes",
    }
    others = {setting: f"--converter-option {setting}" for setting in _other_settings(flags)}
    others |= {setting: option for option, (setting, _) in _converter_options(flags).items()}
    names |= {f"converter.{setting}": option for setting, option in others.items()}
    return configuration_of(flags.config, converter_of(flags), mapping_options(flags), names=names)


def mapping_options(flags: MappingFlags) -> MappingOptions:
    """The options except the configuration file and the converter; options that were not given are None.

    Raises:
        ConfigError: If ``--levels`` or ``--parts`` cannot be parsed.
    """
    from onnx_gconv.configuration.options import MappingOptions

    given = {name: value for name, value in vars(flags).items() if name in MappingOptions.__annotations__}
    given |= {
        "granularity": _given(kind=flags.granularity, tile=flags.tile, partition=flags.partition),
        "clipping": _given(percentile=flags.clip_percentile, value=flags.clip_value),
        "levels": _levels(flags.levels),
        "storage": _STORAGE[flags.level_codes],
        "parts": _parts(flags.parts),
    }
    return given  # type: ignore[return-value]  # the keys are those of `MappingOptions`


_STORAGE = {None: None, True: "codes", False: "float"}


def _given(**settings: Any) -> dict[str, Any] | None:  # noqa: ANN401 - values of all kinds
    return {name: value for name, value in settings.items() if value is not None} or None


def _name_of_converter(flags: MappingFlags) -> str:
    if flags.converter is not None:
        return "--converter"
    if flags.converter_option:
        return "--converter-option"
    return next(iter(_converter_options(flags)), "--converter")


def _converter_options(flags: MappingFlags) -> dict[str, tuple[str, Any]]:
    """The settings of the converter that have options of their own and were given, by these options."""
    options = {
        "--slice-bits": ("slice_bits", flags.slice_bits),
        "--bits": ("bits", flags.bits),
        "--factor": ("factors", flags.factor or None),
        "--exact": ("exact", flags.exact or None),
    }
    return {option: setting for option, setting in options.items() if setting[1] is not None}


def _other_settings(flags: MappingFlags) -> dict[str, Any]:
    """The settings of the converter that ``--converter-option`` gives."""
    return settings_of("--converter-option", flags.converter_option or (), "midpoint=5.0")


def converter_of(flags: MappingFlags) -> dict[str, Any] | None:
    """The converter's name and settings; None if no option gives any.

    Raises:
        ConfigError: If there is no such converter, or a setting is unknown or missing; the message names the option.
    """
    from onnx_gconv.converters.registry import converter_registry

    given = _converter_options(flags)
    others = _other_settings(flags)
    if flags.converter is None and not given and not others:
        return None
    settings = {**dict(given.values()), **others}
    if flags.converter is None and flags.config is not None and flags.preset is None:
        return settings  # without a name: these are settings of the converter that the file names
    name = _default_name(flags.preset) if flags.converter is None else flags.converter
    try:
        kind = converter_registry().kind(name)
    except ConfigError as error:
        raise ConfigError(f"--converter: {error}") from None
    _check_settings(kind, {option: setting for option, (setting, _) in given.items()}, others)
    return {"name": name, **settings}


def _default_name(preset_name: str | None) -> str:
    """The name of the converter if no option gives one: that of the preset, or else ``single-pair``."""
    from onnx_gconv.devices.presets import preset

    named = None
    if preset_name is not None:
        try:
            named = preset(preset_name).converter
        except ConfigError as error:
            raise ConfigError(f"--preset: {error}") from None
    return "single-pair" if named is None else named


def _check_settings(kind: ConverterKind, given: Mapping[str, str], others: Collection[str]) -> None:
    """Check that a converter takes all settings that are given, and that all settings that it needs are given.

    Args:
        kind: The converter.
        given: The settings that have options of their own, by these options.
        others: The settings that are given with ``--converter-option``.

    Raises:
        ConfigError: If a setting is unknown, missing or given twice; the message names the option.
    """
    from onnx_gconv.converters.registry import kinds_taking

    name, known = kind.name, list(kind.settings)
    for option, setting in given.items():
        if setting in others:
            raise ConfigError(f"{option} and --converter-option both give {setting}; leave one of them out")
        if setting not in known:
            raise ConfigError(f"{option} needs --converter {kinds_taking(setting)}, not {name}; leave one of them out")
    for setting in others:
        if setting not in known:
            raise ConfigError(f"--converter-option: {_no_such_setting(setting, name, known)}")
    for setting in kind.needs:
        if setting not in given.values() and setting not in others:
            raise ConfigError(f"--converter {name} needs {_NEEDED.get(setting, _needed(setting)).format(name=name)}")


def _needed(setting: str) -> str:
    return f"{setting}: give it with --converter-option {setting}=VALUE"


_NEEDED = {
    "table": "a table of conductances, which is best given in a file: with --config, where "
    'converter = {{ name = "{name}", factors = [...], table = [[...], [...]] }}',
    "factors": "factors, one for each pair: e.g. --factor 1 --factor 3",
}


def _no_such_setting(setting: str, name: str, known: list[str]) -> str:
    return f"the converter {name} has no setting '{setting}'; {suggestion(setting, known) or 'it has none'}"


def _levels(text: str | None) -> int | list[float] | str | None:
    """Parse ``--levels``: a number of levels, a list of levels in µS, or a word."""
    if text is None or text in {"none", "preset", "weight"}:
        return text
    try:
        return int(text) if "," not in text else [float(level) for level in text.split(",")]
    except ValueError:
        raise ConfigError(
            "--levels is a number of levels, a list of them in µS such as 0,1.5,25, preset or none, or weight, but "
            f"not '{text}'"
        ) from None


def _parts(text: str | None) -> list[int] | str | None:
    """Parse ``--parts``: the number of outputs of each part, or a word."""
    if text is None or text in {"auto", "none"}:
        return text
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--parts is a list of numbers of outputs such as 2048,512,512, auto or none, but not '{text}'"
        ) from None
