"""Graphs of ops that read integer codes."""

from __future__ import annotations

import numpy as np

from tests.handoff.op_graph import codes, graph, levels, normal, uniform

U8 = np.uint8
HALF, QUARTER = np.float32(0.5), np.float32(2**-6)
SCALES = {"xs": HALF, "ws": QUARTER, "ys": np.float32(2.0), "xz": U8(3), "yz": U8(100)}
COLUMN_ZEROS = np.arange(120, 130).astype(U8)
SIGNED = {"W": codes(13, 10), "z": np.int8(-7)}
UNSIGNED = {"W": codes(13, 10, dtype=U8), "z": U8(120)}

INTEGERS = {
    "MatMulInteger": graph(
        "y = MatMulInteger(x, W, xz, z)", codes(2, 13, dtype=U8), "int32", **UNSIGNED | {"z": COLUMN_ZEROS}, xz=U8(3)
    ),
    "MatMulInteger without zero points": graph(
        "y = MatMulInteger(x, W)", codes(2, 13, dtype=U8), "int32", W=codes(13, 10)
    ),
    "MatMulInteger on the left": graph(
        "y = MatMulInteger(W, x, z, xz)",
        codes(13, 2, dtype=U8),
        "int32",
        W=codes(10, 13, dtype=U8),
        z=U8(120),
        xz=U8(3),
    ),
    "MatMulInteger16": graph(
        "y = com.microsoft.MatMulInteger16 (x, W)",
        codes(2, 13, dtype=np.int16) // 256,
        "int32",
        W=codes(13, 10, dtype=np.int16) // 256,  # the op does not look at overflows
    ),
    "MatMulInteger16 on the left": graph(
        "y = com.microsoft.MatMulInteger16 (W, x)",
        codes(13, 2, dtype=np.int16) // 256,
        "int32",
        W=codes(10, 13, dtype=np.int16) // 256,
    ),
    "MatMulInteger of a batch": graph(
        "y = MatMulInteger(x, W, xz, z)",
        codes(3, 2, 13, dtype=U8),
        "int32",
        W=codes(3, 13, 10),
        z=np.int8(-7),
        xz=U8(3),
    ),
    "ConvInteger": graph(
        "y = ConvInteger <pads = [1, 0, 0, 1]> (x, W, xz, z)",
        codes(1, 3, 6, 6, dtype=U8),
        "int32",
        W=codes(7, 3, 3, 2, dtype=U8),
        xz=U8(3),
        z=U8(120),
    ),
    "grouped ConvInteger": graph(
        "y = ConvInteger <group = 3, strides = [2, 1]> (x, W, xz)",
        codes(1, 6, 6, 6, dtype=U8),
        "int32",
        W=codes(9, 2, 3, 2, dtype=U8),
        xz=U8(3),
    ),
    "QLinearMatMul": graph(
        "y = QLinearMatMul(x, xs, xz, W, ws, z, ys, yz)", codes(2, 13, dtype=U8), "uint8", **SIGNED, **SCALES
    ),
    "QLinearMatMul on the left": graph(
        "y = QLinearMatMul(W, ws, z, x, xs, xz, ys, yz)",
        codes(13, 2, dtype=U8),
        "uint8",
        W=codes(10, 13, dtype=U8),
        z=U8(120),
        **SCALES,
    ),
    "QLinearConv": graph(
        "y = QLinearConv <pads = [1, 1, 1, 1]> (x, xs, xz, W, ws, z, ys, yz, c)",
        codes(1, 3, 6, 6, dtype=U8),
        "uint8",
        W=codes(7, 3, 3, 2, dtype=U8),
        z=U8(120),
        c=codes(7, dtype=np.int16).astype(np.int32),
        **SCALES,
    ),
    "grouped QLinearConv with scales of channels": graph(
        "y = QLinearConv <group = 3> (x, xs, xz, W, cs, z, ys, yz)",
        codes(1, 6, 6, 6, dtype=U8),
        "uint8",
        W=codes(9, 2, 3, 2),
        z=np.zeros(9, np.int8),
        cs=(2.0 ** -np.arange(4, 13)).astype(np.float32),
        **SCALES,
    ),
    "QLinearConv with channels last": graph(
        "y = com.microsoft.QLinearConv <channels_last = 1> (x, xs, xz, W, ws, z, ys, yz)",
        codes(1, 6, 6, 3, dtype=U8),
        "uint8",
        W=codes(7, 3, 3, 2),
        z=np.int8(0),
        **SCALES,
    ),
    "QGemm": graph(
        "y = com.microsoft.QGemm <alpha = 0.5> (x, xs, xz, W, ws, z, c, ys, yz)",
        codes(2, 13, dtype=U8),
        "uint8",
        **UNSIGNED,
        c=codes(10, dtype=np.int16).astype(np.int32),
        **SCALES,
    ),
    "QGemm transB to floats": graph(
        "y = com.microsoft.QGemm <transB = 1, alpha = 0.3> (x, xs, xz, W, ws, z)",
        codes(2, 13, dtype=U8),
        W=codes(10, 13),
        z=np.int8(0),
        **SCALES,
    ),
    "QGemm on the left": graph(
        "y = com.microsoft.QGemm <transA = 1> (W, ws, z, x, xs, xz, , ys, yz)",
        codes(13, 2, dtype=U8),
        "uint8",
        **UNSIGNED,
        **SCALES,
    ),
    "MatMulIntegerToFloat": graph(
        "y = com.microsoft.MatMulIntegerToFloat (x, W, xs, cs, xz, z, c)",
        codes(2, 13, dtype=U8),
        W=codes(13, 10, dtype=U8),
        z=COLUMN_ZEROS,
        c=normal(10),
        cs=uniform(10),
        **SCALES,
    ),
    "MatMulIntegerToFloat on the left": graph(
        "y = com.microsoft.MatMulIntegerToFloat (W, x, ws, xs, z, xz)",
        codes(13, 2, dtype=U8),
        W=codes(10, 13, dtype=U8),
        z=U8(120),
        **SCALES,
    ),
    "DynamicQuantizeMatMul": graph(
        "y = com.microsoft.DynamicQuantizeMatMul (x, W, ws, z, c)",
        levels(2, 13),
        **UNSIGNED,
        c=normal(10),
        ws=np.float32(0.01),
    ),
}
