"""Options that the commands for measurements share: `readback` and `targets`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

__all__ = [
    "MEASUREMENTS",
    "AsIfMeasured",
    "FailedCellsFlag",
    "LimitsFlag",
    "RelativeTolerance",
    "ToleranceFlag",
    "UnitFlag",
    "Updates",
]

MEASUREMENTS = "Measurements"
"""The heading of these options in the help."""

ToleranceFlag: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="How far from its target a device may be, in µS. Default: that of the bundle's preset.",
        metavar="MICROSIEMENS",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
RelativeTolerance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--tolerance-relative",
        help="How far from its target a device may be, as a fraction of the target, e.g. 0.02. With --tolerance, the "
        "larger of both counts.",
        metavar="PART",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
LimitsFlag: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--limits",
        help="The lowest and highest conductance that is accepted as a measurement, in µS. Default: g_min to g_max of "
        "each layer, widened by a quarter of that range on either side.",
        metavar="LOW..HIGH",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
FailedCellsFlag: TypeAlias = Annotated[
    Literal["target", "measured"],
    typer.Option(
        "--failed-cells",
        help="What happens to cells that a mask marks as failed: they keep their target, or their readings count as "
        "measured.",
        rich_help_panel=MEASUREMENTS,
    ),
]
UnitFlag: TypeAlias = Annotated[
    Literal["uS", "S"] | None,
    typer.Option(
        "--unit",
        help="Unit of measured arrays: uS, or S for siemens, which are converted. Without it, they are taken for µS, "
        "but refused if they look like siemens. Tables are in µS, as their column says.",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
Updates: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--update",
        help="A file of a later round, whose readings replace earlier ones of the same cells. May be given several "
        "times.",
        metavar="MEASURED",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
AsIfMeasured: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--as-if-measured",
        help="Accept a file that holds the targets of the bundle themselves, which is refused otherwise.",
        rich_help_panel=MEASUREMENTS,
    ),
]
