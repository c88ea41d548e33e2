"""A weight that other nodes only rearrange is found itself, with the way it takes to the weight slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.weights import find_weights
from onnx_gconv.weights.rearrangement import readers


def only_consumer(model, weight="W"):
    [found] = [item for item in find_weights(model).weights if item.name == weight]
    [consumer] = found.consumers
    return consumer


def arriving(weight, consumer):
    """The weight as it comes to the weight slot, by the words of the path alone."""
    for step in consumer.path:
        weight = step.apply(weight)
    return weight


INTEGERS = "p = Constant <value_ints = [3]> () q = Constant <value_ints = [-1]> ()"


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ("t = Transpose <perm = [1, 0]> (W)", (4, 3)),
        ("t = Transpose(W)", (4, 3)),
        ("s = Constant <value_ints = [3, 4]> () t = Reshape(W, s)", (12,)),
        ("s = Constant <value_ints = [-1, 4]> () t = Reshape(W, s)", (3, 2, 2)),
        ("s = Constant <value_ints = [0, -1]> () t = Reshape(W, s)", (3, 2, 2)),
        ("c = Constant <value_ints = [3, 4]> () s = Identity(c) t = Reshape(W, s)", (2, 6)),
        ("t = Flatten(W)", (3, 2, 2)),
        ("t = Flatten <axis = 1> (W)", (3, 2, 2)),
        ("t = Flatten <axis = -2> (W)", (3, 2, 2)),
        ("s = Constant <value_ints = [0, -1]> () t = Squeeze(W, s)", (1, 3, 4, 1)),
        ("t = Squeeze(W)", (1, 3, 4)),
        ("s = Constant <value_ints = [0]> () u = Unsqueeze(W, s) t = Squeeze(u, s)", (3, 4)),
        ("a = Identity(W) b = Transpose(a) c = Transpose(b) d = Identity(c) t = Identity(d)", (3, 4)),
        ("s = Constant <value_ints = [4, 3]> () a = Reshape(W, s) t = Transpose(a)", (3, 2, 2)),
        (f"{INTEGERS} s = Concat <axis = 0> (p, q) t = Reshape(W, s)", (4, 3)),
        ("k = ConstantOfShape(m) s = Shape(k) t = Reshape(W, s)", (4, 3)),
        ("s = Cast <to = 7> (n) t = Reshape(W, s)", (4, 3)),
        (f"{INTEGERS} s = Neg(q) u = Unsqueeze(W, s) t = Squeeze(u, s)", (3, 4)),
    ],
)
def test_the_path_gives_what_the_nodes_give(parse, run, normal, nodes, shape):
    x = normal(2, 3, seed=1)
    text = f"g (float[2,3] x) => (float[2,4] y) {{ {nodes} [mm] y = MatMul(x, t) }}"
    model = parse(text, W=normal(*shape), m=np.array([3, 4]), n=np.array([3, 4], np.int32))
    consumer = only_consumer(model)
    weight = arriving(normal(*shape), consumer)
    assert (consumer.node.name, consumer.slot, consumer.is_mvm) == ("mm", 1, True)
    assert (consumer.view.rows, consumer.view.columns) == weight.shape
    np.testing.assert_allclose(x @ weight, run(model, x=x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 12])
def test_axes_may_be_attributes_as_in_older_opsets(parse, run, normal, opset):
    model = parse(
        """g (float[2,3] x) => (float[2,4] y) {
            a = Squeeze <axes = [0]> (W)
            b = Unsqueeze <axes = [2]> (a)
            c = Squeeze <axes = [2]> (b)
            y = MatMul(x, c)
        }""",
        opsets=f'"" : {opset}',
        W=normal(1, 3, 4),
    )
    consumer = only_consumer(model)
    assert [step.argument for step in consumer.path] == [(3, 4), (3, 4, 1), (3, 4)]
    np.testing.assert_allclose(normal(2, 3) @ normal(1, 3, 4)[0], run(model, x=normal(2, 3))[0], rtol=1e-5)


def test_a_convolution_whose_kernel_is_transposed_before_is_read_in_its_own_order(parse, normal):
    weight = normal(2, 2, 3, 4)  # kernel first, as other frameworks have it
    model = parse(
        "g (float[1,3,5,5] x) => (float y) { t = Transpose <perm = [3, 2, 0, 1]> (W) y = Conv(x, t) }", W=weight
    )
    consumer = only_consumer(model)
    assert arriving(weight, consumer).shape == (4, 3, 2, 2)
    assert (consumer.view.rows, consumer.view.columns) == (12, 4)


def test_a_weight_may_come_to_several_slots_on_several_ways(parse, normal):
    model = parse(
        """g (float[2,3] x) => (float[2,3] y) {
            t = Transpose(W)
            [down] h = MatMul(x, W)
            [up] y = MatMul(h, t)
        }""",
        W=normal(3, 4),
    )
    [weight] = find_weights(model).weights
    assert {consumer.node.name: [step.argument for step in consumer.path] for consumer in weight.consumers} == {
        "down": [],
        "up": [(1, 0)],
    }


def test_other_readers_of_a_rearranged_weight_are_consumers_too(parse, normal):
    model = parse(
        "g (float[2,3] x) => (float[2,4] y, float z) { t = Transpose(W) [mm] y = MatMul(x, t) [norm] z = Relu(t) }",
        W=normal(4, 3),
    )
    [weight] = find_weights(model).weights
    assert [(c.node.name, c.is_mvm, len(c.path)) for c in weight.consumers] == [("mm", True, 1), ("norm", False, 0)]


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Shape(x) t = Reshape(W, s)",  # known only at run time: the slot is fed by no constant
        "s = Constant <value_ints = [5, 5]> () t = Reshape(W, s)",
        "t = Transpose <perm = [0, 0]> (W)",
        "s = Constant <value_ints = [-1, -1]> () t = Reshape(W, s)",
        "s = Constant <value_floats = [4.0, 3.0]> () t = Reshape(W, s)",
        "t = Unsqueeze(W)",
    ],
)
def test_a_weight_that_is_rearranged_in_a_way_that_cannot_be_known_is_not_mapped(parse, normal, nodes):
    model = parse(f"g (float[3,4] x) => (float y) {{ {nodes} y = MatMul(x, t) }}", W=normal(3, 4))
    survey = find_weights(model)
    assert survey.weights == ()
    assert [skipped.name for skipped in survey.skipped] == ["W"]


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ("t = Transpose <perm = [0, 0]> (W)", (3, 4)),
        ("s = Constant <value_ints = [5, -1]> () t = Reshape(W, s)", (3, 4)),
        ("s = Constant <value_ints = [-2, -6]> () t = Reshape(W, s)", (3, 4)),
        ("s = Constant <value_ints = [0, 0, 0, -1]> () t = Reshape(W, s)", (3, 4)),
        ("s = Constant <value_ints = [0, 4]> () t = Reshape <allowzero = 1> (W, s)", (3, 4)),
        ("t = Flatten <axis = 9> (W)", (3, 4)),
        ("s = Constant <value_ints = [1]> () t = Squeeze(W, s)", (3, 4)),
        ("s = Constant <value_ints = [7]> () t = Squeeze(W, s)", (3, 1, 4)),
        ("s = Constant <value_ints = [0]> () t = Squeeze(W, s)", ()),
        ("s = Constant <value_ints = [0, 0]> () t = Unsqueeze(W, s)", (3, 4)),
        ("s = Constant <value_ints = [9]> () t = Unsqueeze(W, s)", (3, 4)),
    ],
)
def test_a_weight_that_does_not_fit_the_nodes_on_its_way_is_skipped(parse, normal, nodes, shape):
    survey = find_weights(parse(f"g (float x) => (float y) {{ {nodes} y = MatMul(x, t) }}", W=normal(*shape)))
    assert survey.weights == ()
    [skipped] = [item for item in survey.skipped if item.is_mvm]
    assert (skipped.name, skipped.reason) == ("W", "invalid_shape")


def test_a_weight_whose_shape_a_caller_may_replace_is_skipped(parse, normal):
    model = parse(
        "g (float[2,3] x, int64[2] s) => (float y) { t = Reshape(W, s) y = MatMul(x, t) }",
        W=normal(12),
        s=np.array([3, 4]),
    )
    survey = find_weights(model)
    assert survey.weights == ()
    [skipped] = survey.skipped
    assert (skipped.name, skipped.reason, skipped.is_mvm) == ("W", "overridable_input", True)
    assert skipped.detail == "input 's', from which its shape is computed"


def test_a_shape_that_is_an_input_only_because_the_ir_version_demands_it_is_a_constant(parse, normal):
    text = "g (float[2,3] x, float[12] W, int64[2] s) => (float y) { t = Reshape(W, s) y = MatMul(x, t) }"
    model = parse(text, ir_version=3, W=normal(12), s=np.array([3, 4]))
    [weight] = find_weights(model, freeze_inputs=True).weights
    assert [step.argument for step in weight.consumers[0].path] == [(3, 4)]


def test_a_shape_that_cannot_be_computed_is_the_reason(parse, normal):
    model = parse(
        "g (float[2,3] x) => (float y) { u = lab.Twist(s) t = Reshape(W, u) y = MatMul(x, t) }",
        opsets='"" : 17, "lab" : 1',
        W=normal(12),
        s=np.array([3, 4]),
    )
    [skipped] = find_weights(model).skipped
    assert (skipped.name, skipped.reason, skipped.is_mvm) == ("W", "behind_other_nodes", True)
    assert skipped.detail == "Twist of the domain 'lab' is not computed"


def test_a_shape_is_read_by_the_node_that_it_shapes(parse, normal):
    model = parse(
        "g (float[2,3] x) => (float y) { t = Reshape(W, s) y = MatMul(x, t) }", W=normal(12), s=np.array([3, 4])
    )
    reshape, matmul = model.graph
    assert list(readers(model.graph.initializers["s"])) == [(reshape, 1)]
    assert list(readers(model.graph.initializers["W"])) == [(matmul, 1)]


@given(st.permutations([0, 1, 2]), st.permutations([0, 1, 2]), st.sampled_from([(2, 3, 4), (4, 1, 6), (2, 2, 2)]))
def test_any_chain_of_transpositions_and_reshapes_is_followed(parse, run, first, second, shape):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sizes = [int(np.prod(shape)) // 2, 2]
    model = parse(
        f"""g (float[2,{sizes[0]}] x) => (float[2,{sizes[1]}] y) {{
            a = Transpose <perm = {first}> (W)
            b = Transpose <perm = {second}> (a)
            s = Constant <value_ints = {sizes}> ()
            t = Reshape(b, s)
            y = MatMul(x, t)
        }}""",
        W=weight,
    )
    x = np.random.default_rng(1).normal(size=(2, sizes[0])).astype(np.float32)
    np.testing.assert_allclose(x @ arriving(weight, only_consumer(model)), run(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_the_nodes_on_the_way_stay_and_the_weight_itself_is_mapped_and_restored(parse, run, normal):
    weight, x = normal(4, 3), normal(2, 3, seed=1)
    model = parse("g (float[2,3] x) => (float[2,4] y) { t = Transpose(W) y = MatMul(x, t) }", W=weight)
    expected = run(model, x=x)[0]
    MapConductances()(model)
    assert [node.op_type for node in model.graph] == ["Sub", "Div", "Transpose", "MatMul"]
    assert CheckMapping().violations(model) == ()
    np.testing.assert_allclose(run(model, "none", x=x)[0], expected, rtol=1e-5)
    RestoreWeights()(model)
    np.testing.assert_allclose(model.graph.initializers["W"].const_value.numpy(), weight, rtol=1e-6)
