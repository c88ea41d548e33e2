"""Arguments and options that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

__all__ = [
    "ConductanceDtype",
    "Converter",
    "Debug",
    "Exact",
    "Exclude",
    "ExternalData",
    "Factor",
    "FreezeInputs",
    "GMax",
    "GMin",
    "Include",
    "IncludeOp",
    "InlineFunctions",
    "Json",
    "Model",
    "Output",
    "Quantized",
    "Quiet",
    "Shared",
    "UpgradeOpset",
    "debug_is_on",
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
_WEIGHTS = "Weights"
_FILES = "Files"
_REPORT = "Reporting"

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
GMax: TypeAlias = Annotated[
    float, typer.Option("--g-max", help="Conductance of the largest weight, in µS.", rich_help_panel=_CONVERTER)
]
GMin: TypeAlias = Annotated[
    float, typer.Option("--g-min", help="Conductance of a zero weight, in µS.", rich_help_panel=_CONVERTER)
]
Exact: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Use the next lower power of two as scale, so that the rebuilt weights are bit-identical; uses at least "
        "half of the conductance range. Needs --g-min 0.",
        rich_help_panel=_CONVERTER,
    ),
]
Converter: TypeAlias = Annotated[
    Literal["single-pair", "dual-pair", "n-pair"],
    typer.Option(
        "--converter",
        help="Rule from weights to conductances: one pair of devices for each weight, two, or as many as there are "
        "factors.",
        rich_help_panel=_CONVERTER,
    ),
]
Factor: TypeAlias = Annotated[
    list[float] | None,
    typer.Option(
        "--factor",
        help="How much a pair counts, for several pairs; once for each pair, in the order in which they are filled.",
        rich_help_panel=_CONVERTER,
        show_default=False,
    ),
]
ConductanceDtype: TypeAlias = Annotated[
    Literal["float32", "weight"],
    typer.Option(
        "--conductance-dtype",
        help="Type of the conductances of float16 and bfloat16 weights: float32, or that of the weight.",
        rich_help_panel=_CONVERTER,
    ),
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        help="Map only weights that match this glob by their name, by their parameter or module in the exported "
        "program, or by the name or op type of a node that reads them. May be given several times.",
        metavar="GLOB",
        rich_help_panel=_WEIGHTS,
        show_default=False,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        help="Leave weights that match this glob as they are. May be given several times.",
        metavar="GLOB",
        rich_help_panel=_WEIGHTS,
        show_default=False,
    ),
]
IncludeOp: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--include-op",
        help="Map the tables of this op, too, which is no MVM op: Gather. May be given several times.",
        metavar="OP",
        rich_help_panel=_WEIGHTS,
        show_default=False,
    ),
]
Quantized: TypeAlias = Annotated[
    Literal["map", "skip"],
    typer.Option(
        "--quantized",
        help="What to do with weights of integer codes: map the codes less their zero points, which come back exactly, "
        "or skip them.",
        rich_help_panel=_WEIGHTS,
    ),
]
FreezeInputs: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--freeze-inputs",
        help="Make constants of weights that are graph inputs too, so that a caller may replace them.",
        rich_help_panel=_WEIGHTS,
    ),
]
InlineFunctions: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--inline/--no-inline",
        help="Inline local functions that use weights, so that these can be mapped, or leave them as they are.",
        rich_help_panel=_WEIGHTS,
    ),
]
UpgradeOpset: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--upgrade-opset",
        help="Raise the opset first if weights cannot be mapped at the one that the model has.",
        rich_help_panel=_WEIGHTS,
    ),
]


Shared: TypeAlias = Annotated[
    Literal["rebuild", "split"],
    typer.Option(
        "--shared",
        help="What nodes read that use a weight otherwise than MVM ops do, such as the Gather of a tied embedding: the "
        "rebuilt weight, or a digital copy that is split off.",
        rich_help_panel=_WEIGHTS,
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
