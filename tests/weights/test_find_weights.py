"""Every weight of every MVM op is found or skipped with its reason, wherever it lives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnx_gconv.weights import find_weights


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
        assert (weight.name, weight.shape, weight.is_constant_node) == ("W", (3, 4), False)
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
        assert (weight.name, weight.shape, weight.is_constant_node) == ("W", (2, 2), True)
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
        assert [(weight.name, weight.scope.path) for weight in weights] == [("S", ""), ("L", "repeat.body")]
        assert weights[0].consumers[0].graph_path == "walk.body"

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
        assert only_skipped(model).reason == "not_an_mvm_weight"


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

    def test_a_weight_of_a_mapped_and_an_unsupported_op_is_found(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float y, float z) {
                [mm] y = MatMul(x, W)
                [quantized] z = com.microsoft.DynamicQuantizeMatMul(x, W)
            }""",
            opsets='"" : 17, "com.microsoft" : 1',
            W=normal(3, 4),
        )
        weight = only_weight(model)
        assert readers(weight) == [("mm", 1, True), ("quantized", 1, True)]
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

    @pytest.mark.parametrize(
        ("nodes", "detail"),
        [
            ("t = Neg(W) y = MatMul(x, t)", "Neg"),
            ("t = Cast <to = 1> (W) y = MatMul(x, t)", "Cast"),
            ("a = Cast <to = 1> (W) t = Transpose(a) y = MatMul(x, t)", "Transpose/Cast"),
            ("two = Constant <value_float = 2.0> () t = Mul(W, two) y = MatMul(x, t)", "Mul"),
        ],
    )
    def test_a_weight_behind_other_nodes_is_listed_under_its_own_name(self, parse, normal, nodes, detail):
        model = parse(f"g (float[2,3] x) => (float[2,3] y) {{ {nodes} }}", W=normal(3, 3))
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape, skipped.is_mvm) == ("W", (3, 3), True)
        assert (skipped.reason, skipped.detail) == ("behind_other_nodes", detail)

    @pytest.mark.parametrize("scale", [np.float32(0.1), np.full(4, 0.1, np.float32)], ids=["tensor", "channel"])
    def test_a_quantized_weight_is_listed_under_its_own_name_and_not_under_that_of_its_scale(self, parse, scale):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) {
                t = DequantizeLinear <axis = 1> (Wq, scale, zero_point)
                [mm] y = MatMul(x, t)
            }""",
            Wq=np.ones((3, 4), np.int8),
            scale=scale,
            zero_point=np.zeros(scale.shape, np.int8),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape, skipped.detail) == ("Wq", (3, 4), "DequantizeLinear")
        assert skipped.consumers == ("mm (MatMul)[1]",)

    def test_several_weights_behind_one_slot_are_listed_as_what_they_become(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,8] y) <float[3,8] joined> {
                joined = Concat <axis = 1> (A, B)
                y = MatMul(x, joined)
            }""",
            A=normal(3, 4),
            B=normal(3, 4),
        )
        skipped = only_skipped(model)
        assert (skipped.name, skipped.shape) == ("joined", (3, 8))
        assert skipped.reason == "behind_other_nodes"
        assert {"A", "B"} == set(skipped.detail.removeprefix("Concat of ").split(", "))

    def test_a_weight_behind_other_nodes_is_listed_once_with_all_weight_slots(self, parse, normal):
        model = parse(
            "g (float[3,3] x) => (float[3,3] y) { t = Neg(W) [a] z = MatMul(x, t) [b] y = MatMul(t, z) }",
            W=normal(3, 3),
        )
        assert only_skipped(model).consumers == ("a (MatMul)[1]", "b (MatMul)[0]")

    def test_a_constant_that_is_computed_from_nothing_is_listed(self, parse):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y) {
                shape = Constant <value_ints = [3, 4]> ()
                filled = ConstantOfShape(shape)
                [mm] y = MatMul(x, filled)
            }"""
        )
        skipped = only_skipped(model)
        assert (skipped.reason, skipped.detail) == ("behind_other_nodes", "ConstantOfShape")
        assert skipped.consumers == ("mm (MatMul)[1]",)

    def test_a_sparse_constant_is_listed(self, parse):
        model = parse("g (float[2,3] x) => (float[2,4] y) { W = Constant <value_float = 1.0> () y = MatMul(x, W) }")
        node = next(iter(model.graph))
        node.attributes.clear()
        node.attributes.add(ir.Attr("sparse_value", ir.AttributeType.SPARSE_TENSOR, None))
        skipped = only_skipped(model)
        assert (skipped.name, skipped.is_mvm) == ("W", True)
        assert (skipped.reason, skipped.detail) == ("behind_other_nodes", "Constant")

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

    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
    def test_an_integer_weight_of_a_floating_op_is_skipped(self, parse, dtype):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=np.ones((3, 4), dtype))
        skipped = only_skipped(model)
        assert (skipped.reason, skipped.detail) == ("dtype_not_supported", np.dtype(dtype).name)
        assert skipped.is_mvm

    def test_the_default_of_a_graph_input_is_skipped(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] W) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "overridable_input")

    @pytest.mark.parametrize(
        ("node", "shapes", "weights"),
        [
            ("y = MatMulInteger(x, W)", {"W": (3, 4)}, ["W"]),
            ("y = QLinearConv(x, a, b, W, c, d, e, f)", {"W": (4, 3, 1, 1)}, ["W"]),
            ("y = com.microsoft.MatMulNBits (x, W)", {"W": (3, 4)}, ["W"]),
            ("y = com.microsoft.DynamicQuantizeLSTM (x, W, R)", {"W": (1, 3, 8), "R": (1, 2, 8)}, ["W", "R"]),
        ],
    )
    def test_weights_of_ops_that_are_not_mapped_yet_are_listed(self, parse, normal, node, shapes, weights):
        model = parse(
            f"g (float x) => (float y) {{ {node} }}",
            opsets='"" : 17, "com.microsoft" : 1',
            **{name: normal(*shape) for name, shape in shapes.items()},
        )
        survey = find_weights(model)
        assert survey.weights == ()
        listed = [skipped for skipped in survey.skipped if skipped.is_mvm]
        assert [skipped.name for skipped in listed] == weights
        op_type = node.split("=")[1].split()[0].split("(")[0].removeprefix("com.microsoft.")
        assert {(skipped.reason, skipped.detail) for skipped in listed} == {("op_not_supported", op_type)}

    def test_quantized_weights_of_integer_ops_are_listed(self, parse):
        model = parse("g (uint8[2,3] x) => (int32[2,4] y) { y = MatMulInteger(x, W) }", W=np.ones((3, 4), np.int8))
        assert (only_skipped(model).name, only_skipped(model).reason) == ("W", "op_not_supported")


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

    def test_a_chain_of_thousands_of_other_nodes_is_followed(self, normal):
        skipped = only_skipped(chain("Add", 5000, normal(2, 2)))
        assert (skipped.name, skipped.reason, skipped.detail) == ("W", "behind_other_nodes", "Add")
