"""What pictures show of the cells of a layer, and in which colours: target conductances, or errors of measured ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import numpy as np

from onnx_gconv.converters.compute_types import FloatArray
from onnx_gconv.errors import BundleError
from onnx_gconv.handoff.bundle_layer import BundleLayer
from onnx_gconv.handoff.bundle_tile import BundleTile
from onnx_gconv.handoff.picture_canvas import number_text
from onnx_gconv.handoff.picture_drawing import ColorBar
from onnx_gconv.handoff.picture_values import Blocks, ErrorFigures, Samples, limit_of

__all__ = ["Errors", "MeasuredErrors", "Subject", "Targets"]

Errors: TypeAlias = Callable[[BundleTile], Mapping[str, FloatArray]]


class Subject(Protocol):
    """What pictures of a layer show.

    Attributes:
        blocks: What stands for cells that share a pixel.
        is_measured: Whether values may be missing, and colours depend on all tiles.
    """

    blocks: Blocks
    is_measured: bool

    def read(self, tile: BundleTile) -> Mapping[str, FloatArray]:
        """For each device the values of a tile, [inputs, outputs]."""
        ...

    def count(self, tile: BundleTile, values: Mapping[str, FloatArray]) -> None:
        """Take down the values of a tile, once for each tile, before colours are asked for."""
        ...

    def bar(self, samples: Samples) -> ColorBar:
        """The colours of a picture."""
        ...

    def remarks(self, samples: Samples) -> list[str]:
        """What is to be said of the values of a picture."""
        ...


class Targets:
    """The target conductances of a layer: from g_min to g_max or, for means of cells, to the largest of them."""

    blocks: Blocks = "mean"
    is_measured = False

    def __init__(self, layer: BundleLayer) -> None:
        self._layer = layer.record

    def read(self, tile: BundleTile) -> Mapping[str, FloatArray]:
        """The targets of a tile."""
        return tile.conductances()

    def count(self, tile: BundleTile, values: Mapping[str, FloatArray]) -> None:
        """Nothing has to be known of all targets."""

    def bar(self, samples: Samples) -> ColorBar:
        """Sequential colours, in an order that greyscale has, too."""
        low, high = self._layer.g_min, self._layer.g_max
        if not samples.layout.is_cell_by_cell:  # means come nowhere near g_max: all would be dark
            high = max(float(samples.all().max()), low + (high - low) / 1000)
        return ColorBar("viridis", low, high, "target conductance in \u00b5S")

    def remarks(self, samples: Samples) -> list[str]:
        """How far colours reach."""
        if samples.layout.is_cell_by_cell:
            return []
        return [f"Colours end at the largest mean; single cells may have up to {self._layer.g_max:g} \u00b5S."]


class MeasuredErrors:
    """Measured minus target."""

    blocks: Blocks = "extreme"
    is_measured = True

    def __init__(self, layer: BundleLayer, errors: Errors) -> None:
        self._layer = layer.record
        self._errors = errors
        self._figures = ErrorFigures()

    def read(self, tile: BundleTile) -> Mapping[str, FloatArray]:
        """The errors of a tile.

        Raises:
            BundleError: If they are infinite, of another shape, or of an unknown device.
        """
        found = self._errors(tile)
        known = [device.name for device in self._layer.devices]
        for device, values in found.items():
            if device not in known:
                raise BundleError(f"tile {tile.id} has no device '{device}'; there are {', '.join(known)}")
            if np.shape(values) != tile.shape:
                raise BundleError(
                    f"the errors of tile {tile.id}, {device}, have the shape {list(np.shape(values))}, but the tile is "
                    f"{list(tile.shape)}; give one for each cell"
                )
            if np.isinf(values).any():
                row, column = np.argwhere(np.isinf(values))[0]
                raise BundleError(
                    f"the error of tile {tile.id}, {device}, row {row}, column {column} is {values[row, column]:g}; "
                    "give a number, or NaN where nothing was measured"
                )
        return found

    def count(self, tile: BundleTile, values: Mapping[str, FloatArray]) -> None:
        """Count errors, for colours that are the same for all tiles."""
        for device in self._layer.devices:
            if device.name in values:
                self._figures.add(tile.id, device.name, values[device.name])
            else:
                self._figures.add_missing(tile.shape[0] * tile.shape[1])

    def bar(self, samples: Samples) -> ColorBar:
        """Diverging colours, white at 0."""
        limit, beyond = self._limit(samples)
        # Without any error all is white, whatever the colours at the ends stand for.
        limit = limit or (self._layer.g_max - self._layer.g_min) / 100
        return ColorBar("RdBu_r", -limit, limit, "measured minus target in \u00b5S", is_clipped=beyond > 0)

    def remarks(self, samples: Samples) -> list[str]:
        """How many cells were measured, the largest error, and which are beyond the colours."""
        figures, beyond = self._figures, self._limit(samples)[1]
        measured = f"Measured: {figures.measured:,} of {figures.measured + figures.missing:,} cells of all devices."
        if figures.measured == 0:
            return [measured]
        what, count = "cells", figures.measured
        if not samples.layout.is_cell_by_cell:
            what, count = "pixels", samples.all().size
        largest = f"The largest error of the layer is {number_text(figures.largest)} \u00b5S ({figures.largest_cell})."
        if not beyond:
            return [measured, largest]
        share = f"{beyond:,} {what} ({beyond / count:.2%}) are at or beyond the ends"
        return [measured, largest, f"Colours end at the 99th percentile of {what}; {share}."]

    def _limit(self, samples: Samples) -> tuple[float, int]:
        """The error of the last colour in µS, and how many values reach it; 0 if all colours are there."""
        if samples.layout.is_cell_by_cell:
            return self._figures.limit, self._figures.beyond
        return limit_of(samples.all())
