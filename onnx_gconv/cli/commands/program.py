"""``onnx-gconv program``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnx_gconv.cli.options import Debug, Device, DeviceOption, DriftCompensation, ExternalData, Json, Quiet
from onnx_gconv.cli.output import print_report, progress_bar
from onnx_gconv.cli.toml_values import settings_of

__all__ = ["program"]

_CHIP = "The chips"
_FILES = "Files"


def program(
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The model to write; NAME.chip.onnx beside the model if not given.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    device: Device = "pcm",
    device_option: DeviceOption = None,
    time: Annotated[
        str,
        typer.Option(
            "--time",
            help="Time of reading after programming: a number and s, min, h, d, mo (30 days) or y (365 days).",
            metavar="TIME",
            rich_help_panel=_CHIP,
        ),
    ] = "0s",
    drift_compensation: DriftCompensation = "none",
    read_noise: Annotated[
        Literal["fixed", "live"],
        typer.Option(
            "--read-noise",
            help="fixed: write one noisy reading into the model; live: add nodes that draw new read noise in each run.",
            rich_help_panel=_CHIP,
        ),
    ] = "fixed",
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of all random numbers.", rich_help_panel=_CHIP, metavar="INTEGER")
    ] = 0,
    chip: Annotated[
        int,
        typer.Option(
            "--chip",
            help="Number of the chip; chips of the same seed differ in all random numbers of their devices.",
            rich_help_panel=_CHIP,
            metavar="INTEGER",
        ),
    ] = 0,
    external_data: ExternalData = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Replace the target conductances by those of a simulated chip; writes MODEL.chip.onnx."""
    from onnx_gconv.simulation import program_model

    settings = settings_of("--device-option", device_option or (), "read_scale=0.5")
    with progress_bar({"simulate": "Simulating devices", "write": "Writing the model"}, quiet=quiet) as progress:
        report = program_model(
            mapped,
            output,
            device,
            settings=settings,
            time=time,
            seed=seed,
            chip=chip,
            drift_compensation=drift_compensation,
            read_noise=read_noise,
            external_data=external_data,
            progress=progress,
        )
    print_report(report, as_json=as_json, quiet=quiet)
