"""The options that say how a model is mapped, for all commands that map a model (`map`, `inspect`, `simulate`, ...)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

from onnx_gconv.cli.setting_texts import FromSetting, MappingCommand

__all__ = ["MappingFlags", "MappingFlagsCommand", "option_names", "takes_mapping_flags"]

_CONVERTER = "Converter"
_SCALE = "Scale and levels"
_WEIGHTS = "Weights"
_SWITCHES = "Each on or off"  # apart from others, whose values would leave no room for two long names beside each other


def _flag(names: str, panel: str, metavar: str | None = None, help: str | None = None) -> Any:  # noqa: A002, ANN401
    """A typer option. Without `help`, the help is taken from the setting that a `FromSetting` beside it names."""
    return typer.Option(names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False)


def _converters() -> tuple[str, ...]:
    from onnx_gconv.converters.registry import converter_registry

    return converter_registry().names()


_TIMES = "May be given several times."


@dataclass(frozen=True)
class MappingFlags:
    """The options that say how a model is mapped. None means not given: then the configuration or a default decides.

    `takes_mapping_flags` turns the fields into options of a command. A field with the name of a field of
    `ModelSettings` gives that setting.
    """

    config: Annotated[
        Path | None,
        _flag(
            "--config",
            _CONVERTER,
            help="A TOML file with defaults and settings for single layers; options override it.",
        ),
    ] = None
    preset: Annotated[str | None, FromSetting("DeviceSettings.preset"), _flag("--preset", _CONVERTER, "NAME")] = None
    converter: Annotated[
        str | None,
        FromSetting(
            "ConverterSettings.name",
            "onnx-gconv converters describes them.",
            choices=_converters,
        ),
        _flag("--converter", _CONVERTER, "NAME"),
    ] = None
    converter_option: Annotated[
        list[str] | None,
        _flag(
            "--converter-option",
            _CONVERTER,
            "KEY=VALUE",
            help="A setting of the converter, with a value in TOML syntax: midpoint=5.0, factors=[1,3]. "
            f"onnx-gconv converters lists them. {_TIMES}",
        ),
    ] = None
    factor: Annotated[
        list[float] | None,
        FromSetting("ConverterSettings.factors", "Give the option once for each factor."),
        _flag("--factor", _CONVERTER),
    ] = None
    bits: Annotated[int | None, FromSetting("ConverterSettings.bits"), _flag("--bits", _CONVERTER)] = None
    slice_bits: Annotated[
        int | None, FromSetting("ConverterSettings.slice_bits"), _flag("--slice-bits", _CONVERTER)
    ] = None
    g_max: Annotated[float | None, FromSetting("DeviceSettings.g_max"), _flag("--g-max", _CONVERTER)] = None
    g_min: Annotated[float | None, FromSetting("DeviceSettings.g_min"), _flag("--g-min", _CONVERTER)] = None
    unit: Annotated[Literal["uS", "S"] | None, FromSetting("DeviceSettings.unit"), _flag("--unit", _CONVERTER)] = None
    exact: Annotated[bool, FromSetting("ConverterSettings.exact"), _flag("--exact", _CONVERTER)] = False
    granularity: Annotated[
        Literal["tensor", "channel", "tile", "tile-channel"] | None,
        FromSetting("GranularitySettings.kind", "Default: tensor."),
        _flag("--granularity", _SCALE, "NAME"),
    ] = None
    tile: Annotated[str | None, FromSetting("GranularitySettings.tile"), _flag("--tile", _SCALE, "ROWSxCOLUMNS")] = None
    partition: Annotated[
        Literal["equal", "max"] | None, FromSetting("GranularitySettings.partition"), _flag("--partition", _SCALE)
    ] = None
    parts: Annotated[
        str | None,
        FromSetting("WeightSettings.parts", "A list is written 2048,512,512."),
        _flag("--parts", _SCALE, "PARTS"),
    ] = None
    clip_percentile: Annotated[
        float | None,
        FromSetting("ClippingSettings.percentile", "Default: 100."),
        _flag("--clip-percentile", _SCALE, "P"),
    ] = None
    clip_value: Annotated[float | None, FromSetting("ClippingSettings.value"), _flag("--clip-value", _SCALE, "W")] = (
        None
    )
    levels: Annotated[
        str | None,
        FromSetting("WeightSettings.levels", "A list is written 0,1.5,25."),
        _flag("--levels", _SCALE, "LEVELS"),
    ] = None
    level_codes: Annotated[
        bool | None,
        _flag(
            "--level-codes/--no-level-codes",
            _SWITCHES,
            help="Store codes of levels, which the graph decodes to conductances, instead of conductances in µS. "
            "Default: conductances.",
        ),
    ] = None
    conductance_dtype: Annotated[
        Literal["float32", "weight"] | None,
        FromSetting("ModelSettings.conductance_dtype"),
        _flag("--conductance-dtype", _CONVERTER),
    ] = None
    include: Annotated[
        list[str] | None, FromSetting("ModelSettings.include", _TIMES), _flag("--include", _WEIGHTS, "GLOB")
    ] = None
    exclude: Annotated[
        list[str] | None, FromSetting("ModelSettings.exclude", _TIMES), _flag("--exclude", _WEIGHTS, "GLOB")
    ] = None
    include_ops: Annotated[
        list[str] | None, FromSetting("ModelSettings.include_ops", _TIMES), _flag("--include-op", _WEIGHTS, "OP")
    ] = None
    quantized: Annotated[
        Literal["map", "skip", "dequantized"] | None,
        FromSetting("ModelSettings.quantized"),
        _flag("--quantized", _WEIGHTS),
    ] = None
    allow_lossy_integers: Annotated[
        bool | None,
        FromSetting("ModelSettings.allow_lossy_integers"),
        _flag("--allow-lossy-integers/--no-lossy-integers", _SWITCHES),
    ] = None
    freeze_inputs: Annotated[
        bool | None,
        FromSetting("ModelSettings.freeze_inputs"),
        _flag("--freeze-inputs/--no-freeze-inputs", _SWITCHES),
    ] = None
    include_adapters: Annotated[
        bool | None,
        FromSetting("ModelSettings.include_adapters"),
        _flag("--include-adapters/--no-adapters", _SWITCHES),
    ] = None
    inline_functions: Annotated[
        bool | None, FromSetting("ModelSettings.inline_functions"), _flag("--inline/--no-inline", _SWITCHES)
    ] = None
    upgrade_opset: Annotated[
        bool | None,
        FromSetting("ModelSettings.upgrade_opset"),
        _flag("--upgrade-opset/--no-upgrade-opset", _SWITCHES),
    ] = None
    shared: Annotated[
        Literal["rebuild", "split"] | None, FromSetting("ModelSettings.shared"), _flag("--shared", _WEIGHTS)
    ] = None


class MappingFlagsCommand(MappingCommand):
    """A command with the options of `MappingFlags`."""

    flags = MappingFlags


@cache
def option_names() -> dict[str, str]:
    """The name of the option of each field of `MappingFlags`, such as ``--g-max``."""
    hints = get_type_hints(MappingFlags, include_extras=True)
    found = {}
    for name, hint in hints.items():
        [option] = (note for note in hint.__metadata__ if isinstance(note, OptionInfo))
        [names] = (each for each in (option.default, *(option.param_decls or ())) if isinstance(each, str))
        found[name] = names.partition("/")[0]
    return found


_Command = TypeVar("_Command", bound=Callable[..., None])


def takes_mapping_flags(command: _Command) -> _Command:
    """Decorate a command: replace its parameter `flags` by one option for each field of `MappingFlags`."""
    types = get_type_hints(command, include_extras=True) | get_type_hints(MappingFlags, include_extras=True)
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "flags":
            found.append(parameter.replace(annotation=types[parameter.name]))
            continue
        found.extend(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name]
            )
            for each in fields(MappingFlags)
        )

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:  # noqa: ANN401 - whatever the command takes
        given = {each.name: arguments.pop(each.name) for each in fields(MappingFlags)}
        command(**arguments, flags=MappingFlags(**given))

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in found]
    with_options.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined] # typer reads it
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
    return with_options  # type: ignore[return-value] # typer calls it with keywords only
