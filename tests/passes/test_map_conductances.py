"""Mapping replaces every weight by conductances and the nodes that rebuild it, and touches nothing else."""

from __future__ import annotations

import importlib.metadata
import logging

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common
import pytest

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError, GconvError, ModelError, UnmappableWeightError
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest, remove_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

DENSE = "g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }"

TWO_BRANCHES = """g (bool c, float[1,2] x) => (float[1,2] y) {
    [choose] y = If (c) <
        then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { [mm] a = MatMul(x, W) },
        else_branch = e () => (float[1,2] b) <float[2,2] W = {5, -6, 7, 8}> { [mm] b = MatMul(x, W) }
    >
}"""

CONVERTERS = {
    "g_min = 0": SinglePairConductanceConverter(),
    "g_min > 0": SinglePairConductanceConverter(20.0, 1.0),
    "exact": SinglePairConductanceConverter(exact=True),
}


@pytest.fixture
def dense(parse, normal):
    return parse(DENSE, W=normal(3, 4))


def nodes(graph):
    """Nodes as (name, op_type, inputs, outputs)."""
    return [
        (node.name, node.op_type, [value.name for value in node.inputs], [value.name for value in node.outputs])
        for node in graph
    ]


def ops(graph):
    return [node.op_type for node in graph]


def branch(model, name):
    [choose] = [node for node in model.graph if node.op_type == "If"]
    return choose.attributes[name].as_graph()


def mapped(model, *args, **options):
    assert MapConductances(*args, **options)(model).modified
    return model


class TestStructure:
    def test_sub_and_div_rebuild_the_weight_under_its_own_name(self, dense):
        assert nodes(mapped(dense).graph) == [
            ("W/gconv_Sub", "Sub", ["W.g_plus", "W.g_minus"], ["W.g_difference"]),
            ("W/gconv_Div", "Div", ["W.g_difference", "W.g_scale"], ["W"]),
            ("mm", "MatMul", ["x", "W"], ["y"]),
        ]

    def test_conductances_and_scale_take_the_place_of_the_weight_among_the_initializers(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,3] y) { a = Gemm(x, W, first) b = Gemm(a, V) y = Add(b, last) }",
            first=normal(3),
            W=normal(3, 3),
            between=normal(1),
            V=normal(3, 3),
            last=normal(3),
        )
        assert list(mapped(model).graph.initializers) == [
            *("first", "W.g_plus", "W.g_minus", "W.g_scale"),
            *("between", "V.g_plus", "V.g_minus", "V.g_scale", "last"),
        ]

    def test_conductances_are_those_of_the_converter(self, dense, normal):
        converter = SinglePairConductanceConverter(20.0, 1.0)
        initializers = mapped(dense, converter).graph.initializers
        (g_plus, g_minus), params = converter.convert_to_conductances(normal(3, 4))
        for name, expected in [("plus", g_plus), ("minus", g_minus), ("scale", params["scale_ratio"])]:
            assert initializers[f"W.g_{name}"].const_value.tobytes() == expected.tobytes()

    def test_the_default_is_a_single_pair_of_zero_to_twenty_five(self, dense):
        assert read_manifest(mapped(dense)).weights[0].converter.converter() == SinglePairConductanceConverter(25, 0)

    def test_every_new_value_carries_its_type_and_shape(self, parse, normal):
        model = parse("g (float16[2,3] x) => (float16[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=np.float16))
        mapped(model)
        values = [*model.graph.initializers.values(), *(node.outputs[0] for node in model.graph)]
        assert {value.name: (value.dtype, value.shape.numpy()) for value in values if value.name != "y"} == {
            "W.g_plus": (ir.DataType.FLOAT, (3, 4)),
            "W.g_minus": (ir.DataType.FLOAT, (3, 4)),
            "W.g_scale": (ir.DataType.FLOAT, ()),
            "W.g_difference": (ir.DataType.FLOAT, (3, 4)),
            "W.g_quotient": (ir.DataType.FLOAT, (3, 4)),
            "W": (ir.DataType.FLOAT16, (3, 4)),
        }

    def test_nodes_and_initializers_say_what_they_are_for(self, parse, normal):
        model = parse("g (float16[2,3] x) => (float16[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=np.float16))
        mapped(model)
        assert [node.metadata_props.get("onnx_gconv.role") for node in model.graph] == [
            *("difference", "rebuild", "cast"),
            None,
        ]
        initializers = model.graph.initializers.values()
        said = {value.name: value.metadata_props for value in initializers}
        assert {name: (text["onnx_gconv.role"], text["onnx_gconv.unit"]) for name, text in said.items()} == {
            "W.g_plus": ("conductance", "uS"),
            "W.g_minus": ("conductance", "uS"),
            "W.g_scale": ("scale", "uS per unit of weight"),
        }
        holders = [*initializers, *list(model.graph)[:3]]
        assert {holder.metadata_props["onnx_gconv.weight"] for holder in holders} == {"W"}

    def test_the_nodes_stand_right_before_the_first_node_that_uses_the_weight(self, parse, normal):
        model = parse(
            "g (float[4,4] x) => (float[4,4] y) { a = Relu(x) b = Add(a, W) c = MatMul(b, W) y = MatMul(c, V) }",
            V=normal(4, 4),
            W=normal(4, 4),
        )
        assert ops(mapped(model).graph) == ["Relu", "Sub", "Div", "Add", "MatMul", "Sub", "Div", "MatMul"]

    def test_the_nodes_stand_before_the_first_node_with_a_body_that_uses_the_weight(self, parse, normal):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                r = Relu(x)
                p = If (c) <
                    then_branch = t () => (float[1,2] a) { a = Relu(r) },
                    else_branch = e () => (float[1,2] b) {
                        b = If (c) <
                            then_branch = t2 () => (float[1,2] f) { f = MatMul(r, W) },
                            else_branch = e2 () => (float[1,2] d) { d = Relu(r) }
                        >
                    }
                >
                y = MatMul(p, W)
            }""",
            W=normal(2, 2),
        )
        assert ops(mapped(model).graph) == ["Relu", "Sub", "Div", "If", "MatMul"]
        assert ops(branch(model, "else_branch")) == ["If"]

    def test_the_nodes_stand_before_identity_nodes_that_hand_the_weight_on(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,4] y) { i = Identity(W) r = Relu(x) y = MatMul(r, i) }", W=normal(3, 4)
        )
        assert ops(mapped(model).graph) == ["Sub", "Div", "Identity", "Relu", "MatMul"]

    def test_nodes_and_conductances_stand_in_the_body_that_owned_the_weight(self, parse):
        model = mapped(parse(TWO_BRANCHES))
        assert ops(model.graph) == ["If"]
        assert list(model.graph.initializers) == []
        for name in ("then_branch", "else_branch"):
            assert ops(branch(model, name)) == ["Sub", "Div", "MatMul"]
            assert len(branch(model, name).initializers) == 3

    def test_weights_of_the_same_name_in_sibling_bodies_get_conductances_of_their_own(self, parse, run):
        model = mapped(parse(TWO_BRANCHES))
        assert list(branch(model, "then_branch").initializers) == ["W.g_plus", "W.g_minus", "W.g_scale"]
        assert list(branch(model, "else_branch").initializers) == ["W.g_plus_1", "W.g_minus_1", "W.g_scale_1"]
        x = np.array([[1, 10]], np.float32)
        np.testing.assert_allclose(run(model, c=np.array(True), x=x)[0], [[31, 42]], rtol=1e-5)
        np.testing.assert_allclose(run(model, c=np.array(False), x=x)[0], [[75, 74]], rtol=1e-5)

    def test_a_constant_node_is_replaced_where_it_stood(self, parse):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) {
                r = Relu(x)
                W = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                s = Relu(r)
                y = MatMul(s, W)
            }"""
        )
        assert ops(mapped(model).graph) == ["Relu", "Sub", "Div", "Relu", "MatMul"]
        assert list(model.graph.initializers) == ["W.g_plus", "W.g_minus", "W.g_scale"]
        assert read_manifest(model).weights[0].stored_as == "constant"

    def test_a_constant_node_in_a_branch_is_replaced_there(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                y = If (c) <
                    then_branch = t () => (float[1,2] a) {
                        K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                        a = MatMul(x, K)
                    },
                    else_branch = e () => (float[1,2] b) { b = Identity(x) }
                >
            }"""
        )
        assert ops(branch(mapped(model), "then_branch")) == ["Sub", "Div", "MatMul"]
        x = np.array([[1, 10]], np.float32)
        np.testing.assert_allclose(run(model, c=np.array(True), x=x)[0], [[31, 42]], rtol=1e-5)

    def test_a_constant_node_hands_its_metadata_to_the_node_that_gives_the_weight(self, parse):
        model = parse(
            "g (float[1,2] x) => (float[1] y) { W = Constant <value_floats = [1.0, 2.0]> () y = MatMul(x, W) }"
        )
        next(iter(model.graph)).metadata_props["of somebody else"] = "kept"
        *_, div, _ = mapped(model).graph
        assert div.metadata_props["of somebody else"] == "kept"

    def test_metadata_and_text_of_the_weight_stay_with_the_rebuilt_value(self, dense):
        weight = dense.graph.initializers["W"]
        weight.doc_string, weight.metadata_props["of somebody else"], weight.meta["note"] = "text", "kept", 7
        *_, div, _ = mapped(dense).graph
        [rebuilt] = div.outputs
        assert (rebuilt.doc_string, rebuilt.meta["note"]) == ("text", 7)
        assert rebuilt.metadata_props["of somebody else"] == "kept"

    def test_consumers_other_nodes_and_what_they_read_stay_as_they_are(self, parse, normal):
        model = parse(
            """g (float[2,3] x, int64[1] i) => (float[2,4] y, float[1,4] row) {
                [mm] y = MatMul(x, W)
                [look_up] row = Gather(W, i)
            }""",
            W=normal(3, 4),
        )
        before = nodes(model.graph)
        assert nodes(mapped(model).graph)[2:] == before

    def test_a_weight_read_by_many_is_mapped_once(self, parse, normal):
        model = parse(
            "g (float[4,4] x) => (float[4,4] y) { a = MatMul(x, W) b = MatMul(W, a) y = Gemm(b, W) }", W=normal(4, 4)
        )
        assert ops(mapped(model).graph) == ["Sub", "Div", "MatMul", "MatMul", "Gemm"]

    def test_a_weight_that_is_a_graph_output_is_given_out_rebuilt(self, parse, run, normal):
        w = normal(3, 4)
        model = parse("g (float[2,3] x) => (float[2,4] y, float[3,4] W) { y = MatMul(x, W) }", W=w)
        mapped(model, CONVERTERS["exact"])
        assert [value.name for value in model.graph.outputs] == ["y", "W"]
        assert model.graph.outputs[1].producer().op_type == "Div"
        assert run(model, "none", x=normal(2, 3))[1].tobytes() == w.tobytes()

    def test_a_weight_that_a_body_gives_out_is_given_out_rebuilt(self, parse, run, normal):
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y, float[2,2] z) {
                y, z = If (c) <
                    then_branch = t () => (float[2,2] a, float[2,2] V) <float[2,2] V = {1, 2, 3, 4}> {
                        a = MatMul(x, V)
                    },
                    else_branch = e () => (float[2,2] b, float[2,2] d) { b = Identity(x) d = Identity(x) }
                >
            }"""
        )
        mapped(model, CONVERTERS["exact"])
        assert branch(model, "then_branch").outputs[1].producer().op_type == "Div"
        assert run(model, "none", c=np.array(True), x=normal(2, 2))[1].tolist() == [[1, 2], [3, 4]]


class TestTypes:
    @pytest.mark.parametrize(
        ("dtype", "compute", "expected"),
        [
            (np.float16, ir.DataType.FLOAT, ["Sub", "Div", "Cast"]),
            (ml_dtypes.bfloat16, ir.DataType.FLOAT, ["Sub", "Div", "Cast"]),
            (np.float32, ir.DataType.FLOAT, ["Sub", "Div"]),
            (np.float64, ir.DataType.DOUBLE, ["Sub", "Div"]),
        ],
    )
    def test_a_cast_gives_back_the_type_of_half_precision_weights(self, parse, normal, dtype, compute, expected):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=dtype))
        assert ops(mapped(model).graph) == [*expected, "MatMul"]
        assert {value.dtype for value in model.graph.initializers.values()} == {compute}
        assert list(model.graph)[-1].inputs[1].dtype == ir.DataType.from_numpy(np.dtype(dtype))

    def test_names_of_a_cast_weight(self, parse, normal):
        model = parse("g (float16 x) => (float16 y) { [mm] y = MatMul(x, W) }", W=normal(3, 4, dtype=np.float16))
        assert nodes(mapped(model).graph) == [
            ("W/gconv_Sub", "Sub", ["W.g_plus", "W.g_minus"], ["W.g_difference"]),
            ("W/gconv_Div", "Div", ["W.g_difference", "W.g_scale"], ["W.g_quotient"]),
            ("W/gconv_Cast", "Cast", ["W.g_quotient"], ["W"]),
            ("mm", "MatMul", ["x", "W"], ["y"]),
        ]

    @pytest.mark.parametrize("optimization", ["none", "all"])
    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_half_and_double_precision_weights_are_rebuilt_in_onnx_runtime(
        self, parse, run, normal, dtype, optimization
    ):
        w = normal(3, 4, dtype=dtype)
        name = {np.float16: "float16", np.float64: "double"}[dtype]
        model = parse(f"g ({name}[2,3] x) => ({name}[2,4] y, {name}[3,4] W) {{ y = MatMul(x, W) }}", W=w)
        plain = run(model, optimization, x=normal(2, 3, dtype=dtype))
        found = run(mapped(model, CONVERTERS["exact"]), optimization, x=normal(2, 3, dtype=dtype))
        assert found[1].tobytes() == w.tobytes()
        np.testing.assert_allclose(found[0], plain[0], rtol=1e-3 if dtype == np.float16 else 1e-12, atol=1e-6)

    def test_bfloat16_weights_are_rebuilt_in_onnx_runtime(self, parse, run, normal):
        # Its CPU kernels know bfloat16 in Cast only.
        w = normal(3, 4, dtype=ml_dtypes.bfloat16)
        model = parse(
            """g (bfloat16[2,3] x) => (float[3,4] out, bfloat16[2,4] y) {
                out = Cast <to = 1> (W)
                y = MatMul(x, W)
            }""",
            W=w,
        )
        mapped(model, CONVERTERS["exact"])
        model.graph.inputs.pop()
        model.graph.remove(model.graph.outputs.pop().producer())
        [found] = run(model, "none")
        np.testing.assert_array_equal(found, w.astype(np.float32))

    def test_exact_float32_weights_with_subnormal_conductances_are_mapped_in_float64(self, parse, run):
        w = np.array([[1e-45, -1000.0], [3.5, -0.0]], np.float32)
        model = parse("g (float[1,2] x) => (float[1,2] y, float[2,2] W) { y = MatMul(x, W) }", W=w)
        mapped(model, CONVERTERS["exact"])
        [record] = read_manifest(model).weights
        assert (record.compute_dtype, record.dtype) == ("float64", "float32")
        assert record.notes[0].startswith("conductances are float64: it has the value 1.4013e-45, which a conductance ")
        assert ops(model.graph) == ["Sub", "Div", "Cast", "MatMul"]
        assert run(model, "none", x=np.ones((1, 2), np.float32))[1].tobytes() == w.tobytes()


class TestNames:
    @pytest.mark.parametrize(
        ("text", "initializers"),
        [
            ("g (float[2,3] x, float W.g_plus) => (float y) { y = MatMul(x, W) }", {}),
            ("g (float[2,3] x) => (float y) { y = MatMul(x, W) z = Add(W.g_plus, W.g_plus) }", {"W.g_plus": (1,)}),
            ("g (float[2,3] x) => (float y) { W.g_plus = Relu(x) y = MatMul(x, W) }", {}),
            ("g (float[2,3] x) => (float W.g_plus) { W.g_plus = MatMul(x, W) }", {}),
        ],
        ids=["graph input", "initializer", "node output", "graph output"],
    )
    def test_a_name_that_a_value_bears_gets_a_suffix(self, parse, normal, text, initializers):
        # The textual form knows no dots in names.
        model = parse(
            text.replace("W.g_plus", "taken"),
            W=normal(3, 4),
            **{name.replace("W.g_plus", "taken"): normal(*shape) for name, shape in initializers.items()},
        )
        ir.convenience.create_value_mapping(model.graph)["taken"].name = "W.g_plus"
        mapped(model)
        assert "W.g_plus_1" in model.graph.initializers
        assert [item.name for item in read_manifest(model).weights[0].conductances] == ["W.g_plus_1", "W.g_minus"]
        CheckMapping()(model)

    def test_a_name_that_a_value_in_a_body_bears_gets_a_suffix(self, parse, normal):
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y) {
                p = MatMul(x, W)
                y = If (c) <
                    then_branch = t () => (float[2,2] a) { taken = Relu(p) a = Relu(taken) },
                    else_branch = e () => (float[2,2] b) { b = Identity(p) }
                >
            }""",
            W=normal(2, 2),
        )
        next(iter(branch(model, "then_branch"))).outputs[0].name = "W.g_scale"
        assert "W.g_scale_1" in mapped(model).graph.initializers

    def test_a_name_that_a_node_bears_gets_a_suffix(self, dense):
        [node] = dense.graph
        node.name = "W/gconv_Sub"
        assert [name for name, *_ in nodes(mapped(dense).graph)] == ["W/gconv_Sub_1", "W/gconv_Div", "W/gconv_Sub"]

    def test_all_names_are_unique_over_all_graphs(self, parse):
        model = mapped(parse(TWO_BRANCHES))
        names = [value.name for graph in model.graphs() for value in graph.initializers.values()]
        names += [output.name for graph in model.graphs() for node in graph for output in node.outputs]
        assert sorted(name for name in names if names.count(name) > 1) == ["W", "W"]  # as before, one in each branch


class TestOutputs:
    MODEL = """g (float[2,3,6,6] x) => (float[2,5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, kernel, kernel_bias)
        b = Relu(a)
        p = GlobalAveragePool(b)
        f = Flatten(p)
        h = Gemm <transB = 1, alpha = 0.5> (f, dense, dense_bias)
        t = Tanh(h)
        y = MatMul(t, last)
    }"""

    @pytest.fixture
    def network(self, parse, normal):
        return parse(
            self.MODEL,
            kernel=normal(4, 3, 3, 3, seed=1),
            kernel_bias=normal(4),
            dense=normal(6, 4, seed=2),
            dense_bias=normal(6),
            last=normal(6, 5, seed=3),
        )

    @pytest.mark.parametrize("optimization", ["none", "all"])
    @pytest.mark.parametrize("converter", CONVERTERS.values(), ids=CONVERTERS)
    def test_onnx_runtime_computes_what_it_computed_before(self, network, run, normal, converter, optimization):
        x = normal(2, 3, 6, 6)
        [expected] = run(network, optimization, x=x)
        [found] = run(mapped(network, converter), optimization, x=x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_outputs_of_the_folded_exact_mapping_are_bit_identical(self, network, run, normal):
        x = normal(2, 3, 6, 6)
        [expected] = run(network, "all", x=x)
        assert run(mapped(network, CONVERTERS["exact"]), "all", x=x)[0].tobytes() == expected.tobytes()

    @pytest.mark.parametrize("converter", CONVERTERS.values(), ids=CONVERTERS)
    def test_the_onnx_checker_accepts_the_result(self, network, converter):
        onnx.checker.check_model(ir.to_proto(mapped(network, converter)), full_check=True)

    def test_the_onnx_checker_accepts_mapped_bodies(self, parse):
        onnx.checker.check_model(ir.to_proto(mapped(parse(TWO_BRANCHES))), full_check=True)

    def test_onnx_runtime_folds_the_mapping_away_when_it_optimizes(self, network, run, normal, tmp_path):
        run(mapped(network), "basic", tmp_path / "folded.onnx", x=normal(2, 3, 6, 6))
        assert not {"Sub", "Div"} & {node.op_type for node in ir.load(tmp_path / "folded.onnx").graph}

    def test_loop_and_scan_bodies_compute_what_they_computed_before(self, parse, run, normal):
        model = parse(
            """g (int64 n, bool c, float[1,2] x, float[3,1,2] xs) => (float[1,2] y, float[1,2] s, float[3,1,2] z) {
                y = Loop (n, c, x) <
                    body = b (int64 i, bool c_in, float[1,2] v) => (bool c_out, float[1,2] w)
                        <float[2,2] L = {1, -2, 3, 4}>
                    {
                        c_out = Identity(c_in)
                        u = MatMul(v, L)
                        w = Tanh(u)
                    }
                >
                s, z = Scan <
                    num_scan_inputs = 1,
                    body = d (float[1,2] s_in, float[1,2] e) => (float[1,2] s_out, float[1,2] f) {
                        f = MatMul(e, S)
                        s_out = Add(s_in, f)
                    }
                > (x, xs)
            }""",
            S=normal(2, 2),
        )
        inputs = {"n": np.array(3), "c": np.array(True), "x": normal(1, 2), "xs": normal(3, 1, 2)}
        expected = run(model, "none", **inputs)
        mapped(model, CONVERTERS["exact"])
        for optimization in ("none", "all"):
            for ours, theirs in zip(run(model, optimization, **inputs), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class TestManifest:
    def test_it_describes_the_weight_its_devices_and_its_consumers(self, dense):
        [record] = read_manifest(mapped(dense, SinglePairConductanceConverter(20.0, 1.0))).weights
        assert record.model_dump(exclude={"max_abs", "scale", "consumers"}) == {
            "name": "W",
            "graph": "",
            "moved_from": None,
            "dtype": "float32",
            "shape": (3, 4),
            "stored_as": "initializer",
            "sources": (),
            "converter": {
                "name": "SinglePairConductanceConverter",
                "parameters": {"g_max": 20.0, "g_min": 1.0, "exact": False},
            },
            "granularity": "tensor",
            "axis": None,
            "tiling": None,
            "clipping": None,
            "levels": None,
            "loss": None,
            "compute_dtype": "float32",
            "conductances": (
                {"name": "W.g_plus", "device": "g_plus", "coefficient": 1.0},
                {"name": "W.g_minus", "device": "g_minus", "coefficient": -1.0},
            ),
            "offset_us": 0.0,
            "zero": 0.0,
            "rounded": False,
            "zero_point": None,
            "notes": (),
            "parameters": (),
            "modules": (),
            "same_source_as": (),
            "digital_copy": None,
            "measured": None,
        }
        [consumer] = record.consumers
        assert (consumer.node, consumer.op_type, consumer.slot, consumer.is_mvm) == ("mm", "MatMul", 1, True)
        assert (consumer.matrix_view.rows, consumer.matrix_view.columns) == (3, 4)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_scale_and_largest_weight_are_exact(self, parse, normal, sign):
        model = mapped(parse(DENSE, W=sign * normal(3, 4)))
        [record] = read_manifest(model).weights
        assert record.max_abs == float(np.abs(normal(3, 4)).max())
        assert record.scale.value == float(model.graph.initializers["W.g_scale"].const_value.numpy())

    def test_it_lists_skipped_weights_with_their_reasons(self, parse, normal):
        model = parse(
            """g (float[2,3] x) => (float[2,4] y, float[2,4] z) {
                [a] y = MatMul(x, W)
                [b] z = MatMul(x, V)
            }""",
            W=normal(3, 4),
            V=np.ones((3, 4), np.int64),
        )
        [skipped] = read_manifest(mapped(model)).skipped
        assert skipped.model_dump() == {
            "name": "V",
            "shape": (3, 4),
            "graph": "",
            "reason": "dtype_not_supported",
            "detail": "int64",
            "is_mvm": True,
            "consumers": ("b (MatMul)",),
            "parameters": (),
            "same_source_as": (),
        }

    def test_it_says_in_which_graph_weight_and_consumer_stand(self, parse):
        manifest = read_manifest(mapped(parse(TWO_BRANCHES)))
        assert [(w.name, w.graph, w.consumers[0].graph) for w in manifest.weights] == [
            ("W", "choose.then_branch", "choose.then_branch"),
            ("W", "choose.else_branch", "choose.else_branch"),
        ]

    def test_it_says_which_version_wrote_it(self, dense):
        assert read_manifest(mapped(dense)).tool == f"onnx_gconv {importlib.metadata.version('onnx_gconv')}"

    def test_metadata_of_others_stays(self, dense):
        dense.metadata_props["of somebody else"] = "kept"
        assert set(mapped(dense).metadata_props) == {"of somebody else", MANIFEST_KEY}

    def test_the_same_model_is_mapped_to_the_same_bytes(self, parse, serialized, normal):
        first, second = (serialized(mapped(parse(DENSE, W=normal(3, 4)))) for _ in range(2))
        assert first == second


class TestSelection:
    TEXT = "g (float[3,3] x) => (float[3,3] y) { [first] a = MatMul(x, W) [second] y = MatMul(a, V) }"

    def test_only_included_weights_are_mapped(self, parse, normal):
        model = mapped(parse(self.TEXT, W=normal(3, 3), V=normal(3, 3)), include=["second"])
        assert [weight.name for weight in read_manifest(model).weights] == ["V"]
        assert [(s.name, s.reason) for s in read_manifest(model).skipped] == [("W", "not_selected")]
        assert "W" in model.graph.initializers

    def test_excluded_weights_stay(self, parse, normal):
        model = mapped(parse(self.TEXT, W=normal(3, 3), V=normal(3, 3)), exclude=["V"])
        assert [weight.name for weight in read_manifest(model).weights] == ["W"]

    def test_a_weight_with_refused_values_may_be_excluded(self, parse, normal):
        model = parse(self.TEXT, W=normal(3, 3), V=np.full((3, 3), np.nan, np.float32))
        assert [weight.name for weight in read_manifest(mapped(model, exclude=["V"])).weights] == ["W"]


class TestModified:
    def test_a_model_without_weights_is_not_modified(self, parse, serialized, caplog):
        model = parse("g (float x) => (float y) { y = Relu(x) }")
        before = serialized(model)
        with caplog.at_level(logging.INFO, logger="onnx_gconv"):
            assert not MapConductances()(model).modified
        assert serialized(model) == before
        assert "Mapped nothing" in caplog.text

    def test_a_model_of_which_all_weights_are_excluded_is_not_modified(self, dense, serialized):
        before = serialized(dense)
        assert not MapConductances(exclude=["*"])(dense).modified
        assert serialized(dense) == before

    def test_it_works_in_place(self, dense):
        assert MapConductances()(dense).model is dense

    def test_looking_at_the_plan_changes_nothing(self, dense, serialized):
        before = serialized(dense)
        plan = MapConductances().plan(dense)
        assert [weight.found.name for weight in plan.weights] == ["W"]
        assert serialized(dense) == before


class TestVersions:
    def test_an_ir_version_in_which_initializers_are_inputs_is_raised(self, parse):
        text = "g (float[1,2] x) => (float[1] y) { W = Constant <value_floats = [1.0, 2.0]> () y = MatMul(x, W) }"
        model = mapped(parse(text, ir_version=3))
        assert model.ir_version == 4
        onnx.checker.check_model(ir.to_proto(model))

    @pytest.mark.parametrize("ir_version", [4, 8, 10])
    def test_other_ir_versions_stay(self, parse, normal, ir_version):
        assert mapped(parse(DENSE, ir_version=ir_version, W=normal(3, 4))).ir_version == ir_version

    @pytest.mark.parametrize("opset", [7, 9, 13, 17, 21])
    def test_opsets_since_seven_are_mapped_and_run(self, parse, run, normal, opset):
        model = mapped(parse(DENSE, opsets=f'"" : {opset}', W=normal(3, 4)))
        onnx.checker.check_model(ir.to_proto(model))
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], normal(2, 3) @ normal(3, 4), rtol=1e-4, atol=1e-5)

    def test_the_long_name_of_the_default_domain_is_understood(self, parse, run, normal):
        model = mapped(parse(DENSE, opsets='"ai.onnx" : 17', W=normal(3, 4)))
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], normal(2, 3) @ normal(3, 4), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("opset", [1, 6])
    def test_older_opsets_are_refused_with_what_to_do(self, parse, serialized, normal, opset):
        model = parse(DENSE, opsets=f'"" : {opset}', W=normal(3, 4))
        before = serialized(model)
        with pytest.raises(ModelError, match=rf"the model has opset {opset}, .* onnx\.version_converter"):
            MapConductances()(model)
        assert serialized(model) == before


class TestRefusals:
    def test_a_mapped_model_is_not_mapped_again(self, dense, serialized):
        before = serialized(mapped(dense))
        with pytest.raises(ModelError, match="the model is mapped already; restore it first, or map the original"):
            MapConductances()(dense)
        assert serialized(dense) == before

    def test_a_mapped_model_without_its_manifest_is_not_mapped_again(self, dense):
        remove_manifest(mapped(dense))
        with pytest.raises(ModelError, match=r"mapped already \(node 'W/gconv_Sub' rebuilds a weight\), but another"):
            MapConductances()(dense)

    def test_nodes_of_a_mapping_are_noticed_in_bodies_too(self, parse):
        model = mapped(parse(TWO_BRANCHES))
        remove_manifest(model)
        with pytest.raises(ModelError, match="mapped already"):
            MapConductances()(model)

    @pytest.mark.parametrize("text", ["{", '{"format": "onnx_gconv.mapping", "format_version": 2}'])
    def test_a_model_with_a_manifest_that_cannot_be_read_is_refused(self, dense, text):
        dense.metadata_props[MANIFEST_KEY] = text
        with pytest.raises(ModelError, match="manifest"):
            MapConductances()(dense)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_weight_that_is_not_finite_is_refused_by_name_and_nothing_is_changed(
        self, parse, serialized, normal, value
    ):
        v = normal(3, 3)
        v[1, 2] = value
        model = parse(TestSelection.TEXT, W=normal(3, 3), V=v)
        before = serialized(model)
        with pytest.raises(
            UnmappableWeightError, match=rf"^the weight 'V' has the value {value} at flat index 5; .* exclude 'V'$"
        ):
            MapConductances()(model)
        assert serialized(model) == before

    def test_further_refused_weights_are_counted(self, parse):
        bad = np.full((3, 3), np.nan, np.float32)
        with pytest.raises(UnmappableWeightError, match=r"'W' .* \(1 more weights? cannot be mapped\)$"):
            MapConductances()(parse(TestSelection.TEXT, W=bad, V=bad))

    def test_a_float64_weight_that_exact_cannot_hold_is_refused(self, parse, serialized):
        model = parse("g (double x) => (double y) { y = MatMul(x, W) }", W=np.array([[5e-324, 1000.0]]))
        before = serialized(model)
        with pytest.raises(
            UnmappableWeightError, match=r"'W' has the value 4.94066e-324, which a conductance in float"
        ):
            MapConductances(CONVERTERS["exact"])(model)
        assert serialized(model) == before

    def test_a_pattern_that_matches_nothing_is_refused_and_nothing_is_changed(self, dense, serialized):
        before = serialized(dense)
        with pytest.raises(ConfigError, match="'V' matches no weight"):
            MapConductances(exclude=["V"])(dense)
        assert serialized(dense) == before

    def test_missing_external_data_is_refused_and_nothing_is_changed(self, dense, tmp_path):
        weight = dense.graph.initializers["W"]
        weight.const_value = ir.ExternalTensor(
            "gone.data", 0, 48, ir.DataType.FLOAT, shape=ir.Shape((3, 4)), name="W", base_dir=str(tmp_path)
        )
        with pytest.raises(ModelError, match=r"gone\.data"):
            MapConductances()(dense)
        assert nodes(dense.graph) == [("mm", "MatMul", ["x", "W"], ["y"])]
        assert dense.graph.initializers["W"] is weight
        assert not dense.metadata_props

    def test_all_refusals_are_errors_of_the_package(self, dense):
        mapped(dense)
        with pytest.raises(GconvError):
            MapConductances()(dense)


class TestWithOtherPasses:
    def test_it_is_the_last_of_a_sequence(self, parse, normal):
        model = parse("g (float[2,3] x) => (float[2,4] y) { i = Identity(W) [mm] y = MatMul(x, i) }", W=normal(3, 4))
        passes = ir.passes.Sequential(ir.passes.common.IdentityEliminationPass(), MapConductances(), CheckMapping())
        result = passes(model)
        assert result.modified
        assert ops(result.model.graph) == ["Sub", "Div", "MatMul"]

    def test_a_functional_form_leaves_the_model_as_it_was(self, dense, serialized):
        before = serialized(dense)
        result = ir.passes.functionalize(MapConductances())(dense)
        assert result.modified
        assert serialized(dense) == before
        assert ops(result.model.graph) == ["Sub", "Div", "MatMul"]
        CheckMapping()(result.model)

    def test_a_refusal_within_a_sequence_has_its_reason_as_cause(self, dense):
        with pytest.raises(ir.passes.PassError) as error:
            ir.passes.Sequential(MapConductances(), MapConductances())(dense)
        assert isinstance(error.value.__cause__, ModelError)

    def test_lifted_constants_and_deduplicated_initializers_are_mapped_and_restored(self, parse, normal):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) {
                K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                a = MatMul(x, K)
                b = MatMul(a, V)
                y = MatMul(b, W)
            }""",
            V=normal(2, 2),
            W=normal(2, 2),
        )
        ir.passes.Sequential(
            ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1),
            ir.passes.common.DeduplicateInitializersPass(),
            MapConductances(CONVERTERS["exact"]),
            CheckMapping(),
            RestoreWeights(),
        )(model)
        assert {name: value.const_value.numpy().tobytes() for name, value in model.graph.initializers.items()} == {
            "K": np.float32([1, 2, 3, 4]).tobytes(),
            "V": normal(2, 2).tobytes(),
        }


class TestInMemory:
    def test_tensors_of_torch_are_mapped_without_a_file(self, parse, normal):
        torch = pytest.importorskip("torch")
        model = parse(DENSE, W=normal(3, 4))
        tensor = ir.tensor_adapters.TorchTensor(torch.from_numpy(normal(3, 4)), name="W")
        model.graph.initializers["W"].const_value = tensor
        assert mapped(model).graph.initializers["W.g_plus"].const_value.numpy().shape == (3, 4)

    def test_conductances_are_computed_when_they_are_read(self, parse):
        w = np.array([[1.0, -0.5]], np.float32)
        model = parse("g (float[2,1] x) => (float[2,2] y) { y = MatMul(x, W) }", W=w)
        tensor = ir.tensor(w, name="W")
        model.graph.initializers["W"].const_value = tensor
        g_plus = mapped(model).graph.initializers["W.g_plus"].const_value
        assert g_plus.numpy().tolist() == [[25.0, 0.0]]
        w[0, 1] = 0.5
        assert g_plus.numpy().tolist() == [[25.0, 12.5]]

    def test_progress_counts_the_bytes_of_the_weights(self, parse, normal):
        steps = []
        model = parse(TestSelection.TEXT, W=normal(3, 3), V=normal(3, 3))
        mapped(model, progress=lambda done, total: steps.append((done, total)))
        assert steps == [(36, 72), (72, 72)]
