"""Fixtures that make bundles to draw, and that read values and texts from figures."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.files.models import save_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.passes import MapConductances
from onnx_gconv.schemes.scheme import MappingScheme

PAIR = MappingScheme(converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0))


@pytest.fixture
def pair():
    return PAIR


@pytest.fixture
def bundle_of(parse, tmp_path):
    """Writes the bundle of a model with one MatMul, and opens it."""
    opened = []

    def make(weight, array, *, scheme=PAIR, name="W", **options):
        model = parse(f"g (float[1, {weight.shape[0]}] x) => (float y) {{ y = MatMul(x, W) }}", W=weight)
        model.graph.initializers["W"].name = name
        MapConductances(scheme=scheme)(model)
        save_model(model, tmp_path / "mapped.onnx")
        write_bundle(tmp_path / "mapped.onnx", tmp_path / "bundle", array, overwrite=True, **options)
        opened.append(open_bundle(tmp_path / "bundle"))
        return opened[-1]

    yield make
    for bundle in opened:
        bundle.close()


class Shown:
    """What a figure shows: `values` of each device as Matplotlib gets them, and its `title` and `caption`."""

    GAP, MISSING = 1e30, -1e30

    def __init__(self, name, image, figure):
        self.name, self.image, self.figure = name, image, figure
        self.panels = [panel for panel in figure.axes if panel.images]
        self.values = [np.ma.filled(panel.images[0].get_array(), np.nan) for panel in self.panels]
        self.title = figure.get_suptitle()
        self.caption = " ".join(figure.get_supxlabel().split())

    def matrix(self, device, matrix):
        """The cells of a matrix, measured or not, without rows and columns that have no cell."""
        y, x = self.image.origin(matrix)
        found = self.values[device][y : y + self.image.rows.size, x : x + self.image.columns.size]
        has_cell = ~np.isnan(found) & (found < 1e29)
        return found[has_cell.any(1)][:, has_cell.any(0)]

    def ticks(self, device=0):
        panel = self.panels[device]
        return [[label.get_text() for label in axis.get_ticklabels()] for axis in (panel.yaxis, panel.xaxis)]


@pytest.fixture
def shown():
    """Returns a `Shown` for each figure of a layer."""
    from onnx_gconv.handoff.pictures.write import layer_figures

    def look(layer, errors=None, pages=0):
        return [Shown(*found) for found in layer_figures(layer, errors, pages)]

    return look
