"""A pass that went wrong says so, also where it is run by itself: no name, input, output or order is lost unnoticed."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnx_gconv.errors import ModelError
from onnx_gconv.passes import MapConductances, RestoreWeights, map_conductances, restore_weights
from onnx_gconv.passes.sound_rewrite import DamagedModelError, SoundRewrite

TEXT = "g (float[2,3] x, bool c) => (float[2,4] y) { h = MatMul(x, W) y = Relu(h) }"
FAULT = "; this is a fault of onnx_gconv, please report it with the model, and do not use the rewritten model"


@pytest.fixture
def model(parse, normal):
    return parse(TEXT, W=normal(3, 4))


def rename_difference(rebuilt):
    rebuilt.nodes[0].outputs[0].name = "x"


def lose_node(rebuilt):
    del rebuilt.nodes[0]


def turn_round(rebuilt):
    rebuilt.nodes.reverse()


def lose_scale(rebuilt):
    del rebuilt.initializers[-1]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (rename_difference, "the name 'x' is defined twice"),
        (lose_node, "node '.*' (Div) reads 'W.g_difference', which is not defined before it"),
        (turn_round, "node '.*' (Div) reads 'W.g_difference', which is not defined before it"),
        (lose_scale, "node '.*' (Div) reads 'W.g_scale', which is not defined before it"),
    ],
)
def test_wrong_nodes_are_noticed(model, monkeypatch, damage, problem):
    rebuild = map_conductances.rebuild_nodes

    def wrong(*arguments, **options):
        found = rebuild(*arguments, **options)
        parts = {name: list(getattr(found, name)) for name in ("nodes", "initializers")}
        damaged = type(found)(**{**vars(found), **parts})
        damage(damaged)
        return damaged

    monkeypatch.setattr(map_conductances, "rebuild_nodes", wrong)
    with pytest.raises(DamagedModelError) as found:
        MapConductances()(model)
    assert isinstance(found.value, ModelError)
    before, _, after = problem.partition("'.*'")
    text = str(found.value)
    assert text.startswith(f"the model is damaged by the rewrite: {before}")
    assert text.endswith(after + FAULT)


def test_a_wrong_restoration_is_noticed(model, monkeypatch):
    MapConductances()(model)
    monkeypatch.setattr(restore_weights._Places, "fill", lambda _: None)
    with pytest.raises(DamagedModelError, match="reads 'W', which is not defined before it"):
        RestoreWeights()(model)


def lose_input(model):
    del model.graph.inputs[1]


def lose_output(model):
    model.graph.outputs.clear()


def other_input(model):
    model.graph.inputs[0].shape = ir.Shape([2, 9])


def other_output(model):
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lose_input, "it has lost its input 'c'"),
        (lose_output, "its outputs are none now"),
        (other_input, "its input 'x' has another type or shape"),
        (other_output, "its output 'y' has another type or shape"),
    ],
)
def test_what_a_model_takes_and_gives_stays(model, damage, problem):
    rewrite = SoundRewrite(model)
    rewrite.require(model)
    damage(model)
    with pytest.raises(DamagedModelError) as found:
        rewrite.require(model)
    assert str(found.value) == f"the model is damaged by the rewrite: {problem}{FAULT}"


def test_bodies_are_looked_at_and_see_what_is_around_them(parse, normal):
    model = parse(
        "g (float[2,3] x, bool c) => (float[2,4] y) { y = If (c) <then_branch = a () => (float[2,4] t) "
        "{ t = MatMul(x, W) }, else_branch = b () => (float[2,4] e) { m = MatMul(x, W) e = Relu(m) }> }",
        W=normal(3, 4),
    )
    MapConductances()(model)
    rewrite = SoundRewrite(model)
    [branch] = [node for node in model.graph if node.op_type == "If"]
    body = branch.attributes["else_branch"].as_graph()
    body[1].replace_input_with(0, model.graph.outputs[0])
    with pytest.raises(DamagedModelError, match=r"node '.*' \(Relu\) reads 'y', which is not defined before it"):
        rewrite.require(model)


def test_a_model_that_was_wrong_before_is_not_blamed_on_a_rewrite(model):
    nodes = list(model.graph)
    model.graph.remove(nodes[0])
    model.graph.append(nodes[0])
    MapConductances()(model)
