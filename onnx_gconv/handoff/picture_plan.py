"""What is drawn of a layer: an overview, and pages if that does not show every cell; and the words of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx_gconv.crossbars.tiles import Tile, TileGrid
from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.picture_canvas import legible, number_text, png
from onnx_gconv.handoff.picture_drawing import Caption, CellPlaces, draw
from onnx_gconv.handoff.picture_labels import range_text
from onnx_gconv.handoff.picture_layout import (
    MOST_DEVICES,
    PanelLayout,
    fit,
    overview_window,
    page_windows,
    panel_pixels,
)
from onnx_gconv.handoff.picture_subjects import Subject
from onnx_gconv.handoff.picture_values import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerPictures", "LayerPlan", "Picture"]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a layer.

    Attributes:
        name: Its name without a suffix: the layer for an overview, and the first tile for a page.
        figure: What Matplotlib draws.
        cells: Where the cells stand in it.
    """

    name: str
    figure: Figure
    cells: tuple[CellPlaces, ...]

    def png(self) -> bytes:
        """The picture as a PNG file. Equal pictures have equal bytes."""
        return png(self.figure)


@dataclass(frozen=True)
class LayerPictures:
    """What was drawn of a layer.

    Attributes:
        layer: Its id.
        weight: The name of its weight.
        files: Names of the pictures.
        tiles: Number of its tiles.
        tiles_in_overview: How many of them the overview shows.
        tiles_cell_by_cell: How many are drawn cell by cell, in the overview or on pages.
        cells_per_pixel: Inputs and outputs that share one pixel of the overview.
        remark: Why tiles are not drawn cell by cell, if pages for them cannot be had.
    """

    layer: str
    weight: str
    files: tuple[str, ...]
    tiles: int
    tiles_in_overview: int
    tiles_cell_by_cell: int
    cells_per_pixel: tuple[int, int]
    remark: str | None = None


class LayerPlan:
    """What is to be drawn of a layer."""

    def __init__(self, layer: BundleLayer, pages: int | None) -> None:
        if pages is not None and pages < 0:
            raise ConfigError(f"pages is 0 or more, or None for all tiles, but not {pages}")
        self.layer = layer
        self.grid = layer.record.tile_grid
        self.devices = tuple(device.name for device in layer.record.devices)
        pixels = panel_pixels(len(self.devices))
        self.overview = fit(self.grid, overview_window(self.grid), pixels)
        self._shows_all = len(self.overview.window) == len(self.grid)
        self._is_whole = self.overview.is_cell_by_cell and self._shows_all
        windows = iter(()) if self._is_whole else page_windows(self.grid, pixels)
        self.pages = [fit(self.grid, window, pixels, cell_by_cell=True) for window in itertools.islice(windows, pages)]
        self._too_large = not self._is_whole and next(page_windows(self.grid, pixels), None) is None

    @property
    def reads(self) -> int:
        """How many tiles are read."""
        return len(self.grid) + sum(len(page.window) for page in self.pages)

    def pictures(self, subject: Subject, done: Callable[[], None] = lambda: None) -> Iterator[Picture]:
        """Draw it.

        Args:
            subject: What is shown of the cells.
            done: Called for every tile that was read.
        """
        samples = Samples(self.overview, self.devices, subject.blocks)
        shown = frozenset(self.overview.window.numbers(self.grid))
        for number in range(len(self.grid)):
            if subject.is_measured or number in shown:
                tile = self._tile(number)
                values = subject.read(tile)
                subject.count(tile, values)
                if number in shown:
                    samples.add(self._place(number), values)
            done()
        yield from self._drawn(self.layer.record.id, subject, samples, 0)
        for page, layout in enumerate(self.pages, start=1):
            samples = Samples(layout, self.devices, subject.blocks)
            numbers = list(layout.window.numbers(self.grid))
            for number in numbers:
                samples.add(self._place(number), subject.read(self._tile(number)))
                done()
            yield from self._drawn(self._tile(numbers[0]).id.replace("/", "_"), subject, samples, page)

    def _tile(self, number: int) -> BundleTile:
        return BundleTile(self.layer, self.layer.record.tiles[number])

    def _place(self, number: int) -> Tile:
        high, wide = self.grid.shape
        return self.grid.tile(number // (high * wide), number // wide % high, number % wide)

    def _drawn(self, name: str, subject: Subject, samples: Samples, page: int) -> Iterator[Picture]:
        """The pictures of some tiles, with as many devices in each as have room."""
        record, bar = self.layer.record, subject.bar(samples)
        title = f"{record.id}   {legible(record.weight)}   ({record.nodes[0].op_type})"
        lines = (*self._lines(samples, page), *subject.remarks(samples))
        for first in range(0, len(self.devices), MOST_DEVICES):
            devices = record.devices[first : first + MOST_DEVICES]
            caption = Caption(
                title,
                lines,
                tuple(f"{legible(device.name)}   (counts {_signed(device.coefficient)})" for device in devices),
                subject.is_measured,
            )
            figure, cells = draw(self.grid, samples, [device.name for device in devices], bar, caption)
            yield Picture(f"{name}_{first // MOST_DEVICES + 1}" if first else name, figure, cells)

    def _lines(self, samples: Samples, page: int) -> Iterator[str]:
        """What is to be seen."""
        layout, grid = samples.layout, self.grid
        yield self._matrices_text()
        if page:
            yield f"Page {page} of {len(self.pages)}: {_window_text(layout, grid)}."
        elif self.pages:
            drawn, pages = sum(len(one.window) for one in self.pages), _counted(len(self.pages), "page")
            yield f"Overview. Cell by cell, on {pages}: {drawn:,} of {len(grid):,} tiles."
        if not page and not self._shows_all:
            yield f"The overview ends at matrix {layout.window.matrices[1] - 1} of {grid.matrices:,}."
        yield _scale_text(samples)

    def _matrices_text(self) -> str:
        grid, array = self.grid, self.layer.bundle.geometry.size_text
        bias = grid.rows - self.layer.record.matrix_view.rows
        several = f"{grid.matrices:,} matrices, each of " if grid.matrices > 1 else ""
        rows = f"{_counted(bias, 'row')} of the bias" if bias else ""
        rows = " and ".join(filter(None, (_counted(grid.rows - bias, "input"), rows)))
        size = f"{several}{rows} (downwards) by {_counted(grid.columns, 'output')} (to the right)"
        if grid.shape == (1, 1):
            return f"{size}: {'a' if grid.matrices > 1 else 'one'} tile, on an array of {array} for each device."
        return f"{size}, cut into {grid.shape[0]} x {grid.shape[1]} tiles for arrays of {array}."

    def report(self, files: Sequence[str]) -> LayerPictures:
        """What was drawn, with the names of the files."""
        rows, columns = self.overview.rows.scale, self.overview.columns.scale
        shown = {number for page in self.pages for number in page.window.numbers(self.grid)}
        if self.overview.is_cell_by_cell:
            shown.update(self.overview.window.numbers(self.grid))
        return LayerPictures(
            layer=self.layer.record.id,
            weight=self.layer.record.weight,
            files=tuple(files),
            tiles=len(self.grid),
            tiles_in_overview=len(self.overview.window),
            tiles_cell_by_cell=len(shown),
            cells_per_pixel=(rows.cells, columns.cells),
            remark="its tiles are too large to be drawn cell by cell" if self._too_large else None,
        )


def _window_text(layout: PanelLayout, grid: TileGrid) -> str:
    window, starts = layout.window, (layout.rows.starts, layout.columns.starts)
    inputs, outputs = (
        f"{what}s {range_text(ends[0], ends[-1])}" for what, ends in zip(("input", "output"), starts, strict=True)
    )
    matrices = f"matrices {range_text(*window.matrices)}, " if grid.matrices > 1 else ""
    return f"{matrices}{inputs}, {outputs}"


def _scale_text(samples: Samples) -> str:
    layout = samples.layout
    rows, columns = layout.rows.scale, layout.columns.scale
    apart = "" if layout.is_divided else " Tiles are too small to be kept apart."
    pixels = (
        "Each pixel is" if rows.pixels == columns.pixels == 1 else f"Each {rows.pixels} x {columns.pixels} pixels are"
    )
    if layout.is_cell_by_cell:
        return f"{pixels} one cell.{apart}"
    value = "the mean of" if samples.blocks == "mean" else "the error furthest from 0 of"
    return f"{pixels} {value} {rows.cells} x {columns.cells} cells.{apart}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _signed(coefficient: float) -> str:
    return f"{'+' if coefficient >= 0 else ''}{number_text(coefficient)}"
