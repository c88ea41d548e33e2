"""Pictures of how far measured conductances are from their targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.crossbars.tile_arrays import as_stored, block_with_bias
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.progress import Progress
from onnx_gconv.handoff.bundle import open_bundle
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import LayerRecord
from onnx_gconv.handoff.measurements import Measurements
from onnx_gconv.handoff.pictures import PicturesReport, require_matplotlib, write_error_pictures
from onnx_gconv.tensors.matrix_reader import MatrixReader

__all__ = ["check_pictures", "write_readback_pictures"]


def check_pictures(folder: Path) -> None:
    """Check, before any work is done, that pictures can be written.

    Raises:
        ConfigError: If Matplotlib is not installed, or the folder exists or cannot be made.
    """
    require_matplotlib()
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"'{folder}' exists; choose another name for the pictures")
    if not folder.parent.is_dir():
        raise ConfigError(f"cannot write '{folder}': the folder '{folder.parent}' does not exist; create it first")


def write_readback_pictures(
    measurements: Measurements,
    layers: Sequence[tuple[LayerRecord, Layer]],
    folder: Path,
    progress: Progress | None,
) -> PicturesReport:
    """Draw measured minus target of all layers.

    Args:
        measurements: What was measured.
        layers: Each layer of the bundle with that of the model, which has the targets.
        folder: The folder to write; there must be none.
        progress: As for `write_error_pictures`.

    Raises:
        ConfigError: As for `write_error_pictures`.
        BundleError: If the bundle is damaged.
    """
    by_id = {record.id: (record, layer) for record, layer in layers}

    def errors(tile: BundleTile) -> dict[str, FloatArray]:
        record, layer = by_id[tile.layer.record.id]
        found: dict[str, FloatArray] = {}
        for number, device in enumerate(record.devices):
            measured = measurements.array(record, tile.record, number)
            if measured is None:
                continue
            with MatrixReader(layer.mapped.stored_tensors[number], layer.layout) as reader:
                place = tile.record.matrix, tile.record.inputs, tile.record.outputs
                targets = as_stored(layer)(block_with_bias(layer, number, reader, place))
            found[device.name] = measured.conductances.astype(np.float64) - targets
        return found

    with open_bundle(measurements.bundle) as bundle:
        return write_error_pictures(bundle, folder, errors, progress=progress)
