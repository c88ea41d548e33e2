"""A layer computed tile by tile, as a chip does: partial sums, concatenation, digital scale, offset and zero."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv import converters
from onnx_gconv.granularity import Granularity
from onnx_gconv.mapping_scheme import MappingScheme
from onnx_gconv.model_io import load_model

CONVERTERS = {
    "single pair": converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0),
    "n pair": converters.NPairConductanceConverter([1.0, 2.0]),
    "single device": converters.SingleDeviceConductanceConverter(g_max=40.0, g_min=1.0),
    "offset": converters.OffsetConductanceConverter(g_max=40.0, g_min=1.0),
    "bit-sliced offset": converters.BitSlicedOffsetConductanceConverter(bits=8, slice_bits=4, g_min=1.0),
}

GRANULARITIES = {
    "tensor": Granularity(),
    "channel": Granularity("channel"),
    "tile": Granularity("tile", (5, 4), "equal"),  # these are not the arrays
    "tile channel": Granularity("tile_channel", (6, 4)),
}


def multiplied(layer, matrix, x):
    """``x @ W`` of a matrix, with what the arrays give for each tile, and digital arithmetic behind them.

    Rows of a tile that have scales of their own are driven one after the other.
    """
    record = layer.record
    y = np.zeros((x.shape[0], record.matrix_view.columns))
    for tile in layer.tiles:
        if tile.record.matrix != matrix:
            continue
        inputs = x[:, slice(*tile.record.inputs)]
        scale, found = tile.scale(), tile.conductances()
        currents = [device.coefficient * found[device.name].astype(np.float64) for device in record.devices]
        widths = np.diff([*scale.column_starts, tile.shape[1]])
        stops = [*scale.row_starts[1:], tile.shape[0]]
        for piece, (first, stop) in enumerate(zip(scale.row_starts, stops, strict=True)):
            driven = np.zeros_like(inputs)
            driven[:, first:stop] = inputs[:, first:stop]
            total = driven.sum(axis=1, keepdims=True)
            analog = sum(driven @ current for current in currents)
            digital = (analog - record.offset_us * total) / np.repeat(scale.values[piece], widths)
            y[:, slice(*tile.record.outputs)] += digital + np.repeat(scale.zeros[piece], widths) * total
    return y * record.matrix_view.factor


def windows(x, kernel):
    """The inputs of a convolution as rows: [positions, channels * kernel]."""
    found = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))  # [1, channels, high, wide, *kernel]
    return found[0].transpose(1, 2, 0, 3, 4).reshape(found.shape[2] * found.shape[3], -1), found.shape[2:4]


def bias_of(bundle, layer):
    if layer.record.bias is None:
        return 0.0
    return load_model(bundle.path / "model.onnx").graph.initializers[layer.record.bias.initializer].const_value.numpy()


def simulated(bundle, op, x):
    [layer] = bundle.layers
    view = layer.record.matrix_view
    if "Conv" not in op:
        return multiplied(layer, 0, x) + bias_of(bundle, layer)
    rows, positions = windows(x, layer.record.shape[2:])
    groups = rows.reshape(rows.shape[0], view.matrices, view.rows)
    y = np.concatenate([multiplied(layer, k, groups[:, k]) for k in range(view.matrices)], axis=1)
    return (y + bias_of(bundle, layer)).T.reshape(1, -1, *positions)


SHAPES = {
    "MatMul": (2, 13),
    "MatMul of a transposed weight": (2, 13),
    "Gemm": (2, 13),
    "Gemm transB": (2, 13),
    "Conv": (1, 3, 6, 6),
    "grouped Conv": (1, 6, 6, 6),
}


CASES = [
    *((op, "single device", granularity) for op in SHAPES for granularity in GRANULARITIES),
    *((op, converter, "tile channel") for op in ("Gemm", "grouped Conv") for converter in CONVERTERS),
]


@pytest.mark.parametrize(("op", "converter", "granularity"), CASES)
def test_tiles_compute_what_the_layer_computes(handed_off, run, op, converter, granularity):
    scheme = MappingScheme(CONVERTERS[converter], GRANULARITIES[granularity])
    bundle = handed_off(op, (4, 3), scheme=scheme, partition="equal" if granularity == "tensor" else "max")
    x = np.random.default_rng(3).normal(size=SHAPES[op]).astype(np.float32)
    [expected] = run(load_model(bundle.path / "model.onnx"), x=x)
    np.testing.assert_allclose(simulated(bundle, op, x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
