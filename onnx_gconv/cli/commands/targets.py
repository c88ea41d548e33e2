"""``onnx-gconv targets``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["AsIfMeasured", "FailedCellsFlag", "LimitsFlag", "RelativeTolerance", "ToleranceFlag", "Updates", "targets"]

_MEASUREMENTS = "Measurements"
_FILES = "Files"

ToleranceFlag: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="How far from its target a device may be, in µS. Default: that of the bundle's preset.",
        metavar="MICROSIEMENS",
        rich_help_panel=_MEASUREMENTS,
        show_default=False,
    ),
]
RelativeTolerance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--tolerance-relative",
        help="The same as a part of the target, e.g. 0.02; the larger of both counts.",
        metavar="PART",
        rich_help_panel=_MEASUREMENTS,
        show_default=False,
    ),
]
LimitsFlag: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--limits",
        help="What is taken for a measurement, in µS. Default: a quarter of the range beyond g_min and g_max.",
        metavar="LOW..HIGH",
        rich_help_panel=_MEASUREMENTS,
        show_default=False,
    ),
]
FailedCellsFlag: TypeAlias = Annotated[
    Literal["target", "measured"],
    typer.Option(
        "--failed-cells",
        help="Cells that a mask calls failed keep their target, or their readings count as measured.",
        rich_help_panel=_MEASUREMENTS,
    ),
]
Updates: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--update",
        help="A later round: readings of some cells, which take the place of those before. May be given several times.",
        metavar="MEASURED",
        rich_help_panel=_MEASUREMENTS,
        show_default=False,
    ),
]
AsIfMeasured: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--as-if-measured",
        help="Take the targets of the bundle for measurements, which is refused otherwise.",
        rich_help_panel=_MEASUREMENTS,
    ),
]


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
            help="What was measured so far, for the present readings: a file or table as `readback` takes it.",
            metavar="MEASURED",
            rich_help_panel=_MEASUREMENTS,
            show_default=False,
        ),
    ] = None,
    only_off_target: Annotated[
        Path | None,
        typer.Option(
            "--only-off-target",
            help="The same, and list only devices that it does not show to be within the tolerance.",
            metavar="MEASURED",
            rich_help_panel=_MEASUREMENTS,
            show_default=False,
        ),
    ] = None,
    update: Updates = None,
    tolerance: ToleranceFlag = None,
    tolerance_relative: RelativeTolerance = None,
    limits: LimitsFlag = None,
    failed_cells: FailedCellsFlag = "target",
    as_if_measured: AsIfMeasured = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an older table.", rich_help_panel=_FILES)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """List what a pulse programmer writes, cell by cell, sorted by arrays of the chip; writes NAME.targets.csv."""
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
            as_if_measured=as_if_measured,
            overwrite=overwrite,
            progress=progress,
        )
    print_report(report, as_json=as_json, quiet=quiet)
