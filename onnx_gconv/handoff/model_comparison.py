"""Checks that the manifest of a bundle agrees with the mapped model in the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from onnx_gconv.crossbars.chip import LayerPlacement
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tile_arrays import tile_arrays
from onnx_gconv.errors import BundleError, ConfigError, ModelError
from onnx_gconv.files.models import load_model
from onnx_gconv.handoff.layer_writer import LayerWriter
from onnx_gconv.handoff.manifest import MANIFEST_FILE, BundleManifest, LayerRecord, TileRecord
from onnx_gconv.handoff.model_files import MODEL_FILE
from onnx_gconv.tensors.streamed import worker_count

__all__ = ["check_against_model"]

# Fields that are not compared. Where tiles stand and which cells are stuck depends on the chip, not on the model; the
# other fields of tiles are compared one by one. `unroll` only says in words what the matrix view says for programs.
# `parameter` and `modules` are missing in bundles of older versions.
_NOT_OF_THE_MODEL = frozenset({"tiles", "unroll", "parameter", "modules"})
_NOT_OF_THE_TILE = frozenset({"placements", "stuck"})

_LONGEST_SHOWN = 40


def check_against_model(folder: Path, manifest: BundleManifest) -> None:
    """Check that the layers, tiles, scales and checksums in the manifest are those of the bundle's mapped model.

    The conductances of the model are read and cut into tiles again.

    Args:
        folder: The bundle.
        manifest: Its manifest.

    Raises:
        BundleError: For the first entry of the manifest that differs from what the model gives.
    """
    place = f"'{folder / MANIFEST_FILE}'"
    if (problem := next(_problems_of_files(manifest), None)) is not None:
        raise BundleError(f"{place}: {problem}; hand off the model again")
    try:
        layers = layers_of(load_model(folder / MODEL_FILE, may_lack_data=True), manifest.geometry.geometry, None)
    except (ModelError, ConfigError) as error:
        raise BundleError(f"the model of the bundle '{folder}' cannot be handed off: {error}") from None
    if [layer.id for layer in layers] != [record.id for record in manifest.layers]:
        raise BundleError(
            f"{place} has {len(manifest.layers)} layers, but {MODEL_FILE} has {len(layers)}; hand off the model again"
        )
    arrays = sum(layer.arrays for layer in layers)
    if manifest.total_arrays != arrays:
        raise BundleError(
            f"{place} counts {manifest.total_arrays} arrays, but its layers need {arrays}; hand off the model again"
        )
    with ThreadPoolExecutor(worker_count()) as executor:
        for layer, record in zip(layers, manifest.layers, strict=True):
            nowhere = LayerPlacement(tuple(() for _ in layer.grid.tiles), {}, None, 0.0)
            writer = LayerWriter(layer, nowhere, [])
            for tile in tile_arrays(layer, executor):
                writer.write(tile)
            if (problem := next(_differences(record, writer.record()), None)) is not None:
                what = f"layer {record.id} ({record.quoted}): {problem}"
                raise BundleError(f"{place}: {what}; hand off the model again")


def _problems_of_files(manifest: BundleManifest) -> Iterator[str]:
    found = {file.path: file.sha256 for file in manifest.files}
    if MODEL_FILE not in found:
        yield f"it lists no '{MODEL_FILE}' among its files"
    elif found[MODEL_FILE] != manifest.source.sha256:
        yield f"the SHA-256 of its source is not that of '{MODEL_FILE}'"


def _differences(said: LayerRecord, expected: LayerRecord) -> Iterator[str]:
    for name in LayerRecord.model_fields:
        if name not in _NOT_OF_THE_MODEL and getattr(said, name) != getattr(expected, name):
            yield f"its '{name}' does not follow from {MODEL_FILE}{_wanted(getattr(expected, name))}"
    for ours, theirs in zip(expected.tiles, said.tiles, strict=False):
        for name in TileRecord.model_fields:
            if name not in _NOT_OF_THE_TILE and getattr(ours, name) != getattr(theirs, name):
                yield f"'{name}' of its tile {ours.id} does not follow from {MODEL_FILE}{_wanted(getattr(ours, name))}"


def _wanted(value: object) -> str:
    """The value that the model gives, as the end of a message; empty if it is too long for a line."""
    text = repr(value)
    return f", which gives {text}" if len(text) <= _LONGEST_SHOWN else ""
