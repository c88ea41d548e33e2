"""What nodes make of integer codes: the scale, the zero point, and along which axis of the weight scales differ."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.weights import find_weights
from onnx_gconv.weights.records import Dequantization
from tests.packed_models import matmul_model, quantized

CODES = np.random.default_rng(0).integers(-8, 8, (6, 4), np.int8)
ROW, COLUMN, ONE = np.ones(6, np.float32), np.ones(4, np.float32), np.float32(0.5)
ZERO = np.int8(1)

CASES = {
    "one scale": ("w = DequantizeLinear(W, s, z) y = MatMul(x, w)", {"s": ONE, "z": ZERO}, ("s", "z", None, None)),
    "a scale for each output": ("w = DequantizeLinear <axis = 1> (W, s) y = MatMul(x, w)", {"s": COLUMN},
                                ("s", None, 1, 1)),
    "an axis counted from the end": ("w = DequantizeLinear <axis = -2> (W, s) y = MatMul(x, w)", {"s": ROW},
                                     ("s", None, 0, 1)),
    "blocks of inputs": ("w = DequantizeLinear <axis = 0, block_size = 3> (W, s) y = MatMul(x, w)",
                         {"s": np.ones((2, 4), np.float32)}, ("s", None, 0, 3)),
    "transposed before": ("t = Transpose(W) w = DequantizeLinear <axis = 0> (t, s) y = Gemm <transB = 1> (x, w)",
                          {"s": COLUMN}, ("s", None, 1, 1)),
    "reshaped before": ("t = Reshape(W, n) w = DequantizeLinear <axis = 0> (t, s) u = Reshape(w, m) y = MatMul(x, u)",
                        {"s": np.ones(24, np.float32), "n": np.array([24]), "m": np.array([6, 4])},
                        ("s", None, None, None)),
    "Cast, Sub and Mul": ("a = Cast <to = 1> (W) b = Sub(a, z) w = Mul(b, s) y = MatMul(x, w)",
                          {"s": COLUMN, "z": np.float32(1)}, ("s", "z", 1, 1)),
    "an op that reads codes": ("y = com.microsoft.DynamicQuantizeMatMul(x, W, s, z)",
                               {"s": COLUMN, "z": np.zeros(4, np.int8)}, ("s", "z", 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_makes_numbers_of_codes_is_known(parse, case):
    nodes, constants, (scale, zero_point, axis, block) = CASES[case]
    model = parse(
        f"g (float[2,6] x) => (float[2,4] y) {{ {nodes} }}", opsets='"" : 21, "com.microsoft" : 1', W=CODES, **constants
    )
    [weight] = find_weights(model).weights
    assert weight.dequantization == Dequantization(scale, zero_point, axis, block)


def test_nothing_is_said_of_codes_that_nobody_scales(parse):
    model = parse("g (uint8[2,6] x) => (int32[2,4] y) { y = MatMulInteger(x, W) }", W=CODES)
    [weight] = find_weights(model).weights
    assert weight.dequantization is None


DYNAMIC = {
    "behind a product of scales": (
        "y = MatMulInteger(x, W, xz, z) c = Cast <to = 1> (y) f = Mul(xs, s) r = Mul(c, f)",
        Dequantization("s", "z", 1, 1),
    ),
    "behind the op": (
        "y = MatMulInteger(x, W, xz, z) c = Cast <to = 1> (y) r = Mul(s, c)",
        Dequantization("s", "z", 1, 1),
    ),
    "for all outputs": ("y = MatMulInteger(x, W, xz, z) c = Cast <to = 1> (y) r = Mul(c, o)", Dequantization("o", "z")),
    "not told": ("y = MatMulInteger(x, W, xz, z) c = Cast <to = 1> (y) r = Mul(c, xs)", Dequantization(None, "z")),
    "behind two readers": (
        "y = MatMulInteger(x, W, xz, z) c = Cast <to = 1> (y) a = Mul(c, s) b = Neg(c) r = Add(a, b)",
        Dequantization(None, "z"),
    ),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_the_scale_of_a_product_of_integers_stands_behind_it(parse, case):
    nodes, expected = DYNAMIC[case]
    model = parse(
        f"g (uint8[2,6] x, uint8 xz, float xs) => (float[2,4] r) {{ {nodes} }}", W=CODES, s=COLUMN, o=ONE, z=ZERO
    )
    [weight] = find_weights(model).weights
    assert weight.dequantization == expected


def test_codes_of_four_bits_in_a_lookup_have_scales_and_zero_points_of_blocks(parse):
    codes = np.random.default_rng(0).integers(0, 16, (6, 20)).astype(ml_dtypes.uint4)
    points = np.arange(12).reshape(6, 2).astype(ml_dtypes.uint4)
    model = parse(
        "g (int64[3] i) => (float[3,20] y) { y = com.microsoft.GatherBlockQuantized <block_size = 16> (W, i, s, p) }",
        opsets='"" : 21, "com.microsoft" : 1',
        W=codes,
        s=np.ones((6, 2), np.float32),
        p=points,
    )
    [weight] = find_weights(model, lookups=["GatherBlockQuantized"]).weights
    assert (weight.dequantization, weight.notes) == (Dequantization("s", "p", 1, 16), ())
    of_each = np.repeat(points.astype(np.float32), 16, axis=1)[:, :20]
    np.testing.assert_array_equal(weight.numbers.numpy(), codes.astype(np.float32) - of_each)


def test_of_packed_codes_it_is_the_blocks_of_inputs():
    [weight] = find_weights(ir.from_proto(matmul_model(quantized(5, 40, points="packed")))).weights
    assert weight.dequantization == Dequantization("W_scales", "W_points", 1, 16)


def test_codes_that_two_nodes_scale_otherwise_have_a_note(parse):
    model = parse(
        "g (float[2,6] x) => (float[2,4] y, float[2,4] z) {"
        " a = DequantizeLinear <axis = 1> (W, s) y = MatMul(x, a) b = DequantizeLinear (W, t) z = MatMul(x, b) }",
        W=CODES,
        s=COLUMN,
        t=ONE,
    )
    [weight] = find_weights(model).weights
    assert weight.notes == ("other readers have other scales ('t'); 's' is recorded",)
    assert weight.dequantization == Dequantization("s", None, 1, 1)
