"""Helps commands that write a small text file, or print the text instead."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from onnx_gconv.cli.output import tolerated_loss_of_reader
from onnx_gconv.errors import ConfigError
from onnx_gconv.visible_text import visible

__all__ = ["Force", "refuse_existing", "write_text"]

Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")]


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to overwrite a file without ``--force``.

    Raises:
        ConfigError: If the file exists and `force` is False.
    """
    if path.exists() and not force:
        raise _existing(path)


def _existing(path: Path) -> ConfigError:
    return ConfigError(f"'{path}' exists; choose another file with -o, or overwrite it with --force")


def write_text(text: str, path: Path | None, *, force: bool, quiet: bool) -> None:
    """Write a text to a file, whole or not at all, and print a line about it; or print the text if `path` is None.

    Raises:
        ConfigError: If the file cannot be written, or exists and `force` is False.
    """
    if path is None:
        with tolerated_loss_of_reader():
            sys.stdout.write(text)
        return
    from onnx_gconv.files.staging import write_small_file

    try:
        write_small_file(path, text.encode("utf-8"), replace=force)
    except FileExistsError:  # `refuse_existing` did not see it: created since then, or a dangling link
        raise _existing(path) from None
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {error.strerror}; choose another place with -o") from None
    if not quiet:
        typer.echo(visible(f"Wrote {path}"))
