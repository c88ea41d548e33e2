"""Every weight of every MVM op is found or skipped with its reason, wherever it lives."""

from __future__ import annotations

import weakref

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.errors import ModelError
from onnx_gconv.tensors.codes import Blocks
from onnx_gconv.weights import find_weights, readers_of_weights
from onnx_gconv.weights.evaluation import constant_evaluation


def found(model):
    """Names of the weights that can be mapped."""
    return [weight.name for weight in find_weights(model).weights]


def only_weight(model):
    [weight] = find_weights(model).weights
    return weight


def only_skipped(model):
    survey = find_weights(model)
    assert found(model) == []
    [skipped] = survey.skipped
    return skipped


def readers(weight):
    """Consumers of a weight as (node, slot, is_mvm)."""
    return [(consumer.node.name, consumer.slot, consumer.is_mvm) for consumer in weight.consumers]


def test_looking_for_weights_does_not_change_the_model(parse, serialized):
    body = "W = Constant <value = float[2,2] {1, 2, 3, 4}> () s = Constant <value = int64[2] {2, 2}> () "
    model = parse(f"g (float[1,2] x) => (float y) {{ {body} w = Reshape(W, s) y = MatMul(x, w) }}")
    before = serialized(model)
    find_weights(model)
    assert serialized(model) == before


class TestWhereWeightsLive:
    def test_an_initializer_that_feeds_a_weight_slot_is_a_weight(self, parse, normal):
        weight = only_weight(parse("g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }", W=normal(3, 4)))
        assert (weight.name, weight.shape, weight.stored_as) == ("W", (3, 4), "initializer")
        assert readers(weight) == [("mm", 1, True)]
        np.testing.assert_array_equal(weight.tensor.numpy(), normal(3, 4))

    def test_the_output_of_a_constant_node_is_a_weight(self, parse):
        weight = only_weight(
            parse(
                """g (float[1,2] x) => (float[1,2] y) {
                    W = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                    y = MatMul(x, W)
                }"""
            )
        )
        assert (weight.name, weight.shape, weight.stored_as) == ("W", (2, 2), "constant")
        assert weight.tensor.numpy().tolist() == [[1, 2], [3, 4]]

    def test_a_constant_node_may_give_its_numbers_as_a_list(self, parse):
        weight = only_weight(
            parse(
                """g (float[1,2] x) => (float[1] y) {
                    W = Constant <value_floats = [0.5, -1.5]> ()
                    y = MatMul(x, W)
                }"""
            )
        )
        assert (weight.shape, weight.tensor.dtype) == ((2,), ir.DataType.FLOAT)
        assert weight.tensor.numpy().tolist() == [0.5, -1.5]

    @pytest.mark.parametrize(
        ("attribute", "shape"), [("value_float = 0.5", ()), ("value_int = 3", ()), ("value_ints = [1, 2]", (2,))]
    )
    def test_a_constant_node_of_another_form_is_skipped(self, parse, attribute, shape):
        skipped = only_skipped(
            parse(f"g (float[1,2] x) => (float y) {{ W = Constant <{attribute}> () y = MatMul(x, W) }}")
        )
        assert (skipped.name, skipped.shape, skipped.is_mvm) == ("W", shape, True)

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    def test_all_floating_types_of_two_bytes_and_more_are_mapped(self, parse, normal, dtype):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=dtype))
        assert found(model) == ["W"]

    def test_weights_in_bodies_belong_to_the_body(self, parse):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { a = MatMul(x, W) },
                    else_branch = e () => (float[1,2] b) {
                        K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                        b = MatMul(x, K)
                    }
                >
            }"""
        )
        weights = find_weights(model).weights
        assert [(weight.name, weight.scope.path) for weight in weights] == [
            ("W", "choose.then_branch"),
            ("K", "choose.else_branch"),
        ]
        assert [weight.consumers[0].graph_path for weight in weights] == ["choose.then_branch", "choose.else_branch"]

    def test_a_weight_captured_by_bodies_belongs_to_the_graph_that_holds_it(self, parse, normal):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) { [first] a = MatMul(x, W) },
                    else_branch = e () => (float[1,2] b) { [second] b = MatMul(W, x) }
                >
            }""",
            W=normal(2, 2),
        )
        weight = only_weight(model)
        assert weight.scope.path == ""
        assert [(c.node.name, c.graph_path, c.slot) for c in weight.consumers] == [
            ("first", "choose.then_branch", 1),
            ("second", "choose.else_branch", 0),
        ]

    def test_weights_in_the_bodies_of_loop_and_scan_are_found(self, parse, normal):
        model = parse(
            """g (int64 n, bool c, float[1,2] x, float[3,1,2] xs) => (float[1,2] y, float[1,2] s, float[3,1,2] z) {
                [repeat] y = Loop (n, c, x) <
                    body = b (int64 i, bool c_in, float[1,2] v) => (bool c_out, float[1,2] w)
                        <float[2,2] L = {1, 2, 3, 4}>
                    {
                        c_out = Identity(c_in)
                        w = MatMul(v, L)
                    }
                >
                [walk] s, z = Scan <
                    num_scan_inputs = 1,
                    body = d (float[1,2] s_in, float[1,2] e) => (float[1,2] s_out, float[1,2] f) {
                        f = MatMul(e, S)
                        s_out = Add(s_in, f)
                    }
                > (x, xs)
            }""",
            S=normal(2, 2),
        )
        weights = find_weights(model).weights
        assert [(weight.name, weight.scope.path) for weight in weights] == [("L", "repeat.body"), ("S", "")]
        assert weights[1].consumers[0].graph_path == "walk.body"

    def test_sibling_bodies_may_have_weights_of_the_same_name(self, parse):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { a = MatMul(x, W) },
                    else_branch = e () => (float[1,2] b) <float[2,2] W = {5, 6, 7, 8}> { b = MatMul(x, W) }
                >
            }"""
        )
        assert [weight.tensor.numpy()[0, 0] for weight in find_weights(model).weights] == [1, 5]

    def test_ops_of_the_default_domain_are_known_by_its_long_name_too(self, parse, normal):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=normal(3, 4))
        [node] = model.graph
        node.domain = "ai.onnx"
        assert found(model) == ["W"]

    def test_an_op_of_the_same_name_in_a_foreign_domain_is_no_mvm_op(self, parse, normal):
        model = parse(
            "g (float x) => (float y) { y = foreign.MatMul(x, W) }", opsets='"" : 17, "foreign" : 1', W=normal(3, 4)
        )
        assert only_skipped(model).reason == "unlisted_op"


class TestConsumers:
    def test_a_weight_used_many_times_is_found_once_with_all_its_consumers(self, parse, normal):
        model = parse(
            """g (float[4,4] x) => (float[4,4] y) {
                [first] a = MatMul(x, W)
                [second] b = MatMul(W, a)
                [third] y = Gemm(b, W)
            }""",
            W=normal(4, 4),
        )
        weight = only_weight(model)
        assert readers(weight) == [("first", 1, True), ("second", 0, True), ("third", 1, True)]
        assert [consumer.view.row_axes for consumer in weight.consumers] == [(0,), (1,), (0,)]

    def test_other_readers_of_a_weight_are_consumers_that_multiply_no_matrix(self, parse, normal):
        model = parse(
            """g (float[2,3] x, int64[1] i) => (float[2,4] y, float[1,4] row) {
                [mm] y = MatMul(x, W)
                [look_up] row = Gather(W, i)
            }""",
            W=normal(3, 4),
        )
        weight = only_weight(model)
        assert readers(weight) == [("mm", 1, True), ("look_up", 0, False)]
        assert weight.consumers[1].view is None

    def test_both_weights_of_a_recurrent_op_are_found_and_its_biases_are_not(self, parse, normal):
        model = parse(
            "g (float[5,1,3] x) => (float y) { y = LSTM <hidden_size = 2> (x, W, R, B) }",
            W=normal(1, 8, 3),
            R=normal(1, 8, 2),
            B=normal(1, 16),
        )
        assert [weight.name for weight in find_weights(model).weights] == ["W", "R"]

    def test_identity_nodes_are_seen_through(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) {
                a = Identity(W)
                b = Identity(a)
                [mm] y = MatMul(x, b)
            }""",
            W=normal(3, 4),
        )
        weight = only_weight(model)
        assert weight.name == "W"
        assert readers(weight) == [("mm", 1, True)]

    def test_identity_nodes_are_seen_through_across_scopes(self, parse, normal):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                outer = Identity(W)
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) { inner = Identity(outer) [mm] a = MatMul(x, inner) },
                    else_branch = e () => (float[1,2] b) { b = Identity(x) }
                >
            }""",
            W=normal(2, 2),
        )
        weight = only_weight(model)
        assert weight.scope.path == ""
        assert [(c.node.name, c.graph_path) for c in weight.consumers] == [("mm", "choose.then_branch")]

    def test_an_identity_node_that_nobody_reads_is_a_consumer_itself(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y, float[3,4] out) {
                [mm] y = MatMul(x, W)
                [copy] out = Identity(W)
            }""",
            W=normal(3, 4),
        )
        assert readers(only_weight(model)) == [("mm", 1, True), ("copy", 0, False)]

    def test_an_identity_of_a_foreign_domain_is_not_seen_through(self, parse, normal):
        model = parse(
            "g (float x) => (float y) { a = foreign.Identity(W) y = MatMul(x, a) }",
            opsets='"" : 17, "foreign" : 1',
            W=normal(3, 4),
        )
        assert only_skipped(model).reason == "behind_other_nodes"


class TestWhatIsNoWeight:
    def test_activations_times_activations_have_none(self, parse):
        survey = find_weights(parse("g (float[2,3] x, float[3,4] z) => (float[2,4] y) { y = MatMul(x, z) }"))
        assert (survey.weights, survey.skipped) == ((), ())

    def test_biases_norms_shapes_and_indices_are_not_worth_a_word(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[4,2] y) {
                a = Gemm(x, W, bias)
                b = Mul(a, gamma)
                y = Reshape(b, shape)
            }""",
            W=normal(3, 4),
            bias=normal(4),
            gamma=normal(4),
            shape=np.array([4, 2]),
        )
        survey = find_weights(model)
        assert [weight.name for weight in survey.weights] == ["W"]
        assert survey.skipped == ()

    def test_an_integer_matrix_that_no_mvm_op_reads_is_not_worth_a_word(self, parse):
        model = parse("g (int64[2,2] x) => (int64[2,2] y) { y = Add(x, K) }", K=np.ones((2, 2), np.int64))
        assert find_weights(model).skipped == ()

    def test_another_constant_matrix_is_listed_with_its_readers(self, parse, normal):
        model = parse(
            "g (int64[1] i) => (float[1,4] y, float z) { [look_up] y = Gather(T, i) [less] z = Sub(y, T) }",
            T=normal(3, 4),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape, skipped.is_mvm) == ("T", (3, 4), False)
        assert (skipped.reason, skipped.detail) == ("not_an_mvm_weight", "read by Gather/Sub")
        assert skipped.consumers == ("look_up (Gather)", "less (Sub)")

    def test_a_constant_matrix_without_readers_is_listed_as_unused(self, parse, normal):
        skipped = only_skipped(parse("g (float x) => (float y) { y = Identity(x) }", W=normal(3, 4)))
        assert (skipped.reason, skipped.detail, skipped.consumers) == ("not_an_mvm_weight", "unused", ())

    def test_a_bias_matrix_of_gemm_is_no_weight(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] w) => (float[2,4] y) { y = Gemm(x, w, C) }", C=normal(2, 4))
        assert (only_skipped(model).name, only_skipped(model).detail) == ("C", "read by Gemm")


class TestSkipped:
    def test_constants_multiplied_with_each_other_are_a_constant_expression(self, parse, normal):
        model = parse("g () => (float[2,4] y) { [mm] y = MatMul(A, B) }", A=normal(2, 3), B=normal(3, 4))
        survey = find_weights(model)
        assert [(s.name, s.reason, s.detail) for s in survey.skipped] == [
            ("A", "constant_expression", "node mm (MatMul)"),
            ("B", "constant_expression", "node mm (MatMul)"),
        ]

    def test_a_weight_of_a_constant_expression_that_activations_meet_elsewhere_is_found(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,4] y, float[2,4] z) { y = MatMul(A, B) z = MatMul(x, B) }",
            A=normal(2, 3),
            B=normal(3, 4),
        )
        assert found(model) == ["B"]

    def test_a_weight_behind_nodes_that_cannot_be_computed_is_listed_under_its_own_name(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,3] y) { a = foreign.Twist(W) t = Neg(a) [mm] y = MatMul(x, t) }",
            opsets='"" : 17, "foreign" : 1',
            W=normal(3, 3),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape, skipped.is_mvm) == ("W", (3, 3), True)
        assert skipped.reason == "behind_other_nodes"
        assert skipped.detail == "Neg/Twist of W: Twist of the domain 'foreign' is not computed"
        assert skipped.consumers == ("mm (MatMul)[1]",)

    def test_all_matrices_are_listed_of_which_a_weight_of_unknown_shape_is_computed(self, parse, normal):
        model = parse(
            "g (float x) => (float y) { t = foreign.Twist(W, V, k) y = MatMul(x, t) }",
            opsets='"" : 17, "foreign" : 1',
            W=normal(3, 3),
            V=normal(2, 5),
            k=normal(4),
        )
        found = [(item.name, item.shape, item.reason, item.is_mvm) for item in find_weights(model).skipped]
        reason = ("behind_other_nodes", True)
        assert sorted(found) == [("V", (2, 5), *reason), ("W", (3, 3), *reason)]

    @pytest.mark.parametrize(
        "nodes",
        [
            "w = ConstantOfShape(s)",
            "w = Expand(k, s)",
            "w = Tile(m, s)",
            "r = Range(zero, large, k) n = Unsqueeze(r, zeros) w = Transpose(n)",
            "o = OneHot(zeros, big, pair) w = Transpose(o)",
            "w = Add(column, row)",
            "w = MatMul(column, row)",
        ],
    )
    def test_a_result_that_is_said_to_be_larger_than_memory_is_refused_before_it_is_made(self, parse, nodes):
        model = parse(
            f"g (float x) => (float y) {{ {nodes} y = MatMul(x, w) }}",
            s=np.array([1 << 20, 1 << 20]),
            k=np.float32(1),
            m=np.ones((1, 1), np.float32),
            zero=np.float32(0),
            zeros=np.array([0]),
            large=np.float32(1 << 40),
            big=np.array(1 << 40),
            pair=np.array([0, 1], np.float32),
            column=np.zeros((1 << 16, 1), np.float32),
            row=np.zeros((1, 1 << 16), np.float32),
        )
        skipped = [item for item in find_weights(model).skipped if item.is_mvm]
        assert {item.reason for item in skipped} == {"behind_other_nodes"}
        assert all("GiB at once, more than 4 GiB" in item.detail for item in skipped)

    def test_a_matrix_of_which_several_weights_are_computed_is_counted_once(self, parse, normal):
        model = parse(
            "g (float x) => (float y) { t = foreign.Twist(W) u = Neg(t) a = MatMul(x, t) [mm] y = MatMul(a, u) }",
            opsets='"" : 17, "foreign" : 1',
            W=normal(3, 3),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.consumers) == ("W", ("MatMul[1]", "mm (MatMul)[1]"))

    def test_a_weight_that_takes_too_much_memory_to_compute_is_listed(self, parse, normal, monkeypatch):
        monkeypatch.setattr(constant_evaluation, "MOST_EVALUATED_BYTES", 100)
        model = parse("g (float[2,6] x) => (float[2,6] y) { t = Neg(W) y = MatMul(x, t) }", W=normal(6, 6))
        assert only_skipped(model).detail.startswith("Neg of W: computing it takes")

    def test_what_nodes_make_of_a_weight_counts_for_the_memory_too(self, parse, normal, monkeypatch):
        monkeypatch.setattr(constant_evaluation, "MOST_EVALUATED_BYTES", 100)
        model = parse("g (float[2,3] x) => (float y) { t = Concat <axis = 1> (W, W) y = MatMul(x, t) }", W=normal(3, 4))
        assert "computing it takes" in only_skipped(model).detail

    def test_a_sequence_in_place_of_a_weight_is_listed(self, parse, normal):
        model = parse("g (float x) => (float y) { t = SequenceConstruct(W, W) y = MatMul(x, t) }", W=normal(3, 4))
        assert only_skipped(model).detail == (
            "SequenceConstruct of W: it is a sequence or an optional value, no tensor"
        )

    def test_what_is_computed_from_an_overridable_input_is_listed(self, parse, normal):
        model = parse(
            "g (float[2,3] x, float[3,3] W) => (float[2,3] y) { t = Neg(W) y = MatMul(x, t) }", W=normal(3, 3)
        )
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "overridable_input")

    def test_a_sparse_constant_is_listed(self, parse):
        model = parse("g (float[2,3] x) => (float[2,4] y) { W = Constant <value_float = 1.0> () y = MatMul(x, W) }")
        node = next(iter(model.graph))
        node.attributes.clear()
        node.attributes.add(ir.Attr("sparse_value", ir.AttributeType.SPARSE_TENSOR, None))
        skipped = only_skipped(model)
        assert (skipped.name, skipped.is_mvm) == ("W", True)
        assert skipped.reason == "behind_other_nodes"
        assert "sparse" in skipped.detail

    def test_random_numbers_are_activations(self, parse):
        model = parse("g (float[2,3] x) => (float[2,4] y) { r = RandomNormal <shape = [3, 4]> () y = MatMul(x, r) }")
        survey = find_weights(model)
        assert (survey.weights, survey.skipped) == ((), ())

    def test_the_result_of_a_body_counts_as_an_activation(self, parse, normal):
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y) {
                picked = If (c) <
                    then_branch = t () => (float[2,2] a) { a = Transpose(W) },
                    else_branch = e () => (float[2,2] b) { b = Identity(W) }
                >
                y = MatMul(picked, V)
            }""",
            W=normal(2, 2),
            V=normal(2, 2),
        )
        survey = find_weights(model)
        assert [weight.name for weight in survey.weights] == ["V"]
        assert [(s.name, s.reason) for s in survey.skipped] == [("W", "not_an_mvm_weight")]

    def test_a_body_that_only_captures_activations_gives_no_constant(self, parse, normal):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) {
                picked = If (always) <
                    then_branch = t () => (float[2,2] a) { a = Relu(x) },
                    else_branch = e () => (float[2,2] b) { b = Tanh(x) }
                >
                y = MatMul(picked, V)
            }""",
            always=np.array(True),
            V=normal(2, 2),
        )
        assert found(model) == ["V"]

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
    def test_an_empty_weight_is_skipped(self, parse, shape):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=np.zeros(shape, np.float32))
        skipped = only_skipped(model)
        assert (skipped.reason, skipped.detail, skipped.is_mvm) == ("empty", f"shape {list(shape)}", True)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.uint64])
    def test_an_integer_weight_of_a_floating_op_is_skipped(self, parse, dtype):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=np.ones((3, 4), dtype))
        skipped = only_skipped(model)
        assert (skipped.reason, skipped.detail) == ("dtype_not_supported", np.dtype(dtype).name)
        assert skipped.is_mvm

    def test_the_default_of_a_graph_input_is_skipped(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] W) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "overridable_input")

    @pytest.mark.parametrize("op_type", ["MatMulFpQ4", "NhwcConv"])
    def test_a_weight_that_is_packed_in_blocks_is_listed(self, parse, op_type):
        model = parse(
            f"g (float x) => (float y) {{ y = com.microsoft.{op_type} (x, W) }}",
            opsets='"" : 17, "com.microsoft" : 1',
            W=np.ones((3, 1, 4), np.uint8),
        )
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "block_packed")
        assert (only_skipped(model).detail, only_skipped(model).is_mvm) == (op_type, True)

    def test_integer_codes_are_left_alone_if_asked_for(self, parse):
        model = parse("g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger(x, W) }", W=np.ones((3, 4), np.int8))
        survey = find_weights(model, quantized=False)
        assert survey.weights == ()
        assert [(s.name, s.reason, s.detail, s.is_mvm) for s in survey.skipped] == [("W", "quantized", "int8", True)]


class TestComputedWeights:
    @pytest.mark.parametrize(
        ("nodes", "expected"),
        [
            ("t = Neg(W) y = MatMul(x, t)", lambda w: -w),
            ("a = Neg(W) t = Transpose(a) y = MatMul(x, t)", lambda w: -w),
            ("two = Constant <value_float = 2.0> () t = Mul(W, two) y = MatMul(x, t)", lambda w: 2 * w),
            ("t = Concat <axis = 0> (W, W) u = Slice(t, one, four) y = MatMul(x, u)", lambda w: np.vstack([w, w])[1:4]),
            ("t, u = Split <axis = 1> (W, sizes) y = MatMul(x, u)", lambda w: w[:, 1:]),
            ("t = Cast <to = 11> (W) u = Cast <to = 1> (t) y = MatMul(x, u)", lambda w: w),
        ],
        ids=["neg", "transposed", "mul", "slice", "split", "cast"],
    )
    def test_what_nodes_compute_from_constants_is_a_weight(self, parse, normal, nodes, expected):
        model = parse(
            f"g (float[2,3] x) => (float y) {{ {nodes} }}",
            W=normal(3, 3),
            one=np.array([1]),
            four=np.array([4]),
            sizes=np.array([1, 2]),
        )
        weight = only_weight(model)
        assert (weight.stored_as, weight.sources) == ("computed", ("W",))
        assert weight.tensor.numpy().tobytes() == expected(normal(3, 3)).tobytes()

    def test_a_split_gives_a_weight_for_each_of_its_outputs(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float y, float z) {
                a, b = Split <axis = 1> (W, s)
                y = MatMul(x, a)
                z = MatMul(x, b)
            }""",
            W=normal(3, 4),
            s=np.array([1, 3]),
        )
        assert [(weight.name, weight.shape) for weight in find_weights(model).weights] == [("a", (3, 1)), ("b", (3, 3))]

    def test_the_names_of_all_sources_are_told_but_not_those_of_scalars(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,8] y) { c = Concat <axis = 1> (A, B) d = Mul(c, k) y = MatMul(x, d) }""",
            A=normal(3, 4),
            B=normal(3, 4),
            k=np.float32(2),
        )
        assert sorted(only_weight(model).sources) == ["A", "B"]
        assert find_weights(model).skipped == ()

    def test_it_is_one_weight_for_all_slots_that_it_feeds(self, parse, normal):
        model = parse(
            "g (float[3,3] x) => (float[3,3] y) { t = Neg(W) [a] z = MatMul(x, t) [b] y = MatMul(t, z) }",
            W=normal(3, 3),
        )
        assert readers(only_weight(model)) == [("a", 1, True), ("b", 0, True)]

    def test_a_product_of_constants_is_a_weight_itself(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float y) { low = MatMul(A, B) t = Add(W, low) y = MatMul(x, t) }",
            A=normal(3, 1),
            B=normal(1, 4),
            W=normal(3, 4),
        )
        assert only_weight(model).name == "t"
        assert {item.reason for item in find_weights(model).skipped} <= {"constant_expression"}

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_a_weight_that_is_cast_to_a_wider_type_is_mapped_as_it_is_stored(self, parse, normal, dtype):
        model = parse(
            "g (float[2,3] x) => (float y) { t = Cast <to = 1> (W) u = Transpose(t) y = MatMul(x, u) }",
            W=normal(4, 3, dtype=dtype),
        )
        weight = only_weight(model)
        assert (weight.name, weight.stored_as, weight.tensor.dtype.numpy()) == ("W", "initializer", dtype)
        assert [step.op for step in weight.consumers[0].path] == ["transpose"]

    def test_a_weight_that_is_cast_to_a_narrower_type_is_mapped_as_it_is_used(self, parse, normal):
        model = parse("g (float16[2,3] x) => (float16 y) { t = Cast <to = 10> (W) y = MatMul(x, t) }", W=normal(3, 4))
        assert (only_weight(model).name, only_weight(model).tensor.dtype) == ("t", ir.DataType.FLOAT16)

    def test_a_result_that_can_be_computed_no_more_when_it_is_read_is_an_error_that_names_it(
        self, parse, normal, monkeypatch
    ):
        monkeypatch.setattr(constant_evaluation, "_KEPT_BYTES", 0)
        model = parse(
            "g (float x) => (float y, float z) { t = Neg(W) u = Abs(W) y = MatMul(x, t) z = MatMul(x, u) }",
            W=normal(3, 3),
        )
        first, _ = find_weights(model).weights  # of which the second is kept
        monkeypatch.setattr(constant_evaluation, "MOST_EVALUATED_BYTES", 10)
        with pytest.raises(ModelError, match=r"^'t': computing it takes "):
            first.tensor.numpy()

    def test_results_are_not_kept_beyond_a_bound(self, parse, normal, monkeypatch):
        monkeypatch.setattr(constant_evaluation, "_KEPT_BYTES", 0)
        model = parse("g () => (float[3,3] t, float[3,3] u) { t = Neg(W) u = Abs(W) }", W=normal(3, 3))
        evaluator = constant_evaluation.ConstantEvaluator(model)
        t, u = (node.outputs[0] for node in model.graph)
        first = weakref.ref(evaluator.evaluate(t))
        assert first() is not None
        evaluator.evaluate(u)
        assert first() is None


class TestReaders:
    def test_the_readers_of_a_weight_are_told_by_its_shape(self, parse, normal):
        model = parse("g (float[2,3] x) => (float[2,4] y) { W = Neg(V) [mm] y = MatMul(x, W) }", V=normal(3, 4))
        value = model.graph.node(0).outputs[0]
        [reader] = readers_of_weights(model, {value: (3, 4)})[value]
        assert (reader.node.name, reader.view.rows, reader.view.columns) == ("mm", 3, 4)
        assert readers_of_weights(model, {value: ()}) == {value: ()}


class TestTypesThatAreNotTold:
    """A Cast leaves a weight as it is if its type is narrower, which may be told by what the Cast reads alone."""

    def names(self, parse, nodes, **weights):
        opsets = '"" : 17, "foreign" : 1'
        survey = find_weights(
            parse(f"g (float x) => (float y) {{ {nodes} y = MatMul(x, w) }}", opsets=opsets, **weights)
        )
        return [item.name for item in survey.weights], [item.name for item in survey.skipped if item.is_mvm]

    def test_by_a_constant(self, parse):
        nodes = "W = Constant <value_floats = [0.5, -1.5]> () w = Cast <to = 11> (W)"
        assert self.names(parse, nodes) == (["W"], [])

    def test_by_what_is_rearranged(self, parse, normal):
        assert self.names(parse, "t = Transpose(W) w = Cast <to = 11> (t)", W=normal(3, 4)) == (["W"], [])

    def test_by_no_op_of_another_domain(self, parse, normal):
        nodes = "t = foreign.Twist(W) w = Cast <to = 11> (t)"
        assert self.names(parse, nodes, W=normal(3, 4)) == ([], ["W"])

    def test_by_no_input_of_another_type(self, parse, normal):
        nodes = "t = Shape(W) w = Cast <to = 1> (t)"
        assert self.names(parse, nodes, W=normal(3, 4)) == (["w"], [])

    def test_by_nothing_that_is_sparse(self, parse):
        text = (
            "g (float x) => (float y) { W = Constant <value_float = 1.0> () w = Cast <to = 11> (W) y = MatMul(x, w) }"
        )
        model = parse(text)
        node = next(iter(model.graph))
        node.attributes.clear()
        node.attributes.add(ir.Attr("sparse_value", ir.AttributeType.SPARSE_TENSOR, None))
        skipped = only_skipped(model)
        assert skipped.reason == "behind_other_nodes"
        assert skipped.detail.endswith(": 'W' is sparse or not constant")


class TestIntegerCodes:
    CODES = np.arange(12, dtype=np.uint8).reshape(3, 4)

    def weight(self, parse, nodes, **constants):
        opsets = '"" : 21, "com.microsoft" : 1'
        return only_weight(parse(f"g (float x) => (float y) {{ {nodes} }}", opsets=opsets, **constants))

    @pytest.mark.parametrize(
        ("nodes", "zero_point", "expected"),
        [
            ("y = MatMulInteger(x, W)", None, 0),
            ("y = MatMulInteger(x, W, xz, z)", np.uint8(5), 5),
            ("y = MatMulInteger(x, W, xz, z)", np.array([1, 2, 3, 4], np.uint8), [[1, 2, 3, 4]]),
            ("y = MatMulInteger(W, x, z)", np.array([1, 2, 3], np.uint8), [[1], [2], [3]]),
            ("y = QLinearMatMul(x, xs, xz, W, ws, z, ys, yz)", np.uint8(7), 7),
            ("y = com.microsoft.DynamicQuantizeMatMul (x, W, ws, z)", np.array([4, 3, 2, 1], np.uint8), [[4, 3, 2, 1]]),
            ("d = DequantizeLinear(W, s, z) y = MatMul(x, d)", np.uint8(9), 9),
            (
                "d = DequantizeLinear <axis = 0> (W, s3, z) y = MatMul(x, d)",
                np.array([1, 2, 3], np.uint8),
                [[1], [2], [3]],
            ),
            (
                "d = DequantizeLinear <axis = 1> (W, s4, z) t = Transpose(d) y = MatMul(x, t)",
                np.array([1, 2, 3, 4], np.uint8),
                [[1, 2, 3, 4]],
            ),
            (
                "t = Transpose(W) d = DequantizeLinear <axis = 1> (t, s3, z) y = MatMul(x, d)",
                np.array([1, 2, 3], np.uint8),
                [[1], [2], [3]],
            ),
            ("c = Cast <to = 1> (W) d = Mul(c, s4) y = MatMul(x, d)", None, 0),
            ("c = Cast <to = 1> (W) e = Sub(c, z) d = Mul(s4, e) y = MatMul(x, d)", np.float32(128), 128),
        ],
    )
    def test_the_zero_point_is_the_one_that_the_nodes_subtract(self, parse, nodes, zero_point, expected):
        weight = self.weight(
            parse,
            nodes,
            W=self.CODES,
            **({} if zero_point is None else {"z": zero_point}),
            xz=np.uint8(3),
            s=np.float32(0.1),
            s3=np.full(3, 0.1, np.float32),
            s4=np.full(4, 0.1, np.float32),
            **{name: np.float32(1) for name in ("xs", "ws", "ys")},
            yz=np.uint8(0),
        )
        assert (weight.name, weight.is_integer, weight.notes) == ("W", True, ())
        assert (weight.numbers.numpy() == self.CODES.astype(np.float32) - np.asarray(expected)).all()

    def test_zero_points_follow_a_transposition_that_is_not_its_own_inverse(self, parse):
        codes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        weight = self.weight(
            parse,
            "t = Transpose <perm = [1, 2, 0]> (W) d = DequantizeLinear <axis = 1> (t, s, z) y = MatMul(x, d)",
            W=codes,
            s=np.full(4, 0.1, np.float32),
            z=np.array([1, 2, 3, 4], np.uint8),
        )
        assert (weight.numbers.numpy() == codes.astype(np.float32) - np.array([1, 2, 3, 4])).all()

    @pytest.mark.parametrize("axis", [0, -2])
    @pytest.mark.parametrize(("points", "blocks"), [([[1, 2], [3, 4]], Blocks(0, 3)), ([[5, 5], [5, 5]], None)])
    def test_each_block_has_its_zero_point(self, parse, axis, points, blocks):
        codes, points = np.arange(8, dtype=np.uint8).reshape(4, 2), np.array(points, np.uint8)
        weight = self.weight(
            parse,
            f"d = DequantizeLinear <axis = {axis}, block_size = 3> (W, s, z) y = MatMul(x, d)",
            W=codes,
            s=np.full((2, 2), 0.1, np.float32),
            z=points,
        )
        np.testing.assert_array_equal(weight.numbers.numpy(), codes.astype(np.float32) - points[[0, 0, 0, 1]])
        assert (weight.zero_point.blocks, weight.notes) == (blocks, ())

    def test_zero_points_of_blocks_behind_another_shape_leave_the_codes_as_they_are_and_are_told(self, parse):
        weight = self.weight(
            parse,
            "t = Reshape(W, m) d = DequantizeLinear <axis = 0, block_size = 2> (t, s, z) y = MatMul(x, d)",
            W=np.arange(8, dtype=np.uint8),
            m=np.array([4, 2]),
            s=np.full((2, 2), 0.1, np.float32),
            z=np.array([[1, 2], [3, 4]], np.uint8),
        )
        assert weight.zero_point is None
        assert "zero points do not follow its axes" in weight.notes[0]

    @pytest.mark.parametrize(
        ("nodes", "zero_point"),
        [
            ("c = Cast <to = 1> (W) e = Sub(c, z) d = Mul(e, s4)", np.float32(1.5)),
            ("d = DequantizeLinear <axis = 2> (W, s4, z)", np.array([1, 2, 3, 4], np.uint8)),
            ("d = DequantizeLinear <axis = 0> (W, s4, z)", np.arange(12, dtype=np.uint8).reshape(1, 3, 4)),
            ("t = Reshape(W, shape) d = DequantizeLinear <axis = 0> (t, s4, z)", np.array([1, 2, 3, 4], np.uint8)),
        ],
        ids=["fractions", "no such axis", "more axes", "reshaped before"],
    )
    def test_zero_points_that_are_none_of_the_codes_axes_leave_the_codes_as_they_are(self, parse, nodes, zero_point):
        weight = self.weight(
            parse,
            f"{nodes} y = MatMul(x, d)",
            W=self.CODES,
            z=zero_point,
            s4=np.full(4, 0.1, np.float32),
            shape=np.array([4, 3]),
        )
        assert weight.zero_point is None
        assert weight.notes == (
            "the codes themselves are mapped, without a zero point: its zero points do not follow its axes",
        )

    def test_codes_that_are_transposed_before_they_are_multiplied_with_their_scale_are_a_weight(self, parse):
        weight = self.weight(
            parse,
            "c = Cast <to = 1> (W) e = Sub(c, z) t = Transpose(e) d = Mul(t, s) y = MatMul(x, d)",
            W=self.CODES,
            z=np.array([[1], [2], [3]], np.float32),
            s=np.float32(0.1),
        )
        assert (weight.name, weight.is_integer) == ("W", True)
        assert (weight.numbers.numpy() == self.CODES.astype(np.float32) - np.array([[1], [2], [3]])).all()

    @pytest.mark.parametrize("nodes", ["e = Sub(c) d = Mul(e, s)", "d = Mul(c)"])
    def test_codes_behind_nodes_that_lack_an_input_are_listed(self, parse, nodes):
        text = f"g (float x) => (float y) {{ c = Cast <to = 1> (W) {nodes} y = MatMul(x, d) }}"
        survey = find_weights(parse(text, W=self.CODES, s=np.float32(0.1)))
        assert survey.weights == ()
        [skipped] = [item for item in survey.skipped if item.is_mvm]
        assert "lacks an input, or has too many" in skipped.detail

    def test_readers_that_subtract_different_zero_points_are_told(self, parse):
        model = parse(
            """g (uint8 x) => (int32 y, int32 z) { y = MatMulInteger(x, W, a, a) z = MatMulInteger(x, W, a, b) }""",
            W=self.CODES,
            a=np.uint8(1),
            b=np.uint8(2),
        )
        assert "different zero points" in only_weight(model).notes[0]

    def test_a_zero_point_that_is_computed_at_run_time_is_told(self, parse):
        model = parse(
            "g (uint8 x, uint8 b) => (int32 y) { y = MatMulInteger(x, W, a, b) }", W=self.CODES, a=np.uint8(1)
        )
        assert "cannot be told" in only_weight(model).notes[0]

    def test_a_scale_that_makes_more_elements_is_refused(self, parse):
        model = parse(
            "g (float x) => (float y) { c = Cast <to = 1> (W) d = Mul(c, s) y = MatMul(x, d) }",
            W=np.arange(4, dtype=np.int8),
            s=np.ones((3, 1), np.float32),
        )
        assert [s.reason for s in find_weights(model).skipped if s.is_mvm] == ["invalid_shape"]


class TestLookups:
    def test_the_table_of_a_lookup_is_a_weight_only_if_asked_for(self, parse, normal):
        model = parse("g (int64[2] i) => (float[2,4] y) { y = Gather(table, i) }", table=normal(5, 4))
        assert only_skipped(model).reason == "not_an_mvm_weight"
        [weight] = find_weights(model, lookups=["Gather"]).weights
        view = weight.consumers[0].view
        assert (weight.name, view.rows, view.columns) == ("table", 5, 4)

    def test_a_lookup_in_activations_has_no_weight(self, parse):
        model = parse("g (float[5,4] x, int64[2] i) => (float[2,4] y) { y = Gather(x, i) }")
        assert find_weights(model, lookups=["Gather"]).weights == ()


class TestFunctions:
    OPSETS = '"" : 17, "local" : 1'

    def test_a_weight_that_is_the_argument_of_a_call_is_skipped(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) { [call] y = local.dense(x, W) }
            <domain: "local", opset_import: ["" : 17]>
            dense (a, w) => (r) { v = Identity(w) r = MatMul(a, v) }""",
            opsets=self.OPSETS,
            W=normal(3, 4),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.reason, skipped.detail) == ("W", "inside_function", "function dense")
        assert (skipped.is_mvm, skipped.consumers) == (True, ("call (dense)",))

    def test_a_weight_that_a_function_hands_to_another_one_is_skipped(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) { y = local.outer(x, W) }
            <domain: "local", opset_import: ["" : 17, "local" : 1]>
            outer (a, w) => (r) { r = local.dense(a, w) }
            <domain: "local", opset_import: ["" : 17]>
            dense (a, w) => (r) { r = MatMul(a, w) }""",
            opsets=self.OPSETS,
            W=normal(3, 4),
        )
        assert (only_skipped(model).name, only_skipped(model).detail) == ("W", "function outer")

    def test_an_argument_that_reaches_no_weight_slot_is_no_mvm_weight(self, parse, normal):
        model = parse(
            """g (float[3,4] x) => (float[3,4] y) { y = local.add(x, W) }
            <domain: "local", opset_import: ["" : 17]>
            add (a, w) => (r) { r = Add(a, w) }""",
            opsets=self.OPSETS,
            W=normal(3, 4),
        )
        assert (only_skipped(model).reason, only_skipped(model).is_mvm) == ("not_an_mvm_weight", False)

    def test_a_bias_that_a_function_adds_on_the_way_to_the_next_weight_is_no_weight(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) { y = local.mlp(x, W, bias, V) }
            <domain: "local", opset_import: ["" : 17]>
            mlp (a, w, b, v) => (r) { h = MatMul(a, w) s = Add(h, b) t = Relu(s) r = MatMul(t, v) }""",
            opsets=self.OPSETS,
            W=normal(3, 3),
            bias=normal(3),
            V=normal(3, 4),
        )
        survey = find_weights(model)
        assert [(s.name, s.is_mvm) for s in survey.skipped] == [("W", True), ("V", True)]

    def test_an_argument_of_one_element_is_skipped_too(self, parse, normal):
        model = parse(
            """g (float[2,1] x) => (float[2,1] y) { y = local.dense(x, W) }
            <domain: "local", opset_import: ["" : 17]>
            dense (a, w) => (r) { r = MatMul(a, w) }""",
            opsets=self.OPSETS,
            W=normal(1, 1),
        )
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "inside_function")

    def test_the_result_of_a_call_counts_as_an_activation(self, parse, normal):
        model = parse(
            """g () => (float[2,2] y) { a = local.noisy(K) y = MatMul(a, V) }
            <domain: "local", opset_import: ["" : 17]>
            noisy (k) => (r) { n = RandomNormalLike(k) r = Add(k, n) }""",
            opsets=self.OPSETS,
            K=normal(2, 2),
            V=normal(2, 2),
        )
        assert found(model) == ["V"]

    def test_an_argument_of_which_a_function_makes_random_numbers_is_no_weight(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) { y = local.noise(x, W) }
            <domain: "local", opset_import: ["" : 17]>
            noise (a, w) => (r) { n = RandomNormalLike(w) r = MatMul(a, n) }""",
            opsets=self.OPSETS,
            W=normal(3, 4),
        )
        assert (only_skipped(model).reason, only_skipped(model).is_mvm) == ("not_an_mvm_weight", False)

    def test_a_constant_inside_a_function_is_skipped(self, parse):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { y = local.dense(x) }
            <domain: "local", opset_import: ["" : 17]>
            dense (a) => (r) { k = Constant <value = float[2,2] {1, 2, 3, 4}> () [inner] r = MatMul(a, k) }""",
            opsets=self.OPSETS,
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape, skipped.graph_path) == ("k", (2, 2), "function local.dense")
        assert (skipped.reason, skipped.is_mvm, skipped.consumers) == ("inside_function", True, ("inner (MatMul)",))

    def test_a_constant_behind_other_nodes_inside_a_function_is_skipped(self, parse):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { y = local.dense(x) }
            <domain: "local", opset_import: ["" : 17]>
            dense (a) => (r) {
                k = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                t = Transpose(k)
                r = MatMul(a, t)
            }""",
            opsets=self.OPSETS,
        )
        assert (only_skipped(model).name, only_skipped(model).is_mvm) == ("k", True)

    def test_an_argument_behind_other_nodes_inside_a_function_is_skipped(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) { y = local.linear(x, W) }
            <domain: "local", opset_import: ["" : 17]>
            linear (a, w) => (r) { t = Transpose(w) r = MatMul(a, t) }""",
            opsets=self.OPSETS,
            W=normal(4, 3),
        )
        assert (only_skipped(model).reason, only_skipped(model).is_mvm) == ("inside_function", True)

    def test_a_constant_of_a_function_is_listed_once_however_often_it_is_read(self, parse):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) { y = local.twice(x) }
            <domain: "local", opset_import: ["" : 17]>
            twice (a) => (r) {
                k = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                [one] b = MatMul(a, k)
                [two] r = MatMul(b, k)
            }""",
            opsets=self.OPSETS,
        )
        assert only_skipped(model).consumers == ("one (MatMul)", "two (MatMul)")

    def test_a_function_that_calls_itself_does_not_hang(self, parse, normal):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) { y = local.endless(x, W) }
            <domain: "local", opset_import: ["" : 17, "local" : 1]>
            endless (a, w) => (r) { b = local.endless(a, w) r = MatMul(b, w) }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        assert only_skipped(model).reason == "inside_function"


def chain(op_type, length, w):
    """x @ op(op(...op(W))), with `length` ops."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1, 2)))
    weight = ir.Value(name="W", const_value=ir.tensor(w, name="W"))
    other = ir.Value(name="K", const_value=ir.tensor(np.float32(1), name="K"))
    value, nodes = weight, []
    for number in range(length):
        inputs = [value] if op_type == "Identity" else [value, other]
        nodes.append(ir.node(op_type, inputs, outputs=[ir.Value(name=f"v{number}")]))
        value = nodes[-1].outputs[0]
    nodes.append(ir.node("MatMul", [x, value], outputs=[ir.Value(name="y")], name="mm"))
    graph = ir.Graph(
        [x], nodes[-1].outputs, nodes=nodes, initializers=[weight, other], opset_imports={"": 17}, name="chain"
    )
    return ir.Model(graph, ir_version=10)


class TestDeepGraphs:
    def test_a_chain_of_thousands_of_identity_nodes_is_seen_through(self, normal):
        assert readers(only_weight(chain("Identity", 5000, normal(2, 2)))) == [("mm", 1, True)]

    def test_a_chain_of_thousands_of_other_nodes_is_computed(self):
        weight = only_weight(chain("Add", 3000, np.zeros((2, 2), np.float32)))
        assert (weight.name, weight.sources) == ("v2999", ("W",))
        assert (weight.tensor.numpy() == 3000).all()
