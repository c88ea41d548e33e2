"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_type_hints

import typer

__all__ = [
    "Debug",
    "Dim",
    "ExternalData",
    "Inputs",
    "Json",
    "MappingOptions",
    "MaxError",
    "MinAgreement",
    "MinSqnr",
    "Model",
    "Output",
    "Quiet",
    "Seed",
    "Value",
    "debug_is_on",
    "takes_mapping_options",
]

_debug = False


def debug_is_on() -> bool:
    """Whether --debug was given."""
    return _debug


def _set_debug(value: bool) -> bool:  # noqa: FBT001 - typer's signature
    global _debug  # noqa: PLW0603 - read by `main`, which stands outside of every command
    _debug = value
    if value:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    return value


_CONVERTER = "Converter"
_SCALE = "Scale and levels"
_WEIGHTS = "Weights"
_FILES = "Files"
_REPORT = "Reporting"
_INPUTS = "Inputs of the model"
_LIMITS = "Limits of errors against the original"

Model: TypeAlias = Annotated[Path, typer.Argument(help="The ONNX model.", show_default=False)]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The file to write; beside the model if not given.",
        rich_help_panel=_FILES,
        show_default=False,
    ),
]
Inputs: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        help="A .npz file with an array for each input; generated if not given.",
        rich_help_panel=_INPUTS,
        show_default=False,
    ),
]
Dim: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        help="Size of a symbolic dimension of generated inputs, e.g. batch=4 or INPUT:AXIS=320.",
        metavar="NAME=SIZE",
        rich_help_panel=_INPUTS,
        show_default=False,
    ),
]
Value: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        help="Value or range of a generated input, e.g. sr=16000 or ids=0..1000.",
        metavar="INPUT=VALUE",
        rich_help_panel=_INPUTS,
        show_default=False,
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of generated inputs.", rich_help_panel=_INPUTS)]
MinSqnr: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        help="Fail if an output has a smaller ratio of signal to error against the original, in dB.",
        metavar="DB",
        rich_help_panel=_LIMITS,
        show_default=False,
    ),
]
MinAgreement: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        help="Fail if a smaller share of rows has the same argmax as the original, from 0 to 1.",
        metavar="SHARE",
        rich_help_panel=_LIMITS,
        show_default=False,
    ),
]
MaxError: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        help="Fail if an output is further from the original than this, in its own units.",
        metavar="ERROR",
        rich_help_panel=_LIMITS,
        show_default=False,
    ),
]
ExternalData: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--external-data/--no-external-data",
        help="Write tensors to a data file beside the output, or into it. Default: a data file if the model has one, "
        "or if the output would exceed 256 MiB.",
        rich_help_panel=_FILES,
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout instead of tables.", rich_help_panel=_REPORT)
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=_REPORT)
]
Debug: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Print log messages, and the traceback of an error.",
        callback=_set_debug,
        rich_help_panel=_REPORT,
    ),
]


@dataclass(frozen=True)
class MappingOptions:
    """The options that say how a model is mapped. What is None was not given: the configuration decides, or a default.

    `takes_mapping_options` makes options of a command of the fields.
    """

    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="A TOML file with defaults and settings for single layers; options win over what it says.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="A published device: its conductance range, the size of its array, its converter, its levels if asked "
            "for.",
            metavar="NAME",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    converter: Annotated[
        Literal[
            "single-pair",
            "dual-pair",
            "n-pair",
            "custom-pair",
            "single-device",
            "two-sided-pair",
            "offset",
            "bit-sliced-pair",
            "bit-sliced-offset",
        ]
        | None,
        typer.Option(
            "--converter",
            help="Rule from weights to conductances: single-pair, dual-pair, n-pair, custom-pair, single-device, "
            "two-sided-pair, offset, bit-sliced-pair or bit-sliced-offset. Default: that of the preset, or else "
            "single-pair.",
            metavar="NAME",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    factor: Annotated[
        list[float] | None,
        typer.Option(
            "--factor",
            help="How much a pair counts, for several pairs; once for each, in the order in which they are filled.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits",
            help="Bits of the code of a weight, for bit-sliced converters. Default: 8.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    slice_bits: Annotated[
        int | None,
        typer.Option(
            "--slice-bits",
            help="Bits that one device holds, for bit-sliced converters. Default: 4.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    g_max: Annotated[
        float | None,
        typer.Option(
            "--g-max",
            help="Upper end of the conductance range, in µS. Default: that of the preset or converter, 25 for pairs.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    g_min: Annotated[
        float | None,
        typer.Option(
            "--g-min",
            help="Lower end of the conductance range, in µS. Default: that of the preset or converter, 0 for pairs.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Use the next lower power of two as scale, so that the rebuilt weights are bit-identical; uses at "
            "least half of the conductance range. Needs g_min = 0 and the converter single-pair.",
            rich_help_panel=_CONVERTER,
        ),
    ] = False
    granularity: Annotated[
        Literal["tensor", "channel", "tile", "tile-channel"] | None,
        typer.Option(
            "--granularity",
            help="What shares one scale: the tensor, an output channel, a tile, or an output channel in one tile "
            "(tile-channel). Default: tensor.",
            metavar="NAME",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    tile: Annotated[
        str | None,
        typer.Option(
            "--tile",
            help="Inputs and outputs of a tile, at most: 256x256. Default: the array of the preset.",
            metavar="ROWSxCOLUMNS",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    partition: Annotated[
        Literal["equal", "max"] | None,
        typer.Option(
            "--partition",
            help="How a matrix is cut into tiles: as few of equal size as suffice, or full ones and a rest. "
            "Default: equal.",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    clip_percentile: Annotated[
        float | None,
        typer.Option(
            "--clip-percentile",
            help="Let this percentile of |W| have the largest conductance, and clip weights beyond it. Default: 100.",
            metavar="P",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    clip_value: Annotated[
        float | None,
        typer.Option(
            "--clip-value",
            help="Let this weight have the largest conductance, and clip weights beyond it.",
            metavar="W",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    levels: Annotated[
        str | None,
        typer.Option(
            "--levels",
            help="Round conductances to levels: how many of equal distance, or a list of them in µS, such as 0,1.5,25; "
            "preset for those of the preset. Default: none.",
            metavar="LEVELS",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    level_codes: Annotated[
        bool | None,
        typer.Option(
            "--level-codes/--no-level-codes",
            help="Store codes of levels, which the graph decodes, or conductances in µS. Default: conductances.",
            rich_help_panel=_SCALE,
            show_default=False,
        ),
    ] = None
    conductance_dtype: Annotated[
        Literal["float32", "weight"] | None,
        typer.Option(
            "--conductance-dtype",
            help="Type of the conductances of float16 and bfloat16 weights: float32, or that of the weight. "
            "Default: float32.",
            rich_help_panel=_CONVERTER,
            show_default=False,
        ),
    ] = None
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include",
            help="Map only weights that match this glob by their name, by their parameter or module in the exported "
            "program, or by the name or op type of a node that reads them. May be given several times.",
            metavar="GLOB",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            help="Leave weights that match this glob as they are. May be given several times.",
            metavar="GLOB",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    include_op: Annotated[
        list[str] | None,
        typer.Option(
            "--include-op",
            help="Map the tables of this op, too, which is no MVM op: Gather. May be given several times.",
            metavar="OP",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    quantized: Annotated[
        Literal["map", "skip"] | None,
        typer.Option(
            "--quantized",
            help="What to do with weights of integer codes: map the codes less their zero points, which come back "
            "exactly, or skip them. Default: map.",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    freeze_inputs: Annotated[
        bool | None,
        typer.Option(
            "--freeze-inputs/--no-freeze-inputs",
            help="Make constants of weights that are graph inputs too, so that a caller may replace them, or leave "
            "them as they are. Default: leave them.",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    inline_functions: Annotated[
        bool | None,
        typer.Option(
            "--inline/--no-inline",
            help="Inline local functions that use weights, so that these can be mapped, or leave them as they are. "
            "Default: inline them.",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    upgrade_opset: Annotated[
        bool | None,
        typer.Option(
            "--upgrade-opset/--no-upgrade-opset",
            help="Raise the opset first if weights cannot be mapped at the one that the model has, or leave it. "
            "Default: leave it.",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None
    shared: Annotated[
        Literal["rebuild", "split"] | None,
        typer.Option(
            "--shared",
            help="What nodes read that use a weight otherwise than MVM ops do, such as the Gather of a tied embedding: "
            "the rebuilt weight, or a digital copy that is split off. Default: rebuild.",
            rich_help_panel=_WEIGHTS,
            show_default=False,
        ),
    ] = None


_Command = TypeVar("_Command", bound=Callable[..., None])


def takes_mapping_options(command: _Command) -> _Command:
    """Let a command take the options of `MappingOptions`, in the place of its parameter `options`."""
    types = get_type_hints(command, include_extras=True) | get_type_hints(MappingOptions, include_extras=True)
    found: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "options":
            found.append(parameter.replace(annotation=types[parameter.name]))
            continue
        found.extend(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name]
            )
            for each in fields(MappingOptions)
        )

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:  # noqa: ANN401 - whatever the command takes
        given = {each.name: arguments.pop(each.name) for each in fields(MappingOptions)}
        command(**arguments, options=MappingOptions(**given))

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in found]
    with_options.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined] # typer reads it
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
    return with_options  # type: ignore[return-value] # called with keywords alone, by typer
