"""An open hand-off bundle: its layers, tiles and arrays, and checks that it is complete and unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from onnx_gconv.data_frame import Column, Columns
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
from onnx_gconv.shown_report import FrameTables, ShownReport
from onnx_gconv.suggestions import suggestion
from onnx_gconv.terminal_text import plain, titled_table

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Bundle", "default_bundle_path", "open_bundle"]


def default_bundle_path(mapped: Path) -> Path:
    """The default path of the bundle of a mapped model: ``model.gconv`` beside ``model.gconv.onnx``."""
    return mapped.with_name(f"{stem_of_mapped(mapped)}{MAPPED_SUFFIX}")


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a hand-off bundle and check that it is complete; its arrays are read only when they are asked for.

    Checksums are not checked; `Bundle.verify_hashes` does that.

    Args:
        path: The folder of the bundle.

    Raises:
        BundleError: If the folder is no bundle, the bundle is damaged or incomplete, or a newer version wrote it.
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


class Bundle(BundleArrays, ShownReport):
    """An open hand-off bundle. Close it, or use it in a with statement; ``print(bundle)`` shows a table.

    Attributes:
        path: The folder of the bundle.
        manifest: The content of ``manifest.json``.
        layers: The mapped weights.
    """

    def __init__(self, path: Path, manifest: BundleManifest, arrays: ArrayReader) -> None:
        super().__init__(path, manifest, arrays)
        self.layers: tuple[BundleLayer, ...] = tuple(BundleLayer(self, record) for record in manifest.layers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_short(self) -> str:
        tiles = sum(len(layer.record.tiles) for layer in self.layers)
        return f"{self.path}: {len(self.layers)} layers, {tiles:,} tiles, arrays of {self.geometry.size_text}"

    def _frame_tables(self) -> FrameTables:
        return {"layers": self._columns_of_layers, "tiles": self._columns_of_tiles}

    def _columns_of_layers(self) -> Columns:
        records = self.manifest.layers
        views = [record.matrix_view for record in records]
        return {
            "layer": Column("text", [record.id for record in records]),
            "weight": Column("text", [record.weight for record in records]),
            "graph": Column("text", [record.graph for record in records]),
            "dtype": Column("text", [record.dtype for record in records]),
            **{
                name: Column("whole number", [getattr(view, name) for view in views])
                for name in ("matrices", "rows", "columns")
            },
            "tiles": Column("whole number", [len(record.tiles) for record in records]),
            "devices": Column("text", [", ".join(device.name for device in record.devices) for record in records]),
            "bias_rows": Column("whole number", [record.bias_rows for record in records]),
        }

    def _columns_of_tiles(self) -> Columns:
        tiles = [(record, tile) for record in self.manifest.layers for tile in record.tiles]
        ends = {"first_input": ("inputs", 0), "end_of_inputs": ("inputs", 1), "first_output": ("outputs", 0)}
        ends["end_of_outputs"] = ("outputs", 1)
        return {
            "tile": Column("text", [tile.id for _, tile in tiles]),
            "layer": Column("text", [record.id for record, _ in tiles]),
            "weight": Column("text", [record.weight for record, _ in tiles]),
            "matrix": Column("whole number", [tile.matrix for _, tile in tiles]),
            **{
                name: Column("whole number", [getattr(tile, lines)[end] for _, tile in tiles])
                for name, (lines, end) in ends.items()
            },
        }

    def __rich__(self) -> Group:
        from rich.console import Group

        table = titled_table("Layers")
        table.add_column("layer")
        table.add_column("weight", ratio=1)
        for name in ("matrix", "tiles", "devices"):
            table.add_column(name, justify="right")
        for record in self.manifest.layers:
            view = record.matrix_view
            several = f"{view.matrices} x " if view.matrices > 1 else ""
            bias = f"+{record.bias_rows}" if record.bias_rows else ""
            size = f"{several}{view.rows}{bias}x{view.columns}"
            table.add_row(record.id, plain(record.weight), size, f"{len(record.tiles):,}", str(len(record.devices)))
        return Group(table, plain(self._in_short()))

    def layer(self, name: str) -> BundleLayer:
        """The layer with an id, such as ``L003``, or with a weight of that name or parameter.

        Raises:
            BundleError: If there is no such layer, or more than one.
        """
        found = [layer for layer in self.layers if name in {layer.record.id, layer.record.weight}]
        found = found or [layer for layer in self.layers if name in layer.record.known_as.split(" + ")]
        if len(found) != 1:
            known = ", ".join(f"{layer.record.id} ({layer.record.known_as})" for layer in self.layers)
            what = "no layer" if not found else "more than one layer"
            names = [each for layer in self.layers for each in (layer.record.id, layer.record.known_as)]
            near = None if found else suggestion(name, names, of_model=True, lists_all=False)
            raise BundleError(f"'{self.path}' has {what} '{name}'; {near or f'there are {known}'}")
        return found[0]

    def tile(self, tile_id: str) -> BundleTile:
        """The tile with an id, such as ``L003/T0007``.

        Raises:
            BundleError: If there is no such tile.
        """
        for layer in self.layers:
            if tile_id.startswith(f"{layer.record.id}/"):
                for record in layer.record.tiles:
                    if record.id == tile_id:
                        return BundleTile(layer, record)
        raise BundleError(f"'{self.path}' has no tile '{tile_id}'; ids are like {self._example_id()}")

    def verify_hashes(self) -> None:
        """Read the whole bundle, and check all SHA-256 hashes and that the manifest agrees with the mapped model in it.

        The layers, tiles and scales of the manifest are compared with those that the mapped model gives.

        Raises:
            BundleError: For the first file or array that has changed, or the first entry of the manifest that differs
                from what the model gives.
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
                self.check_hash(record, self.read(record))
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
