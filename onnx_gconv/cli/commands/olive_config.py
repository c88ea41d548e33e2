"""``onnx-gconv olive-config``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.cli.text_file import Force, refuse_existing, write_text

__all__ = ["olive_config"]

_STDOUT = "-"


def olive_config(
    base: Annotated[
        Path | None,
        typer.Argument(
            help="Olive's package configuration to add the pass to; that of the installed Olive if not given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The file to write; stdout if not given.", metavar="FILE"),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Print Olive's package configuration with the pass OnnxGConv added, for `olive run --package-config`."""
    target = None if output in {None, _STDOUT} else Path(str(output))
    if target is not None:
        refuse_existing(target, force=force)
    from onnx_gconv.integrations.olive_config import merged_package_config

    merged = merged_package_config(base)
    write_text(f"{json.dumps(merged, indent=4)}\n", target, force=force, quiet=quiet or as_json)
    if target is not None and as_json:
        print_report(_Written(str(target), tuple(sorted(merged["passes"]))), as_json=True, quiet=quiet)


@dataclass(frozen=True)
class _Written:
    """The package configuration that was written.

    Attributes:
        output: The file.
        passes: The names of the passes in the file.
    """

    output: str
    passes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The file and the passes as JSON values."""
        return asdict(self)
