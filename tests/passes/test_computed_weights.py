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
    from onnx_gconv.passes import mapping_plan

    monkeypatch.setattr(data_file, "_PART_ELEMENTS", 1 << 10)
    monkeypatch.setattr(mapping_plan, "_PART_ELEMENTS", 1 << 10)
    weight = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)
    model = parse("g (float[2,100] x) => (float[2,100] y) { t = Neg(W) y = MatMul(x, t) }", W=weight)
    ir.save(model, tmp_path / "in.onnx", external_data="in.data")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx", EXACT, external_data=True)
    restore_model(tmp_path / "out.onnx", tmp_path / "plain.onnx")
    restored = ir.load(tmp_path / "plain.onnx").graph.initializers["t"].const_value.numpy()
    assert restored.tobytes() == (-weight).tobytes()
