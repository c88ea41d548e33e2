"""``onnx-gconv targets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnx_gconv.cli.measurement_options import (
    MEASUREMENTS,
    AsIfMeasured,
    FailedCellsFlag,
    LimitsFlag,
    RelativeTolerance,
    ToleranceFlag,
    UnitFlag,
    Updates,
)
from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["targets"]

_FILES = "Files"


def targets(
    bundle: Annotated[Path, typer.Argument(help="The folder of the bundle.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The CSV file to write; NAME.targets.csv beside the bundle if not given.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            help="The measurements so far, for the column of readings: a file or table that `readback` takes.",
            metavar="MEASURED",
            rich_help_panel=MEASUREMENTS,
            show_default=False,
        ),
    ] = None,
    only_off_target: Annotated[
        Path | None,
        typer.Option(
            "--only-off-target",
            help="Like --measured, but list only devices that are not within the tolerance, or have no reading.",
            metavar="MEASURED",
            rich_help_panel=MEASUREMENTS,
            show_default=False,
        ),
    ] = None,
    update: Updates = None,
    tolerance: ToleranceFlag = None,
    tolerance_relative: RelativeTolerance = None,
    limits: LimitsFlag = None,
    failed_cells: FailedCellsFlag = "target",
    unit: UnitFlag = None,
    as_if_measured: AsIfMeasured = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an older table.", rich_help_panel=_FILES)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Write a table of targets for a pulse programmer, cell by cell in the order of arrays: NAME.targets.csv."""
    from onnx_gconv.handoff import write_targets
    from onnx_gconv.handoff.measured.limits import parse_limits

    with progress_bar({"targets": "Writing targets"}, quiet=quiet) as progress:
        report = write_targets(
            bundle,
            output,
            measured=measured,
            only_off_target=only_off_target,
            updates=update or (),
            tolerance_us=tolerance,
            tolerance_relative=tolerance_relative,
            limits=None if limits is None else parse_limits(limits),
            failed_cells=failed_cells,
            unit=unit,
            as_if_measured=as_if_measured,
            overwrite=overwrite,
            progress=progress,
        )
    print_report(report, as_json=as_json, quiet=quiet)
