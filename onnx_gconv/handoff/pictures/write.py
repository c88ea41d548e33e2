"""Draws the pictures of a bundle: one of each layer and, if asked for, one of each tile."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.drawing import require_matplotlib
from onnx_gconv.files.progress import Progress
from onnx_gconv.files.staged_folder import staged_folder
from onnx_gconv.handoff.bundle import Bundle
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.drawn_pictures import LayerPictures, PicturesReport
from onnx_gconv.handoff.pictures.image import Errors, LayerImage, Starts, Subject
from onnx_gconv.visible_text import visible

__all__ = ["check_pictures", "draw_pictures", "layer_figures", "write_error_pictures", "write_pictures"]

_PIXELS = ((2, 800), (4, 640), (9, 480), (1 << 30, 360))  # most devices, and then the pixels of a panel
_MOST_TILE = 2048  # most cells of a tile, per side, that a page (the picture of one tile) draws cell by cell


def check_pictures(folder: Path) -> None:
    """Check, before any work is done, that pictures can be drawn into a new folder.

    Raises:
        ConfigError: If Matplotlib is missing, or the folder exists or cannot be made.
    """
    require_matplotlib()
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"'{folder}' exists; choose another name for the pictures")
    if not folder.parent.is_dir():
        raise ConfigError(f"cannot write '{folder}': the folder '{folder.parent}' does not exist; create it first")


def write_pictures(
    bundle: Bundle, folder: str | os.PathLike[str], *,
    layers: Sequence[str] | None = None, pages: int | None = 0, progress: Progress | None = None,
) -> PicturesReport:  # fmt: skip
    """Draw the targets of a bundle into a new folder, which appears whole or not at all.

    Args:
        bundle: The open bundle.
        folder: The folder to write, which must not exist.
        layers: Ids of layers, or names or parameters of weights; all if None.
        pages: Number of tiles of each layer that also get a picture of their own; None for all.
        progress: Called with the step ("pictures"), the number of tiles done and their total.

    Raises:
        ConfigError: If Matplotlib is not installed, or the folder exists or cannot be written.
        BundleError: If a tile cannot be read, or there is no such layer.
    """
    return write_error_pictures(bundle, folder, None, layers=layers, pages=pages, progress=progress)


def write_error_pictures(
    bundle: Bundle, folder: str | os.PathLike[str], errors: Errors | None, *,
    layers: Sequence[str] | None = None, pages: int | None = 0, progress: Progress | None = None,
) -> PicturesReport:  # fmt: skip
    """Draw measured minus target conductances into a new folder, which appears whole or not at all.

    Args:
        bundle: The open bundle.
        folder: The folder to write, which must not exist.
        errors: A function that returns measured minus target conductances of a tile in µS, by the name of the device,
            [inputs, outputs], NaN where nothing was measured. Devices that are missing were not measured. It is called
            twice for tiles with a picture of their own. None draws the targets.
        layers: Ids of layers, or names or parameters of weights; all if None.
        pages: Number of tiles of each layer that also get a picture of their own; None for all.
        progress: Called with the step ("pictures"), the number of tiles done and their total.

    Raises:
        ConfigError: If Matplotlib is not installed, or the folder exists or cannot be written.
        BundleError: If there is no such layer, or errors are infinite, of another shape, or of an unknown device.
    """
    check_pictures(folder := Path(folder))
    if pages is not None and pages < 0:
        raise ConfigError(f"pages is 0 or more, or None for all tiles, but not {pages}")
    chosen = bundle.layers if layers is None else [bundle.layer(name) for name in dict.fromkeys(layers)]
    try:
        with staged_folder(folder) as staged:
            found = tuple(_draw(chosen, staged.folder, errors, pages, progress))
            staged.commit()
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ConfigError(f"cannot write '{folder}': {reason}; free some space or choose another disk") from error
    return PicturesReport(folder, found, shows_errors=errors is not None)


def draw_pictures(
    bundle: Bundle, folder: Path, progress: Progress | None = None, *, pages: int | None = 0
) -> PicturesReport:
    """Draw the targets of a bundle into an existing folder, for a bundle that is still being written."""
    return PicturesReport(folder, tuple(_draw(bundle.layers, folder, None, pages, progress)))


def layer_figures(
    layer: BundleLayer, errors: Errors | None = None, pages: int | None = 0, done: Callable[[], object] = lambda: None,
    drawn: dict[Any, Any] | None = None,
) -> Iterator[tuple[str, LayerImage, Any]]:  # fmt: skip
    """The figures of a layer: the whole layer first, then its pages.

    Args:
        layer: The layer.
        errors: Errors to draw instead of targets, see `write_error_pictures`.
        pages: Number of tiles that also get a figure of their own; None for all.
        done: Called for every tile that was read.
        drawn: Figures to reuse. A reused figure changes, so render each figure before asking for the next one.

    Yields:
        Name, image and figure.
    """
    from onnx_gconv.handoff.pictures.figure import draw

    record, grid, subject, colors = layer.record, layer.record.tile_grid, Subject(layer.record, errors), None
    starts: Starts = (*grid.row_starts, grid.rows), (*grid.column_starts, grid.columns)
    matrices, name, count = range(grid.matrices), record.id, len(record.devices)
    pixels = next(pixels for most, pixels in _PIXELS if count <= most)
    for tiles in (layer.tiles, *((tile,) for tile in layer.tiles[:pages])):
        records = [tile.record for tile in tiles]
        if colors is not None:  # a page
            first, name = records[0], tiles[0].id
            matrices, starts = range(first.matrix, first.matrix + 1), (first.inputs, first.outputs)
            pixels = max(pixels, min(max(tiles[0].shape), _MOST_TILE) + 2)
        image = LayerImage(matrices, starts, count, pixels, is_measured=errors is not None)
        for tile in tiles:
            image.add(tile.record, subject.read(tile))
            done()
        if colors is None or errors is None:  # errors have the same colours in all pictures of a layer
            colors = subject.colors(image)
        words = [*_caption(name, layer, image, len(tiles)), *colors[2]]
        figure = draw(image, colors[:2], record, records, words, drawn={} if drawn is None else drawn)
        yield name.replace("/", "_"), image, figure


def _caption(name: str, layer: BundleLayer, image: LayerImage, tiles: int) -> Iterator[str]:
    """The title, and the lines of the caption that explain the picture."""
    record = layer.record
    in_model = "" if record.known_as == record.weight else f"   = {record.weight}"
    yield visible(f"{name}   {record.known_as}{in_model}   ({record.nodes[0].op_type})")
    grid, view, rows, columns = layer.record.tile_grid, layer.record.matrix_view, image.rows, image.columns
    size = f"{grid.matrices:,} matrices of " * (grid.matrices > 1) + f"{view.rows:,} x {view.columns:,}"
    bias = f", then {grid.rows - view.rows} rows of the bias" * (grid.rows > view.rows)
    cut = f"{grid.shape[0]} x {grid.shape[1]} tiles for arrays of {layer.bundle.geometry.size_text}"
    yield f"{size}: inputs downwards{bias}, outputs to the right; {cut}."
    what = "error furthest from 0" if image.is_measured else "mean"
    cells = (
        "one cell"
        if image.is_cell_by_cell
        else f"the {what} of {rows.block} x {columns.block} cells (fewer where tiles end)"
    )
    yield f"Each dot of {rows.zoom} x {columns.zoom} pixels is {cells}."
    if tiles > 1:
        yield "Id of a tile: the id at the left plus the number below; after each colon, its first input or output."
    if np.isnan(image.values).any():
        yield "Hatched: no weight, cells of arrays at g_min."


def _draw(
    layers: Sequence[BundleLayer], folder: Path, errors: Errors | None, pages: int | None, progress: Progress | None
) -> Iterator[LayerPictures]:
    from onnx_gconv.handoff.pictures.figure import rendered

    total, numbers = sum(len(layer.tiles) + len(layer.tiles[:pages]) for layer in layers), itertools.count(1)
    step = (lambda: progress("pictures", next(numbers), total)) if progress else lambda: None
    drawn: dict[Any, Any] = {}
    jobs: list[Future[None]] = []
    # A thread compresses a picture, at a low level to be quick, while the next one is drawn.
    with ThreadPoolExecutor(1) as packer:
        for layer in layers:
            blocks = {}
            for name, image, figure in layer_figures(layer, errors, pages, step, drawn):
                blocks[f"{name}.png"] = image.rows.block, image.columns.block
                jobs.append(packer.submit(rendered(figure).save, folder / f"{name}.png", "png", compress_level=1))
                jobs[-2:][0].result()  # at most one picture waits for compression, to limit memory
            block, tiles, fits = next(iter(blocks.values())), len(layer.tiles), max(layer.tiles[0].shape) <= _MOST_TILE
            cells = tiles if block == (1, 1) else len(layer.tiles[:pages]) * fits
            remark = None if cells or fits else "its tiles are too large to be drawn cell by cell"
            yield LayerPictures(layer.record.id, layer.record.weight, tuple(blocks), tiles, tiles, cells, block, remark)
        for job in jobs:
            job.result()
