"""Drawing the values of a layer: cells as pixels of their colours, with a title, a scale bar and a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.crossbars.tiles import TileGrid
from onnx_gconv.handoff.picture_canvas import (
    INK,
    TEXT,
    TITLE,
    Canvas,
    Rgb,
    Text,
    checkered,
    hatched,
    number_text,
    text_width,
)
from onnx_gconv.handoff.picture_labels import Labels
from onnx_gconv.handoff.picture_layout import PanelLayout
from onnx_gconv.handoff.picture_values import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Caption", "CellPlaces", "ColorBar", "draw"]

_MARGIN = 16
_BETWEEN = 28  # pixels between devices
_NARROWEST = 860
_WIDER = 1.6  # pictures are about as much wider than high as screens are
_BAR = (420, 16)
_BAR_INDENT = 24
_SWATCH = 16
_TITLE_LINE, _LINE, _DEVICE_LINE, _BAR_LINES = 24, 18, 24, 76
_QUARTERS = 4


@dataclass(frozen=True)
class ColorBar:
    """What colours mean.

    Attributes:
        colors: Name of the colour map.
        low: The value of the first colour, in µS.
        high: The value of the last colour, in µS.
        title: What the values are, with their unit.
        is_clipped: Whether there are values beyond both ends.
    """

    colors: Literal["viridis", "RdBu_r"]
    low: float
    high: float
    title: str
    is_clipped: bool = False

    def of(self, values: FloatArray) -> Rgb:
        """The colours of values, [..., 3]; those beyond the ends have the colours of the ends."""
        from matplotlib import colormaps

        parts = (np.nan_to_num(values.astype(np.float64)) - self.low) / (self.high - self.low)
        found: Rgb = colormaps[self.colors](np.clip(parts, 0.0, 1.0), bytes=True)[..., :3]
        return found


@dataclass(frozen=True)
class Caption:
    """The words of a picture.

    Attributes:
        title: The layer.
        lines: What is to be seen, and what is left out.
        devices: A line for each device.
        with_missing: Whether the legend explains cells without a value.
    """

    title: str
    lines: tuple[str, ...]
    devices: tuple[str, ...]
    with_missing: bool


@dataclass(frozen=True)
class CellPlaces:
    """Where cells of a device stand in a picture: those of a tile or, if tiles are not kept apart, of several.

    Attributes:
        device: The device.
        matrix: The matrix of the layer.
        inputs: The inputs that are shown, the first and the one after the last.
        outputs: The outputs that are shown.
        top: The pixel row of the first input, counted from the top.
        left: The pixel column of the first output.
        cell: Height and width of a cell in pixels; below 1 if several share one.
    """

    device: str
    matrix: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    top: int
    left: int
    cell: tuple[float, float]


def draw(
    grid: TileGrid, samples: Samples, devices: Sequence[str], bar: ColorBar, caption: Caption
) -> tuple[Figure, tuple[CellPlaces, ...]]:
    """Draw the values of some devices side by side.

    Args:
        grid: The tiles of the layer.
        samples: The values.
        devices: The devices to show.
        bar: What colours mean.
        caption: The words.

    Returns:
        The figure, and where cells stand in it.
    """
    layout = samples.layout
    labels = Labels(layout, grid)
    above = _DEVICE_LINE + labels.top
    widest = max(text_width(line, TEXT, is_bold=True) for line in caption.devices)
    inner = max(layout.shape[1], widest)
    panel = above + layout.shape[0], labels.left + inner
    across = _across(len(devices), panel)
    bands = -(-len(devices) // across)
    width = max(across * panel[1] + (across - 1) * _BETWEEN + 2 * _MARGIN, _NARROWEST)
    head = _Head(caption, bar, width, has_unused=_has_unused(layout))
    canvas = Canvas(head.height + bands * (panel[0] + _BETWEEN), width)
    head.draw(canvas)
    places: list[CellPlaces] = []
    for number, (device, line) in enumerate(zip(devices, caption.devices, strict=True)):
        top = head.height + number // across * (panel[0] + _BETWEEN)
        left = _MARGIN + number % across * (panel[1] + _BETWEEN) + labels.left
        canvas.texts.append(Text(left, top, line, TEXT, "bold"))
        labels.draw(canvas, top + above, left, inner + _MARGIN)
        places += _draw_cells(canvas, samples, device, bar, (top + above, left))
    return canvas.figure(), tuple(places)


def _across(devices: int, panel: tuple[int, int]) -> int:
    """How many devices stand side by side; a pair is not torn apart."""
    options = [count for count in range(1, devices + 1) if count % 2 == 0 or count in {1, devices}]
    return min(options, key=lambda count: max(count * panel[1], _WIDER * -(-devices // count) * panel[0]))


def _draw_cells(
    canvas: Canvas, samples: Samples, device: str, bar: ColorBar, corner: tuple[int, int]
) -> Iterator[CellPlaces]:
    layout, rows, columns = samples.layout, samples.layout.rows, samples.layout.columns
    for matrix in layout.matrices:
        origin = layout.origin(matrix)
        for row in range(rows.fields):
            for column in range(columns.fields):
                y = corner[0] + origin[0] + rows.first_pixel(row)
                x = corner[1] + origin[1] + columns.first_pixel(column)
                canvas.frame(y, x, rows.slot, columns.slot)
                canvas.paste(y, x, hatched(rows.slot, columns.slot))
                canvas.paste(y, x, _colors(samples, (device, matrix, row, column), bar))
                yield CellPlaces(
                    device,
                    matrix,
                    rows.field_range(row),
                    columns.field_range(column),
                    y,
                    x,
                    (rows.scale.pixels / rows.scale.cells, columns.scale.pixels / columns.scale.cells),
                )


def _colors(samples: Samples, field: tuple[str, int, int, int], bar: ColorBar) -> Rgb:
    """The pixels of a field."""
    values, high, wide = samples.field(*field), samples.layout.rows.scale.pixels, samples.layout.columns.scale.pixels
    colors = np.repeat(np.repeat(bar.of(values), high, 0), wide, 1)
    is_missing = np.isnan(values)
    if is_missing.any():
        is_missing = np.repeat(np.repeat(is_missing, high, 0), wide, 1)
        colors[is_missing] = checkered(*is_missing.shape)[is_missing]
    return colors


def _has_unused(layout: PanelLayout) -> bool:
    """Whether a tile leaves room free that the largest tile needs."""
    return any(
        axis.is_divided and stop - first < axis.largest
        for axis in (layout.rows, layout.columns)
        for first, stop in map(axis.field_range, range(axis.fields))
    )


class _Head:
    """The title, the words beneath it, the scale bar and the legend."""

    def __init__(self, caption: Caption, bar: ColorBar, width: int, *, has_unused: bool) -> None:
        room = width - 2 * _MARGIN
        self._title = textwrap.wrap(caption.title, room // text_width("n", TITLE, is_bold=True))
        self._lines = [part for line in caption.lines for part in textwrap.wrap(line, room // text_width("n", TEXT))]
        self._bar = bar
        self._legend: list[tuple[Rgb, str]] = []
        if has_unused:
            self._legend.append((hatched(_SWATCH, _SWATCH), "no weight: cell of the array at g_min"))
        if caption.with_missing:
            self._legend.append((checkered(_SWATCH, _SWATCH), "not measured"))
        self.height = _MARGIN + len(self._title) * _TITLE_LINE + len(self._lines) * _LINE + _BAR_LINES

    def draw(self, canvas: Canvas) -> None:
        """Draw all of it."""
        y = _MARGIN
        for line in self._title:
            canvas.texts.append(Text(_MARGIN, y, line, TITLE, "bold"))
            y += _TITLE_LINE
        for line in self._lines:
            canvas.texts.append(Text(_MARGIN, y, line, TEXT))
            y += _LINE
        self._draw_bar(canvas, y + 8)

    def _draw_bar(self, canvas: Canvas, y: int) -> None:
        bar, (width, height), left = self._bar, _BAR, _MARGIN + _BAR_INDENT
        canvas.texts.append(Text(left, y, bar.title, TEXT))
        y += _LINE + 1
        canvas.paste(y, left, np.repeat(bar.of(np.linspace(bar.low, bar.high, width))[None], height, 0))
        canvas.frame(y, left, height, width)
        beyond = {0: "\u2264 ", _QUARTERS: "\u2265 "} if bar.is_clipped else {}
        for tick in range(_QUARTERS + 1):
            x = left + tick * (width - 1) // _QUARTERS
            canvas.pixels[y + height : y + height + 4, x] = INK
            value = bar.low + tick * (bar.high - bar.low) / _QUARTERS
            canvas.texts.append(Text(x, y + height + 5, beyond.get(tick, "") + number_text(value), side="center"))
        x = left + width + 40
        for row, (swatch, text) in enumerate(self._legend):
            top = y - 4 + row * (_SWATCH + 6)
            canvas.paste(top, x, swatch)
            canvas.frame(top, x, *swatch.shape[:2])
            canvas.texts.append(Text(x + _SWATCH + 8, top + 1, text, TEXT))
