"""The nodes that rebuild a weight stand before its first user, and outside of loops where that is possible."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.operations.operations import map_model
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify

LOOP = """g (int64 n, float[2,2] x) => (float[2,2] y) {
    go = Constant <value_int = 1> ()
    start = Cast <to = 9> (go)
    y = Loop (n, start, x) <
        body = b (int64 i, bool c, float[2,2] state) => (bool d, float[2,2] next)
        <float[2,2] W = {0.5, 0.25, 0.125, 1.0}> {
            d = Identity(c)
            BODY
        }
    >
}"""
PLAIN = "[mm] next = MatMul(state, W)"
CONSTANT = "V = Constant <value = float[2,2] {1, 2, 3, 4}> () [mm] next = MatMul(state, V)"
COMPUTED = "V = Neg(W) [mm] next = MatMul(state, V)"
BRANCH = """next = If (c) <
    then_branch = t () => (float[2,2] p) { [mm] p = MatMul(state, W) },
    else_branch = e () => (float[2,2] q) { q = Identity(state) }
>"""


@pytest.mark.parametrize("body", [PLAIN, CONSTANT, COMPUTED, BRANCH], ids=["initializer", "constant", "computed", "if"])
def test_a_weight_in_the_body_of_a_loop_is_rebuilt_once_outside(parse, run, normal, tmp_path, body):
    model = parse(LOOP.replace("BODY", body))
    inputs = {"n": np.array(3), "x": normal(2, 2)}
    expected = run(model, "none", **inputs)
    ir.save(model, tmp_path / "in.onnx")
    MapConductances(SinglePairConductanceConverter(exact=True))(model)
    [weight] = read_manifest(model).weights
    assert weight.graph == ""
    assert weight.consumers[0].graph.startswith("Loop#0.body")
    loop = next(node for node in model.graph if node.op_type == "Loop")
    assert not {"Sub", "Div"} & {node.op_type for node in loop.attributes["body"].as_graph()}
    assert CheckMapping().violations(model) == ()
    assert run(model, "none", **inputs)[0].tobytes() == expected[0].tobytes()
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    verify(tmp_path / "in.onnx", tmp_path / "out.onnx", inputs=inputs).raise_if_failed()
    RestoreWeights()(model)
    assert run(model, "none", **inputs)[0].tobytes() == expected[0].tobytes()
    assert weight.name not in model.graph.initializers  # it is back in the body


def test_a_name_that_another_graph_has_too_keeps_the_weight_in_the_loop(parse, run, normal):
    body = """(int64 i{0}, bool c{0}, float[2,2] s{0}) => (bool d{0}, float[2,2] r{0})
        <float[2,2] W = {{0.5, 0.25, 0.125, 1.{0}}}> {{
            d{0} = Identity(c{0})
            r{0} = MatMul(s{0}, W)
        }}"""
    model = parse(
        f"""g (int64 n, float[2,2] x) => (float[2,2] y) {{
            go = Constant <value_int = 1> ()
            start = Cast <to = 9> (go)
            z = Loop (n, start, x) < body = a {body.format(1)} >
            y = Loop (n, start, z) < body = b {body.format(2)} >
        }}"""
    )
    inputs = {"n": np.array(2), "x": normal(2, 2)}
    expected = run(model, "none", **inputs)
    MapConductances(SinglePairConductanceConverter(exact=True))(model)
    assert [weight.graph for weight in read_manifest(model).weights] == ["Loop#0.body", "Loop#1.body"]
    assert run(model, "none", **inputs)[0].tobytes() == expected[0].tobytes()


def test_a_weight_that_the_body_gives_back_stays_there(parse, run, normal):
    model = parse(
        """g (int64 n, float[2,2] x) => (float[2,2] y, float[k,2,2] w) {
            go = Constant <value_int = 1> ()
            start = Cast <to = 9> (go)
            y, w = Loop (n, start, x) <
                body = b (int64 i, bool c, float[2,2] state) => (bool d, float[2,2] next, float[2,2] V) {
                    d = Identity(c)
                    V = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                    next = MatMul(state, V)
                }
            >
        }"""
    )
    inputs = {"n": np.array(2), "x": normal(2, 2)}
    expected = run(model, "none", **inputs)
    MapConductances(SinglePairConductanceConverter(exact=True))(model)
    assert read_manifest(model).weights[0].graph == "Loop#0.body"
    for found, wanted in zip(run(model, "none", **inputs), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_a_weight_of_nested_loops_moves_outside_of_the_outer_one(parse, run, normal):
    model = parse(
        """g (int64 n, float[2,2] x) => (float[2,2] y) {
            go = Constant <value_int = 1> ()
            start = Cast <to = 9> (go)
            y = Loop (n, start, x) <
                body = b (int64 i, bool c, float[2,2] state) => (bool d, float[2,2] next) {
                    d = Identity(c)
                    next = Loop (n, c, state) <
                        body = a (int64 j, bool e, float[2,2] s) => (bool f, float[2,2] t)
                        <float[2,2] W = {0.5, 0.25, 0.125, 1.0}> {
                            f = Identity(e)
                            t = MatMul(s, W)
                        }
                    >
                }
            >
        }"""
    )
    inputs = {"n": np.array(2), "x": normal(2, 2)}
    expected = run(model, "none", **inputs)
    MapConductances(SinglePairConductanceConverter(exact=True))(model)
    assert read_manifest(model).weights[0].graph == ""
    assert run(model, "none", **inputs)[0].tobytes() == expected[0].tobytes()


def test_codes_that_are_dequantized_in_a_loop_stay_there(parse, run):
    model = parse(
        LOOP.replace(
            "<float[2,2] W = {0.5, 0.25, 0.125, 1.0}>", "<int8[2,2] W = {1, -2, 3, 4}, float s = {0.5}>"
        ).replace("BODY", "t = DequantizeLinear(W, s) next = MatMul(state, t)")
    )
    inputs = {"n": np.array(2), "x": np.eye(2, dtype=np.float32)}
    expected = run(model, "all", **inputs)
    MapConductances()(model)
    assert read_manifest(model).weights[0].graph == "Loop#0.body"
    assert run(model, "all", **inputs)[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("code", ["t = DequantizeLinear(W, s)", "r = Identity(W) t = DequantizeLinear(r, s)"])
def test_codes_that_are_dequantized_in_a_branch_of_a_function_stay_in_each_call(parse, run, tmp_path, code):
    """ONNX Runtime does not load a model whose codes are outside of the branch in which they are multiplied."""
    text = """g (float[2,2] x, bool c) => (float[2,2] y) { h = own.f(c, x) y = own.f(c, h) }
    <domain: "own", opset_import: ["" : 17]>
    f (c, x) => (y) {
        y = If (c) <
            then_branch = a () => (float[2,2] u) <int8[2,2] W = {1, -2, 3, 4}, float s = {0.5}> {
                CODE
                u = MatMul(x, t)
            },
            else_branch = b () => (float[2,2] v) { v = Identity(x) }
        >
    }"""
    model = parse(text.replace("CODE", code), opsets='"" : 17, "own" : 1')
    inputs = {"x": np.eye(2, dtype=np.float32), "c": np.array(True)}
    expected = run(model, "all", **inputs)
    MapConductances()(model)
    assert len(read_manifest(model).weights) == 2
    assert run(model, "all", **inputs)[0].tobytes() == expected[0].tobytes()


def test_codes_that_an_integer_op_reads_in_a_loop_move_outside(parse, run):
    model = parse(
        """g (int64 n, uint8[2,2] x) => (int32[k,2,2] y) {
            go = Constant <value_int = 1> ()
            start = Cast <to = 9> (go)
            y = Loop (n, start) <
                body = b (int64 i, bool c) => (bool d, int32[2,2] z) <int8[2,2] W = {1, -2, 3, 4}> {
                    d = Identity(c)
                    z = MatMulInteger(x, W)
                }
            >
        }"""
    )
    inputs = {"n": np.array(2), "x": np.array([[1, 2], [3, 4]], np.uint8)}
    expected = run(model, "all", **inputs)
    MapConductances()(model)
    assert read_manifest(model).weights[0].graph == ""
    assert run(model, "all", **inputs)[0].tobytes() == expected[0].tobytes()


def test_a_moved_weight_that_something_outside_reads_by_now_stays_outside_when_restored(parse, run, normal):
    model = parse(LOOP.replace("BODY", PLAIN))
    inputs = {"n": np.array(3), "x": normal(2, 2)}
    MapConductances(SinglePairConductanceConverter(exact=True))(model)
    weight = next(node for node in model.graph if node.op_type == "Div").outputs[0]
    copy = ir.node("Identity", [weight], outputs=[ir.Value(name="copy", type=ir.TensorType(ir.DataType.FLOAT))])
    model.graph.append(copy)
    model.graph.outputs.append(copy.outputs[0])
    expected = run(model, "none", **inputs)
    RestoreWeights()(model)
    assert weight.name in model.graph.initializers
    for found, wanted in zip(run(model, "none", **inputs), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_a_weight_that_is_an_output_is_refused_if_a_body_has_its_name_too(parse, serialized, normal):
    model = parse(
        """g (bool c, float[2,2] x) => (float[2,2] y, float[2,2] W) {
            h = MatMul(x, W)
            [choose] y = If (c) <
                then_branch = t () => (float[2,2] a) <float[2,2] W = {1, 2, 3, 4}> { a = MatMul(h, W) },
                else_branch = e () => (float[2,2] b) { b = Identity(h) }
            >
        }""",
        W=normal(2, 2),
    )
    before = serialized(model)
    with pytest.raises(
        ModelError,
        match=r"^the weight 'W' is a graph output, and the graph 'choose\.then_branch' has another value of that name; "
        "rename one of them$",
    ):
        MapConductances()(model)
    assert serialized(model) == before
