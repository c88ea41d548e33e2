"""``onnx-gconv explain``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from onnx_gconv.cli.mapping_configuration import mapping_configuration
from onnx_gconv.cli.mapping_flags import MappingFlags, MappingFlagsCommand, takes_mapping_flags
from onnx_gconv.cli.options import Debug, Json, Model, Quiet
from onnx_gconv.cli.output import print_report
from onnx_gconv.errors import ConfigError

__all__ = ["ExplainCommand", "explain"]

# Of click or of typer's own copy of click; see app.py.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class ExplainCommand(MappingFlagsCommand):
    """The command `explain`, which tells that a row or column is negative, while click looks for an option ``-1``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - of click, or of typer's copy of it
        """Parse the arguments; refuse a negative row or column by its name."""
        try:
            parsed: list[str] = super().parse_args(ctx, list(args))  # which empties the list
        except _UsageError as error:
            option = getattr(error, "option_name", "")
            number = next((text for text in args if re.fullmatch(r"-[0-9]+", text) and text.startswith(option)), None)
            if not option or number is None:
                raise
            raise ConfigError(f"'{number}' is no row or column: rows and columns are counted from 0") from None
        return parsed


@takes_mapping_flags
def explain(
    model: Model,
    weight: Annotated[
        str, typer.Argument(help="The weight: its name, its parameter, or one of its conductances.", show_default=False)
    ],
    flags: MappingFlags,
    row: Annotated[
        int | None,
        typer.Argument(
            help="The input (row of the matrix), from 0. The largest element of the weight if not given.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        int | None, typer.Argument(help="The output (column of the matrix), from 0.", show_default=False)
    ] = None,
    matrix: Annotated[
        int, typer.Option("--matrix", help="The matrix, if the weight has several, from 0.", metavar="INTEGER")
    ] = 0,
    original: Annotated[
        Path | None,
        typer.Option(
            "--original", help="The model before it was mapped, to see its values and the errors.", show_default=False
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            "--array",
            help="Size of a crossbar array, inputs by outputs, e.g. 256x256, to see the tile.",
            metavar="ROWSxCOLUMNS",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Show how a weight becomes conductances, with the numbers of one element. A plain model is mapped in memory."""
    from onnx_gconv.crossbars.tiles import ArrayGeometry, parse_array
    from onnx_gconv.operations.explain import explain_weight

    configuration = None if flags == MappingFlags() else mapping_configuration(flags)
    geometry = None if array is None else ArrayGeometry(*parse_array(array))
    report = explain_weight(
        model, weight, row, column, matrix=matrix, original=original, geometry=geometry, config=configuration
    )
    print_report(report, as_json=as_json, quiet=quiet)
