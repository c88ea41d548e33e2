"""``onnx-gconv verify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_gconv.cli.junit import with_junit
from onnx_gconv.cli.options import (
    Debug,
    Dim,
    Inputs,
    Json,
    Junit,
    MaxError,
    MinAgreement,
    MinSqnr,
    Quiet,
    Seed,
    TokenIdsOption,
    Value,
    Verbose,
)
from onnx_gconv.cli.output import print_report, progress_bar

if TYPE_CHECKING:
    from onnx_gconv.verification import VerificationReport

__all__ = ["verify"]


def verify(
    original: Annotated[Path, typer.Argument(help="The ONNX model before the mapping.", show_default=False)],
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model.", show_default=False)],
    inputs: Inputs = None,
    token_ids: TokenIdsOption = None,
    dim: Dim = None,
    value: Value = None,
    seed: Seed = 0,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    max_error: MaxError = None,
    junit: Junit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Compare a mapped model with its original: weights, outputs in ONNX Runtime, and the mapping itself."""

    def run() -> VerificationReport:
        from onnx_gconv.runtime.inputs import parse_dim, parse_value
        from onnx_gconv.runtime.prompts import parse_token_ids
        from onnx_gconv.verification import verify as verify_models

        dims = dict(parse_dim(text) for text in dim or ())
        values = dict(parse_value(text) for text in value or ())
        with progress_bar({"weights": "Comparing weights"}, quiet=quiet) as progress:
            return verify_models(
                original,
                mapped,
                inputs=inputs,
                token_ids=None if token_ids is None else parse_token_ids(token_ids),
                dims=dims,
                values=values,
                seed=seed,
                min_sqnr_db=min_sqnr,
                min_agreement=min_agreement,
                max_error=max_error,
                progress=progress,
            )

    report = with_junit(junit, f"onnx-gconv verify {original} {mapped}", run)
    print_report(replace(report, is_verbose=verbose), as_json=as_json, quiet=quiet)
    if not report.passed:
        if quiet:
            report.raise_if_failed()  # its message says why
        raise typer.Exit(1)
