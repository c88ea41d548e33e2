"""The format ``npy``: each array of a bundle as a NumPy file, for test stations that load one tile at a time."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.handoff.formats.handoff_format import HandoffFormat
from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["Npy"]


class Npy(HandoffFormat):
    """``KEY.npy`` for each key: the arrays that the arrays file has, without pickled objects."""

    name = "npy"
    description = "a NumPy file for each tile and device"
    content = """\
LAYER/TILE/DEVICE.npy: the targets of a device of a tile in µS, [inputs, outputs]. LAYER/TILE/DEVICE_code.npy, if the
mapping has codes: the numbers of their levels. LAYER/scale.npy, zero.npy, scale_row_starts.npy and
scale_column_starts.npy: the scales of all matrices, and where their pieces begin. LAYER/bias.npy: the bias, as the
model has it. Names and values are those of the arrays file. All files are little-endian, in row-major order, and load
with allow_pickle=False.

A weight is (sum of coefficient * conductance - offset) / scale + zero. manifest.json says where tiles stand.
"""
    remarks: ClassVar[tuple[str, ...]] = ("where tiles stand is only in manifest.json",)
    holds_tiles = True
    holds_biases = True
    holds_bias_rows = True
    holds_codes = True

    def array_folder(self, folder: Path) -> _NpyFolder:
        """The writer of ``npy/KEY.npy`` for each key."""
        return _NpyFolder(folder, self.name)


class _NpyFolder:
    """Writes the files ``KEY.npy`` of a folder.

    Args:
        folder: The bundle.
        name: Name of the folder in the bundle.

    Attributes:
        files: The manifest's records of the files written so far.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.files: list[FileRecord] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: every file is closed as soon as it is written."""

    def write(self, key: str, array: NDArray[Any]) -> None:
        """Write an array, C-contiguous and little-endian, under a new key."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        with HashedFile(self._folder, f"{self._name}/{key}.npy") as file:
            file.write(header.getvalue())
            file.write(array.reshape(-1).view(np.uint8).data)
        self.files.append(file.record)
