"""The arrays of a bundle as NumPy files, one for each key, for stations that load a tile at a time."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.handoff.formats.hashed_file import HashedFile
from onnx_gconv.handoff.manifest import FileRecord

__all__ = ["NPY_FOLDER", "NpyFolder"]

NPY_FOLDER = "npy"


class NpyFolder:
    """A folder of ``KEY.npy``: the arrays that the arrays file has, under the same keys, without pickled objects.

    Args:
        folder: The bundle.

    Attributes:
        files: What the manifest says of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[FileRecord] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every file is closed as soon as it is written."""

    def write(self, key: str, array: NDArray[Any]) -> None:
        """Write an array, C-contiguous and little-endian, under a new key."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        with HashedFile(self._folder, f"{NPY_FOLDER}/{key}.npy") as file:
            file.write(header.getvalue())
            file.write(array.reshape(-1).view(np.uint8).data)
        self.files.append(file.record)
