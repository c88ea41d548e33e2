"""The Matplotlib figure of a layer or a tile: a panel for each device, a colour bar and a caption."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
from matplotlib import cm, colormaps, colors, layout_engine, style, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from onnx_gconv.files.drawing import legible
from onnx_gconv.handoff.manifest import LayerRecord, TileRecord
from onnx_gconv.handoff.pictures.image import LayerImage

__all__ = ["Drawn", "draw", "rendered"]

_DPI = 64  # a power of two, so that sizes in pixels become inches and come back exactly
_SIDES, _ENDS, _BETWEEN, _LINE, _LETTER, _NARROWEST = 210, 60, 50, 14, 7.2, 800  # pixels
# Matplotlib's default settings instead of the user's, so that equal bundles have equal pictures. Hinting is off because
# it is slow.
_STYLE: Any = ["default", {"font.size": 12, "axes.titlesize": 13, "figure.titlesize": 15, "text.hinting": "none"}]
# The colours also work in grey: larger targets are lighter. Errors around 0 are white and large ones are dark, negative
# ones darker than positive ones; cells without a measurement are black.
_TARGETS, _ERRORS = colormaps["viridis"], colors.LinearSegmentedColormap.from_list("", ["#2166ac", "w", "#e08214"])


class _Dots(AxesImage):
    """An image with a whole number of pixels for each dot, so that Matplotlib does not have to interpolate."""

    def make_image(self, *_: object, **__: object) -> tuple[Any, ...]:
        values: Any = self.get_array()
        x, y, width, height = self.axes.bbox.bounds
        pixels = self.to_rgba(values, bytes=True, norm=True).view(np.uint32)[..., 0]
        pixels = pixels.repeat(round(height) // len(values), 0).repeat(round(width) // values.shape[1], 1)
        return np.ascontiguousarray(pixels[::-1, :, None]).view(np.uint8), round(x), round(y), None


# Targets of scales of channels may be a rounding above g_max, which is no conductance beyond the colours.
_ROUNDING = 1e-6

Drawn: TypeAlias = dict[tuple[Any, ...], tuple[Figure, list[Any], Any]]
"""Figures to reuse with other values, by their layout: laying out a figure is slow, and layers are often alike."""


def draw(
    image: LayerImage, ends: tuple[float, float], layer: LayerRecord, tiles: Sequence[TileRecord], words: list[str],
    *, drawn: Drawn,
) -> Figure:  # fmt: skip
    """Draw a panel for each device of a layer or tile.

    Args:
        image: The values of the devices.
        ends: The conductances in µS of the first and last colour.
        layer: The layer's entry in the manifest.
        tiles: The entries of the tiles in the image.
        words: The title, and the lines of the caption.
        drawn: Figures to reuse; new ones are added.
    """
    high, wide = image.values.shape[1] * image.rows.zoom, image.values.shape[2] * image.columns.zoom
    count = len(layer.devices)  # panels are arranged such that pairs stay side by side and no place is empty
    options = [some for some in range(1, count + 1) if count % some == 0 and (some % 2 == 0 or some in {1, count})]
    across = min(options, key=lambda some: max(some * wide, 1.6 * count / some * high))
    width = max(across * (wide + _BETWEEN) + _SIDES, _NARROWEST)
    title, *lines = (part for line in words for part in textwrap.wrap(legible(line), int(width / _LETTER)))
    height = count // across * (high + _BETWEEN) + _ENDS + _LINE * len(lines)
    what, color_map = ("measured minus target", _ERRORS) if image.is_measured else ("target conductance", _TARGETS)
    codes = color_map.with_extremes(over="0.75", under="black", bad=(0, 0, 0, 0))
    furthest = np.abs(image.values[np.isfinite(image.values)]).max(initial=0)
    extend = "both" if furthest > ends[1] * (1 + _ROUNDING) else "neither"
    (beside, ylabel), (below, xlabel) = _ticks(image, tiles, 0), _ticks(image, tiles, 1)
    engine = layout_engine.ConstrainedLayoutEngine()
    key = width, height, count, extend, what, str(([f"{end:.2g}" for end in ends], beside, below))
    with style.context(_STYLE):
        if is_new := key not in drawn:
            figure = Figure((width / _DPI, height / _DPI), _DPI, layout=engine)
            panels = figure.subplots(count // across, across, squeeze=False).reshape(-1).tolist()
            scale = cm.ScalarMappable(colors.Normalize(*ends), color_map)
            figure.colorbar(scale, ax=panels, label=f"{what} in \u00b5S", extend=extend, fraction=0.05, aspect=40)
            drawn[key] = figure, panels, scale
            for place, panel in enumerate(panels):
                dots = panel.add_image(_Dots(panel, cmap=codes))
                dots.set_data(image.values[0])
                dots.set_extent((-0.5, image.values.shape[2] - 0.5, image.values.shape[1] - 0.5, -0.5))
                panel.patch.set(facecolor="white", edgecolor="0.6", hatch="//////", linewidth=0)  # behind clear dots
                panel.set_yticks(*zip(*beside, strict=True) if place % across == 0 else [()])
                panel.set_xticks(*zip(*below, strict=True) if place >= count - across else [()])
                panel.set(ylabel=ylabel * (place % across == 0), xlabel=xlabel * (place >= count - across))
        figure, panels, scale = drawn[key]
        scale.set_clim(*ends)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", parse_math=False)
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", size=12, parse_math=False)
        for panel, values, device in zip(panels, image.values, layer.devices, strict=True):
            counts = f"{legible(device.name)}  (counts {device.coefficient:+.4g})"
            panel.set_title(counts, loc="left", parse_math=False)
            panel.images[0].set_clim(*ends)
            panel.images[0].set_data(np.where(np.isinf(values), np.sign(values) * 1e30, np.clip(values, *ends)))
        if is_new:
            engine.execute(figure)
            figure.set_layout_engine("none")  # keep this layout; below, panels are moved to whole pixels
            for panel in panels:
                left, top = round(panel.get_position().x0 * width), round(panel.get_position().y1 * height)
                panel.set_position((left / width, (top - high) / height, wide / width, high / height))
    return figure


def rendered(figure: Figure) -> PIL.Image.Image:
    """Render a figure in its present state. Equal figures have equal pixels."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    with style.context(_STYLE):
        canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _ticks(image: LayerImage, tiles: Sequence[TileRecord], side: int) -> tuple[list[tuple[int, str]], str]:
    """Ticks (dot and text) and the title of an axis: side 0 has the inputs, side 1 the outputs.

    There is a tick at the first input or output of each tile, as far as texts do not overlap. A picture of a single
    tile has ticks at round numbers.
    """
    axis, (high, wide) = (image.rows, image.columns)[side], (len(image.rows.starts) - 1, len(image.columns.starts) - 1)
    matrices = image.matrices[: image.across] if side else image.matrices[:: image.across]
    cells: Sequence[int] = axis.starts[:-1]
    if is_plain := len(cells) == 1 and len(image.matrices) == 1:
        steps = ticker.MaxNLocator(max(axis.slot * axis.zoom // 60, 1), integer=True).tick_values(*axis.starts)
        cells = [int(step) for step in steps if axis.starts[0] <= step < axis.starts[1]]
    found: list[tuple[int, str]] = []
    for matrix, (place, cell) in itertools.product(matrices, enumerate(cells)):
        tile = (matrix - image.matrices[0]) * high * wide + place * (1 if side else wide)
        text = str(cell) if is_plain else f"{f'+{tile}' if side else tiles[tile].id.rpartition('/')[2]}: {cell}"
        dot = image.origin(matrix)[side] + int(axis.dots[cell - axis.starts[0]])
        if not found or (dot - found[-1][0]) * axis.zoom >= (_LETTER * (len(text) + 1) if side else _LINE):
            found.append((dot, text))
    return found, ("input", "output")[side] if is_plain else ("tile: input", "further tiles: output")[side]
