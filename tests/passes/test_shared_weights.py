"""A digital copy of a weight serves the nodes that are no MVM ops, and no others."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

EXACT = SinglePairConductanceConverter(exact=True)
COARSE = SinglePairConductanceConverter(g_min=5.0)

TIED = """g (int64[2] i) => (float[2,5] y) {
    [look_up] x = Gather(W, i)
    [turn] T = Transpose <perm = [1, 0]> (W)
    [head] y = MatMul(x, T)
}"""
IDS = {"i": np.array([3, 1])}


@pytest.fixture
def tied(parse, normal):
    """An embedding whose matrix is the head's, too."""
    return parse(TIED, W=normal(5, 4))


def mapped(model, converter=COARSE, **options):
    MapConductances(converter, shared="split", **options)(model)
    onnx.checker.check_model(ir.to_proto(model))
    CheckMapping()(model)
    return model


def inputs(model):
    """What each node reads, by its name."""
    return {
        node.name: [value and value.name for value in node.inputs]
        for graph in model.graphs()
        for node in graph
        if node.name and "gconv" not in node.name
    }


def reads(model):
    return {consumer.node: consumer.reads for record in read_manifest(model).weights for consumer in record.consumers}


def test_by_default_all_read_the_rebuilt_weight(tied):
    MapConductances(COARSE)(tied)
    assert inputs(tied) == {"look_up": ["W", "i"], "turn": ["W"], "head": ["x", "T"]}
    assert reads(tied) == {"look_up": "rebuilt", "head": "rebuilt"}
    [record] = read_manifest(tied).weights
    assert record.digital_copy is None


def test_a_digital_copy_is_read_by_all_but_mvm_ops(tied, normal):
    mapped(tied)
    assert inputs(tied) == {"look_up": ["W.digital", "i"], "turn": ["W"], "head": ["x", "T"]}
    assert reads(tied) == {"look_up": "digital", "head": "rebuilt"}
    [record] = read_manifest(tied).weights
    assert record.digital_copy == "W.digital"
    np.testing.assert_array_equal(tied.graph.initializers["W.digital"].const_value.numpy(), normal(5, 4))


def test_the_copy_stands_beside_the_conductances_with_type_and_shape(tied):
    mapped(tied)
    assert list(tied.graph.initializers) == ["W.g_plus", "W.g_minus", "W.g_scale", "W.digital"]
    copy = tied.graph.initializers["W.digital"]
    assert (copy.dtype, copy.shape.numpy()) == (ir.DataType.FLOAT, (5, 4))


def test_the_copy_is_the_original_tensor_and_nothing_is_read(tied):
    tensor = tied.graph.initializers["W"].const_value
    mapped(tied)
    assert tied.graph.initializers["W.digital"].const_value is tensor


@pytest.mark.parametrize("optimization", ["none", "all"])
def test_the_digital_readers_compute_with_the_weight_as_it_was(tied, run, normal, optimization):
    weight = normal(5, 4)
    mapped(tied)
    tied.graph.outputs.append(next(node for node in tied.graph if node.name == "look_up").outputs[0])
    _, rows = run(tied, optimization, **IDS)
    np.testing.assert_array_equal(rows, weight[IDS["i"]])


def test_a_weight_that_only_mvm_ops_read_gets_no_copy(parse, normal):
    model = mapped(parse("g (float[2,4] x) => (float y) { a = MatMul(x, W) y = MatMul(a, W) }", W=normal(4, 4)))
    assert read_manifest(model).weights[0].digital_copy is None
    assert "W.digital" not in model.graph.initializers


def test_a_name_that_is_taken_gets_a_suffix(parse, normal):
    text = TIED.replace("look_up] x = Gather(W, i)", "look_up] u = Gather(W, i) [add] x = Add(u, B)")
    model = parse(text, W=normal(5, 4), B=normal(1, 4))
    model.graph.initializers["B"].name = "W.digital"
    mapped(model)
    assert read_manifest(model).weights[0].digital_copy == "W.digital_1"
    assert inputs(model)["look_up"] == ["W.digital_1", "i"]


class TestRearrangingNodes:
    def test_those_that_serve_only_others_read_the_copy(self, parse, normal):
        model = mapped(
            parse(
                """g (float[2,4] x) => (float y, float z) {
                    [mm] y = MatMul(x, W)
                    [turn] T = Transpose <perm = [1, 0]> (W)
                    [same] S = Identity(T)
                    [add] z = Add(x, S)
                }""",
                W=normal(4, 2),
            )
        )
        assert inputs(model)["turn"] == ["W.digital"]
        assert inputs(model)["mm"] == ["x", "W"]
        assert reads(model) == {"mm": "rebuilt", "add": "digital"}

    def test_those_that_serve_an_mvm_op_too_read_the_rebuilt_weight(self, parse, normal):
        model = mapped(
            parse(
                """g (float[2,4] x, int64[1] i) => (float y, float z, float u) {
                    [turn] T = Transpose <perm = [1, 0]> (W)
                    [mm] y = MatMul(x, T)
                    [add] z = Gather(T, i)
                    [look_up] u = Gather(W, i)
                }""",
                W=normal(2, 4),
            )
        )
        assert inputs(model)["turn"] == ["W"]
        assert reads(model) == {"mm": "rebuilt", "add": "rebuilt", "look_up": "digital"}

    def test_one_that_gives_an_output_reads_the_copy(self, parse, normal):
        model = mapped(
            parse(
                "g (float[2,4] x) => (float y, float[2,4] T) { [mm] y = MatMul(x, W) [turn] T = Transpose(W) }",
                W=normal(4, 2),
            )
        )
        assert inputs(model)["turn"] == ["W.digital"]


def test_a_weight_that_is_an_output_is_rebuilt_there(parse, run, normal):
    model = mapped(
        parse("g (float[2,4] x) => (float y, float[4,4] W, float z) { y = MatMul(x, W) z = Add(W, W) }", W=normal(4, 4))
    )
    x = normal(2, 4, seed=1)
    _, weight, doubled = run(model, "none", x=x)
    assert not np.array_equal(weight, normal(4, 4))
    np.testing.assert_array_equal(doubled, 2 * normal(4, 4))


BODIES = """g (float[2,4] x, bool c, int64[1] i) => (float y, float u) {
    [outer] y = MatMul(x, W)
    [choose] u = If (c) <
        then_branch = t () => (float v) { [inner_mm] m = MatMul(x, W) [inner_add] v = Add(m, W) },
        else_branch = e () => (float w) { [inner_gather] r = Gather(W, i) [inner_sum] w = Add(r, x) }
    >
}"""


def test_readers_in_bodies_read_the_copy(parse, run, normal):
    model = parse(BODIES.replace("Add(m, W)", "Add(m, x)"), W=normal(4, 4))
    feeds = {"x": normal(2, 4, seed=1), "c": np.array(False), "i": np.array([2])}
    _, expected = run(model, "none", **feeds)
    mapped(model)
    assert reads(model) == {"outer": "rebuilt", "inner_mm": "rebuilt", "inner_gather": "digital"}
    np.testing.assert_array_equal(run(model, "none", **feeds)[1], expected)


def test_a_weight_of_a_body_has_its_copy_there(parse):
    model = mapped(
        parse(
            """g (float[1,2] x, bool c, int64[1] i) => (float y) {
                y = If (c) <
                    then_branch = t () => (float v) <float[2,2] W = {1, -2, 3, 4}> {
                        [mm] m = MatMul(x, W) [look_up] r = Gather(W, i) [add] v = Add(m, r)
                    },
                    else_branch = e () => (float w) { w = Identity(x) }
                >
            }"""
        )
    )
    assert inputs(model)["look_up"] == ["W.digital", "i"]
    assert "W.digital" not in model.graph.initializers


def test_a_constant_node_has_an_initializer_as_its_copy(parse, run):
    model = mapped(
        parse(
            """g (float[1,2] x, int64[1] i) => (float y, float u) {
                W = Constant <value = float[2,2] {1, -2, 3, 4}> ()
                [mm] y = MatMul(x, W)
                [look_up] u = Gather(W, i)
            }"""
        )
    )
    assert inputs(model)["look_up"] == ["W.digital", "i"]
    np.testing.assert_array_equal(run(model, x=np.ones((1, 2), np.float32), i=np.array([1]))[1], [[3, 4]])


class TestRestoring:
    def test_the_restored_model_computes_what_the_mapped_one_does(self, tied, run):
        mapped(tied)
        expected = run(tied, "none", **IDS)
        RestoreWeights()(tied)
        onnx.checker.check_model(ir.to_proto(tied))
        for ours, theirs in zip(run(tied, "none", **IDS), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_copy_that_differs_stays_as_an_initializer_like_any_other(self, tied):
        RestoreWeights()(mapped(tied))
        assert list(tied.graph.initializers) == ["W", "W.digital"]
        assert not tied.graph.initializers["W.digital"].metadata_props
        assert inputs(tied)["look_up"] == ["W.digital", "i"]

    def test_a_copy_that_is_equal_is_joined_with_the_weight_again(self, tied):
        before = inputs(tied), list(tied.graph.initializers), tied.graph.initializers["W"].const_value.tobytes()
        RestoreWeights()(mapped(tied, EXACT))
        assert (inputs(tied), list(tied.graph.initializers)) == before[:2]
        assert tied.graph.initializers["W"].const_value.tobytes() == before[2]

    def test_a_copy_that_became_an_output_stays(self, tied):
        mapped(tied, EXACT)
        tied.graph.outputs.append(tied.graph.initializers["W.digital"])
        RestoreWeights()(tied)
        assert "W.digital" in tied.graph.initializers

    def test_a_restored_model_can_be_mapped_again(self, tied):
        RestoreWeights()(mapped(tied))
        assert read_manifest(mapped(tied)).weights[0].name == "W"


class TestChecking:
    def test_a_digital_reader_that_reads_something_else_is_found(self, tied):
        mapped(tied)
        look_up = next(node for node in tied.graph if node.name == "look_up")
        look_up.replace_input_with(0, next(node for node in tied.graph if node.name == "turn").inputs[0])
        [violation] = CheckMapping().violations(tied)
        assert str(violation) == ("'W': node 'look_up' (Gather) does not read the digital copy 'W.digital' any more")

    def test_a_digital_reader_that_was_removed_is_no_violation(self, parse, normal):
        model = mapped(
            parse("g (float[2,4] x) => (float y, float z) { y = MatMul(x, W) [add] z = Add(W, W) }", W=normal(4, 4))
        )
        model.graph.outputs.pop()
        model.graph.remove(next(node for node in model.graph if node.name == "add"), safe=True)
        del model.graph.initializers["W.digital"]
        assert not CheckMapping().violations(model)


@pytest.mark.parametrize("shared", ["skip", "", ["split"]])
def test_another_policy_is_refused(shared):
    with pytest.raises(ConfigError, match="shared: should be 'rebuild' or 'split', but it is"):
        MapConductances(shared=shared)


def test_a_digital_copy_that_is_gone_is_not_what_its_readers_read(tied):
    mapped(tied)
    look_up = next(node for node in tied.graph if node.name == "look_up")
    look_up.replace_input_with(0, next(node for node in tied.graph if node.op_type == "Div").outputs[0])
    del tied.graph.initializers["W.digital"]
    assert [str(item) for item in CheckMapping().violations(tied)] == [
        "'W': node 'look_up' (Gather) does not read the digital copy 'W.digital' any more"
    ]
