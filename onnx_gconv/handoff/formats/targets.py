"""The target conductances as text, a line for each device of each cell."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import TileArrays
from onnx_gconv.files.csv_text import csv_line

__all__ = ["CSV_HEADER", "TargetsCsv"]

CSV_HEADER = "tile,device,row,column,input,output,target_us,code"


class TargetsCsv:
    """A new CSV file. Numbers have as many digits as their type needs to come back exactly.

    Args:
        path: The file; there must be none.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="ascii")
        self._file.write(f"{CSV_HEADER}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, layer: Layer, arrays: TileArrays) -> None:
        """Add the cells of a tile, device by device and row by row. The code is empty if the mapping has none."""
        tile, name = arrays.tile, layer.tile_id(arrays.tile.number)
        (first_input, _), (first_output, _) = tile.inputs, tile.outputs
        for number, (device, targets) in enumerate(zip(layer.record.conductances, arrays.conductances, strict=True)):
            codes = None if arrays.codes is None else arrays.codes[number]
            for row in range(tile.shape[0]):
                place = csv_line((name, device.device, row), end="")
                texts = targets[row].astype(str)  # the shortest text of float32 that comes back exactly
                row_codes = [""] * tile.shape[1] if codes is None else codes[row].tolist()
                self._file.writelines(
                    f"{place},{column},{first_input + row},{first_output + column},{text},{code}\n"
                    for column, (text, code) in enumerate(zip(texts, row_codes, strict=True))
                )
