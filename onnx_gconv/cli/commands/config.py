"""``onnx-gconv config``: writes a first configuration file, prints the JSON Schema, and checks a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnx_gconv.cli.command_group import CommandGroup
from onnx_gconv.cli.options import Debug, Json, Model, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.cli.text_file import Force, refuse_existing, write_text

__all__ = ["config"]

_DEFAULT_NAME = "gconv.toml"
_STDOUT = "-"

config: typer.Typer = typer.Typer(
    name="config",
    cls=CommandGroup,
    help="Configuration files for `map --config`: write a first one, print their JSON Schema, check one.",
    no_args_is_help=True,
)


@config.command("init")
def init(
    model: Model,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, or - for stdout; gconv.toml beside the model if not given.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Write a first configuration for a model, with all settings and all weights as comments."""
    target = model.with_name(_DEFAULT_NAME) if output is None else Path(output)
    if output != _STDOUT:
        refuse_existing(target, force=force)
        if target.exists():
            from onnx_gconv.files.models import check_output_path

            check_output_path(target, [model])  # --force must not overwrite the model itself
    from onnx_gconv.configuration.starting_file import starting_file
    from onnx_gconv.operations.operations import survey_model

    text = starting_file(model.name, survey_model(model))
    write_text(text, None if output == _STDOUT else target, force=force, quiet=quiet)


@config.command("schema")
def schema(
    of: Annotated[
        Literal["configuration", "comparison"],
        typer.Option("--of", help="Kind of files: those for map --config, or those for simulate --compare."),
    ] = "configuration",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The file to write; stdout if not given.", metavar="FILE"),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Print the JSON Schema of configurations or comparisons. Editors use it to complete and explain keys."""
    from onnx_gconv.configuration.json_schema import json_schema
    from onnx_gconv.simulation.comparison.json_schema import comparison_schema

    target = None if output in {None, _STDOUT} else Path(str(output))
    if target is not None:
        refuse_existing(target, force=force)
    text = json_schema() if of == "configuration" else comparison_schema()
    write_text(text, target, force=force, quiet=quiet)


@config.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The configuration.", show_default=False)],
    model: Annotated[
        Path | None, typer.Argument(help="A model, to count how many of its weights each override matches.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Check a configuration, and show what it does with a model."""
    from onnx_gconv.operations.operations import check_configuration

    print_report(check_configuration(file, model), as_json=as_json, quiet=quiet)
