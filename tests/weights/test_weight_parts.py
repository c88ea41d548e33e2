"""Which matrices stand side by side in a weight: what ops say, and what is split behind a product."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnx_gconv.weights import find_weights
from onnx_gconv.weights.weight_parts import parts_of, wrong_parts

OPSETS = '"" : 18, "com.microsoft" : 1'
QKV = ("query", "key", "value")
ATTENTION = "com.microsoft.Attention <num_heads = 2 {sizes}> (x, W, c)"

# The nodes, the shape of W, and the parts: names and numbers of outputs.
SAID = {
    "Attention": (f"y = {ATTENTION.format(sizes='')}", (8, 24), (QKV, (8, 8, 8))),
    "Attention with other values": (
        f"y = {ATTENTION.format(sizes=', qkv_hidden_sizes = [8, 8, 4]')}",
        (8, 20),
        (QKV, (8, 8, 4)),
    ),
    "GroupQueryAttention behind a bias": (
        (
            "p = MatMul(x, W) q = Add(c, p) y = com.microsoft.GroupQueryAttention "
            "<num_heads = 4, kv_num_heads = 1> (q, , , past, past, n, n)"
        ),
        (8, 24),
        (QKV, (16, 4, 4)),
    ),
    "Split with sizes": ("p = MatMul(x, W) a, b = Split <axis = -1> (p, sizes) y = Mul(a, b)", (8, 10), (None, (6, 4))),
    "Split of Gemm in two": (
        "p = Gemm <transB = 1> (x, W) a, b = Split <axis = 1, num_outputs = 2> (p) y = Mul(a, b)",
        (9, 8),
        (None, (5, 4)),
    ),
    "Split for ONNX's Attention": (
        (
            "p = MatMul(x, W) a, b, d = Split <axis = -1, num_outputs = 3> (p) "
            "y = Attention <q_num_heads = 2, kv_num_heads = 2> (a, b, d)"
        ),
        (8, 24),
        (QKV, (8, 8, 8)),
    ),
    "Slices": (
        "p = MatMul(x, W) b = Slice(p, six, end, last, one) a = Slice(p, zero, six, last) y = Concat <axis = 0> (a, b)",
        (8, 10),
        (None, (6, 4)),
    ),
    "Gathers behind a Reshape": (
        (
            "p = MatMul(x, W) r = Reshape(p, heads) t = Transpose <perm = [1, 0, 2, 3]> (r) a = Gather(t, zero) "
            "b = Gather(t, one) d = Gather(t, two) y = Sum(a, b, d)"
        ),
        (8, 24),
        (None, (8, 8, 8)),
    ),
    "Slices behind a Reshape": (
        (
            "p = MatMul(x, W) r = Reshape(p, heads) t = Transpose <perm = [1, 0, 2, 3]> (r) "
            "a = Slice(t, zero, one, zero) b = Slice(t, one, end, zero) y = Concat <axis = 0> (a, b)"
        ),
        (8, 24),
        (None, (8, 16)),
    ),
    "Split behind a Reshape": (
        "p = MatMul(x, W) r = Reshape(p, heads) a, b, d = Split <axis = 1, num_outputs = 3> (r) y = Sum(a, b, d)",
        (8, 24),
        (None, (8, 8, 8)),
    ),
    "codes": (
        "p = MatMulInteger(x8, W) f = Cast <to = 1> (p) a, b = Split <axis = -1> (f, sizes) y = Mul(a, b)",
        (8, 10),
        (None, (6, 4)),
    ),
}

# Nothing says parts, or not all of what reads the product agrees.
SILENT = {
    "one reader": "y = MatMul(x, W)",
    "heads side by side": (
        "p = MatMul(x, W) r = Reshape(p, heads) a, b = Split <axis = 2, num_outputs = 2> (r) y = Add(a, b)"
    ),
    "a Reshape of which one is left out": (
        "p = MatMul(x, W) r = Reshape(p, heads) "
        "a = Gather <axis = 1> (r, zero) b = Gather <axis = 1> (r, two) y = Add(a, b)"
    ),
    "a Reshape across the columns": "p = MatMul(x, W) r = Reshape(p, across) a, y = Split <axis = 1> (r)",
    "Split of rows": "p = MatMul(x, W) a, y = Split <axis = 0, num_outputs = 2> (p)",
    "another reader": "p = MatMul(x, W) a, b = Split <axis = -1> (p, sizes) y = Concat <axis = -1> (a, b, p)",
    "sizes of a run": "p = MatMul(x, W) a, b = Split <axis = -1> (p, given) y = Mul(a, b)",
    "Slices with a gap": "p = MatMul(x, W) a = Slice(p, zero, six, last) b = Slice(p, seven, end, last) y = Mul(a, b)",
    "one Slice": "p = MatMul(x, W) y = Slice(p, zero, six, last)",
    "Slices of every other": (
        "p = MatMul(x, W) a = Slice(p, zero, six, last, two) b = Slice(p, six, end, last) y = Mul(a, b)"
    ),
    "a product before it": "q = MatMul(x, V) p = MatMul(q, W) a, y = Split <axis = 0, num_outputs = 2> (p)",
    "a weight on the left": "p = MatMul(W, x) a, b = Split <axis = -1> (p, sizes) y = Mul(a, b)",
    "left for a caller": "p = MatMul(x, W) a, b = Split <axis = -1> (p, sizes) y = Mul(a, b)",
}  # fmt: skip


def found_weight(parse, nodes, shape, dtype=np.float32):
    numbers = {name: np.array([number], np.int64) for name, number in
               {"zero": 0, "one": 1, "two": 2, "six": 6, "seven": 7, "last": -1, "end": 1 << 62}.items()}  # fmt: skip
    numbers |= {"heads": np.array([-1, 3, 2, 4], np.int64), "across": np.array([4, 2, 6], np.int64)}
    numbers |= {"sizes": np.array([6, 4], np.int64), "V": np.ones((8, 8), np.float32)}
    numbers |= {"c": np.ones(shape[-1], np.float32), "n": np.array([1], np.int32)}
    text = f"g (float[2,8] x, uint8[2,8] x8, int64[2] given, float past) => (y) {{ {nodes} }}"
    used = {name: array for name, array in numbers.items() if name in re.findall(r"\w+", nodes)}
    model = parse(text, opsets=OPSETS, W=np.ones(shape, dtype), **used)
    [weight] = [each for each in find_weights(model).weights if each.name == "W"]
    return weight, model


@pytest.mark.parametrize("name", SAID)
def test_the_graph_says_which_columns_belong_together(parse, name):
    nodes, shape, (names, sizes) = SAID[name]
    weight, _ = found_weight(parse, nodes, shape, np.uint8 if name == "codes" else np.float32)
    found, note = parts_of(weight, "auto")
    names = names or tuple(f"part{number}" for number in range(len(sizes)))
    assert (found.sizes, found.names, note) == (sizes, names, None)
    assert parts_of(weight, "none") == (None, None)
    assert parts_of(weight, (sum(sizes) - 1, 1))[0].names == ("part0", "part1")
    assert parts_of(weight, sizes)[0].names == found.names


@pytest.mark.parametrize("name", SILENT)
def test_a_weight_is_one_matrix_unless_all_that_reads_the_product_says_otherwise(parse, name):
    shapes = {"a weight on the left": (10, 8), "a product before it": (8, 8), "a Reshape across the columns": (8, 24)}
    shapes |= dict.fromkeys(("heads side by side", "a Reshape of which one is left out"), (8, 24))
    shape = shapes.get(name, (8, 10))
    weight, model = found_weight(parse, SILENT[name], shape)
    if name == "left for a caller":
        model.graph.inputs.append(model.graph.initializers["sizes"])
    assert parts_of(weight, "auto") == (None, None)


def test_readers_that_split_a_weight_differently_leave_it_one_matrix(parse):
    nodes = (
        "p = MatMul(x, W) a, b = Split <axis = -1> (p, sizes) q = MatMul(a, V) "
        "r = MatMul(q, W) d, e = Split <axis = -1, num_outputs = 2> (r) s = Concat <axis = -1> (d, e) y = Add(s, c)"
    )
    text = f"g (float[2,6] x) => (y) {{ {nodes} }}"
    arrays = {"W": np.ones((6, 10), np.float32), "V": np.ones((6, 6), np.float32), "c": np.ones(10, np.float32)}
    model = parse(text, opsets=OPSETS, sizes=np.array([6, 4], np.int64), **arrays)
    weight = next(each for each in find_weights(model).weights if each.name == "W")
    note = "it is mapped as one matrix: its readers split it into 6 + 4 and into 5 + 5"
    assert parts_of(weight, "auto") == (None, note)


def test_given_parts_have_to_have_all_outputs(parse):
    weight, _ = found_weight(parse, "[layer] y = MatMul(x, W)", (8, 10))
    assert wrong_parts(weight, (6, 4)) is None
    assert wrong_parts(weight, (6, 6)) == (
        "the parts 6 + 6 have 12 outputs, but the weight 'W' of layer (MatMul) has 10; correct them, or give them to "
        "other weights"
    )
    model = parse("g (float[1,8,4,4] x) => (y) { [up] y = ConvTranspose(x, W) }", W=np.ones((8, 3, 2, 2), np.float32))
    [kernels] = find_weights(model).weights
    assert wrong_parts(kernels, (4, 8)) is None
    assert wrong_parts(kernels, (6, 6)) == (
        "the parts 6 + 6 cut output channels of the weight 'W', which have 4 columns each in up (ConvTranspose); give "
        "multiples of 4"
    )
