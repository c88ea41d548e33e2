"""Matrices of products that the table of MVM ops does not lead to are named, with the true reason, and counted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_gconv as gconv
from onnx_gconv.passes import MapConductances
from onnx_gconv.weights import find_weights
from tests.graphs import model as onnx_model
from tests.graphs import tensors, value

OPSETS = '"" : 17, "com.microsoft" : 1, "lab" : 1, "local" : 1'


def listed(model, **options):
    """What is skipped, besides W, which is mapped: name to reason, detail and whether it counts as a weight."""
    survey = find_weights(model, **options)
    assert "W" in {weight.name for weight in survey.weights}
    return {item.name: (str(item.reason), item.detail, item.is_mvm) for item in survey.skipped}


@pytest.fixture
def graph(parse, normal):
    """A model whose weight W gives `t`, of which the given nodes make `y`."""

    def make(nodes, functions="", **constants):
        inputs = "float[2,4] x, int64 i, bool c, int64 n, int64[2] s"
        text = f"g ({inputs}) => (float[2,4] y) {{ t = MatMul(x, W) {nodes} }} {functions}"
        return parse(text, opsets=OPSETS, W=normal(4, 4), **constants)

    return make


def stacked(normal):
    return normal(3, 4, 4)


class TestChosenAtRunTime:
    def reason(self, detail):
        return {"Q": ("chosen_at_run_time", detail, True)}

    def test_rows_that_indices_choose(self, graph, normal):
        model = graph("w = Gather(Q, s) y = MatMul(t, w)", Q=normal(6, 4))
        assert listed(model) == self.reason("through Gather to MatMul[1]: no whole matrices are chosen")

    def test_integer_experts_whose_scales_are_chosen_too(self, graph, normal):
        codes = np.arange(48, dtype=np.int8).reshape(3, 4, 4)
        nodes = "q = Gather(Q, i) k = Gather(K, i) w = DequantizeLinear(q, k) y = MatMul(t, w)"
        assert listed(graph(nodes, Q=codes, K=normal(3))) == self.reason("through Gather/DequantizeLinear to MatMul[1]")

    def test_experts_that_are_scaled_after_they_are_chosen(self, graph, normal):
        model = graph("w = Gather(Q, i) v = Mul(w, k) y = MatMul(t, v)", Q=stacked(normal), k=np.float32(2))
        assert listed(model) == self.reason("through Gather to MatMul[1]")

    def test_a_cast_to_the_type_of_the_activations(self, graph, normal):
        assert listed(graph("w = CastLike(Q, t) y = MatMul(t, w)", Q=normal(4, 4))) == self.reason(
            "through CastLike to MatMul[1]"
        )

    def test_a_shape_that_the_model_is_given(self, graph, normal):
        model = graph("w = Reshape(Q, s) y = MatMul(t, w)", Q=normal(2, 8))
        assert listed(model) == self.reason("through Reshape to MatMul[1]")

    def test_dropout_that_trains(self, graph, normal):
        model = graph("w = Dropout(Q, r, c) y = MatMul(t, w)", Q=normal(4, 4), r=np.float32(0.5))
        assert listed(model) == self.reason("through Dropout to MatMul[1]")

    def test_a_weight_that_a_loop_carries_on(self, graph, normal):
        body = "b (int64 k, bool d, float[4,4] a) => (bool e, float[4,4] o) { e = Identity(d) o = Neg(a) }"
        model = graph(f"w = Loop <body = {body}> (n, c, Q) y = MatMul(t, w)", Q=normal(4, 4))
        assert listed(model) == self.reason("through Loop to MatMul[1]")

    def test_weights_of_which_a_branch_gives_one(self, graph, normal):
        branches = "then_branch = t () => (o) { o = Identity(Q) }, else_branch = e () => (p) { p = Identity(R) }"
        model = graph(f"w = If (c) <{branches}> y = MatMul(t, w)", Q=normal(4, 4), R=normal(4, 4, seed=1))
        assert listed(model) == dict.fromkeys("QR", ("chosen_at_run_time", "through If to MatMul[1]", True))

    def test_weights_in_a_sequence(self, graph, normal):
        nodes = "q = SequenceConstruct(Q, R) w = SequenceAt(q, i) y = MatMul(t, w)"
        model = graph(nodes, Q=normal(4, 4), R=normal(4, 4, seed=1))
        assert listed(model) == dict.fromkeys("QR", ("chosen_at_run_time", "through SequenceAt to MatMul[1]", True))

    def test_a_chosen_weight_that_stands_twice_in_another_one(self, graph, normal):
        model = graph("w = Gather(Q, i) v = Concat <axis = 1> (w, w) y = MatMul(t, v)", Q=stacked(normal))
        assert listed(model) == self.reason("through Gather to MatMul[1]")

    def test_a_weight_of_a_sequence_that_is_mapped(self, graph, normal):
        body = "b (float[4,4] a) => (float[4,4] o) { o = Neg(a) }"
        nodes = f"q = SequenceConstruct(Q, Q) r = SequenceMap <body = {body}> (q) w = SequenceAt(r, i) y = MatMul(t, w)"
        assert listed(graph(nodes, Q=normal(4, 4))) == self.reason("through SequenceMap/SequenceAt to MatMul[1]")

    def test_experts_that_a_function_chooses(self, graph, normal):
        function = """<domain: "local", opset_import: ["" : 17]>
            expert (a, q, k) => (r) { w = Gather(q, k) r = MatMul(a, w) }"""
        model = graph("y = local.expert(t, Q, i)", function, Q=stacked(normal))
        assert listed(model) == {"Q": ("inside_function", "function expert", True)}
        assert {record.name for record in MapConductances()(model).report.mapped} == {"Q", "W"}

    def test_what_a_state_of_a_loop_becomes_is_multiplied_in_the_next_round(self, graph, normal):
        nodes = "e = Identity(d) p = Identity(R) o = MatMul(b, a)"
        body = f"l (int64 k, bool d, float[4,4] a, float[2,4] b) => (bool e, float[4,4] p, float[2,4] o) {{ {nodes} }}"
        model = graph(f"w, y = Loop <body = {body}> (n, c, Q, t)", Q=normal(4, 4), R=normal(4, 4, seed=1))
        assert listed(model) == dict.fromkeys("QR", ("chosen_at_run_time", "through Loop to MatMul[1]", True))

    @pytest.mark.parametrize(("opset", "lengths"), [(8, ", "), (9, ""), (10, "")])
    def test_a_scan_has_lengths_before_its_states_at_opset_8_only(self, parse, normal, opset, lengths):
        body = "b (float[2,4] a, float[4,4] w) => (float[2,4] o) { o = MatMul(a, w) }"
        nodes = f"t = MatMul(x, W) y = Scan <num_scan_inputs = 1, body = {body}> ({lengths}t, Q)"
        text = f"g (float[2,4] x) => (float[2,4] y) {{ {nodes} }}"
        model = parse(text, opsets=f'"" : {opset}', W=normal(4, 4), Q=stacked(normal))
        assert listed(model) == (self.reason("through Scan to MatMul[1]") if opset == 8 else {})

    def test_what_a_scan_collects_is_not_what_it_runs_through(self, graph, normal):
        nodes = "o = MatMul(a, w) p = Identity(R)"
        body = f"b (float[2,4] a, float[4,4] w) => (float[2,4] o, float[4,4] p) {{ {nodes} }}"
        model = graph(
            f"y, z = Scan <num_scan_inputs = 1, body = {body}> (t, Q)", Q=stacked(normal), R=normal(4, 4, seed=1)
        )
        assert listed(model) == {
            "R": ("not_an_mvm_weight", "read by Identity", False),
        }

    @pytest.mark.parametrize(
        ("nodes", "op_type", "handed_on"),
        [
            ("w = Where(c, Q, R)", "Where", "QR"),
            ("w = Where(Q, R, x)", "Where", "R"),
            ("w = Concat <axis = 0> (x, Q, R)", "Concat", "QR"),
            ("w = ScatterElements(Q, i, R)", "ScatterElements", "QR"),
            ("w = ScatterElements(Q, R, x)", "ScatterElements", "Q"),
            ("w = ScatterND(Q, i, R)", "ScatterND", "QR"),
            ("w = ScatterND(Q, R, x)", "ScatterND", "Q"),
            ("w = TensorScatter(Q, R, i)", "TensorScatter", "QR"),
            ("w = TensorScatter(Q, x, R)", "TensorScatter", "Q"),
            ("q = SequenceConstruct(x, Q, R) w = SequenceAt(q, i)", "SequenceConstruct/SequenceAt", "QR"),
            ("q = SequenceConstruct(Q) r = SequenceInsert(q, R, i) w = SequenceAt(r, i)", "Sequence", "QR"),
            ("q = SequenceConstruct(Q) r = SequenceInsert(q, x, R) w = SequenceAt(r, i)", "Sequence", "Q"),
        ],
    )
    def test_each_input_whose_elements_an_op_hands_on_is_listed_and_no_other(
        self, graph, normal, nodes, op_type, handed_on
    ):
        found = listed(graph(f"{nodes} y = MatMul(t, w)", Q=normal(4, 4), R=normal(4, 4, seed=1)))
        chosen = {name: detail for name, (reason, detail, _) in found.items() if reason == "chosen_at_run_time"}
        assert "".join(sorted(chosen)) == handed_on
        assert all(detail.startswith(f"through {op_type}") for detail in chosen.values())

    def test_parts_of_a_weight_that_two_calls_of_a_function_give_are_not_called_inside_a_function(self, graph, normal):
        function = """<domain: "local", opset_import: ["" : 17]>
            product (a, q, k) => (r) { w = Mul(q, k) r = MatMul(a, w) }"""
        model = graph("y = local.product(t, Q, t) z = local.product(t, t, K)", function, Q=normal(4, 4), K=normal(1, 4))
        assert listed(model) == dict.fromkeys("QK", ("chosen_at_run_time", "to MatMul[1]", True))

    def test_embeddings_and_tables_that_are_added_are_no_weights(self, graph, normal):
        nodes = "e = Gather(E, s) a = Add(t, e) b = Mul(a, C) y = MatMul(b, V)"
        assert listed(graph(nodes, E=normal(9, 4), C=normal(2, 4), V=normal(4, 4))) == {
            "E": ("not_an_mvm_weight", "read by Gather", False),
            "C": ("not_an_mvm_weight", "read by Mul", False),
        }

    def test_what_the_table_of_a_lookup_is_mapped_for_is_not_listed_again(self, graph, normal):
        model = graph("w = Gather(Q, s) y = MatMul(t, w)", Q=normal(6, 4))
        assert listed(model, lookups=["Gather"]) == {}


class TestOpsWithoutARow:
    def test_the_weights_of_a_packed_op_are_listed_and_its_scales_are_not_weights(self, graph, normal):
        codes = np.zeros((8, 2, 16), np.int8)
        nodes = "y = com.microsoft.QOrderedAttention(t, s, s, s, s, Q, K, V)"
        model = graph(nodes, Q=codes, K=codes + 1, V=codes + 2, s=normal(8, 2))
        reason = ("unlisted_op", "read by 'QOrderedAttention' of domain 'com.microsoft'", True)
        scales = ("not_an_mvm_weight", "read by QOrderedAttention", False)
        assert listed(model) == {**dict.fromkeys("QKV", reason), "s": scales}

    def test_bytes_without_rows_may_be_packed_codes_of_an_op_that_nobody_knows(self, graph):
        nodes = "y = lab.Packed(t, Q, z, i)"
        constants = {"Q": np.zeros(1024, np.uint8), "z": np.zeros(64, np.uint8), "i": np.zeros(2048, np.int64)}
        [found] = find_weights(graph(nodes, **constants)).skipped
        assert (found.name, found.reason, found.shape) == ("Q", "unlisted_op", None)  # nobody tells how many numbers

    def test_what_a_compiled_model_reads_is_compiled(self, graph, normal):
        model = graph("""y = com.microsoft.EPContext <source = "QNN"> (t, Q)""", Q=normal(4, 4))
        found = {item.name: (item.reason, item.is_mvm) for item in find_weights(model).skipped}
        assert found == {"Q": ("compiled", True), "EPContext": ("compiled", True)}

    def test_an_op_that_nobody_knows_may_multiply_whatever_it_reads(self, graph, normal):
        model = graph(
            "q = Transpose(Q) r = Mul(q, k) y = lab.Twist(t, r, I)",
            Q=normal(4, 4),
            k=np.float32(2),
            I=np.eye(2, dtype=np.int64),
        )
        assert listed(model) == {"Q": ("unlisted_op", "read by 'Twist' of domain 'lab'", True)}

    def test_what_an_index_chooses_for_such_an_op_is_listed_too(self, graph, normal):
        model = graph("q = Gather(Q, i) y = lab.Twist(t, q)", Q=stacked(normal))
        assert listed(model) == {"Q": ("unlisted_op", "read by 'Twist' of domain 'lab', behind Gather", True)}

    def test_an_op_that_nobody_knows_may_multiply_in_its_body_what_it_reads(self, graph, normal):
        body = "b (float[2,4] a) => (float[2,4] o) { o = Neg(a) }"
        model = graph(f"y = lab.Repeat <body = {body}> (t, Q)", Q=normal(4, 4))
        assert listed(model) == {"Q": ("unlisted_op", "read by 'Repeat' of domain 'lab'", True)}

    def test_keys_that_attention_multiplies_are_listed(self, graph, normal):
        model = graph(
            "y = com.microsoft.MultiHeadAttention <num_heads = 1> (t, Q, R)", Q=normal(1, 3, 4), R=normal(1, 3, 4)
        )
        assert {reason for reason, _, _ in listed(model).values()} == {"unlisted_op"}

    def test_ops_that_are_known_to_multiply_nothing_are_not_counted(self, graph, normal):
        nodes = "a = com.microsoft.SkipLayerNormalization(t, Q, g, b) y = PRelu(a, R)"
        model = graph(nodes, Q=normal(2, 4), R=normal(2, 4), g=normal(4), b=normal(4))
        assert listed(model) == {
            "Q": ("not_an_mvm_weight", "read by SkipLayerNormalization", False),
            "R": ("not_an_mvm_weight", "read by PRelu", False),
        }

    def test_a_constant_of_a_function_that_such_an_op_reads_is_listed(self, graph):
        function = """<domain: "local", opset_import: ["" : 17, "lab" : 1]>
            twist (a) => (r) { k = Constant <value = float[2,2] {1, 2, 3, 4}> () r = lab.Twist(a, k) }"""
        assert listed(graph("y = local.twist(t)", function)) == {
            "k": ("unlisted_op", "read by 'Twist' of domain 'lab'", True)
        }

    def test_codes_that_no_product_reads_are_listed_and_not_counted(self, graph):
        codes = np.zeros((9, 4), np.int8)
        model = graph("q = Gather(Q, s) e = DequantizeLinear(q, k) y = Add(t, e)", Q=codes, k=np.float32(1))
        assert listed(model) == {"Q": ("not_an_mvm_weight", "read by Gather", False)}

    def test_a_constant_that_is_an_output_is_not_called_unused(self, parse, normal):
        model = parse(
            "g (float[2,4] x) => (float[2,4] y, float[4,4] Q) { y = MatMul(x, W) }", W=normal(4, 4), Q=normal(4, 4)
        )
        assert listed(model) == {"Q": ("not_an_mvm_weight", "an output of its graph", False)}


def test_functions_that_compute_a_weight_from_constants_are_inlined_or_named(graph, tmp_path):
    import onnx_ir as ir

    function = """<domain: "local", opset_import: ["" : 17]>
        decode (q, k) => (r) { f = Cast <to = 1> (q) r = Mul(f, k) }"""
    codes = np.arange(16, dtype=np.int8).reshape(4, 4)
    model = graph("w = local.decode(Q, k) y = MatMul(t, w)", function, Q=codes, k=np.float32(0.1))
    assert listed(model) == {"Q": ("inside_function", "function decode", True)}
    ir.save(model, tmp_path / "m.onnx")
    report = gconv.inspect_model(tmp_path / "m.onnx")
    assert [(weight.name, weight.dtype) for weight in report.mapped] == [("W", "float32"), ("Q", "int8")]


def test_the_share_counts_what_no_row_leads_to(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["t"]),
        helper.make_node("Twist", ["t", "Q"], ["y"], domain="custom"),
    ]
    weights = tensors({"W": np.ones((4, 4), np.float32), "Q": np.ones((3, 4, 4), np.float32)})
    proto = onnx_model(nodes, [value("x", shape=[2, 4])], [value("y")], weights, domains=("", "custom"))
    onnx.save(proto, tmp_path / "m.onnx")
    report = gconv.inspect_model(tmp_path / "m.onnx")
    assert report.mvm_share == 0.25
    assert "16 of 64 parameters of MVM ops (25.0%) would be mapped to conductances." in str(report)
    assert "skipped: unlisted_op" in str(report)


class TestAttributes:
    def report(self, tmp_path, domain, op_type, **attributes):
        outputs = ["y", "scores"] if op_type.endswith("Classifier") else ["y"]
        node = helper.make_node(op_type, ["x"], outputs, name="model", domain=domain, **attributes)
        onnx.save(
            onnx_model([node], [value("x", shape=[2, 4])], [value("y")], domains=("", domain)), tmp_path / "m.onnx"
        )
        return gconv.inspect_model(tmp_path / "m.onnx")

    @pytest.mark.parametrize(
        ("op_type", "attributes", "name", "shape"),
        [
            ("LinearRegressor", {"coefficients": [1.0] * 8, "targets": 2}, "coefficients", (2, 4)),
            ("LinearClassifier", {"coefficients": [1.0] * 12, "intercepts": [0.0] * 3}, "coefficients", (3, 4)),
            (
                "SVMRegressor",
                {"support_vectors": [1.0] * 8, "n_supports": 2, "coefficients": [1.0, 1.0]},
                "support_vectors",
                (2, 4),
            ),
            ("SVMClassifier", {"support_vectors": [1.0] * 12, "vectors_per_class": [1, 2]}, "support_vectors", (3, 4)),
            ("SVMRegressor", {"coefficients": [1.0] * 4}, "coefficients", (1, 4)),
        ],
    )
    def test_classical_models_hold_matrices_in_attributes(self, tmp_path, op_type, attributes, name, shape):
        report = self.report(tmp_path, "ai.onnx.ml", op_type, **attributes)
        [item] = report.skipped
        assert (item.name, item.shape, item.reason, item.is_mvm) == (f"model.{name}", shape, "in_attribute", True)
        assert item.detail == f"attribute '{name}' of '{op_type}' of domain 'ai.onnx.ml'"
        assert report.mvm_share == 0

    def test_trees_multiply_nothing(self, tmp_path):
        report = self.report(tmp_path, "ai.onnx.ml", "TreeEnsembleRegressor", nodes_values=[1.0] * 4)
        assert report.skipped == ()
        assert report.mvm_share is None

    def test_tensors_of_an_op_that_nobody_knows_may_be_weights(self, tmp_path):
        tensor = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32))
        report = self.report(
            tmp_path, "custom", "Engine", weights=tensor, more=[tensor], bias=onnx.numpy_helper.from_array(np.ones(3))
        )
        assert {(item.name, item.shape) for item in report.skipped} == {
            ("model.weights", (3, 4)),
            ("model.more", (3, 4)),
        }

    def test_a_compiled_model_is_named_though_nobody_can_look_into_it(self, tmp_path):
        node = helper.make_node("EPContext", ["x"], ["t"], name="blob", domain="com.microsoft", ep_cache_context="...")
        nodes = [node, helper.make_node("MatMul", ["t", "W"], ["y"])]
        weights = tensors({"W": np.ones((4, 4), np.float32)})
        proto = onnx_model(nodes, [value("x", shape=[2, 4])], [value("y")], weights)
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.save(proto, tmp_path / "m.onnx")
        report = gconv.inspect_model(tmp_path / "m.onnx")
        [item] = report.skipped
        assert (item.name, item.shape, item.reason) == ("blob", None, "compiled")
        assert item.detail == "'EPContext' of domain 'com.microsoft'"
        assert "(100.0%) would be mapped to conductances; not mapped and of unknown size: 1 weight." in str(report)


def test_ops_of_opsets_after_those_that_were_looked_at_count_as_unknown(monkeypatch, graph, normal):
    from onnx_gconv.weights.ops import unlisted_ops

    monkeypatch.setattr(unlisted_ops, "_KNOWN_OPSET", 8)
    monkeypatch.setattr(
        unlisted_ops, "_is_no_product", unlisted_ops._is_no_product.__wrapped__
    )  # nothing is remembered
    model = graph("y = Where(c, t, Q)", Q=normal(2, 4))
    assert listed(model) == {"Q": ("unlisted_op", "read by 'Where' of domain 'ai.onnx'", True)}


def test_a_type_that_no_weight_has_is_not_listed(graph):
    tables = {"I": np.ones((2, 2), np.int64), "B": np.ones((2, 2), bool)}
    assert listed(graph("y = lab.Twist(t, I, B)", **tables)) == {}


def test_a_norm_that_the_runtime_has_in_the_domain_of_onnx_multiplies_no_matrix(graph, normal):
    model = graph("e = Gather(E, s) q = SimplifiedLayerNormalization(e, g) y = MatMul(q, V)", E=normal(9, 4),
                  g=normal(4), V=normal(4, 4))  # fmt: skip
    assert listed(model) == {"E": ("not_an_mvm_weight", "read by Gather", False)}
