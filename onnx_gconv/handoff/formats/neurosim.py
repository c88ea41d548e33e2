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
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances, device_cells
from onnx_gconv.handoff.formats.scales import SCALES_FILE, ScaledMatrix, write_scales
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["Neurosim"]

# Half of the last decimal, in µS.
_ROUNDING_US = 5e-6

_NUMBER = "%10.5f"

# Steps of the last decimal that the range of a device has to have; of a range below one step nothing would be left.
_LEAST_STEPS = 100

# Numbers that become text at once; as Python's own they need many times the memory of an array.
_TEXT_CELLS = 1 << 16


class Neurosim(HandoffFormat):
    """A file for each device of each matrix, and the scales beside them."""

    name = "neurosim"
    description = "DNN+NeuroSim"
    content = f"""\
LAYER_DEVICE.csv, or LAYER_MATRIX_DEVICE.csv of layers with several matrices: conductances in µS in the layout of the
weight files of DNN+NeuroSim V1.4, a line for each input, a number for each output.

{SCALES_FILE}: the scales; a weight is (sum of coefficient * conductance - offset) / scale + zero.

NeuroSim's own program takes what it reads for weights between algoWeightMin and algoWeightMax (Param.cpp: -1 and 1),
rounds them to synapseBit bits, and makes conductances of its own of them. To have it take these files, set the two to
the least and the largest conductance of the devices in µS. It knows neither pairs nor scales: each file is a layer.
"""
    remarks = (
        f"numbers have five decimals, which moves conductances by up to {_ROUNDING_US:g} µS",
        f"scales are not in the matrices, but beside them, in {SCALES_FILE}",
        "matrices are whole; tiles are not in it",
        "NeuroSim's own program makes other conductances of the numbers; README.txt says how to set it",
    )

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that the five decimals tell conductances apart."""
        least = _LEAST_STEPS * 2 * _ROUNDING_US
        for layer in layers:
            record = layer.record
            low, high = record.converter.parameters["g_min"], record.converter.parameters["g_max"]
            if high - low < least:
                raise ConfigError(
                    f"the weight {record.quoted} cannot be written as neurosim: its devices reach {low:g} .. "
                    f"{high:g} µS, but numbers with five decimals need a range of at least {least:g} µS; map with "
                    "another --g-max, or choose npy"
                )

    def cells(self, layers: Sequence[Layer]) -> int:
        """Those of all devices."""
        return device_cells(layers)

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> Iterator[FileRecord]:
        """Write a file for each device of each matrix, and the scales."""
        for layer in layers:
            with LayerConductances(layer) as conductances:
                for matrix in range(layer.layout.matrices):
                    for device, item in enumerate(layer.record.conductances):
                        name = f"{self.name}/{_matrix_name(layer, matrix)}_{item.device}.csv"
                        with HashedFile(folder, name) as file:
                            table = _Table(file, layer.layout.columns)
                            for (block,) in conductances.blocks(matrix, [device], "input"):
                                table.add(block)
                                advance(block.size)
                        yield file.record
        matrices = [
            ScaledMatrix(_matrix_name(layer, matrix), layer, matrix)
            for layer in layers
            for matrix in range(layer.layout.matrices)
        ]
        yield write_scales(matrices, folder, self.name)


def _matrix_name(layer: Layer, matrix: int) -> str:
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
