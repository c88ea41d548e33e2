"""Which node adds the bias of a layer, and along which axis: it is in rows only where it belongs to the outputs."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv import map_model, open_bundle, read_back, write_bundle
from onnx_gconv.crossbars.layers import layers_of
from onnx_gconv.crossbars.tiles import ArrayGeometry
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.passes import MapConductances
from onnx_gconv.weights.weight_path import reached_inputs

ROWS = ArrayGeometry(8, 8, bias_rows=1)


@pytest.fixture
def layers(parse, normal):
    """The layers of a mapped model with a weight W [4, 3] or [3, 4], and a bias c."""

    def make(text, shape=(4, 3), bias=(4,), opsets='"" : 17', **more):
        model = parse(text, opsets=opsets, W=normal(*shape), c=0.1 * normal(*bias, seed=1), **more)
        MapConductances()(model)
        return layers_of(model, ROWS, None)

    return make


LEFT = {
    "MatMul": "g (float[3,4] x) => (float y) { h = MatMul(W, x) y = Add(h, c) }",
    "Gemm": "g (float[3,4] x) => (float y) { y = Gemm(W, x, c) }",
}


@pytest.mark.parametrize("op", LEFT)
def test_a_bias_along_the_inputs_of_a_weight_on_the_left_stays_digital(layers, op):
    [layer] = layers(LEFT[op], bias=(4,))  # which is square, so that the number of outputs would fit
    assert layer.bias_rows == "its shape [4] is not that of the outputs"


@pytest.mark.parametrize("op", LEFT)
@pytest.mark.parametrize("bias", [(4, 1), (1,), (1, 1), ()])
def test_a_bias_of_the_outputs_of_a_weight_on_the_left_is_in_rows(parse, normal, run, tmp_path, op, bias):
    weight, added, x = normal(4, 3), np.float32(0.1) * normal(*bias, seed=1), normal(3, 4, seed=2)
    save_model(parse(LEFT[op], W=weight, c=added), tmp_path / "model.onnx")
    mapped = map_model(tmp_path / "model.onnx", granularity="channel").output
    [layer] = write_bundle(mapped, tmp_path / "bundle", (8, 8), bias_rows=1, arrays="npz").layers
    assert layer.bias_rows == 1
    with open_bundle(tmp_path / "bundle") as bundle:
        found = bundle.layers[0].rebuilt_bias()
    np.testing.assert_allclose(found.reshape(-1), np.broadcast_to(added, (4, 1)).reshape(-1), atol=1e-6)
    # A chip that is off differently at each output adds another number to each.
    off = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    with np.load(tmp_path / "bundle" / "conductances.npz") as targets:
        chip = {key: targets[key].copy() for key in targets.files if key.endswith("/g_plus")}
        scale = np.broadcast_to(targets["L000/scale"].reshape(-1), 4)
    for array in chip.values():
        array[-1:] += off
    np.savez(tmp_path / "chip.npz", **chip)
    read_back(mapped, tmp_path / "chip.npz", tmp_path / "measured.onnx", bundle=tmp_path / "bundle")
    [y] = run(load_model(tmp_path / "measured.onnx"), x=x)
    expected = weight @ x + np.broadcast_to(added, (4, 1)) + (off[0] / scale)[:, None]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_bias_stays_digital_if_the_model_gives_the_product_without_it_too(layers):
    [layer] = layers(
        "g (float[2,3] x) => (float[2,4] h, float[2,4] y) { h = MatMul(x, W) y = Add(h, c) }", shape=(3, 4)
    )
    assert layer.bias.name == "c"
    assert layer.bias_rows == "'h', the product without the bias, is an output of the model, too"


def test_an_add_of_another_domain_adds_no_bias(layers):
    [layer] = layers(
        "g (float[2,3] x) => (float y) { h = MatMul(x, W) y = other.Add(h, c) }",
        shape=(3, 4),
        opsets='"" : 17, "other" : 1',
    )
    assert layer.bias is None


def test_a_node_without_a_name_is_not_mistaken_for_one_that_reads_what_others_made_of_the_weight(layers):
    [layer] = layers(
        "g (float[2,3] x, float[3,4] o) => (float y, float z) { n = Add(o, W) m = MatMul(x, n) z = Add(m, d)"
        " t = Identity(W) u = Identity(t) v = Identity(u) h = MatMul(x, v) y = Add(h, c) }",
        shape=(3, 4),
        d=np.ones(4, np.float32),
    )
    assert layer.bias.name == "c"


def test_the_search_for_the_node_of_a_weight_ends_at_what_reads_it(parse, normal):
    text = "h = Cast <to = 1> (W) t = Transpose(h) a = MatMul(x, t) b = MatMul(a, t) c = Relu(b) y = MatMul(c, h)"
    model = parse(f"g (float[3,3] x) => (float y) {{ {text} }}", W=normal(3, 3).astype(np.float16))
    found = [(node.op_type, index) for node, index in reached_inputs(model.graph.initializers["W"])]
    assert found == [("Cast", 0), ("Transpose", 0), ("MatMul", 1), ("MatMul", 1), ("MatMul", 1)]
