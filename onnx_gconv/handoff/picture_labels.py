"""The labels of the cells in a picture: inputs, outputs, matrices and ids of tiles, as many as there is room for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx_gconv.crossbars.tiles import TileGrid
from onnx_gconv.handoff.picture_canvas import FAINT, Canvas, Text, text_width
from onnx_gconv.handoff.picture_layout import STRIP, AxisLayout, PanelLayout

__all__ = ["Labels", "range_text"]

_GAP = 6
_APART = 8  # pixels between texts


@dataclass(frozen=True)
class _Label:
    """A text beside some pixels of an axis: from `start` on, in the middle of `extent`."""

    start: int
    extent: int
    text: str


class Labels:
    """The labels around the cells of one device.

    Attributes:
        left: Pixels that they need at the left of the cells.
        top: Pixels that they need above the cells.
    """

    def __init__(self, layout: PanelLayout, grid: TileGrid) -> None:
        self._layout = layout
        self._grid = grid
        # Without a line above each tile, its id stands in front of its row.
        self._ids_at_left = layout.is_divided and not layout.rows.strip
        self._inputs = _labels(layout.rows, STRIP)
        self._heading = "tile, inputs" if self._ids_at_left else "inputs"
        longest = max((label.text for label in self._inputs), key=len)
        if self._ids_at_left:
            longest = f"{self._id(len(grid) - 1)}   {longest}"
        self.left = max(text_width(longest), text_width(self._heading)) + _GAP
        self.top = STRIP + 2

    def draw(self, canvas: Canvas, top: int, left: int, width: int) -> None:
        """Write them.

        Args:
            canvas: The picture.
            top: The pixel row at which cells begin.
            left: The pixel column at which cells begin.
            width: The pixels from there that texts may take.
        """
        self._draw_inputs(canvas, top, left - _GAP)
        texts = [*self._outputs(), *self._matrices()]
        if self._layout.rows.strip:
            texts += self._ids()
        for text in texts:
            if text.x + text_width(text.text) <= width or text.x <= 1:
                canvas.texts.append(Text(left + text.x, top + text.y, text.text, color=text.color))

    def _draw_inputs(self, canvas: Canvas, top: int, right: int) -> None:
        layout, window = self._layout, self._layout.window
        canvas.texts.append(Text(right, top - STRIP, self._heading, side="right", color=FAINT))
        lowest = -math.inf
        for matrix in layout.matrices[:: layout.across]:
            band = layout.origin(matrix)[0]
            for label in self._inputs:
                middle = band + label.start + label.extent / 2
                if middle - lowest < STRIP - 2:
                    continue
                lowest = middle
                text = label.text
                if self._ids_at_left:
                    row = (label.start - layout.rows.strip - 1) // layout.rows.pitch
                    tile = self._grid.tile(matrix, window.rows[0] + row, window.columns[0])
                    text = f"{self._id(tile.number)}   {text}"
                canvas.texts.append(Text(right, top + middle, text, side="right", is_middle=True))

    def _outputs(self) -> Iterator[Text]:
        layout = self._layout
        labels = _labels(layout.columns, _output_room(layout.columns))
        if len(layout.matrices) > 1 and layout.columns.fields == 1:
            yield Text(0, -STRIP, f"{_with_word(labels[0].text)} of each matrix", color=FAINT)
            return
        for matrix in layout.matrices[: layout.across]:
            origin = layout.origin(matrix)[1]
            for number, label in enumerate(labels):
                text = _with_word(label.text) if number == 0 else label.text
                yield Text(origin + label.start, -STRIP, text, color=FAINT)

    def _matrices(self) -> Iterator[Text]:
        layout = self._layout
        if not layout.heading:
            return
        every = _every(layout.columns.extent + layout.gap, text_width(f"matrix {layout.matrices[-1]}") + _APART)
        for number, matrix in enumerate(layout.matrices):
            if number % layout.across % every == 0:
                y, x = layout.origin(matrix)
                yield Text(x + 1, y - STRIP, f"matrix {matrix}", color=FAINT)

    def _ids(self) -> Iterator[Text]:
        layout, window = self._layout, self._layout.window
        rows, columns = layout.rows, layout.columns
        room = text_width(self._id(len(self._grid) - 1)) + _APART // 2
        every_matrix = _every(columns.extent + layout.gap, room)
        every = _every(columns.pitch, room) if columns.fields > 1 else 1
        for number, matrix in enumerate(layout.matrices):
            if number % layout.across % every_matrix:
                continue
            y, x = layout.origin(matrix)
            for row in range(rows.fields):
                for column in range(0, columns.fields, every):
                    tile = self._grid.tile(matrix, window.rows[0] + row, window.columns[0] + column)
                    yield Text(x + column * columns.pitch + 1, y + row * rows.pitch + 1, self._id(tile.number))

    @staticmethod
    def _id(number: int) -> str:
        return f"T{number:04d}"


def range_text(first: int, stop: int) -> str:
    """The first and the last, or the only one."""
    return str(first) if stop - first == 1 else f"{first}\u2013{stop - 1}"


def _labels(axis: AxisLayout, room: int) -> list[_Label]:
    """The ranges of tiles or, where tiles are not kept apart, single inputs or outputs in regular steps."""
    if axis.is_divided:
        return [
            _Label(axis.first_pixel(field), axis.slot, range_text(axis.starts[field], axis.starts[field + 1]))
            for field in range(0, axis.fields, _every(axis.pitch, room))
        ]
    step = _round_number(math.ceil(room * 2 * axis.scale.cells / axis.scale.pixels))
    first, stop = axis.starts[0], axis.starts[-1]
    return [
        _Label(1 + axis.scale.extent(number + 1) - axis.scale.pixels, axis.scale.pixels, str(first + number))
        for number in range(0, stop - first, step)
    ]


def _output_room(axis: AxisLayout) -> int:
    """The room that the longest label of outputs needs."""
    return text_width(_with_word(range_text(axis.starts[-2], axis.starts[-1]))) + _APART


def _with_word(text: str) -> str:
    return f"output{'' if text.isdecimal() else 's'} {text}"


def _every(pitch: int, room: int) -> int:
    """Every how many-th label has room."""
    return _round_number(max(math.ceil(room / pitch), 1))


def _round_number(least: int) -> int:
    """The next number that people count in."""
    power: int = 10 ** max(math.ceil(math.log10(least)) - 1, 0)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)
