"""The formats by name: which there are, whether they hold the layers of a model, and writing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.format_notes import HandoffFormat, format_notes, readme_text
from onnx_gconv.handoff.formats.fusion import (
    FUSION_FOLDER,
    FUSION_PAIR_FOLDER,
    check_fusion,
    check_fusion_pair,
    fusion_columns,
    write_fusion,
    write_fusion_pair,
)
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.neurosim import NEUROSIM_FOLDER, check_neurosim, neurosim_name, write_neurosim
from onnx_gconv.handoff.formats.npy import NPY_FOLDER
from onnx_gconv.handoff.formats.scales import ScaledMatrix, write_scales
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["FORMAT_FOLDERS", "HandoffFormat", "check_formats", "parse_format", "write_formats"]

FORMAT_FOLDERS: dict[HandoffFormat, str] = {
    "fusion": FUSION_FOLDER,
    "fusion-pair": FUSION_PAIR_FOLDER,
    "neurosim": NEUROSIM_FOLDER,
    "npy": NPY_FOLDER,
}

README_FILE = "README.txt"


def parse_format(text: str) -> HandoffFormat:
    """The format of a name.

    Raises:
        ConfigError: If there is none.
    """
    for name in FORMAT_FOLDERS:
        if text == name:
            return name
    raise ConfigError(f"a format is one of {', '.join(FORMAT_FOLDERS)}, but not '{text}'")


def check_formats(formats: Sequence[HandoffFormat], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Check that formats can hold the layers.

    Args:
        formats: The formats.
        layers: The layers.

    Returns:
        What they leave out or round, and what readers have to know; a line each.

    Raises:
        ConfigError: If a format is unknown or given twice, or cannot hold a layer.
    """
    for place, name in enumerate(map(parse_format, formats)):
        if name in formats[:place]:
            raise ConfigError(f"the format '{name}' is given twice; give it once")
    if "fusion" in formats:
        check_fusion(layers)
    if "fusion-pair" in formats:
        check_fusion_pair(layers)
    if "neurosim" in formats:
        check_neurosim(layers)
    return tuple(f"{name}: {note}" for name in formats for note in format_notes(name, layers))


def write_formats(
    formats: Sequence[HandoffFormat],
    layers: Sequence[Layer],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> list[FileRecord]:
    """Write all files of the formats, but the arrays of ``npy``, which `NpyFolder` writes.

    Args:
        formats: The formats, as `check_formats` accepts them.
        layers: The layers.
        folder: The bundle.
        progress: Called with how many numbers are written as text, and how many there are.

    Returns:
        What the manifest says of the files.

    Raises:
        ModelError: If the conductances do not fit a format, or cannot be read.
        OSError: If a file cannot be written.
    """
    texts = [name for name in formats if name != "npy"]
    total = len(texts) * sum(math.prod(layer.record.shape) * len(layer.record.conductances) for layer in layers)
    done = 0

    def advance(cells: int) -> None:
        nonlocal done
        done += cells
        if progress is not None:
            progress(done, total)

    records: list[FileRecord] = []
    for name in formats:
        if name == "fusion":
            records += write_fusion(layers, folder, advance)
        elif name == "fusion-pair":
            records += write_fusion_pair(layers, folder, advance)
        elif name == "neurosim":
            records += write_neurosim(layers, folder, advance)
        if name != "npy":  # there the scales are arrays
            records.append(write_scales(_matrices(name, layers), folder, FORMAT_FOLDERS[name]))
        with HashedFile(folder, f"{FORMAT_FOLDERS[name]}/{README_FILE}") as readme:
            readme.write(readme_text(name, layers))
        records.append(readme.record)
    return records


def _matrices(name: HandoffFormat, layers: Sequence[Layer]) -> list[ScaledMatrix]:
    """The matrices, by the names that they have in a format of text."""
    if name == "neurosim":
        return [
            ScaledMatrix(neurosim_name(layer, matrix), layer, matrix)
            for layer in layers
            for matrix in range(layer.layout.matrices)
        ]
    return [ScaledMatrix(column.name, column.layer, column.matrix) for column in fusion_columns(layers)]
