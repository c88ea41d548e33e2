"""The arrays of an open bundle, and the scales of a layer: what a bundle, its layers and their tiles share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import BundleError
from onnx_gconv.files.arrays import ArrayReader
from onnx_gconv.handoff.manifest import ArrayRecord, BundleManifest, LayerRecord

__all__ = ["BundleArrays", "LayerScales"]


class BundleArrays:
    """The open file of the arrays of a bundle.

    Attributes:
        path: The folder.
        manifest: Everything that is said of it.
    """

    def __init__(self, path: Path, manifest: BundleManifest, arrays: ArrayReader) -> None:
        self.path = path
        self.manifest = manifest
        self._arrays = arrays

    def close(self) -> None:
        """Close the file of the arrays."""
        self._arrays.close()

    @property
    def arrays_path(self) -> Path:
        """The file of the arrays."""
        return self.path / self.manifest.arrays.path

    @property
    def geometry(self) -> ArrayGeometry:
        """The arrays of the chip, and how tiles are placed on them."""
        return self.manifest.geometry.geometry

    def form(self, record: ArrayRecord) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array.

        Raises:
            BundleError: If it is missing or damaged.
        """
        try:
            found = self._arrays.form(record.key)
        except (OSError, ValueError) as error:
            raise self._damaged(record, error) from None
        if found is None:
            raise BundleError(f"'{self.arrays_path}': array '{record.key}' is missing; copy the bundle again")
        return found

    def read(self, record: ArrayRecord) -> NDArray[Any]:
        """An array.

        Raises:
            BundleError: If it is missing or damaged.
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
    """The scales of a layer.

    Attributes:
        bundle: The bundle.
        record: What the manifest says of the layer.
    """

    def __init__(self, bundle: BundleArrays, record: LayerRecord) -> None:
        self.bundle = bundle
        self.record = record

    def scale(self) -> FloatArray:
        """The scales in µS per unit of weight, [matrices, pieces of rows, pieces of columns]."""
        return self.bundle.read(self.record.scale.array)

    def zero(self) -> FloatArray:
        """What is added to the quotients, in units of weight, of the shape of the scales."""
        return self.bundle.read(self.record.zero.array)

    def scale_starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows, and the columns, of a matrix at which pieces with a scale of their own begin."""
        record = self.record
        return self.bundle.read(record.scale_row_starts), self.bundle.read(record.scale_column_starts)
