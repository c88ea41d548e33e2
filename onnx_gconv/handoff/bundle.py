"""An open hand-off bundle: its layers, tiles and arrays, and whether it is what was written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from onnx_gconv.crossbars.tile_arrays import digest
from onnx_gconv.errors import BundleError
from onnx_gconv.files.arrays import ArrayReader, read_arrays
from onnx_gconv.files.naming import MAPPED_SUFFIX, stem_of_mapped
from onnx_gconv.handoff.bundle_arrays import BundleArrays
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.manifest import MANIFEST_FILE, BundleManifest, read_bundle_manifest
from onnx_gconv.handoff.model_comparison import check_against_model
from onnx_gconv.handoff.model_files import hashed
from onnx_gconv.handoff.placement_checks import check_placements

__all__ = ["Bundle", "default_bundle_path", "open_bundle"]


def default_bundle_path(mapped: Path) -> Path:
    """``model.gconv`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}{MAPPED_SUFFIX}")


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a hand-off bundle and check that it is whole; its arrays are read only when they are asked for.

    Args:
        path: The folder.

    Raises:
        BundleError: If it is no bundle, is damaged or incomplete, or was written by a newer version.
    """
    folder = Path(path)
    manifest = read_bundle_manifest(folder)
    for name in (manifest.arrays.path, *(file.path for file in manifest.files)):
        if os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir):  # noqa: PTH117 - text, not yet a path
            raise BundleError(
                f"'{folder / MANIFEST_FILE}': the file '{name}' is outside of the bundle; do not trust it"
            )
    for file in manifest.files:
        _check_file(folder / file.path, file.bytes)
    arrays = read_arrays(folder / manifest.arrays.path, manifest.arrays.kind)
    try:
        bundle = Bundle(folder, manifest, arrays)
        for layer in bundle.layers:
            layer.check()
        check_placements(manifest, folder)
    except BaseException:
        arrays.close()
        raise
    return bundle


class Bundle(BundleArrays):
    """An open hand-off bundle. To be closed in the end, or used in a with statement.

    Attributes:
        path: The folder.
        manifest: Everything that is said of it.
        layers: The mapped weights.
    """

    def __init__(self, path: Path, manifest: BundleManifest, arrays: ArrayReader) -> None:
        super().__init__(path, manifest, arrays)
        self.layers = tuple(BundleLayer(self, record) for record in manifest.layers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def layer(self, name: str) -> BundleLayer:
        """A layer by its id, or by the name of its weight or what people know that by.

        Raises:
            BundleError: If there is none, or it is not the only one.
        """
        found = [layer for layer in self.layers if name in {layer.record.id, layer.record.weight}]
        found = found or [layer for layer in self.layers if name in layer.record.known_as.split(" + ")]
        if len(found) != 1:
            known = ", ".join(f"{layer.record.id} ({layer.record.known_as})" for layer in self.layers)
            what = "no layer" if not found else "more than one layer"
            raise BundleError(f"'{self.path}' has {what} '{name}'; there are {known}")
        return found[0]

    def tile(self, tile_id: str) -> BundleTile:
        """A tile by its id, e.g. ``L003/T0007``.

        Raises:
            BundleError: If there is none.
        """
        for layer in self.layers:
            if tile_id.startswith(f"{layer.record.id}/"):
                for record in layer.record.tiles:
                    if record.id == tile_id:
                        return BundleTile(layer, record)
        raise BundleError(f"'{self.path}' has no tile '{tile_id}'; ids are like {self._example_id()}")

    def verify_hashes(self) -> None:
        """Read everything, and check that it has not changed since it was written, and fits the model in the bundle.

        What the manifest says of layers, tiles and scales has to be what follows from the mapped model.

        Raises:
            BundleError: For the first file or array that has changed, or the first thing that does not follow from the
                model.
        """
        for file in self.manifest.files:
            found = hashed(self.path / file.path).sha256
            if found != file.sha256:
                raise BundleError(
                    f"'{self.path / file.path}' has changed: its SHA-256 is {found}, but {MANIFEST_FILE} says "
                    f"{file.sha256}; copy the bundle again"
                )
        for layer in self.layers:
            for record in layer.arrays():
                found = digest(np.ascontiguousarray(self.read(record)))
                if found != record.sha256:
                    raise BundleError(
                        f"'{self.arrays_path}': array '{record.key}' has changed: its SHA-256 is {found}, but "
                        f"{MANIFEST_FILE} says {record.sha256}; copy the bundle again"
                    )
        check_against_model(self.path, self.manifest)

    def _example_id(self) -> str:
        return next((tile.id for layer in self.manifest.layers for tile in layer.tiles), "L000/T0000")


def _check_file(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise BundleError(f"'{path}' cannot be read: {error.strerror}; copy the bundle again") from None
    if found != size:
        raise BundleError(f"'{path}' has {found} bytes, but it should have {size}; copy the bundle again")
