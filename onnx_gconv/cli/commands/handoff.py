"""``onnx-gconv handoff``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperOption

from onnx_gconv.cli.options import Debug, Dim, Inputs, Json, Quiet, Verbose
from onnx_gconv.cli.output import print_report, progress_bar

__all__ = ["HandoffCommand", "handoff"]

_ARRAYS = "Arrays of the chip"
_FILES = "Files"
_SIMULATORS = "Formats for simulators of accelerators"
_FORMAT_HELP = "Also write a format of other tools, in a folder of its own; may be given several times."


def _bits(flag: str, text: str) -> Any:  # noqa: ANN401 - the return type of typer.Option
    return typer.Option(flag, help=text, min=1, metavar="BITS", rich_help_panel=_SIMULATORS, show_default=False)


class HandoffCommand(TyperCommand):
    """The command `handoff`.

    The value of its option ``--pictures`` may be left out, even if the path of the model follows. Its help lists all
    formats, whose modules are imported only when the help is shown.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - of click, or of typer's copy of it
        """Add the value ``layers`` to ``--pictures`` where it was left out."""
        given: list[str] = []
        rest = args[args.index("--") :] if "--" in args else []
        for number, text in enumerate(args[: len(args) - len(rest)]):
            has_value = args[number + 1 : number + 2] in (["all"], ["layers"])
            given.append("--pictures=layers" if text == "--pictures" and not has_value else text)
        parsed: list[str] = super().parse_args(ctx, given + rest)
        return parsed

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer has its own, or those of click
        """Write the help, with the formats and the options that each of them uses."""
        from onnx_gconv.handoff.formats.receiver_settings import SETTINGS
        from onnx_gconv.handoff.formats.registry import FORMATS

        formats = "; ".join(f"{form.name}: {form.description}" for form in FORMATS.values())
        for option in self.params:
            if isinstance(option, TyperOption) and option.name == "formats":
                option.help = f"{_FORMAT_HELP} {formats}."
            if isinstance(option, TyperOption) and option.name in SETTINGS:
                users = ", ".join(form.name for form in FORMATS.values() if option.name in form.settings)
                option.help = f"{option.help} Used by {users}."
            if isinstance(option, TyperOption) and option.name in {"inputs", "dim"}:
                users = ", ".join(form.name for form in FORMATS.values() if form.needs_sample)
                option.help = f"{option.help} Used by {users}."
        super().format_help(ctx, formatter)


def handoff(
    mapped: Annotated[Path, typer.Argument(help="The mapped ONNX model.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder to write; NAME.gconv beside the model if not given.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            "--array",
            help="Size of a crossbar array, inputs by outputs, e.g. 256x256. Default: that of the preset.",
            metavar="ROWSxCOLUMNS",
            rich_help_panel=_ARRAYS,
            show_default=False,
        ),
    ] = None,
    partition: Annotated[
        Literal["max", "equal"],
        typer.Option(
            "--partition",
            help="max: cut matrices into tiles of the size of an array, and a rest; equal: into as few tiles as "
            "possible, of nearly equal size.",
            rich_help_panel=_ARRAYS,
        ),
    ] = "max",
    whole_kernels: Annotated[
        bool,
        typer.Option("--whole-kernels", help="Never cut a kernel of a convolution.", rich_help_panel=_ARRAYS),
    ] = False,
    bias_rows: Annotated[
        int,
        typer.Option(
            "--bias-rows",
            help="Number of rows below the inputs that hold the bias, where that is possible; 0 keeps biases digital.",
            min=0,
            rich_help_panel=_ARRAYS,
        ),
    ] = 0,
    defects: Annotated[
        Path | None,
        typer.Option(
            "--defects",
            help="The defect map of the chip, a JSON file: tiles avoid unusable arrays, rows and columns.",
            rich_help_panel=_ARRAYS,
            show_default=False,
        ),
    ] = None,
    spare_rows: Annotated[
        int,
        typer.Option(
            "--spare-rows",
            help="Number of rows of each array that tiles leave free, so that they can replace unusable rows.",
            min=0,
            rich_help_panel=_ARRAYS,
        ),
    ] = 0,
    spare_columns: Annotated[
        int,
        typer.Option(
            "--spare-columns",
            help="Number of columns of each array that tiles leave free, so that they can replace unusable columns.",
            min=0,
            rich_help_panel=_ARRAYS,
        ),
    ] = 0,
    pair_layout: Annotated[
        Literal["separate-arrays", "adjacent-columns", "interleaved-rows"],
        typer.Option(
            "--pair-layout",
            help="Where the two devices of a pair stand: in two arrays, or in adjacent columns or rows of one array.",
            rich_help_panel=_ARRAYS,
        ),
    ] = "separate-arrays",
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="A published device, which gives the size of arrays and the tolerance; its range has to hold all "
            "conductances.",
            metavar="NAME",
            rich_help_panel=_ARRAYS,
            show_default=False,
        ),
    ] = None,
    arrays: Annotated[
        Literal["hdf5", "npz"],
        typer.Option("--arrays", help="Format of the file of conductances.", rich_help_panel=_FILES),
    ] = "hdf5",
    csv: Annotated[
        bool,
        typer.Option("--csv", help="Also write targets.csv, with a line for each device.", rich_help_panel=_FILES),
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=_FORMAT_HELP,
            metavar="FORMAT",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    inputs: Inputs = None,
    dim: Dim = None,
    bits: Annotated[
        str | None,
        typer.Option(
            "--bits",
            help="Bits to which weights and inputs are quantized, e.g. 8x8. If not given, inputs have 8 bits, and "
            "weights as many as fit the format.",
            metavar="WEIGHTSxINPUTS",
            rich_help_panel=_SIMULATORS,
            show_default=False,
        ),
    ] = None,
    dac_bits: Annotated[
        int | None, _bits("--dac-bits", "Bits of an input that are driven at once; 1 if not given.")
    ] = None,
    adc_bits: Annotated[
        int | None, _bits("--adc-bits", "Bits of an analog-to-digital converter; 8 if not given.")
    ] = None,
    pictures: Annotated[
        Literal["layers", "all"] | None,
        typer.Option(
            "--pictures",
            help="Also draw pictures of each layer (layers, which may be left out) or also of each tile (all) into "
            "pictures/. Needs Matplotlib.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show layers and arrays, and write nothing.", rich_help_panel=_FILES)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an older bundle.", rich_help_panel=_FILES)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Write the target conductances of every tile as a bundle for a lab's tools: the folder MODEL.gconv."""
    from onnx_gconv.crossbars.tiles import PairLayout, parse_array
    from onnx_gconv.handoff import write_bundle
    from onnx_gconv.handoff.formats.registry import format_named
    from onnx_gconv.handoff.formats.sample import parse_bits
    from onnx_gconv.runtime.inputs import parse_dim

    size = None if array is None else parse_array(array)
    precision = None if bits is None else parse_bits(bits)
    layouts: dict[str, PairLayout] = {
        "separate-arrays": "separate_arrays",
        "adjacent-columns": "adjacent_columns",
        "interleaved-rows": "interleaved_rows",
    }
    labels = {
        "conductances": "Writing conductances",
        "formats": "Writing formats",
        "models": "Writing models",
        "pictures": "Drawing pictures",
    }
    with progress_bar(labels, quiet=quiet) as progress:
        report = write_bundle(
            mapped,
            output,
            size,
            partition=partition,
            pair_layout=layouts[pair_layout],
            whole_kernels=whole_kernels,
            bias_rows=bias_rows,
            defects=defects,
            spare_rows=spare_rows,
            spare_columns=spare_columns,
            arrays=arrays,
            csv=csv,
            formats=[format_named(name).name for name in formats or ()],
            inputs=inputs,
            bits=None if precision is None else (precision.weights, precision.inputs),
            dims=dict(parse_dim(text) for text in dim or ()),
            dac_bits=dac_bits,
            adc_bits=adc_bits,
            pictures="all" if pictures == "all" else pictures is not None,
            preset=preset,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
        )
    print_report(replace(report, is_verbose=verbose), as_json=as_json, quiet=quiet)
