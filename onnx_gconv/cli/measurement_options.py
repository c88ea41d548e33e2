"""Options of commands that read what was measured on a chip."""

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
    "Updates",
]

MEASUREMENTS = "Measurements"
"""What help calls them."""

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
        help="The same as a part of the target, e.g. 0.02; the larger of both counts.",
        metavar="PART",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
LimitsFlag: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--limits",
        help="What is taken for a measurement, in µS. Default: a quarter of the range beyond g_min and g_max.",
        metavar="LOW..HIGH",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
FailedCellsFlag: TypeAlias = Annotated[
    Literal["target", "measured"],
    typer.Option(
        "--failed-cells",
        help="Cells that a mask calls failed keep their target, or their readings count as measured.",
        rich_help_panel=MEASUREMENTS,
    ),
]
Updates: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--update",
        help="A later round: readings of some cells, which take the place of those before. May be given several times.",
        metavar="MEASURED",
        rich_help_panel=MEASUREMENTS,
        show_default=False,
    ),
]
AsIfMeasured: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--as-if-measured",
        help="Take the targets of the bundle for measurements, which is refused otherwise.",
        rich_help_panel=MEASUREMENTS,
    ),
]
