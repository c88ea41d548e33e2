"""Where the cells of a layer stand in a picture: which tiles it shows, how large, and at which pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx_gconv.crossbars.tiles import TileGrid

__all__ = ["AxisLayout", "PanelLayout", "Scale", "Window", "fit", "overview_window", "page_windows", "panel_pixels"]

STRIP = 14  # for a line of small text above tiles or matrices

_LARGEST_CELL = 24  # pixels
_COMFORTABLE = 800  # pixels to which small layers are enlarged, as a square; a long side may have
_LONG = 1.2  # times as many as a layer that is not enlarged
_LEGIBLE = 24  # pixels of a tile that can carry its id, and to which thin tiles are widened
_FRAMED = 12  # pixels of a tile that has a frame and a margin of its own; smaller ones share a line
_SMALLEST_TILE = 4  # pixels; smaller tiles are not kept apart
_MOST_MATRICES = 4096  # of an overview
_WIDEST_GAP = 8  # pixels between matrices
_MOST_TILE_PIXELS = 2048  # of a side of a tile that is drawn cell by cell

# Pixels of a side of the part of a picture that belongs to one device, by the number of devices in the picture.
_PANELS = ((4, 1100), (9, 760), (16, 560))
MOST_DEVICES = _PANELS[-1][0]


@dataclass(frozen=True)
class Scale:
    """How large cells are in one direction: neighbouring cells share a pixel, or one cell takes several.

    Attributes:
        cells: How many cells share one pixel.
        pixels: How many pixels one cell takes; 1 if several share one.
    """

    cells: int
    pixels: int

    def blocks(self, cells: int) -> int:
        """How many values stand for so many cells."""
        return -(-cells // self.cells)

    def extent(self, cells: int) -> int:
        """How many pixels so many cells take."""
        return self.blocks(cells) * self.pixels

    @property
    def larger(self) -> Scale:
        """The next larger scale."""
        return Scale(self.cells - 1, 1) if self.cells > 1 else Scale(1, self.pixels + 1)


@dataclass(frozen=True)
class Window:
    """The tiles that a picture shows. Each range is the first and the one after the last.

    Attributes:
        matrices: Of the layer.
        rows: Rows of tiles in each matrix.
        columns: Columns of tiles in each matrix.
    """

    matrices: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __len__(self) -> int:
        return math.prod(stop - first for first, stop in (self.matrices, self.rows, self.columns))

    def numbers(self, grid: TileGrid) -> Iterator[int]:
        """The numbers of its tiles, in their order."""
        high, wide = grid.shape
        for matrix in range(*self.matrices):
            for row in range(*self.rows):
                first = (matrix * high + row) * wide
                yield from range(first + self.columns[0], first + self.columns[1])


@dataclass(frozen=True)
class AxisLayout:
    """Where the tiles of a matrix stand in one direction.

    A field is what is drawn without a gap: a tile or, where tiles are too small, the whole matrix.

    Attributes:
        starts: The inputs, or outputs, at which the tiles begin, and the one after the last.
        largest: Cells of the largest tile of the layer. Every tile has room for as many.
        scale: How large cells are.
        strip: Pixels above each tile for its id; 0 for none.
    """

    starts: tuple[int, ...]
    largest: int
    scale: Scale
    strip: int = 0

    @property
    def is_divided(self) -> bool:
        """Whether tiles are kept apart."""
        return len(self.starts) <= 2 or self.scale.extent(self.largest) >= _SMALLEST_TILE  # noqa: PLR2004 - one tile

    @property
    def fields(self) -> int:
        """How many fields stand one after the other."""
        return len(self.starts) - 1 if self.is_divided else 1

    @property
    def slot(self) -> int:
        """The pixels that every field has room in."""
        return self.scale.extent(self.largest if self.is_divided else self.starts[-1] - self.starts[0])

    @property
    def pitch(self) -> int:
        """The pixels from one field to the next."""
        return self.strip + 1 + self.slot + (2 if self.slot >= _FRAMED else 0)

    @property
    def extent(self) -> int:
        """The pixels of all fields."""
        return self.fields * self.pitch + 1

    def field(self, tile: int) -> int:
        """The field that a tile of the window belongs to."""
        return tile if self.is_divided else 0

    def first_pixel(self, tile: int) -> int:
        """Where the field of a tile begins."""
        return self.field(tile) * self.pitch + self.strip + 1

    def field_range(self, field: int) -> tuple[int, int]:
        """The first input, or output, of a field, and the one after the last."""
        return (self.starts[field], self.starts[field + 1]) if self.is_divided else (self.starts[0], self.starts[-1])

    def offset(self, tile: int) -> int:
        """The cells of its field that come before a tile."""
        return 0 if self.is_divided else self.starts[tile] - self.starts[0]


@dataclass(frozen=True)
class PanelLayout:
    """Where the tiles of a window stand in the part of a picture that belongs to one device.

    Matrices stand side by side, in as many bands as needed.

    Attributes:
        window: The tiles.
        rows: Inputs, downwards.
        columns: Outputs, from left to right.
        across: How many matrices stand side by side.
        gap: Pixels between matrices.
        heading: Pixels above each matrix for its number; 0 for none.
    """

    window: Window
    rows: AxisLayout
    columns: AxisLayout
    across: int
    gap: int
    heading: int

    @property
    def matrices(self) -> range:
        """The matrices that it shows."""
        return range(*self.window.matrices)

    @property
    def shape(self) -> tuple[int, int]:
        """Its height and width in pixels."""
        height, width = self._pitch
        bands = -(-len(self.matrices) // self.across)
        return bands * height - self.gap, min(self.across, len(self.matrices)) * width - self.gap

    @property
    def is_cell_by_cell(self) -> bool:
        """Whether every cell has pixels of its own."""
        return self.rows.scale.cells == self.columns.scale.cells == 1

    @property
    def is_divided(self) -> bool:
        """Whether all tiles are kept apart."""
        return self.rows.is_divided and self.columns.is_divided

    def origin(self, matrix: int) -> tuple[int, int]:
        """Row and column of the pixel at which a matrix begins, below its heading."""
        band, place = divmod(matrix - self.window.matrices[0], self.across)
        height, width = self._pitch
        return band * height + self.heading, place * width

    @property
    def _pitch(self) -> tuple[int, int]:
        return self.heading + self.rows.extent + self.gap, self.columns.extent + self.gap


def panel_pixels(devices: int) -> int:
    """How many pixels a side of the part of a picture for one device has at most, if it shows so many devices."""
    return next((pixels for most, pixels in _PANELS if devices <= most), _PANELS[-1][1])


def overview_window(grid: TileGrid) -> Window:
    """All tiles; of very many matrices the first."""
    return Window((0, min(grid.matrices, _MOST_MATRICES)), (0, grid.shape[0]), (0, grid.shape[1]))


def page_windows(grid: TileGrid, pixels: int) -> Iterator[Window]:
    """The parts of a layer that fit into so many pixels cell by cell, in the order of their first tiles.

    There are none if tiles are too large for a picture.
    """
    (high, wide), (rows, columns) = grid.shape, _largest_tile(grid)
    if max(rows, columns) > _MOST_TILE_PIXELS:
        return
    fitting = (_fitting(rows + STRIP, pixels), _fitting(columns, pixels))
    if fitting[0] < high or fitting[1] < wide:  # a part of one matrix
        for matrix in range(grid.matrices):
            for row in range(0, high, fitting[0]):
                for column in range(0, wide, fitting[1]):
                    ends = min(row + fitting[0], high), min(column + fitting[1], wide)
                    yield Window((matrix, matrix + 1), (row, ends[0]), (column, ends[1]))
        return
    bands = _fitting(high * (rows + STRIP + 3) + STRIP + _WIDEST_GAP, pixels)
    across = _fitting(wide * (columns + 3) + _WIDEST_GAP, pixels)
    for first in range(0, grid.matrices, bands * across):
        yield Window((first, min(first + bands * across, grid.matrices)), (0, high), (0, wide))


def fit(grid: TileGrid, window: Window, pixels: int, *, cell_by_cell: bool = False) -> PanelLayout:
    """The layout of a window that is as large as comfortable, and has at most so many pixels in both directions.

    Cells are square, unless tiles would be too thin to see; they are widened then.

    Args:
        grid: The tiles of the layer.
        window: The tiles to show.
        pixels: Of a side.
        cell_by_cell: Give every cell a pixel, also if they are too many then.
    """
    scale = Scale(1, _LARGEST_CELL)
    while not _fits(found := _layout(grid, window, scale, scale), pixels):
        if (scale.pixels == 1 and cell_by_cell) or scale.cells >= max(grid.rows, grid.columns):
            return found
        scale = Scale(1, scale.pixels - 1) if scale.pixels > 1 else Scale(scale.cells + 1, 1)
    return _widened(grid, found, pixels)


def _widened(grid: TileGrid, layout: PanelLayout, pixels: int) -> PanelLayout:
    """A layout in which tiles are no more than about twice as thin as they have to be to be seen."""
    while True:
        rows, columns = layout.rows, layout.columns
        thin, thick = sorted((rows, columns), key=lambda axis: axis.slot)
        if thin.slot >= min(_LEGIBLE, thick.slot // 2) or thin.scale.pixels >= _LARGEST_CELL:
            return layout
        scales = [axis.scale.larger if axis is thin else axis.scale for axis in (rows, columns)]
        wider = _layout(grid, layout.window, *scales)
        if not _fits(wider, pixels):
            return layout
        layout = wider


def _fits(layout: PanelLayout, pixels: int) -> bool:
    if max(layout.rows.scale.pixels, layout.columns.scale.pixels) == 1:
        return max(layout.shape) <= pixels
    comfortable = min(_COMFORTABLE, pixels)
    return math.prod(layout.shape) <= comfortable**2 and max(layout.shape) <= _LONG * pixels


def _layout(grid: TileGrid, window: Window, row_scale: Scale, column_scale: Scale) -> PanelLayout:
    largest = _largest_tile(grid)
    rows = AxisLayout(_starts(grid.row_starts, grid.rows, window.rows), largest[0], row_scale)
    columns = AxisLayout(_starts(grid.column_starts, grid.columns, window.columns), largest[1], column_scale)
    if rows.is_divided and columns.is_divided and rows.slot >= _LEGIBLE:
        rows = replace(rows, strip=STRIP)
    matrices = window.matrices[1] - window.matrices[0]
    is_cut = len(grid) > grid.matrices
    heading = STRIP if matrices > 1 and is_cut and columns.extent >= _LEGIBLE else 0
    gap = 0 if not is_cut else min(_WIDEST_GAP, max(2, rows.extent // 4))
    across = min(matrices, max(1, round(math.sqrt(matrices * (rows.extent + heading + gap) / (columns.extent + gap)))))
    candidates = (
        PanelLayout(window, rows, columns, count, gap, heading)
        for count in range(max(across - 1, 1), min(across + 1, matrices) + 1)
    )
    return min(candidates, key=lambda layout: max(layout.shape))


def _starts(starts: tuple[int, ...], size: int, window: tuple[int, int]) -> tuple[int, ...]:
    return (*starts, size)[window[0] : window[1] + 1]


def _largest_tile(grid: TileGrid) -> tuple[int, int]:
    """The rows and columns that every tile of a layer fits in."""
    return _largest_step(grid.row_starts, grid.rows), _largest_step(grid.column_starts, grid.columns)


def _largest_step(starts: tuple[int, ...], size: int) -> int:
    return max(stop - start for start, stop in zip(starts, (*starts[1:], size), strict=True))


def _fitting(size: int, pixels: int) -> int:
    """How many tiles of a size fit, with their frames; at least one."""
    return max((pixels - 1) // (size + 3), 1)
