"""A small graph for every MVM op, slot and form of its weight."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.handoff.integer_graphs import INTEGERS
from tests.handoff.matrix_graphs import CONVOLUTIONS, MATRICES
from tests.handoff.op_graph import OpGraph, graph, normal, uniform
from tests.handoff.sequence_graphs import SEQUENCES

OP_GRAPHS: dict[str, OpGraph] = {**MATRICES, **CONVOLUTIONS, **SEQUENCES, **INTEGERS}

# Ops that the CPU provider of ONNX Runtime cannot run, and what it says. Nothing of their weights differs from those of
# the ops above; only their outputs cannot be compared.
NO_KERNEL = "Could not find an implementation"

NOT_RUNNABLE: dict[str, tuple[OpGraph, str]] = {
    "GemmFastGelu": (
        graph("y = com.microsoft.GemmFastGelu (x, W, c)", uniform(2, 13), W=normal(13, 10), c=normal(10)),
        NO_KERNEL,
    ),
    "GemmFloat8": (
        graph("y = com.microsoft.GemmFloat8 (x, W, c)", uniform(2, 13), W=normal(13, 10), c=normal(10)),
        NO_KERNEL,
    ),
    "GemmFloat8 on the left": (
        graph("y = com.microsoft.GemmFloat8 (W, x)", uniform(13, 2), W=normal(10, 13)),
        NO_KERNEL,
    ),
    "RouterGateUpProj": (
        graph(
            "y, z = com.microsoft.RouterGateUpProj <router_size = 2> (x, W)",
            uniform(2, 13).astype(np.float16),
            "float16",
            W=normal(13, 10).astype(np.float16),
        ),
        NO_KERNEL,
    ),
    "MatMulBlockQuantizedFp8Weight": (
        graph(
            "y = com.microsoft.MatMulBlockQuantizedFp8Weight <block_size = 4> (x, W, s, , c)",
            uniform(2, 13).astype(np.float16),
            "float16",
            W=normal(10, 13).astype(ml_dtypes.float8_e4m3fn),
            s=np.ones((10, 4), np.float32),
            c=normal(10).astype(np.float16),
        ),
        NO_KERNEL,
    ),
    "PackedAttention": (
        graph(
            "y = com.microsoft.PackedAttention <num_heads = 1> (x, W, c, o, l)",
            uniform(2, 5),
            W=normal(5, 12),
            c=normal(12),
            o=np.array([[0, 1]], np.int32),
            l=np.array([0, 2], np.int32),
        ),
        NO_KERNEL,
    ),
    "DecoderMaskedSelfAttention": (
        graph(
            "y, p = com.microsoft.DecoderMaskedSelfAttention <num_heads = 1> (x, W, c, , q, , l)",
            uniform(2, 1, 5),
            W=normal(5, 12),
            c=normal(12),
            q=uniform(2, 2, 1, 8, 4),
            l=np.array([3], np.int32),
        ),
        NO_KERNEL,
    ),
    "DecoderAttention": (
        graph(
            "y, k, v = com.microsoft.DecoderAttention <num_heads = 1> (x, x, W, V, c, , , , n, n, n, n)",
            uniform(2, 1, 4),
            W=normal(4, 4),
            V=normal(4, 8),
            c=normal(12),
            n=np.array([False]),
        ),
        NO_KERNEL,
    ),
    "LongformerAttention": (
        graph(
            "y = com.microsoft.LongformerAttention <num_heads = 1, window = 2> (x, W, c, m, V, d, g)",
            uniform(1, 4, 4),
            W=normal(4, 12),
            V=normal(4, 12),
            c=normal(12),
            d=normal(12, seed=1),
            m=np.zeros((1, 4), np.float32),
            g=np.zeros((1, 4), np.int32),
        ),
        NO_KERNEL,
    ),
    "MoE with a third product": (
        OpGraph(
            "g (float[6, 5] x, float[6, 2] r) => (float y) { y = com.microsoft.MoE <k = 1> (x, r, W, c, V, d, U, e) }",
            {"x": uniform(6, 5), "r": uniform(6, 2)},
            {
                "W": normal(2, 7, 5),
                "V": normal(2, 5, 7),
                "U": normal(2, 7, 5),
                "c": normal(2, 7),
                "d": normal(2, 5),
                "e": normal(2, 7),
            },
        ),
        "FC3 is not implemented for CPU MoE",
    ),
}

# Several ops in one model, for what is to be seen of each of them with many schemes. Its opset has all of them.
CORE = OpGraph(
    """g (float[2, 13] a, float[2, 13] b, float[2, 13] c, float[1, 3, 5, 5] d, float[1, 6, 5, 5] e, float[1, 6, 5, 5] f,
          float[1, 7, 3, 3] h, float[3, 1, 5] i) => (float matmul, float gemm, float gemm_transposed, float conv,
          float grouped_conv, float depthwise_conv, float conv_transpose, float lstm) {
        [n0] matmul = MatMul(a, W0)
        [n1] gemm = Gemm <alpha = 0.3> (b, W1, B1)
        [n2] gemm_transposed = Gemm <transB = 1> (c, W2)
        [n3] conv = Conv <pads = [1, 0, 0, 1]> (d, W3, B3)
        [n4] grouped_conv = Conv <group = 3, strides = [2, 1]> (e, W4)
        [n5] depthwise_conv = Conv <group = 6, dilations = [1, 2]> (f, W5)
        [n6] conv_transpose = ConvTranspose <strides = [2, 1]> (h, W6)
        [n7] lstm = LSTM <hidden_size = 3, direction = "bidirectional"> (i, W7, R7, B7)
    }""",
    {
        "a": uniform(2, 13),
        "b": uniform(2, 13, seed=1),
        "c": uniform(2, 13, seed=2),
        "d": uniform(1, 3, 5, 5),
        "e": uniform(1, 6, 5, 5),
        "f": uniform(1, 6, 5, 5, seed=1),
        "h": uniform(1, 7, 3, 3),
        "i": uniform(3, 1, 5),
    },
    {
        "W0": normal(13, 10),
        "W1": normal(13, 10, seed=1),
        "B1": normal(10),
        "W2": normal(10, 13),
        "W3": normal(7, 3, 3, 2),
        "B3": normal(7),
        "W4": normal(9, 2, 3, 2),
        "W5": normal(6, 1, 3, 2),
        "W6": normal(7, 4, 3, 2),
        "W7": normal(2, 12, 5),
        "R7": normal(2, 12, 3, seed=1),
        "B7": normal(2, 24),
    },
)
