"""Graphs of matrix products and convolutions of floats."""

from __future__ import annotations

import numpy as np

from tests.handoff.op_graph import graph, normal, uniform

MATRICES = {
    "MatMul": graph("y = MatMul(x, W)", uniform(2, 13), W=normal(13, 10)),
    "MatMul on the left": graph("y = MatMul(W, x)", uniform(13, 2), W=normal(10, 13)),
    "MatMul with a bias behind it": graph(
        "p = MatMul(x, W) y = Add(c, p)", uniform(2, 13), W=normal(13, 10), c=normal(10)
    ),
    "MatMul of a batch": graph("y = MatMul(x, W)", uniform(3, 2, 13), W=normal(3, 13, 10)),
    "MatMul of a batch on the left": graph("y = MatMul(W, x)", uniform(13, 2), W=normal(2, 3, 10, 13)),
    "MatMul of a vector": graph("y = MatMul(x, W)", uniform(13), W=normal(13, 10)),
    "MatMul of a weight of one axis": graph("y = MatMul(x, W)", uniform(2, 13), W=normal(13)),
    "MatMul of a transposed weight": graph(
        "t = Transpose <perm = [1, 0]> (W) y = MatMul(x, t)", uniform(2, 13), W=normal(10, 13)
    ),
    "MatMul of a reshaped weight": graph(
        "t = Reshape(W, s) y = MatMul(x, t)", uniform(2, 12), W=normal(3, 4, 10), s=np.array([12, 10])
    ),
    "MatMul of a sum of parts": graph("y = MatMul(x, W)", uniform(2, 130), W=normal(130, 3)),
    "one output": graph("y = MatMul(x, W)", uniform(2, 13), W=normal(13, 1)),
    "Gemm": graph("y = Gemm <alpha = 0.3, beta = 0.7> (x, W, c)", uniform(2, 13), W=normal(13, 10), c=normal(10)),
    "Gemm transB": graph("y = Gemm <transB = 1> (x, W)", uniform(2, 13), W=normal(10, 13)),
    "Gemm on the left, transA": graph("y = Gemm <transA = 1> (W, x)", uniform(13, 2), W=normal(13, 10)),
    "Gemm of a transposed input": graph("y = Gemm <transA = 1> (x, W)", uniform(13, 2), W=normal(13, 10)),
    "Einsum": graph("""y = Einsum <equation = "bi,iho->bho"> (x, W)""", uniform(2, 13), W=normal(13, 3, 4)),
    "Einsum of a batch": graph(
        """y = Einsum <equation = "bij,bkj->bik"> (x, W)""", uniform(2, 3, 13), W=normal(2, 5, 13)
    ),
    "Einsum of the first operand": graph(
        """y = Einsum <equation = "jk,bij->bki"> (W, x)""", uniform(2, 3, 13), W=normal(13, 5)
    ),
    "FusedMatMul": graph(
        "y = com.microsoft.FusedMatMul <alpha = 0.3, transA = 1> (x, W)", uniform(13, 2), W=normal(13, 10)
    ),
    "FusedMatMul of a batch in the middle": graph(
        "y = com.microsoft.FusedMatMul <transBatchB = 1, transB = 1> (x, W)", uniform(2, 3, 13), W=normal(10, 2, 13)
    ),
    "FusedMatMul on the left": graph(
        "y = com.microsoft.FusedMatMul <transA = 1, transB = 1> (W, x)", uniform(2, 13), W=normal(13, 10)
    ),
    "TransposeMatMul": graph("y = com.microsoft.TransposeMatMul <transB = 1> (x, W)", uniform(2, 13), W=normal(10, 13)),
    "TransposeMatMul on the left": graph(
        "y = com.microsoft.TransposeMatMul <transA = 1> (W, x)", uniform(13, 2), W=normal(13, 10)
    ),
    "FusedGemm": graph(
        """y = com.microsoft.FusedGemm <activation = "Tanh"> (x, W, c)""",
        uniform(2, 13),
        W=normal(13, 10),
        c=normal(10),
    ),
    "FusedGemm on the left": graph(
        """y = com.microsoft.FusedGemm <activation = "Relu", transA = 1> (W, x, c)""",
        uniform(13, 2),
        W=normal(13, 10),
        c=normal(2),
    ),
    "Gather": graph("y = Gather <axis = 1> (W, x)", np.array([[3, 0], [9, 3]]), W=normal(4, 10, 3)),
}

CONVOLUTIONS = {
    "Conv": graph("y = Conv(x, W, c)", uniform(2, 3, 6, 6), W=normal(7, 3, 3, 2), c=normal(7)),
    "Conv of a kernel in another order": graph(
        "t = Transpose <perm = [3, 2, 0, 1]> (W) y = Conv(x, t)", uniform(1, 3, 6, 6), W=normal(3, 2, 3, 7)
    ),
    "Conv with strides, dilations and pads": graph(
        "y = Conv <strides = [2, 1], dilations = [1, 2], pads = [1, 0, 2, 3]> (x, W)",
        uniform(1, 3, 7, 6),
        W=normal(7, 3, 3, 2),
    ),
    "Conv of one axis": graph("y = Conv <pads = [1, 0]> (x, W)", uniform(2, 3, 9), W=normal(5, 3, 4)),
    "Conv of three axes": graph("y = Conv(x, W)", uniform(1, 2, 4, 3, 5), W=normal(5, 2, 2, 2, 3)),
    "grouped Conv": graph(
        "y = Conv <group = 3, strides = [2, 2], pads = [1, 1, 1, 1]> (x, W, c)",
        uniform(2, 6, 6, 6),
        W=normal(9, 2, 3, 2),
        c=normal(9),
    ),
    "depthwise Conv": graph(
        "y = Conv <group = 6, dilations = [2, 1]> (x, W)", uniform(1, 6, 6, 6), W=normal(6, 1, 3, 2)
    ),
    "depthwise Conv of two outputs a channel": graph(
        "y = Conv <group = 3> (x, W)", uniform(1, 3, 5, 5), W=normal(6, 1, 3, 3)
    ),
    "FusedConv": graph(
        """y = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, W, c)""",
        uniform(1, 3, 6, 6),
        W=normal(7, 3, 3, 3),
        c=normal(7),
    ),
    "FusedConv that adds a branch": graph(
        "y = com.microsoft.FusedConv (x, W, c, b)",
        uniform(1, 3, 5, 5),
        W=normal(7, 3, 3, 3),
        c=normal(7),
        b=normal(1, 7, 3, 3),
    ),
    "CausalConvWithState": graph(
        """y, s = com.microsoft.CausalConvWithState <activation = "none"> (x, W, c)""",
        uniform(2, 6, 9),
        W=normal(6, 1, 4),
        c=normal(6),
    ),
    "CausalConvWithState with dilation": graph(
        "y, s = com.microsoft.CausalConvWithState <dilation = 2> (x, W)", uniform(1, 6, 9), W=normal(6, 1, 3)
    ),
    "VarlenCausalConvWithState": graph(
        "y, s = com.microsoft.VarlenCausalConvWithState (x, W, l, c, t)",
        uniform(9, 6),
        W=normal(6, 1, 4),
        l=np.array([0, 9], np.int32),
        c=normal(6),
        t=normal(1, 6, 3),
    ),
    "ConvTranspose": graph("y = ConvTranspose(x, W, c)", uniform(2, 7, 4, 4), W=normal(7, 4, 3, 2), c=normal(4)),
    "ConvTranspose with strides, dilations and pads": graph(
        "y = ConvTranspose <strides = [2, 3], dilations = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 2]> (x, W)",
        uniform(1, 7, 3, 4),
        W=normal(7, 4, 3, 2),
    ),
    "grouped ConvTranspose": graph(
        "y = ConvTranspose <group = 3, strides = [2, 1]> (x, W)", uniform(1, 6, 4, 4), W=normal(6, 5, 3, 2)
    ),
    "DeformConv": graph(
        "y = DeformConv <strides = [1, 2], pads = [1, 1, 1, 1]> (x, W, o, c, m)",
        uniform(1, 3, 5, 6),
        W=normal(4, 3, 3, 2),
        o=(np.random.default_rng(3).integers(-12, 13, (1, 12, 5, 4)) / 8).astype(np.float32),
        c=normal(4),
        m=uniform(1, 6, 5, 4, seed=4),
    ),
    "grouped DeformConv": graph(
        "y = DeformConv <group = 2> (x, W, o)",
        uniform(1, 4, 5, 5),
        W=normal(6, 2, 3, 3),
        o=(np.random.default_rng(3).integers(-12, 13, (1, 18, 3, 3)) / 8).astype(np.float32),
    ),
}
