"""``onnx-gconv restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_gconv.cli.options import Debug, ExternalData, Json, Output, Quiet
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["restore"]


def restore(
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model.", show_default=False)],
    output: Output = None,
    external_data: ExternalData = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Replace the conductances of a mapped model by the weights they represent; writes MODEL.restored.onnx."""
    from onnx_gconv.operations.operations import restore_model

    with progress_bar({"write": "Writing weights"}, quiet=quiet) as progress:
        report = restore_model(mapped, output, external_data=external_data, progress=progress)
    print_report(report, as_json=as_json, quiet=quiet)
