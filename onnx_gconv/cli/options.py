"""Arguments and options that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from onnx_gconv.cli.output import VisibleFormatter

__all__ = [
    "Debug",
    "Device",
    "DeviceOption",
    "Dim",
    "DriftCompensation",
    "ExternalData",
    "Inputs",
    "Json",
    "Junit",
    "MaxError",
    "MinAgreement",
    "MinSqnr",
    "Model",
    "Output",
    "Quiet",
    "Seed",
    "TokenIdsOption",
    "Value",
    "debug_is_on",
]

_debug = False


def debug_is_on() -> bool:
    """Whether --debug was given."""
    return _debug


def _set_debug(value: bool) -> bool:  # noqa: FBT001 - typer's signature
    global _debug  # noqa: PLW0603 - `main` reads it, which is outside of every command
    _debug = value
    if value:
        handler = logging.StreamHandler()
        handler.setFormatter(VisibleFormatter("%(name)s: %(message)s"))
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])
    return value


_FILES = "Files"
_REPORT = "Reporting"
_INPUTS = "Inputs of the model"
_CHIPS = "The chips"
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
        help="A .npz file with an array for each input; generated if not given. For a language model, the tokens "
        "are enough.",
        rich_help_panel=_INPUTS,
        show_default=False,
    ),
]
TokenIdsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token-ids",
        help="The tokens of a prompt for a language model, e.g. 1,15043,3186, or a file of such numbers; the other "
        "inputs of the model are generated to go with them.",
        metavar="ID,...",
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
        help="Fail if the share of rows with the same argmax as the original is smaller than this, from 0 to 1.",
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
Device: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        help="The device model, such as pcm, reram-wan2022 or gaussian; a preset that has one; or a .csv or .toml file "
        "of measurements. onnx-gconv devices lists them.",
        metavar="NAME",
        rich_help_panel=_CHIPS,
    ),
]
DeviceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--device-option",
        help="A setting of the device model, with a value in TOML syntax: read_scale=0.5. May be given several times.",
        metavar="KEY=VALUE",
        rich_help_panel=_CHIPS,
        show_default=False,
    ),
]
DriftCompensation: TypeAlias = Annotated[
    Literal["none", "global", "tile", "column"],
    typer.Option(
        "--drift-compensation",
        help="Correct the scales for the mean drift with one factor for each weight (global), or for each tile or "
        "output column of mappings that have such scales (tile, column).",
        rich_help_panel=_CHIPS,
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
Junit: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        help="Also write the result to a file as JUnit XML, which CI services show like results of tests.",
        metavar="FILE",
        rich_help_panel=_REPORT,
        show_default=False,
    ),
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but errors, and why a check fails.", rich_help_panel=_REPORT),
]
Verbose: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Print a line for each expert of a mixture of experts; otherwise experts that are alike share a line. A "
        "tensor of all experts is one weight, and has one line either way.",
        rich_help_panel=_REPORT,
    ),
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
