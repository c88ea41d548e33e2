"""The file ``targets.csv``: the target conductances as text, a line for each device of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import TileArrays
from onnx_gconv.files.csv_text import csv_line

__all__ = ["CSV_HEADER", "KNOWN_AS", "TargetsCsv"]

CSV_HEADER = "tile,device,row,column,input,output,target_us,code"
KNOWN_AS = ",known_as"


class TargetsCsv:
    """Writes a new CSV file of targets; use it in a with statement. Numbers have enough digits to be read back exactly.

    If the names of weights in the exported program are known, a last column gives that name.

    Args:
        path: The file, which must not exist.
        layers: All layers.

    Raises:
        FileExistsError: If the file exists.
    """

    def __init__(self, path: Path, layers: Sequence[Layer]) -> None:
        self._file = path.open("x", encoding="utf-8", newline="\n")
        self._has_names = any(layer.record.is_of_known_program for layer in layers)
        self._file.write(f"{CSV_HEADER}{KNOWN_AS if self._has_names else ''}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, layer: Layer, arrays: TileArrays) -> None:
        """Write the cells of a tile, device by device and row by row. The code is empty if the mapping has no codes."""
        tile, name = arrays.tile, layer.tile_id(arrays.tile.number)
        (first_input, _), (first_output, _) = tile.inputs, tile.outputs
        known_as = f",{csv_line((layer.record.known_as,), end='')}" if self._has_names else ""
        for number, (device, targets) in enumerate(zip(layer.record.conductances, arrays.conductances, strict=True)):
            codes = None if arrays.codes is None else arrays.codes[number]
            for row in range(tile.shape[0]):
                place = csv_line((name, device.device, row), end="")
                texts = targets[row].astype(str)  # the shortest text that is read back exactly
                row_codes = [""] * tile.shape[1] if codes is None else codes[row].tolist()
                self._file.writelines(
                    f"{place},{column},{first_input + row},{first_output + column},{text},{code}{known_as}\n"
                    for column, (text, code) in enumerate(zip(texts, row_codes, strict=True))
                )
