"""What verification did not look at is said: branches that no input takes, and models in the wrong order."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnx_gconv import ConfigError, map_model, verify
from onnx_gconv.runtime.inputs import ValueRange

NOTE = "a run takes one branch of an If (choice (If)), and what the other one computes is not compared"


@pytest.fixture
def files(parse, normal, tmp_path):
    """A model whose input `first` chooses between two products, and the same mapped."""
    model = parse(
        """g (float[2,4] x, bool first) => (float[2,3] y) {
            [choice] y = If (first) <
                then_branch = one () => (float[2,3] a) { p = MatMul(x, W) [positive] a = Relu(p) },
                else_branch = other () => (float[2,3] b) { b = MatMul(x, V) }
            >
        }""",
        W=normal(4, 3),
        V=normal(4, 3, seed=1),
    )
    ir.save(model, tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    return tmp_path / "in.onnx", tmp_path / "out.onnx"


@pytest.fixture
def computed(parse, normal, tmp_path):
    """A model that computes which of two products it takes, and the same mapped."""
    model = parse(
        """g (float[2,4] x) => (float[2,3] y) {
            largest = ReduceMax <keepdims = 0> (x)
            first = Greater(largest, limit)
            [choice] y = If (first) <
                then_branch = one () => (float[2,3] a) { a = MatMul(x, W) },
                else_branch = other () => (float[2,3] b) { b = MatMul(x, V) }
            >
        }""",
        W=normal(4, 3),
        V=normal(4, 3, seed=1),
        limit=np.array(0, np.float32),
    )
    ir.save(model, tmp_path / "computed.onnx")
    map_model(tmp_path / "computed.onnx", tmp_path / "computed.gconv.onnx")
    return tmp_path / "computed.onnx", tmp_path / "computed.gconv.onnx"


def spoil_branch(path, name):
    """Turn the product of a branch around."""
    model = onnx.load(path)
    [branch] = [item.g for node in model.graph.node for item in node.attribute if item.name == name]
    branch.node.append(onnx.helper.make_node("Neg", [branch.output[0].name], ["turned"]))
    branch.output[0].name = "turned"
    onnx.save(model, path)


@pytest.mark.parametrize("name", ["then_branch", "else_branch"])
def test_both_branches_that_a_generated_input_chooses_are_compared(files, name):
    found = verify(*files)
    assert found.passed
    assert found.if_nodes == ()
    assert [(item.name, item.case) for item in found.outputs.comparisons] == [
        ("y", None),
        ("y", None),
        *[("y", f"first={not bool(found_value(found))}")] * 2,
    ]
    assert "branch" not in str(found)
    spoil_branch(files[1], name)
    problems = verify(*files).problems
    assert problems
    assert all(problem.startswith("output 'y") for problem in problems)


def found_value(report):
    """The value of `first` that was drawn; the case names the other one."""
    [case] = {item.case for item in report.outputs.comparisons} - {None}
    return case == "first=False"


def test_a_value_that_was_asked_for_is_the_only_one(files):
    found = verify(*files, values={"first": ValueRange(1, 1)})
    assert found.if_nodes == ("choice (If)",)
    assert [item.case for item in found.outputs.comparisons] == [None, None]


def test_branches_that_no_input_takes_are_said_not_to_be_compared(computed):
    found = verify(*computed)
    assert found.passed
    assert found.if_nodes == ("choice (If)",)
    assert found.to_json()["if_nodes"] == ["choice (If)"]
    shown = " ".join(str(found).split())
    assert NOTE in shown
    assert "comparisons of outputs of the branches that these inputs take, and the mapping hold." in shown


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_fault_is_found_in_the_branch_that_the_inputs_take(files, is_taken):
    model = onnx.load(files[1])
    [branch] = [item.g for node in model.graph.node for item in node.attribute if item.name == "then_branch"]
    next(node for node in branch.node if node.op_type == "Relu").op_type = "Neg"
    onnx.save(model, files[1])
    inputs = {"x": np.ones((2, 4), np.float32), "first": np.array(is_taken)}
    assert verify(*files, inputs=inputs).passed is not is_taken


def test_models_without_if_have_no_such_note(parse, normal, tmp_path):
    ir.save(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4)), tmp_path / "in.onnx")
    map_model(tmp_path / "in.onnx", tmp_path / "out.onnx")
    found = verify(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert found.if_nodes == ()
    assert "branch" not in str(found)


def test_models_in_the_wrong_order_are_said_to_be(files):
    original, mapped = files
    with pytest.raises(ConfigError) as raised:
        verify(mapped, original)
    assert str(raised.value) == (
        f"'{mapped}' is a mapped model, and '{original}' is none; give the original first, then the mapped one"
    )


def test_what_is_wrong_with_a_weight_is_said_once(files):
    original, mapped = files
    model = onnx.load(mapped)
    [scale] = [item for item in model.graph.initializer if item.name == "W.g_scale"]
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(-1), "W.g_scale"))
    onnx.save(model, mapped)
    problems = verify(original, mapped).problems
    assert len([item for item in problems if "the scale 'W.g_scale' is not one positive finite number" in item]) == 1
