"""Conductances of whole matrices are read in blocks of lines, or of parts of a line, that stay small."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.files.models import load_model
from onnx_gconv.handoff.formats import layer_conductances
from onnx_gconv.handoff.formats.layer_conductances import LayerConductances


@pytest.mark.parametrize("block_cells", [1, 7, 13, 29])
@pytest.mark.parametrize("line", ["output", "input"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm transB", "grouped Conv"])
def test_blocks_put_together_are_the_matrix_line_by_line_and_none_is_too_large(
    mapped, monkeypatch, op, line, block_cells
):
    monkeypatch.setattr(layer_conductances, "_BLOCK_CELLS", block_cells)
    [layer] = layers_of(load_model(mapped(op, external_data=True)), ArrayGeometry(64, 64), None)
    rows, columns = layer.layout.rows, layer.layout.columns
    last = layer.layout.matrices - 1
    with LayerConductances(layer) as conductances:
        blocks = list(conductances.blocks(last, [1, 0], line))
    assert max(block.size for pair in blocks for block in pair) <= block_cells
    view = layer.consumers[0].matrix_view
    for place, device in enumerate([1, 0]):
        stored = layer.mapped.tensors[device].numpy().reshape(view.split_shape)
        matrices = stored.transpose(*view.matrix_axes, *view.row_axes, *view.column_axes).reshape(-1, rows, columns)
        expected = matrices[last].T if line == "output" else matrices[last]
        found = np.concatenate([pair[place].reshape(-1) for pair in blocks])
        np.testing.assert_array_equal(found, expected.reshape(-1))
