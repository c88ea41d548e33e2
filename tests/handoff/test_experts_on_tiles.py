"""Layers of experts on tiles: what the tiles compute, multiplied in NumPy, is what ONNX Runtime gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_gconv
from tests.graphs import model, tensors, value
from tests.handoff.rounded import Rounded
from tests.handoff.tile_products import tiled_layers
from tests.packed_models import run

EXPERTS, HIDDEN, INNER, TOKENS, CHOSEN = 4, 12, 8, 5, 2
RNG = np.random.default_rng(3)
FIRST = RNG.normal(size=(EXPERTS, 2 * INNER, HIDDEN)).astype(np.float32)
SECOND = RNG.normal(size=(EXPERTS, HIDDEN, INNER)).astype(np.float32)
FEEDS = {
    "x": RNG.normal(size=(TOKENS, HIDDEN)).astype(np.float32),
    "router": RNG.normal(size=(TOKENS, EXPERTS)).astype(np.float32),
}
INPUTS = [value("x", shape=[TOKENS, HIDDEN]), value("router", shape=[TOKENS, EXPERTS])]


def moe():
    """The op for it, whose fc1 has the rows of gate and linear part in turns."""
    said = {"k": CHOSEN, "activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1}
    said |= {"activation_alpha": 1.0, "activation_beta": 0.0}
    inputs = ["x", "router", "fc1", "", "fc2"]
    node = helper.make_node("MoE", inputs, ["y"], "experts", domain="com.microsoft", **said)
    made = model([node], INPUTS, [value("y", shape=[TOKENS, HIDDEN])], tensors({"fc1": FIRST, "fc2": SECOND}))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def gathered():
    """As PyTorch exports it: each token takes the matrices of its experts, and multiplies them from the right."""
    parts = FIRST.reshape(EXPERTS, INNER, 2, HIDDEN).transpose(0, 2, 1, 3).reshape(FIRST.shape)  # gate, then linear
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[{TOKENS},{HIDDEN}] x, float[{TOKENS},{EXPERTS}] router) => (float[{TOKENS},{HIDDEN}] y) {{
            top, ids = TopK(router, two) share = Softmax <axis = -1> (top)
            flat = Reshape(ids, column) one = GatherND(fc1, flat)
            wide = Unsqueeze(x, axis1) both = Expand(wide, sizes) rows = Reshape(both, vectors)
            product = MatMul(one, rows) inner = Squeeze(product, axis2) gate, linear = Split <axis = 1> (inner, halves)
            turn = Sigmoid(gate) silu = Mul(gate, turn) hidden = Mul(silu, linear) column_of = Unsqueeze(hidden, axis2)
            other = GatherND(fc2, flat) out = MatMul(other, column_of) tokens = Reshape(out, shape)
            shares = Unsqueeze(share, axis2) scaled = Mul(tokens, shares) y = ReduceSum <keepdims = 0> (scaled, axis1)
        }}"""
    numbers = {
        "two": [CHOSEN],
        "column": [-1, 1],
        "axis1": [1],
        "axis2": [2],
        "sizes": [TOKENS, CHOSEN, HIDDEN],
        "vectors": [-1, HIDDEN, 1],
        "halves": [INNER, INNER],
        "shape": [TOKENS, CHOSEN, HIDDEN],
    }
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(tensors({name: np.array(array) for name, array in numbers.items()}))
    made.graph.initializer.extend(tensors({"fc1": parts, "fc2": SECOND}))
    return made


def matrices_of(layer):
    """Each expert's matrix [inputs, outputs], as its tiles multiply: what they make of unit vectors."""
    view = layer.view
    units = Rounded.exact(np.eye(view["rows"]))
    return np.stack([layer.product(units, number).value for number in range(view["matrices"])])


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("make", [moe, gathered])
def test_tiles_of_experts_compute_what_onnx_runtime_computes(tmp_path, make, granularity):
    onnx.save(make(), tmp_path / "m.onnx")
    report = onnx_gconv.map_model(tmp_path / "m.onnx", tmp_path / "g.onnx", granularity=granularity)
    onnx_gconv.write_bundle(tmp_path / "g.onnx", tmp_path / "out", (7, 5))
    layers = {layer.entry["weight"]: layer for layer in tiled_layers(tmp_path / "out")}
    assert {tile["matrix"] for tile in layers["fc1"].entry["tiles"]} == set(range(EXPERTS))
    first, second = (matrices_of(layers[name]) for name in ("fc1", "fc2"))
    assert (first.shape, second.shape) == ((EXPERTS, HIDDEN, 2 * INNER), (EXPERTS, INNER, HIDDEN))
    record = next(item for item in report.mapped if item.name == "fc1")
    assert np.prod(record.scale.shape) == (EXPERTS * 2 * INNER if granularity == "channel" else 1)
    found = np.zeros((TOKENS, HIDDEN))
    for token, chosen in enumerate(np.argsort(-FEEDS["router"], axis=1)[:, :CHOSEN]):
        shares = np.exp(FEEDS["router"][token, chosen])
        for share, expert in zip(shares / shares.sum(), chosen, strict=True):
            inner = FEEDS["x"][token] @ first[expert]
            gate, linear = (inner[0::2], inner[1::2]) if make is moe else (inner[:INNER], inner[INNER:])
            found[token] += share * ((gate / (1 + np.exp(-gate)) * linear) @ second[expert])
    for path in (tmp_path / "m.onnx", tmp_path / "g.onnx"):
        expected = run(path, FEEDS)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
