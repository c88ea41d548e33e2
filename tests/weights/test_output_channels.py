"""A scale for each output channel: elements that share one are all weights of one channel of the output."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.weights import find_weights
from onnx_gconv.weights.weight_grid import weight_grid

# The graph, the shapes of x and W, the axes of the output that count channels, and how the scale is stored.
CASES = {
    "MatMul": ("y = MatMul(x, W)", (2, 3), (3, 4), (1,), (1, 4)),
    "MatMul of a batch": ("y = MatMul(x, W)", (5, 2, 3), (5, 3, 4), (0, 2), (5, 1, 4)),
    "MatMul on the left": ("y = MatMul(W, x)", (3, 2), (4, 3), (0,), (4, 1)),
    "MatMul behind Transpose": ("V = Transpose <perm = [1, 0]> (W)  y = MatMul(x, V)", (2, 3), (4, 3), (1,), (4, 1)),
    "MatMul behind Reshape": (
        "s = Constant <value_ints = [3, 4]> ()  V = Reshape(W, s)  y = MatMul(x, V)",
        (2, 3),
        (3, 2, 2),
        (1,),
        (1, 2, 2),
    ),
    "Gemm": ("y = Gemm(x, W)", (2, 3), (3, 4), (1,), (1, 4)),
    "Gemm with transB": ("y = Gemm <transB = 1> (x, W)", (2, 3), (4, 3), (1,), (4, 1)),
    "Gemm on the left": ("y = Gemm(W, x)", (3, 2), (4, 3), (0,), (4, 1)),
    "Gemm on the left with transA": ("y = Gemm <transA = 1> (W, x)", (3, 2), (3, 4), (0,), (1, 4)),
    "Conv": ("y = Conv(x, W)", (1, 3, 6, 6), (4, 3, 3, 3), (1,), (4, 1, 1, 1)),
    "Conv, 1-D": ("y = Conv(x, W)", (1, 3, 6), (4, 3, 3), (1,), (4, 1, 1)),
    "Conv of groups": ("y = Conv <group = 2> (x, W)", (1, 4, 6, 6), (6, 2, 3, 3), (1,), (6, 1, 1, 1)),
    "depthwise Conv": ("y = Conv <group = 4> (x, W)", (1, 4, 6, 6), (4, 1, 3, 3), (1,), (4, 1, 1, 1)),
    "ConvTranspose": ("y = ConvTranspose(x, W)", (1, 3, 4, 4), (3, 5, 3, 2), (1,), (1, 5, 1, 1)),
    "ConvTranspose of groups": (
        "y = ConvTranspose <group = 2> (x, W)",
        (1, 4, 4, 4),
        (4, 3, 3, 2),
        (1,),
        (2, 1, 3),
    ),
    "Einsum": ("""y = Einsum <equation = "bi,iho->bho"> (x, W)""", (2, 3), (3, 4, 2), (1, 2), (1, 4, 2)),
    "Einsum of a batch": ("""y = Einsum <equation = "bij,bkj->bik"> (x, W)""", (2, 3, 4), (2, 5, 4), (0, 2), (2, 5, 1)),
    "FusedMatMul with transB": ("y = com.microsoft.FusedMatMul <transB = 1> (x, W)", (2, 3), (4, 3), (1,), (4, 1)),
    "MatMul behind Cast": ("V = Cast <to = 1> (W)  y = MatMul(x, V)", (2, 3), (3, 4), (1,), (1, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_elements_that_share_a_scale_are_those_of_one_output_channel(parse, run, name):
    nodes, x_shape, w_shape, channel_axes, stored_shape = CASES[name]
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=x_shape).astype(np.float32), rng.integers(-4, 5, w_shape).astype(np.float32)
    text = f"g (float{list(x_shape)} x) => (float y) {{ {nodes} }}"
    opsets = '"" : 17, "com.microsoft" : 1'

    def model(array):
        return parse(text, opsets=opsets, W=array)

    [found] = find_weights(model(weight)).weights
    chosen = weight_grid(found, Granularity("channel"))
    assert chosen.grid.stored_shape == stored_shape
    [before] = run(model(weight), x=x)
    channels = []
    groups = chosen.grid.groups(0, weight.size).reshape(w_shape)
    for group in range(chosen.grid.count):
        changed = np.where(groups == group, weight + 1, weight)
        [after] = run(model(changed), x=x)
        places = np.argwhere(np.abs(after - before) > 1e-4)
        indices = {tuple(int(place[axis]) for axis in channel_axes) for place in places}
        assert len(indices) == 1, f"group {group} reaches the channels {indices}"
        channels.extend(indices)
    shape = tuple(before.shape[axis] for axis in channel_axes)
    assert sorted(channels) == sorted(np.ndindex(shape))


def test_gates_of_recurrent_ops_are_channels_of_their_own(parse):
    model = parse(
        """g (float[4,1,5] x) => (float y) { y, h = LSTM <hidden_size = 3, direction = "bidirectional"> (x, W, R) }""",
        W=np.ones((2, 12, 5), np.float32),
        R=np.ones((2, 12, 3), np.float32),
    )
    shapes = [weight_grid(found, Granularity("channel")).grid.stored_shape for found in find_weights(model).weights]
    assert shapes == [(2, 12, 1), (2, 12, 1)]


@pytest.mark.parametrize("others", ["MatMul(W, a)", "MatMul(a, r)"], ids=["the other way round", "mixed axes"])
def test_scales_follow_the_first_reader_and_a_note_names_one_that_reads_otherwise(parse, others):
    nodes = f"[mm] y = MatMul(x, W) r = Reshape(W, s) [zz] z = {others}"
    model = parse(
        f"g (float[2,4] x, float a) => (float y, float z) {{ {nodes} }}",
        W=np.ones((4, 6), np.float32),
        s=np.array([3, 8]),
    )
    [found] = find_weights(model).weights
    chosen = weight_grid(found, Granularity("channel"))
    assert (chosen.consumer, chosen.grid.stored_shape) == (0, (1, 6))
    assert chosen.notes == (
        "its scales follow mm (MatMul); zz (MatMul) reads it otherwise, so that they cut across its channels or tiles",
    )
