"""A part of a stored stack is what the node would have made of the whole, and no more of a file is read than that."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper

from onnx_gconv.files.models import load_model
from onnx_gconv.weights import find_weights
from onnx_gconv.weights.evaluation.node_evaluation import evaluate_node
from onnx_gconv.weights.stack_parts import part_outputs
from tests.graphs import model, tensors, value

OPSET = 18


@st.composite
def nodes(draw):
    """A node that hands on parts, its inputs, and which outputs are needed."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    stack = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    op_type = draw(st.sampled_from(["Gather", "Slice", "Split"]))
    if op_type == "Gather":
        indices = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=3))
        of_rank = np.array(indices if draw(st.booleans()) else indices[0])
        return helper.make_node("Gather", ["w", "i"], ["y"], axis=axis), [stack, of_rank], [True]
    if op_type == "Slice":
        limits = [np.array([draw(st.integers(-8, 8))]) for _ in range(2)]
        steps = [np.array([draw(st.sampled_from([1, 1, 2, -1]))])] if draw(st.booleans()) else []
        names = ["w", "s", "e", "a", "t"][: 4 + len(steps)]
        return helper.make_node("Slice", names, ["y"]), [stack, *limits, np.array([axis]), *steps], [True]
    sizes = draw(st.lists(st.integers(1, size), min_size=1, max_size=3))
    used = [number == draw(st.integers(0, len(sizes) - 1)) for number in range(len(sizes))]
    assume(sum(sizes) == size and any(used))
    outputs = [f"y{number}" for number in range(len(sizes))]
    if draw(st.booleans()) and size % len(sizes) == 0:
        return helper.make_node("Split", ["w"], outputs, axis=axis, num_outputs=len(sizes)), [stack], used
    return helper.make_node("Split", ["w", "s"], outputs, axis=axis), [stack, np.array(sizes)], used


@given(nodes())
def test_a_part_is_what_the_node_makes_of_the_whole(given_node):
    node, inputs, used = given_node
    parts = part_outputs(node, ir.tensor(inputs[0]), inputs[1:], used)
    if parts is not None:
        for part, whole, needed in zip(parts, evaluate_node(node, inputs, OPSET), used, strict=True):
            assert (part is None) != needed
            if needed:
                np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize(
    ("op_type", "others", "attributes"),
    [
        ("Gather", [np.array([7])], {}),  # beyond the end
        ("Gather", [np.array([0])], {"axis": 3}),
        ("Slice", [np.array([0]), np.array([1]), np.array([5])], {}),
        ("Split", [np.array([1, 1])], {}),  # of four
        ("Squeeze", [np.array([0])], {}),
    ],
)
def test_what_does_not_fit_is_left_to_the_evaluation_which_says_what_is_wrong(op_type, others, attributes):
    names = ["w", *(f"i{number}" for number in range(len(others)))]
    node = helper.make_node(op_type, names, ["y", "z"][: 1 + (op_type == "Split")], **attributes)
    assert (
        part_outputs(node, ir.tensor(np.zeros((4, 2), np.float32)), others, [True, False][: len(node.output)]) is None
    )


def constant_indices(experts, **external):
    """A model of experts that constants index, whose stack lies in a file."""
    stack = np.random.default_rng(0).normal(size=(experts, 8, 8)).astype(np.float32)
    made = [helper.make_node("MatMul", ["x", f"w{number}"], [f"y{number}"]) for number in range(experts)]
    made[:0] = [helper.make_node("Gather", ["W", f"i{number}"], [f"w{number}"]) for number in range(experts)]
    indices = {f"i{number}": np.array(number) for number in range(experts)}
    outputs = [value(f"y{number}", shape=["n", 8]) for number in range(experts)]
    return model(made, [value("x", shape=["n", 8])], outputs, tensors({"W": stack, **indices})), stack


def test_experts_that_constants_index_are_read_once_each(tmp_path, monkeypatch):
    proto, stack = constant_indices(experts=64)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=1024)
    loaded, read = load_model(tmp_path / "m.onnx"), []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: (read.append(preadv(*args)), read[-1])[1])
    weights = find_weights(loaded).weights
    assert sum(read) == stack.nbytes
    for number, weight in enumerate(weights):
        np.testing.assert_array_equal(weight.tensor.numpy(), stack[number])
