"""The conductances as tables: a CSV file for each matrix and device, rows = inputs and columns = outputs, in µS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.formats.handoff_format import HandoffFormat
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances, device_cells
from onnx_gconv.handoff.formats.number_table import NumberTable
from onnx_gconv.handoff.formats.scales import SCALES_FILE, ScaledMatrix, write_scales
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["ConductanceCsv"]

# Half of the last decimal, in µS.
_ROUNDING_US = 5e-6

# The range of a device must be at least this many steps of the last decimal wide. In a narrower range, rounding to five
# decimals would merge too many conductances.
_LEAST_STEPS = 100


class ConductanceCsv(HandoffFormat):
    """The format ``csv``: a table for each device of each matrix, and the scales in a file beside them."""

    name = "csv"
    description = "a table in µS for each matrix and device"
    content = f"""\
LAYER_DEVICE.csv, or LAYER_MATRIX_DEVICE.csv for layers with several matrices: conductances in µS, a line for each
input, a number for each output, as numpy.savetxt writes them with the format %10.5f.

{SCALES_FILE}: the scales; a weight is (sum of coefficient * conductance - offset) / scale + zero.

Do not give these tables to NeuroSim: it takes all numbers for weights between -1 and 1, and does not report numbers
beyond. The format neurosim is made for NeuroSim.
"""
    remarks: ClassVar[tuple[str, ...]] = (
        f"numbers have five decimals, which moves conductances by up to {_ROUNDING_US:g} µS",
        f"scales are not in the matrices, but beside them, in {SCALES_FILE}",
        "matrices are written whole, not cut into tiles",
        "not for NeuroSim, which would take the numbers for weights between -1 and 1; choose neurosim for it",
    )

    def check(self, layers: Sequence[Layer]) -> None:
        """Check that five decimals can tell the conductances of each layer apart.

        Raises:
            ConfigError: If the range of a layer's devices is too narrow.
        """
        least = _LEAST_STEPS * 2 * _ROUNDING_US
        for layer in layers:
            record = layer.record
            low, high = record.converter.parameters["g_min"], record.converter.parameters["g_max"]
            if high - low < least:
                raise ConfigError(
                    f"the weight {record.quoted} cannot be written as csv: its devices reach {low:g} .. "
                    f"{high:g} µS, but numbers with five decimals need a range of at least {least:g} µS; map with "
                    "another --g-max, or choose npy"
                )

    def cells(self, layers: Sequence[Layer]) -> int:
        """Number of conductances of all layers, over all devices."""
        return device_cells(layers)

    def write(self, layers: Sequence[Layer], folder: Path, advance: Callable[[int], None]) -> Iterator[FileRecord]:
        """Write a file for each device of each matrix, and the scales."""
        for layer in layers:
            with LayerConductances(layer) as conductances:
                for matrix in range(layer.layout.matrices):
                    for device, item in enumerate(layer.record.conductances):
                        name = f"{self.name}/{_matrix_name(layer, matrix)}_{item.device}.csv"
                        with HashedFile(folder, name) as file:
                            table = NumberTable(file, layer.layout.columns)
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
    """How the file names of a matrix begin: ``L003``, or ``L003_M2`` if the layer has several matrices."""
    return layer.id if layer.layout.matrices == 1 else f"{layer.id}_M{matrix}"
