"""``onnx-gconv simulate``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnx_gconv.cli.mapping_configuration import converter_of, mapping_configuration, mapping_options
from onnx_gconv.cli.mapping_flags import MappingFlags, takes_mapping_flags
from onnx_gconv.cli.options import (
    Debug,
    Device,
    DeviceOption,
    Dim,
    DriftCompensation,
    Json,
    Quiet,
    TokenIdsOption,
    Value,
)
from onnx_gconv.cli.output import KeptJournalError, print_report, progress_bar
from onnx_gconv.cli.toml_values import settings_of
from onnx_gconv.errors import ConfigError

if TYPE_CHECKING:
    from onnx_gconv.simulation import ComparisonReport, SimulationReport

__all__ = ["simulate"]

_CHIPS = "The chips"
_OUTPUTS = "Inputs and outputs"
_FILES = "Files"


@takes_mapping_flags
def simulate(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(help="The mapped ONNX model; or a plain one, which is mapped in memory.", show_default=False),
    ],
    flags: MappingFlags,
    device: Device = "pcm",
    device_option: DeviceOption = None,
    times: Annotated[
        str,
        typer.Option(
            "--times",
            help="Times of reading after programming: numbers with s, min, h, d, mo (30 days) or y (365 days).",
            metavar="TIME,...",
            rich_help_panel=_CHIPS,
        ),
    ] = "1s,1h,1d,1mo,1y",
    repeats: Annotated[
        int, typer.Option("--repeats", help="Number of chips.", metavar="INTEGER", rich_help_panel=_CHIPS)
    ] = 25,
    drift_compensation: DriftCompensation = "none",
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of all random numbers.", metavar="INTEGER", rich_help_panel=_CHIPS)
    ] = 0,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Also simulate each layer alone on the chip, while all other layers are ideal, at the last time.",
            rich_help_panel=_CHIPS,
        ),
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            help="A .npz file with an array for each input, samples along the first axis; generated if not given. "
            "For a language model, the tokens are enough. The file may be larger than memory; it is read fastest "
            "without compression, as numpy.savez writes it.",
            rich_help_panel=_OUTPUTS,
            show_default=False,
        ),
    ] = None,
    token_ids: TokenIdsOption = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="Name of the array of the .npz file with the right classes, or with what a metric of your own takes.",
            metavar="NAME",
            rich_help_panel=_OUTPUTS,
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="accuracy or topN, such as top5, with labels; sqnr, cosine or agreement with the ideal model, "
            "each also at one position of a text, such as agreement@last or sqnr@0; or module:function, called with "
            "outputs by name and labels. Default: accuracy with labels, else sqnr.",
            metavar="NAME",
            rich_help_panel=_OUTPUTS,
            show_default=False,
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            "--output-name",
            help="The output that the metric is computed from; the first one of floats if not given.",
            metavar="NAME",
            rich_help_panel=_OUTPUTS,
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            help="Number of samples in one run. Default: as many as the model takes, or all. Inputs of more than 256 "
            "MiB are read in batches, by default of 64 MiB.",
            metavar="INTEGER",
            rich_help_panel=_OUTPUTS,
            show_default=False,
        ),
    ] = None,
    dim: Dim = None,
    value: Value = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", help="Number of chips that are computed at once.", metavar="INTEGER", rich_help_panel=_CHIPS
        ),
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            help="Compute chips on the workers of this Dask cluster, such as tcp://127.0.0.1:8786; needs "
            "dask.distributed.",
            metavar="ADDRESS",
            rich_help_panel=_CHIPS,
            show_default=False,
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal",
            help="Record finished chips in this file; a run that was stopped continues from there.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Also write a line with seconds, chip and metric for each result to this file.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Also draw the metric over time, as .png, .svg or .pdf; needs Matplotlib.",
            rich_help_panel=_FILES,
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            help="Simulate the candidates in this TOML file, such as converters, devices, levels or ranges, and put "
            "them into one table. Options override the file for all candidates.",
            metavar="FILE",
            rich_help_panel=_CHIPS,
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Measure how good the outputs of a model are on many simulated chips, at several times after programming."""
    from onnx_gconv import simulation
    from onnx_gconv.runtime.inputs import parse_dim, parse_value
    from onnx_gconv.runtime.prompts import parse_token_ids
    from onnx_gconv.simulation.results import check_results, write_results

    settings = settings_of("--device-option", device_option or (), "read_scale=0.5")
    results = check_results(csv, plot, journal)
    of_chips: dict[str, Any] = {
        "device": device,
        "settings": settings,
        "times": times.split(","),
        "repeats": repeats,
        "seed": seed,
        "drift_compensation": drift_compensation,
    }
    with (
        _named_journal(journal),
        progress_bar({"simulate": "Simulating chips"}, quiet=quiet) as progress,
        contextlib.redirect_stdout(sys.stderr),  # stdout is for results only, not for what a user's metric prints
    ):
        data: dict[str, Any] = {
            "inputs": inputs,
            "token_ids": None if token_ids is None else parse_token_ids(token_ids),
            "labels": labels,
            "metric": metric,
            "output": output_name,
            "batch": batch,
            "dims": dict(parse_dim(text) for text in dim or ()),
            "values": dict(parse_value(text) for text in value or ()),
            "workers": workers,
            "dask": dask,
            "journal": journal,
            "progress": progress,
        }
        report: SimulationReport | ComparisonReport
        if compare is not None:
            if sensitivity:
                raise ConfigError("--sensitivity is for one simulation, not for --compare; leave one of them out")
            said = _said_of_all(flags, of_chips, context)
            report = simulation.compare(model, compare, **said, **data)
        else:
            config = None if flags == MappingFlags() else mapping_configuration(flags)
            report = simulation.simulate(model, **of_chips, config=config, sensitivity=sensitivity, **data)
    try:
        write_results(report, results)
    except ConfigError:
        print_report(report, as_json=as_json, quiet=quiet)  # the figures may have taken hours
        raise
    print_report(report, as_json=as_json, quiet=quiet)


@contextlib.contextmanager
def _named_journal(journal: Path | None) -> Iterator[None]:
    """Name the journal in the message of an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        if journal is None or not journal.exists():
            raise
        raise KeptJournalError(
            f"interrupted; '{journal}' keeps the chips that are done, and the same command goes on from there"
        ) from None


def _said_of_all(flags: MappingFlags, of_chips: Mapping[str, Any], context: typer.Context) -> dict[str, Any]:
    """The options that hold for all candidates: only those that were given, since defaults do not override the file."""
    if flags != MappingFlags():
        mapping_configuration(flags)  # raises if options are wrong, with their names in the message
    options = {name: "device_option" if name == "settings" else name for name in of_chips}
    sources = {name: context.get_parameter_source(option) for name, option in options.items()}
    given = {name: of_chips[name] for name, found in sources.items() if found is None or found.name != "DEFAULT"}
    return {"config": flags.config, "converter": converter_of(flags), "mapping": mapping_options(flags), **given}
