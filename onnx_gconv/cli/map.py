"""``onnx-gconv map``."""

from __future__ import annotations

from typing import Annotated

import typer

from onnx_gconv.cli.converter_options import converter_of
from onnx_gconv.cli.options import (
    ConductanceDtype,
    Converter,
    Debug,
    Exact,
    Exclude,
    ExternalData,
    Factor,
    FreezeInputs,
    GMax,
    GMin,
    Include,
    IncludeOp,
    InlineFunctions,
    Json,
    Model,
    Output,
    Quantized,
    Quiet,
    Shared,
    UpgradeOpset,
)
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["map_"]


def map_(
    model: Model,
    output: Output = None,
    converter: Converter = "single-pair",
    factor: Factor = None,
    g_max: GMax = 25.0,
    g_min: GMin = 0.0,
    exact: Exact = False,
    include: Include = None,
    exclude: Exclude = None,
    include_op: IncludeOp = None,
    quantized: Quantized = "map",
    conductance_dtype: ConductanceDtype = "float32",
    freeze_inputs: FreezeInputs = False,
    inline_functions: InlineFunctions = True,
    upgrade_opset: UpgradeOpset = False,
    shared: Shared = "rebuild",
    external_data: ExternalData = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but write.", rich_help_panel="Files")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Map the weights of a model to conductances; writes MODEL.gconv.onnx."""
    chosen = converter_of(converter, g_max=g_max, g_min=g_min, exact=exact, factors=factor)
    from onnx_gconv.file_operations import map_model

    labels = {"scan": "Reading weights", "write": "Writing conductances"}
    with progress_bar(labels, quiet=quiet) as progress:
        report = map_model(
            model,
            output,
            chosen,
            include=include or (),
            exclude=exclude or (),
            include_ops=include_op or (),
            quantized=quantized,
            conductance_dtype=conductance_dtype,
            freeze_inputs=freeze_inputs,
            inline_functions=inline_functions,
            upgrade_opset=upgrade_opset,
            shared=shared,
            external_data=external_data,
            dry_run=dry_run,
            progress=progress,
        )
    print_report(report, as_json=as_json, quiet=quiet)
