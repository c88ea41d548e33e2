"""``onnx-gconv config``: first files, their schema and their check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from onnx_gconv.cli.options import Debug, Json, Model, Quiet
from onnx_gconv.cli.output import print_report, tolerated_loss_of_reader
from onnx_gconv.errors import ConfigError
from onnx_gconv.visible_text import visible

__all__ = ["config"]

_DEFAULT_NAME = "gconv.toml"
_STDOUT = "-"

config = typer.Typer(
    name="config",
    help="Configurations for `map --config`: write a first one, describe them for editors, check one.",
    no_args_is_help=True,
)

_Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")]


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
    force: _Force = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Write a first configuration for a model: all settings and all weights, as comments."""
    target = model.with_name(_DEFAULT_NAME) if output is None else Path(output)
    if output != _STDOUT:
        _refuse_existing(target, force=force)
        if target.exists():
            from onnx_gconv.files.models import check_output_path

            check_output_path(target, [model])  # with --force, too
    from onnx_gconv.configuration.starting_file import starting_file
    from onnx_gconv.operations.operations import survey_model

    text = starting_file(model.name, survey_model(model))
    _write(text, None if output == _STDOUT else target, force=force, quiet=quiet)


@config.command("schema")
def schema(
    of: Annotated[
        Literal["configuration", "comparison"],
        typer.Option("--of", help="Which files: those of map --config, or those of simulate --compare."),
    ] = "configuration",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The file to write; stdout if not given.", metavar="FILE"),
    ] = None,
    force: _Force = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Print the JSON Schema of configurations or comparisons, with which editors complete and explain keys."""
    from onnx_gconv.configuration.json_schema import json_schema
    from onnx_gconv.simulation.comparison.json_schema import comparison_schema

    target = None if output in {None, _STDOUT} else Path(str(output))
    if target is not None:
        _refuse_existing(target, force=force)
    text = json_schema() if of == "configuration" else comparison_schema()
    _write(text, target, force=force, quiet=quiet)


@config.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The configuration.", show_default=False)],
    model: Annotated[
        Path | None, typer.Argument(help="A model: how many of its weights does each override match?")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Say what is wrong with a configuration, or what it does with a model."""
    from onnx_gconv.operations.operations import check_configuration

    print_report(check_configuration(file, model), as_json=as_json, quiet=quiet)


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise _existing(path)


def _existing(path: Path) -> ConfigError:
    return ConfigError(f"'{path}' exists; choose another file with -o, or overwrite it with --force")


def _write(text: str, path: Path | None, *, force: bool, quiet: bool) -> None:
    """Write a file, whole or not at all, and say so; or print the text."""
    if path is None:
        with tolerated_loss_of_reader():
            sys.stdout.write(text)
        return
    from onnx_gconv.files.staging import write_small_file

    try:
        write_small_file(path, text.encode("utf-8"), replace=force)
    except FileExistsError:  # written meanwhile, or a link that leads nowhere
        raise _existing(path) from None
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {error.strerror}; choose another place with -o") from None
    if not quiet:
        typer.echo(visible(f"Wrote {path}"))
