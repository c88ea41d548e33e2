"""``onnx-gconv readback``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from onnx_gconv.cli.options import (
    Debug,
    Dim,
    ExternalData,
    Inputs,
    Json,
    MaxError,
    MinAgreement,
    MinSqnr,
    Quiet,
    Seed,
    Value,
)
from onnx_gconv.cli.output import print_report, progress_bar
from onnx_gconv.terminal_text import plain

if TYPE_CHECKING:
    from rich.console import Group

    from onnx_gconv.handoff import ReadbackReport
    from onnx_gconv.verification import VerificationReport

__all__ = ["readback"]

_FILES = "Files"


@dataclass(frozen=True)
class _Reports:
    """The report of a read-back, and the verification of the new model against the original if one was given."""

    read_back: ReadbackReport
    verification: VerificationReport | None

    def to_json(self) -> dict[str, Any]:
        verification = None if self.verification is None else self.verification.to_json()
        return {**self.read_back.to_json(), "verification": verification}

    def __rich__(self) -> Group:
        from rich.console import Group

        if self.verification is None:
            return Group(self.read_back)
        if self.read_back.output is not None:
            return Group(self.read_back, "", self.verification)
        original = self.verification.original
        why = f"Not written: the model does not belong to '{original}'; give its own original, or leave --original out"
        return Group(self.read_back, "", self.verification, plain(why, style="bold red"))


def readback(
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model that was handed off.", show_default=False)],
    measured: Annotated[
        Path,
        typer.Argument(
            help="Measured arrays under the keys of the bundle: an HDF5 or npz file, or the folder of the bundle; or a "
            "table of readings in the form that `targets` writes.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The model to write; NAME.measured.onnx beside the model if not given.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            help="The bundle that was handed off; searched beside the measurements and the model if not given.",
            rich_help_panel=_FILES,
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
    original: Annotated[
        Path | None,
        typer.Option(
            "--original",
            help="The model before the mapping, to verify the measured model against it. If the model was not mapped "
            "from it, nothing is written.",
            rich_help_panel=MEASUREMENTS,
            show_default=False,
        ),
    ] = None,
    inputs: Inputs = None,
    dim: Dim = None,
    value: Value = None,
    seed: Seed = 0,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    max_error: MaxError = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            help="A new folder for pictures of measured minus target conductances. Needs Matplotlib.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    mem_states: Annotated[
        Path | None,
        typer.Option(
            "--mem-states",
            help="A new CSV file for NeuroSim V1.5 (mem_states.csv): mean and standard deviation of the conductances "
            "measured for each level, in siemens.",
            metavar="FILE",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    external_data: ExternalData = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare only; write no model.", rich_help_panel=_FILES)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Replace the target conductances by measured ones; writes MODEL.measured.onnx, which computes as the chip does."""
    from onnx_gconv.errors import ConfigError, GconvError
    from onnx_gconv.files.models import check_output_path
    from onnx_gconv.handoff import read_back
    from onnx_gconv.handoff.measured.limits import parse_limits
    from onnx_gconv.handoff.read_back import default_measured_path
    from onnx_gconv.runtime.inputs import parse_dim, parse_value
    from onnx_gconv.verification import verify

    if original is None and (inputs is not None or dim or value or seed):
        raise ConfigError("inputs are for running the models; give --original MODEL, too")
    if original is None and not (min_sqnr is None and min_agreement is None and max_error is None):
        raise ConfigError("limits of errors are for running the models; give --original MODEL, too")
    if original is not None and dry_run:
        raise ConfigError("--dry-run writes no model that could be compared with --original; give one of both")
    target = default_measured_path(mapped) if output is None else output
    if original is not None:
        check_output_path(target, [original, *([] if inputs is None else [inputs])])
    dims = dict(parse_dim(text) for text in dim or ())
    values = dict(parse_value(text) for text in value or ())
    steps = {
        "compare": "Comparing with targets",
        "pictures": "Drawing pictures",
        "write": "Writing the model",
        "weights": "Comparing weights",
    }
    verifications: list[VerificationReport] = []

    def verified(staged: Path) -> bool:
        """Whether the new model belongs to the original.

        Outputs that are too far from the original's are a property of the chip, and do not keep the model from being
        written.
        """
        if original is None:
            return True
        try:
            found = verify(
                original,
                staged,
                inputs=inputs,
                dims=dims,
                values=values,
                seed=seed,
                min_sqnr_db=min_sqnr,
                min_agreement=min_agreement,
                max_error=max_error,
                progress=progress,
            )
        except GconvError as error:
            raise type(error)(str(error).replace(str(staged), str(target))) from error
        verifications.append(replace(found, mapped=target))
        return not found.violations and all(item.passed for item in found.weights)

    with progress_bar(steps, quiet=quiet) as progress:
        report = read_back(
            mapped,
            measured,
            output,
            updates=update or (),
            bundle=bundle,
            tolerance_us=tolerance,
            tolerance_relative=tolerance_relative,
            limits=None if limits is None else parse_limits(limits),
            failed_cells=failed_cells,
            unit=unit,
            as_if_measured=as_if_measured,
            pictures=pictures,
            mem_states=mem_states,
            external_data=external_data,
            dry_run=dry_run,
            accept=verified,
            progress=progress,
        )
    verification = next(iter(verifications), None)
    print_report(_Reports(report, verification), as_json=as_json, quiet=quiet)
    if verification is not None and not verification.passed:
        if quiet:
            verification.raise_if_failed()  # its message says why
        raise typer.Exit(1)
