"""The table of all formats, and functions that check and write those that a user asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.accelforge import AccelForge
from onnx_gconv.handoff.formats.conductance_csv import ConductanceCsv
from onnx_gconv.handoff.formats.fusion import Fusion, FusionPair
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat, Preparation
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.neurosim.neurosim import Neurosim
from onnx_gconv.handoff.formats.npy import Npy
from onnx_gconv.handoff.formats.readme import README_FILE, format_notes, readme_text
from onnx_gconv.handoff.formats.receiver_settings import ReceiverSettings
from onnx_gconv.handoff.formats.sample import Bits, GivenInputs, run_sample
from onnx_gconv.handoff.formats.zigzag import ZigZag
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.suggestions import suggestion

__all__ = [
    "FORMATS",
    "check_formats",
    "check_options",
    "format_named",
    "formats_named",
    "prepared_formats",
    "write_formats",
]

# All formats, in the order in which help and messages list them and in which they are checked.
FORMATS: dict[str, HandoffFormat] = {
    form.name: form
    for form in (
        Fusion(),
        FusionPair(),
        ConductanceCsv(),
        Neurosim(),
        Npy(),
        ZigZag(),
        AccelForge(),
    )
}


def formats_named(names: Iterable[str]) -> tuple[HandoffFormat, ...]:
    """The formats of these names.

    Raises:
        ConfigError: If no format has one of the names, or a name is given twice.
    """
    found: list[HandoffFormat] = []
    for name in names:
        form = format_named(name)
        if form in found:
            raise ConfigError(f"the format '{name}' is given twice; give it once")
        found.append(form)
    return tuple(found)


def format_named(name: str) -> HandoffFormat:
    """The format with a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in FORMATS:
        raise ConfigError(f"there is no format '{name}'; {suggestion(name, FORMATS)}")
    return FORMATS[name]


def check_options(
    formats: Sequence[HandoffFormat],
    inputs: GivenInputs | None,
    dims: Mapping[str, int],
    settings: ReceiverSettings,
) -> None:
    """Check that one of the formats uses each option that the user has given.

    Args:
        formats: The formats that the user asks for.
        inputs: The sample that the user has given; None if there is none.
        dims: Sizes of symbolic dimensions that the user has given.
        settings: The settings.

    Raises:
        ConfigError: If no chosen format uses an option; the message names those that do.
    """
    if inputs is not None and dims:
        raise ConfigError("dims are for generated inputs; give either them or the inputs themselves")
    if (inputs is not None or dims) and not any(form.needs_sample for form in formats):
        takers = ", ".join(form.name for form in FORMATS.values() if form.needs_sample)
        given = "inputs are" if inputs is not None else "dims are"
        raise ConfigError(f"{given} for formats that run the model on a sample ({takers}), but none of them is chosen")
    for name in settings.unused([name for form in formats for name in form.settings]):
        takers = ", ".join(form.name for form in FORMATS.values() if name in form.settings)
        raise ConfigError(f"{name} is for other formats ({takers}), but none of them is chosen")


def prepared_formats(
    formats: Sequence[HandoffFormat],
    model: Path,
    graph: ir.Graph,
    layers: Sequence[Layer],
    *,
    name: str,
    inputs: GivenInputs | None,
    dims: Mapping[str, int],
    settings: ReceiverSettings,
) -> tuple[HandoffFormat, ...]:
    """The formats, completed with what they need besides the layers. The model is run if a format needs a sample.

    Args:
        formats: The formats.
        model: The file of the mapped model.
        graph: The main graph of the model.
        layers: The layers of the model.
        name: Name of the model.
        inputs: The sample to run the model on; random numbers if None.
        dims: Sizes of symbolic dimensions of random inputs.
        settings: Bits of weights, inputs and converters.

    Raises:
        ConfigError: If the inputs do not fit the model, or the model does not run on them.
        ModelError: If ONNX Runtime does not load the model.
    """
    sample = None
    if any(form.needs_sample for form in formats):
        has_shapes = any(form.is_for_costs for form in formats)
        bits = settings.bits or Bits()
        sample = run_sample(model, graph, layers, inputs, bits, dims=dims, has_shapes=has_shapes)
    preparation = Preparation(name, model, layers, sample, settings)
    return tuple(form.prepared(preparation) for form in formats)


def check_formats(formats: Sequence[HandoffFormat], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Check that formats can hold the layers.

    Args:
        formats: The formats.
        layers: The layers.

    Returns:
        What the formats leave out or round, and what readers have to know; a line each.

    Raises:
        ConfigError: If a format cannot hold a layer.
    """
    order = list(FORMATS)
    for form in sorted(formats, key=lambda item: order.index(item.name)):
        form.check(layers)
    return tuple(f"{form.name}: {note}" for form in formats for note in format_notes(form, layers))


def write_formats(
    formats: Sequence[HandoffFormat],
    layers: Sequence[Layer],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> list[FileRecord]:
    """Write all files of the formats, except those that `HandoffFormat.array_folder` has written.

    Args:
        formats: The formats, which `check_formats` has accepted.
        layers: The layers.
        folder: The new bundle.
        progress: Called with the number of conductances written so far, and their total.

    Returns:
        The manifest's records of the files.

    Raises:
        ModelError: If the conductances do not fit a format, or cannot be read.
        OSError: If a file cannot be written.
    """
    total = sum(form.cells(layers) for form in formats)
    done = 0

    def advance(cells: int) -> None:
        nonlocal done
        done += cells
        if progress is not None:
            progress(done, total)

    records: list[FileRecord] = []
    for form in formats:
        records += form.write(layers, folder, advance)
        with HashedFile(folder, f"{form.name}/{README_FILE}") as readme:
            readme.write(readme_text(form, layers))
        records.append(readme.record)
    return records
