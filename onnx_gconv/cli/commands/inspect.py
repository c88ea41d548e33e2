"""``onnx-gconv inspect``."""

from __future__ import annotations

from dataclasses import replace

from onnx_gconv.cli.mapping_configuration import mapping_configuration
from onnx_gconv.cli.mapping_flags import MappingFlags, takes_mapping_flags
from onnx_gconv.cli.options import Debug, Json, Model, Quiet, Verbose
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["inspect"]


@takes_mapping_flags
def inspect(
    model: Model,
    flags: MappingFlags,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Show the mapping of a mapped model, or what `map` would do with a plain model. Writes nothing."""
    configuration = mapping_configuration(flags)
    from onnx_gconv.operations.operations import inspect_model

    with progress_bar({"scan": "Reading weights"}, quiet=quiet) as progress:
        report = inspect_model(model, config=configuration, progress=progress)
    print_report(replace(report, is_verbose=verbose), as_json=as_json, quiet=quiet)
