"""``onnx-gconv map``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from onnx_gconv.cli.mapping_configuration import mapping_configuration
from onnx_gconv.cli.mapping_flags import MappingFlags, takes_mapping_flags
from onnx_gconv.cli.options import Debug, ExternalData, Json, Model, Output, Quiet, Verbose
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["map_"]


@takes_mapping_flags
def map_(
    model: Model,
    flags: MappingFlags,
    output: Output = None,
    external_data: ExternalData = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything except writing the model.", rich_help_panel="Files")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Map the weights of a model to conductances; writes MODEL.gconv.onnx."""
    configuration = mapping_configuration(flags)
    from onnx_gconv.operations.operations import map_model

    labels = {"scan": "Reading weights", "write": "Writing conductances"}
    with progress_bar(labels, quiet=quiet) as progress:
        report = map_model(
            model, output, config=configuration, external_data=external_data, dry_run=dry_run, progress=progress
        )
    print_report(replace(report, is_verbose=verbose), as_json=as_json, quiet=quiet)
