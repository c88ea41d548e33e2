"""Extremes of groups are those of the elements that were passed on and accepted."""

from __future__ import annotations

import numpy as np

from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.group_extremes import GroupExtremes
from onnx_gconv.schemes.matrix_layout import MatrixLayout
from onnx_gconv.schemes.scale_grid import ScaleGrid


def test_elements_that_were_refused_are_in_no_extreme():
    layout = MatrixLayout.of((2, 2), [], (2, 2), matrix_axes=(), row_axes=(0,), column_axes=(1,))
    extremes = GroupExtremes(ScaleGrid.of(layout, Granularity("channel"), 1))
    chunks = extremes.added(iter([np.float32([1, -2]), np.float32([3, np.nan])]), 0)
    next(chunks)
    assert np.isinf(extremes.minimum).all()  # whoever reads them may still refuse them
    next(chunks)
    chunks.close()
    for found in (extremes.minimum, extremes.maximum):
        assert found.reshape(-1).tolist() == [1, -2]
