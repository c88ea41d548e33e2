"""The file ``scales.csv`` with the scales of matrices, for formats whose own files cannot hold them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.files.csv_text import csv_line
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["KNOWN_AS", "SCALES_FILE", "SCALES_HEADER", "ScaledMatrix", "write_scales"]

SCALES_FILE = "scales.csv"
SCALES_HEADER = "name,layer,matrix,first_input,first_output,scale_us,zero"
KNOWN_AS = ",weight,known_as"


@dataclass(frozen=True)
class ScaledMatrix:
    """A matrix of a format.

    Attributes:
        name: Name of the matrix in the format.
        layer: The layer that has the matrix.
        matrix: Number of the matrix in the layer.
    """

    name: str
    layer: Layer
    matrix: int


def write_scales(matrices: Sequence[ScaledMatrix], folder: Path, subfolder: str) -> FileRecord:
    """Write a line for each piece of each matrix, which is a block of cells that share a scale.

    A line has the first input and output of the piece, its scale in µS per unit of weight, and its zero. If the names
    of weights in the exported program are known, two more columns give the name of the weight in the model and in that
    program. Numbers have enough digits to be read back exactly.

    Args:
        matrices: The matrices.
        folder: The bundle.
        subfolder: The folder of the format in the bundle.

    Returns:
        The manifest's record of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    with HashedFile(folder, f"{subfolder}/{SCALES_FILE}") as file:
        has_names = any(item.layer.record.is_of_known_program for item in matrices)
        file.write(f"{SCALES_HEADER}{KNOWN_AS if has_names else ''}\n")
        for layer, group in itertools.groupby(matrices, lambda item: item.layer):
            grid, (scale, zero) = layer.scale_grid, layer.scale_and_zero()
            names = (layer.record.name, layer.record.known_as) if has_names else ()
            for item, (row, first_input) in itertools.product(group, enumerate(grid.row_starts)):
                scales, zeros = (values[item.matrix, row].astype(str) for values in (scale, zero))
                for piece in zip(grid.column_starts, scales, zeros, strict=True):
                    file.write(csv_line((item.name, layer.id, item.matrix, first_input, *piece, *names)))
    return file.record
