"""Weights that nodes compute from constants are mapped in their place; the nodes go unless something needs them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import UnmappableWeightError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.operations.operations import map_model, restore_model
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify

EXACT = SinglePairConductanceConverter(exact=True)


@pytest.fixture
def sliced(parse, normal):
    """An LSTM whose weights an exporter stored in another order of gates."""
    return parse(
        """g (float[5,1,3] x) => (float[5,1,1,2] y) {
            a = Slice(w, zero, two, axis)
            b = Slice(w, two, eight, axis)
            joined = Concat <axis = 0> (b, a)
            W = Unsqueeze(joined, axis)
            rc = Concat <axis = 0> (r, r)
            R = Unsqueeze(rc, axis)
            [lstm] y = LSTM <hidden_size = 2> (x, W, R)
        }""",
        w=normal(8, 3),
        r=normal(4, 2),
        zero=np.array([0]),
        two=np.array([2]),
        eight=np.array([8]),
        axis=np.array([0]),
    )


def test_the_result_is_mapped_and_what_computed_it_is_removed(sliced, run, normal):
    x = normal(5, 1, 3, seed=3)
    expected = run(sliced, "none", x=x)
    MapConductances(EXACT)(sliced)
    weights = read_manifest(sliced).weights
    assert [(w.name, w.stored_as, w.sources) for w in weights] == [
        ("joined", "computed", ("w",)),
        ("rc", "computed", ("r",)),
    ]
    assert [step.op for step in weights[0].consumers[0].path] == ["reshape"]
    assert [node.op_type for node in sliced.graph] == ["Sub", "Div", "Unsqueeze", "Sub", "Div", "Unsqueeze", "LSTM"]
    names = set(sliced.graph.initializers)
    assert names == {f"{w}.g_{kind}" for w in ("joined", "rc") for kind in ("plus", "minus", "scale")} | {"axis"}
    assert CheckMapping().violations(sliced) == ()
    assert run(sliced, "none", x=x)[0].tobytes() == expected[0].tobytes()


def test_it_is_restored_as_what_the_nodes_gave(sliced, run, normal):
    x = normal(5, 1, 3, seed=3)
    expected = run(sliced, "none", x=x)
    MapConductances(EXACT)(sliced)
    RestoreWeights()(sliced)
    assert sliced.graph.initializers["joined"].const_value.shape.numpy() == (8, 3)
    assert [node.op_type for node in sliced.graph] == ["Unsqueeze", "Unsqueeze", "LSTM"]
    assert run(sliced, "none", x=x)[0].tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("external_data", [False, True])
def test_files_map_verify_and_restore(sliced, tmp_path, external_data):
    ir.save(sliced, tmp_path / "in.onnx", external_data="in.data", size_threshold_bytes=0)
    report = map_model(tmp_path / "in.onnx", tmp_path / "out.onnx", external_data=external_data)
    assert report.mvm_share == 1.0
    verified = verify(tmp_path / "in.onnx", tmp_path / "out.onnx")
    verified.raise_if_failed()
    assert [item.name for item in verified.weights] == ["joined", "rc"]
    restore_model(tmp_path / "out.onnx", tmp_path / "plain.onnx")


def test_nodes_and_constants_that_something_else_needs_stay(parse, run, normal):
    model = parse(
        """g (float[2,3] x) => (float[2,3] y, float[3,3] z, float[3,3] u) {
            n = Neg(W)
            t = Mul(n, two)
            y = MatMul(x, t)
            z = Abs(n)
            u = Add(W, two)
        }""",
        W=normal(3, 3),
        two=np.float32(2),
    )
    x = normal(2, 3, seed=1)
    expected = run(model, "none", x=x)
    MapConductances(EXACT)(model)
    assert [node.op_type for node in model.graph] == ["Neg", "Sub", "Div", "MatMul", "Abs", "Add"]
    assert {"W", "two"} <= set(model.graph.initializers)
    for found, wanted in zip(run(model, "none", x=x), expected, strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_a_result_that_is_an_output_of_the_graph_stays_one(parse, run, normal):
    model = parse("g (float[2,3] x) => (float[2,3] y, float[3,3] t) { t = Neg(W) y = MatMul(x, t) }", W=normal(3, 3))
    MapConductances(EXACT)(model)
    _, t = run(model, "none", x=normal(2, 3))
    assert t.tobytes() == (-normal(3, 3)).tobytes()


def test_sources_of_outer_graphs_are_removed_from_there(parse, run, normal):
    model = parse(
        """g (bool c, float[2,3] x) => (float[2,3] y) {
            y = If (c) <
                then_branch = t () => (float[2,3] a) { n = Neg(W) a = MatMul(x, n) },
                else_branch = e () => (float[2,3] b) { m = Abs(W) b = MatMul(x, m) }
            >
        }""",
        W=normal(3, 3),
    )
    x = normal(2, 3, seed=1)
    expected = [run(model, "none", x=x, c=np.array(c)) for c in (True, False)]
    MapConductances(EXACT)(model)
    weights = read_manifest(model).weights
    assert [(w.name, w.graph) for w in weights] == [("n", "If#0.then_branch"), ("m", "If#0.else_branch")]
    assert not model.graph.initializers
    for condition, wanted in zip((True, False), expected, strict=True):
        assert run(model, "none", x=x, c=np.array(condition))[0].tobytes() == wanted[0].tobytes()
    RestoreWeights()(model)
    assert run(model, "all", x=x, c=np.array(True))[0].tobytes() == expected[0][0].tobytes()


def test_the_model_is_as_it_was_if_a_weight_is_refused(parse, normal, serialized):
    weight = normal(3, 3)
    weight[0, 0] = np.nan
    model = parse(
        "g (float[2,3] x) => (float[2,3] y, float[2,3] z) { t = Neg(V) y = MatMul(x, t) z = MatMul(x, W) }",
        V=normal(3, 3),
        W=weight,
    )
    before = serialized(model)
    with pytest.raises(UnmappableWeightError, match="nan"):
        MapConductances()(model)
    assert serialized(model) == before


def test_a_large_computed_weight_is_written_part_by_part(parse, tmp_path, monkeypatch):
    from onnx_gconv.files import data_file
    from onnx_gconv.passes.planning import scan

    monkeypatch.setattr(data_file, "_PART_ELEMENTS", 1 << 10)
    monkeypatch.setattr(scan, "PART_ELEMENTS", 1 << 10)
    weight = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)
    model = parse("g (float[2,100] x) => (float[2,100] y) { t = Neg(W) y = MatMul(x, t) }", W=weight)
    ir.save(model, tmp_path / "in.onnx", external_data="in.data")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx", EXACT, external_data=True)
    restore_model(tmp_path / "out.onnx", tmp_path / "plain.onnx")
    restored = ir.load(tmp_path / "plain.onnx").graph.initializers["t"].const_value.numpy()
    assert restored.tobytes() == (-weight).tobytes()


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ("t = Softmax <axis = 1> (V)", 11),
        ("t = Softmax <axis = 1> (V)", 13),
        ("t = LogSoftmax(V)", 12),
        ("t = Hardmax(V)", 9),
        ("t = BatchNormalization(V, one, two, one, two)", 9),
        ("t = BatchNormalization <momentum = 0.5> (V, one, two, one, two)", 7),
    ],
)
def test_nodes_are_computed_by_the_rule_of_the_opset_of_the_model(parse, run, normal, nodes, opset):
    text = f"g (float[2,4,3] x) => (float y, float t) {{ {nodes} y = MatMul(x, t) }}"
    vectors = {"one": normal(3), "two": np.abs(normal(3, seed=1)) + np.float32(1)}
    model = parse(text, opsets=f'"" : {opset}', V=normal(2, 3, 4), **vectors)
    _, expected = run(model, "none", x=normal(2, 4, 3))
    MapConductances(EXACT)(model)
    [weight] = read_manifest(model).weights
    _, rebuilt = run(model, "none", x=normal(2, 4, 3))
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-6, atol=1e-6)
    if "Hardmax" in nodes:
        assert weight.notes == ()
        assert rebuilt.tobytes() == expected.tobytes()
    else:
        op_type = nodes.split()[2].partition("(")[0]
        assert weight.notes == (
            f"computed by {op_type}, whose results differ in their last places from runtime to runtime",
        )


@pytest.mark.parametrize("opset", [10, 13, 17, 19, 21])
def test_codes_that_are_split_after_they_are_dequantized_are_computed_at_each_opset(parse, run, normal, opset):
    split = "q, k = Split <axis = 1> (d, h)" if opset >= 13 else "q, k = Split <axis = 1, split = [2, 2]> (d)"
    text = "g (float[2,3] x) => (float y, float z, float q, float k)"
    model = parse(
        f"{text} {{ d = DequantizeLinear(Q, s) {split} y = MatMul(x, q) z = MatMul(x, k) }}",
        opsets=f'"" : {opset}',
        Q=np.arange(12, dtype=np.int8).reshape(3, 4),
        s=np.float32(0.1),
        h=np.array([2, 2]),
    )
    *_, q, k = run(model, "none", x=normal(2, 3))
    MapConductances(EXACT)(model)
    assert [weight.name for weight in read_manifest(model).weights] == ["q", "k"]
    *_, rebuilt_q, rebuilt_k = run(model, "none", x=normal(2, 3))
    assert (rebuilt_q.tobytes(), rebuilt_k.tobytes()) == (q.tobytes(), k.tobytes())


def test_weights_of_different_shapes_are_taken_out_of_a_sequence(parse, run, normal):
    model = parse(
        """g (float[2,3] x) => (float[2,5] y) {
            s = SequenceConstruct(A, B)
            a = SequenceAt(s, zero)
            b = SequenceAt(s, one)
            h = MatMul(x, a)
            y = MatMul(h, b)
        }""",
        A=normal(3, 4),
        B=normal(4, 5),
        zero=np.array(0),
        one=np.array(1),
    )
    x = normal(2, 3, seed=3)
    [expected] = run(model, "none", x=x)
    MapConductances(EXACT)(model)
    assert [weight.name for weight in read_manifest(model).weights] == ["a", "b"]
    assert not {"SequenceConstruct", "SequenceAt"} & {node.op_type for node in model.graph}
    assert run(model, "none", x=x)[0].tobytes() == expected.tobytes()


class TestPackedCodes:
    """Ternary codes, two in a byte."""

    NODES = """p = BitwiseAnd(P, mask) h = BitShift <direction = "RIGHT"> (P, two) q = BitwiseAnd(h, mask)
        j = Concat <axis = 0> (p, q) c = Cast <to = 1> (j) z = Sub(c, one) w = Mul(z, s) y = MatMul(x, w)"""
    PACKED = np.random.default_rng(0).integers(0, 3, (3, 4)).astype(np.uint8) * 5

    @pytest.fixture(params=["", "float[2,6] x"], ids=["without types", "with types"])
    def packed(self, request, parse):
        import onnx

        constants = {"mask": np.uint8(3), "two": np.uint8(2), "one": np.float32(1), "s": np.float32(0.1)}
        text = f"g (float[2,6] x) => (float[2,4] y) {{ {self.NODES} }}"
        model = parse(text, opsets='"" : 18', P=self.PACKED, **constants)
        return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model))) if request.param else model

    def test_they_are_mapped_as_codes_whether_types_are_known_or_not(self, packed):
        [weight] = MapConductances(EXACT).preview(packed).weights
        assert (weight.name, weight.dtype, weight.shape) == ("j", "uint8", (6, 4))

    def test_they_stay_if_codes_are_not_to_be_mapped(self, packed):
        manifest = MapConductances(EXACT, quantized="skip").preview(packed)
        assert manifest.weights == ()
        assert [(item.name, item.reason, item.is_mvm) for item in manifest.skipped] == [("P", "quantized", True)]


def test_dropout_that_does_not_train_is_passed(parse, normal):
    model = parse("g (float[2,3] x) => (float[2,3] y) { w = Dropout(W) y = MatMul(x, w) }", W=normal(3, 3))
    MapConductances(EXACT)(model)
    assert [node.op_type for node in model.graph] == ["Sub", "Div", "MatMul"]


def test_parts_of_one_element_are_sources_and_factors_are_none(parse):
    """A scalar has at most one axis; what has more is a part of the weight, however small."""
    model = parse(
        """g (float[1,1,2] x) => (float[1,1,1,1] y) {
            both = Concat <axis = 0> (a, b)
            W = Mul(both, factor)
            [rnn] y = RNN <hidden_size = 1, direction = "bidirectional"> (x, V, W)
        }""",
        a=np.full((1, 1, 1), 2, np.float32),
        b=np.full((1, 1, 1), 3, np.float32),
        factor=np.array(0.5, np.float32),
        V=np.ones((2, 1, 2), np.float32),
    )
    assert MapConductances()(model).modified
    manifest = read_manifest(model)
    [record] = [item for item in manifest.weights if item.stored_as == "computed"]
    assert set(record.sources) == {"a", "b"}
    assert [item.name for item in manifest.skipped if item.name in {"a", "b"}] == []


def test_sources_of_a_weight_of_integers_alone_are_all_of_them(parse):
    """Sizes and indices are no sources beside numbers; here nothing tells them from numbers."""
    model = parse(
        """g (float[1,4] x) => (float[1,2] y) {
            r = Range(start, limit, delta)
            f = Cast <to = 1> (r)
            W = Gather(f, places)
            y = MatMul(x, W)
        }""",
        start=np.array(5, np.int32),
        limit=np.array(-6, np.int32),
        delta=np.array(-3, np.int32),
        places=np.array([[0, 1], [2, 3], [1, 0], [3, 3]]),
    )
    assert MapConductances()(model).modified
    [record] = read_manifest(model).weights
    assert set(record.sources) == {"start", "limit", "delta", "places"}
