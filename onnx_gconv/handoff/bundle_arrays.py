"""Base classes of an open bundle and of its layers: access to the arrays file, and to the scales of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.tile_arrays import digest
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import BundleError
from onnx_gconv.files.arrays import ArrayReader
from onnx_gconv.handoff.manifest import MANIFEST_FILE, ArrayRecord, BundleManifest, LayerRecord

__all__ = ["BundleArrays", "LayerScales"]


class BundleArrays:
    """The open arrays file of a bundle, ``conductances.h5`` or ``conductances.npz``.

    Attributes:
        path: The folder of the bundle.
        manifest: The content of ``manifest.json``.
    """

    def __init__(self, path: Path, manifest: BundleManifest, arrays: ArrayReader) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays = arrays

    def close(self) -> None:
        """Close the arrays file."""
        self._arrays.close()

    @property
    def arrays_path(self) -> Path:
        """The path of the arrays file."""
        return self.path / self.manifest.arrays.path

    @property
    def geometry(self) -> ArrayGeometry:
        """The size of the chip's crossbar arrays, and how tiles are placed on them."""
        return self.manifest.geometry.geometry

    def check_hash(self, record: ArrayRecord, array: NDArray[Any]) -> None:
        """Check that an array is the one that was handed off.

        Raises:
            BundleError: If its SHA-256 hash is another one than that of its entry.
        """
        found = digest(np.ascontiguousarray(array))
        if found != record.sha256:
            raise BundleError(
                f"'{self.arrays_path}': array '{record.key}' has changed: its SHA-256 is {found}, but {MANIFEST_FILE} "
                f"says {record.sha256}; copy the bundle again"
            )

    def form(self, record: ArrayRecord) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and dtype of an array of the arrays file.

        Raises:
            BundleError: If the array is missing or damaged.
        """
        try:
            found = self._arrays.form(record.key)
        except (OSError, ValueError) as error:
            raise self._damaged(record, error) from None
        if found is None:
            raise BundleError(f"'{self.arrays_path}': array '{record.key}' is missing; copy the bundle again")
        return found

    def read(self, record: ArrayRecord) -> NDArray[Any]:
        """Read an array of the arrays file.

        Raises:
            BundleError: If the array is missing or damaged.
        """
        self.form(record)
        try:
            return self._arrays.read(record.key)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(record, error) from None

    def _damaged(self, record: ArrayRecord, error: Exception) -> BundleError:
        reason = " ".join(str(error).split())
        return BundleError(f"'{self.arrays_path}': array '{record.key}' cannot be read: {reason}; copy it again")


class LayerScales:
    """The scales of a layer. A piece is a block of rows and columns of a matrix that share one scale.

    Attributes:
        bundle: The open bundle.
        record: The layer's entry in the manifest.
    """

    def __init__(self, bundle: BundleArrays, record: LayerRecord) -> None:
        self.bundle = bundle
        self.record = record

    def scale(self) -> FloatArray:
        """The scales in µS per unit of weight, [matrices, pieces of rows, pieces of columns]."""
        return self.bundle.read(self.record.scale.array)

    def zero(self) -> FloatArray:
        """What is added after the division by the scale, in units of weight; of the same shape as the scales."""
        return self.bundle.read(self.record.zero.array)

    def scale_starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows and the columns of a matrix at which pieces begin, each int64 [pieces]; the first is 0."""
        record = self.record
        return self.bundle.read(record.scale_row_starts), self.bundle.read(record.scale_column_starts)
