"""``onnx-gconv inspect``."""

from __future__ import annotations

from onnx_gconv.cli.converter_options import converter_of
from onnx_gconv.cli.options import (
    ConductanceDtype,
    Converter,
    Debug,
    Exact,
    Exclude,
    Factor,
    FreezeInputs,
    GMax,
    GMin,
    Include,
    IncludeOp,
    InlineFunctions,
    Json,
    Model,
    Quantized,
    Quiet,
    Shared,
    UpgradeOpset,
)
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["inspect"]


def inspect(
    model: Model,
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
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Show the mapping of a mapped model, or what `map` would do with a plain one. Writes nothing."""
    chosen = converter_of(converter, g_max=g_max, g_min=g_min, exact=exact, factors=factor)
    from onnx_gconv.file_operations import inspect_model

    with progress_bar({"scan": "Reading weights"}, quiet=quiet) as progress:
        report = inspect_model(
            model,
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
            progress=progress,
        )
    print_report(report, as_json=as_json, quiet=quiet)
