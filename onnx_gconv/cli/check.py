"""``onnx-gconv check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_gconv.cli.junit import with_junit
from onnx_gconv.cli.options import Debug, Json, Junit, Quiet
from onnx_gconv.cli.output import print_report

if TYPE_CHECKING:
    from onnx_gconv.operations import CheckReport

__all__ = ["check"]


def check(
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model.", show_default=False)],
    junit: Junit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Check in a moment, without the original, that the mapping of a model stands and was not folded away."""

    def run() -> CheckReport:
        from onnx_gconv.operations import check_model

        return check_model(mapped)

    report = with_junit(junit, f"onnx-gconv check {mapped}", run)
    print_report(report, as_json=as_json, quiet=quiet)
    if not report.passed:
        raise typer.Exit(1)
