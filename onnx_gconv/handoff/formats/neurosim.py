"""The conductances in the layout of DNN+NeuroSim's weight files: a CSV file for each matrix and device.

NeuroSim's Python side writes the matrix of a layer, rows = inputs and columns = outputs, with ``numpy.savetxt``,
separated by commas, with the format ``%10.5f`` (``write_matrix_weight`` in ``utee/hook.py`` of DNN+NeuroSim V1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["NEUROSIM_FOLDER", "NEUROSIM_ROUNDING_US", "check_neurosim", "neurosim_name", "write_neurosim"]

NEUROSIM_FOLDER = "neurosim"
NEUROSIM_ROUNDING_US = 5e-6

_NUMBER = "%10.5f"

# Steps of the last decimal that the range of a device has to have; of a range below one step nothing would be left.
_LEAST_STEPS = 100

# Numbers that become text at once; as Python's own they need many times the memory of an array.
_TEXT_CELLS = 1 << 16


def check_neurosim(layers: Sequence[Layer]) -> None:
    """Check that the five decimals tell conductances apart.

    Raises:
        ConfigError: For the first layer of which that is not so.
    """
    least = _LEAST_STEPS * 2 * NEUROSIM_ROUNDING_US
    for layer in layers:
        record = layer.record
        low, high = record.converter.parameters["g_min"], record.converter.parameters["g_max"]
        if high - low < least:
            raise ConfigError(
                f"the weight '{record.name}' cannot be written as neurosim: its devices reach {low:g} .. {high:g} µS, "
                f"but numbers with five decimals need a range of at least {least:g} µS; map with another --g-max, or "
                "choose npy"
            )


def write_neurosim(layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> Iterator[FileRecord]:
    """Write a file for each device of each matrix.

    Args:
        layers: The layers.
        folder: The bundle.
        advance: Called with how many more cells are written.

    Yields:
        What the manifest says of each file.

    Raises:
        ModelError: If external data cannot be read.
        OSError: If a file cannot be written.
    """
    for layer in layers:
        with LayerConductances(layer) as conductances:
            for matrix in range(layer.layout.matrices):
                for device, item in enumerate(layer.record.conductances):
                    name = f"{NEUROSIM_FOLDER}/{neurosim_name(layer, matrix)}_{item.device}.csv"
                    with HashedFile(folder, name) as file:
                        table = _Table(file, layer.layout.columns)
                        for (block,) in conductances.blocks(matrix, [device], "input"):
                            table.add(block)
                            advance(block.size)
                    yield file.record


def neurosim_name(layer: Layer, matrix: int) -> str:
    """How the files of a matrix begin, e.g. ``L003``, or ``L003_M2`` if the layer has several matrices."""
    return layer.id if layer.layout.matrices == 1 else f"{layer.id}_M{matrix}"


class _Table:
    """Rows of numbers as `numpy.savetxt` writes them, also of rows that come in parts."""

    def __init__(self, file: HashedFile, columns: int) -> None:
        self._file = file
        self._columns = columns
        self._column = 0

    def add(self, block: NDArray[Any]) -> None:
        for row in block:
            for start in range(0, row.size, _TEXT_CELLS):
                part = row[start : start + _TEXT_CELLS]
                self._file.write(",".join([_NUMBER] * part.size) % tuple(part.tolist()))
                self._column = (self._column + part.size) % self._columns
                self._file.write("," if self._column else "\n")
