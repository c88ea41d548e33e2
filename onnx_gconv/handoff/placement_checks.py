"""Checks that the arrays of a chip can hold the tiles that a manifest places on them."""

from __future__ import annotations

from pathlib import Path

from onnx_gconv.crossbars.placement import avoided_lines, units_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.errors import BundleError
from onnx_gconv.handoff.manifest import MANIFEST_FILE, BundleManifest, PlacementRecord, TileRecord

__all__ = ["check_placements"]


def check_placements(manifest: BundleManifest, folder: Path) -> None:
    """Check that no two tiles share an array of the chip, and that each array has enough usable rows and columns.

    Args:
        manifest: The manifest.
        folder: The bundle, for messages.

    Raises:
        BundleError: For the first tile that cannot stand where the manifest places it.
    """
    geometry, defects, taken = manifest.geometry.geometry, manifest.defects, set[int]()
    count = None if defects is None else defects.array_count
    for layer in manifest.layers:
        for tile in layer.tiles:
            for item in tile.placements:
                problem = _problem(geometry, tile, item, count)
                if item.array in taken:
                    problem = f"array {item.array}, which another tile stands on, too"
                taken.add(item.array)
                if problem is not None:
                    raise BundleError(
                        f"'{folder / MANIFEST_FILE}': tile {tile.id} stands on {problem}; copy the bundle again"
                    )


def _problem(geometry: ArrayGeometry, tile: TileRecord, item: PlacementRecord, arrays: int | None) -> str | None:
    """Why a tile cannot stand on an array of a chip with so many arrays; None if it can."""
    if arrays is not None and item.array >= arrays:
        return f"array {item.array}, but the chip has {arrays}"
    needed = tile.inputs[1] - tile.inputs[0], tile.outputs[1] - tile.outputs[0]
    sides = zip(
        (item.avoided_rows, item.avoided_columns),
        (geometry.rows, geometry.columns),
        needed,
        units_of(item.devices, geometry.pair_layout),
        strict=True,
    )
    for avoided, size, count, unit in sides:
        if list(avoided) != sorted({line for line in avoided if 0 <= line < size}):
            return f"lines that array {item.array} does not have"
        if avoided != avoided_lines(avoided, size, unit):
            return f"lines of array {item.array} whose partners are left out"
        if count * unit > size - len(avoided):
            return f"lines that array {item.array} does not have"
    return None
