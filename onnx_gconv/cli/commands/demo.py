"""``onnx-gconv demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnx_gconv.cli.options import Debug, Json, Quiet
from onnx_gconv.cli.output import print_for_people, print_report
from onnx_gconv.terminal_text import assembled, file_size, plain, titled_table

if TYPE_CHECKING:
    from onnx_gconv.demo import DemoReport

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files of the demo.")] = Path(
        "onnx-gconv-demo"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Map, verify and restore a small trained network, simulate it on chips, and show its accuracy after each step."""
    from onnx_gconv.demo import run_demo

    report = run_demo(output)
    if as_json:
        print_report(report, as_json=True, quiet=quiet)
    elif not quiet:
        _print_steps(report)
    if not report.passed:
        raise typer.Exit(1)


def _print_steps(report: DemoReport) -> None:
    original = report.mapping.model
    _print_step(f"onnx-gconv map {original}", "a CNN for handwritten digits, mapped to conductance pairs")
    print_for_people(report.mapping)
    _print_step(f"onnx-gconv verify {original} {report.mapping.output} --inputs ...", "proved on the test images")
    print_for_people(report.verification)
    _print_step(f"onnx-gconv restore {report.mapping.output}", "and back to plain weights")
    print_for_people(report.restoring)
    _print_step(
        f"onnx-gconv map {original} -o {report.with_levels.output} --granularity channel --levels 256 --level-codes",
        "what a programming station takes: codes of 256 levels, and a scale for each output channel",
    )
    print_for_people(report.with_levels)
    mapped, chip, simulated = report.mapping.output, report.programming, report.simulation
    device = f"--device {simulated.device} --seed {simulated.seed} --drift-compensation {simulated.drift_compensation}"
    _print_step(
        f"onnx-gconv program {mapped} -o {chip.output} --time 1d {device}",
        "one simulated chip of phase-change memory, a day after programming",
    )
    print_for_people(chip)
    _print_step(
        f"onnx-gconv simulate {mapped} --inputs {simulated.inputs} --labels labels {device}",
        "what to expect of such chips over time",
    )
    print_for_people(simulated)
    if report.picture is None:
        print_for_people(plain("To get this as a picture, install Matplotlib: pip install matplotlib"))
    else:
        print_for_people(plain(f"As a picture: {report.picture}"))
    table = titled_table("Test images recognized")
    table.add_column("model")
    table.add_column("optimization")
    table.add_column("correct", justify="right")
    table.add_column("size", justify="right")
    for item in report.accuracies:
        share = f"{item.correct} of {item.images} ({item.correct / item.images:.1%})"
        size = report.sizes.get(item.model)
        table.add_row(plain(str(item.model)), item.optimization, share, "" if size is None else file_size(size))
    print_for_people("")
    print_for_people(table)
    print_for_people(
        plain(f"All files are in the folder {report.folder}. Open the mapped model in a viewer such as Netron.")
    )


def _print_step(command: str, what: str) -> None:
    print_for_people("")
    print_for_people(assembled(("$ " + command, "bold cyan"), (f"   # {what}", "dim")))
