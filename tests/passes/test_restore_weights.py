"""Restoring gives back the weights that a mapped model computes, and the graph that was mapped."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ModelError
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest, remove_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights

EXACT = SinglePairConductanceConverter(exact=True)
DENSE = "g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }"


@pytest.fixture
def mapped(parse, normal):
    """A mapped model with one weight."""
    model = parse(DENSE, W=normal(3, 4))
    MapConductances()(model)
    return model


def restored(model):
    assert RestoreWeights()(model).modified
    return model


def graph_text(model):
    """Nodes and initializers of all graphs, without their values."""
    return [
        (
            [(n.name, n.op_type, [v and v.name for v in n.inputs], [v.name for v in n.outputs]) for n in graph],
            list(graph.initializers),
            [value.name for value in graph.outputs],
        )
        for graph in model.graphs()
    ]


def values(model):
    """Initializers of all graphs: their type, shape and bytes."""
    return [
        (name, value.const_value.dtype, value.const_value.shape.numpy(), value.const_value.tobytes())
        for graph in model.graphs()
        for name, value in graph.initializers.items()
    ]


def round_trip_is_identity(model, **options):
    before = graph_text(model), values(model), dict(model.metadata_props)
    MapConductances(EXACT, **options)(model)
    restored(model)
    return (graph_text(model), values(model), dict(model.metadata_props)) == before


class TestExactRoundTrip:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    def test_weights_and_graph_are_those_that_were_mapped(self, parse, normal, dtype):
        w = normal(3, 4, dtype=dtype)
        w[0, 0], w[1, 1] = -0.0, 0.0
        assert round_trip_is_identity(parse("g (float x) => (float y) { y = MatMul(x, W) }", W=w))

    def test_float32_weights_whose_conductances_needed_float64_come_back_too(self, parse):
        w = np.array([[1e-45, -1000.0], [-0.0, 1e-40]], np.float32)
        assert round_trip_is_identity(parse("g (float x) => (float y) { y = MatMul(x, W) }", W=w))

    def test_initializers_are_in_their_old_order(self, parse, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,3] y) { a = Gemm(x, W, first) b = Gemm(a, V) y = Add(b, last) }",
            first=normal(3),
            W=normal(3, 3),
            between=normal(1),
            V=normal(3, 3),
            last=normal(3),
        )
        assert round_trip_is_identity(model)

    def test_weights_of_the_same_name_in_sibling_bodies_come_back_each(self, parse):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { [mm] a = MatMul(x, W) },
                    else_branch = e () => (float[1,2] b) <float[2,2] W = {5, -6, 7, 8}> { [mm] b = MatMul(x, W) }
                >
            }"""
        )
        assert round_trip_is_identity(model)

    def test_a_weight_that_bodies_capture_comes_back_outside(self, parse, normal):
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y) {
                y = If (c) <
                    then_branch = t () => (float[2,2] a) { i = Identity(W) a = MatMul(x, i) },
                    else_branch = e () => (float[2,2] b) { b = MatMul(W, x) }
                >
            }""",
            W=normal(2, 2),
        )
        assert round_trip_is_identity(model)

    def test_a_weight_that_is_a_graph_output_comes_back(self, parse, normal):
        text = "g (float[2,3] x) => (float[2,4] y, float[3,4] W) { y = MatMul(x, W) }"
        assert round_trip_is_identity(parse(text, W=normal(3, 4)))

    def test_some_weights_may_have_been_left_out(self, parse, normal):
        text = "g (float[3,3] x) => (float[3,3] y) { a = MatMul(x, W) y = MatMul(a, V) }"
        assert round_trip_is_identity(parse(text, W=normal(3, 3), V=normal(3, 3)), exclude=["W"])

    def test_names_that_were_taken_do_not_matter(self, parse, normal):
        model = parse("g (float[2,3] x, float taken) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
        model.graph.inputs[1].name = "W.g_plus"
        assert round_trip_is_identity(model)

    def test_metadata_and_text_of_the_weight_come_back(self, parse, normal):
        model = parse(DENSE, W=normal(3, 4))
        weight = model.graph.initializers["W"]
        weight.doc_string, weight.metadata_props["of somebody else"], weight.meta["note"] = "text", "kept", 7
        MapConductances()(model)
        weight = restored(model).graph.initializers["W"]
        assert (weight.doc_string, dict(weight.metadata_props), weight.meta["note"]) == (
            "text",
            {"of somebody else": "kept"},
            7,
        )

    def test_a_constant_node_comes_back_as_an_initializer_of_its_graph(self, parse):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) {
                K = Constant <value = float[2,2] {1, -2, 3, 4}> ()
                y = MatMul(x, K)
            }"""
        )
        MapConductances(EXACT)(model)
        restored(model)
        assert [node.op_type for node in model.graph] == ["MatMul"]
        assert model.graph.initializers["K"].const_value.numpy().tolist() == [[1, -2], [3, 4]]


LAYERS = [
    "{out} = MatMul({a}, {w})",
    "{out} = MatMul({w}, {a})",
    "{out} = Gemm <transB = 1, alpha = 0.5> ({a}, {w}, bias)",
    "{out} = Gemm <transA = 1> ({w}, {a})",
    "{out}_i = Identity({w}) {out}_j = Identity({out}_i) {out} = MatMul({a}, {out}_j)",
    "{out}_t = Transpose({w}) {out} = MatMul({a}, {out}_t)",
    "{out}_m = MatMul({a}, {w}) {out} = Add({out}_m, {w})",
    """{out} = If (c) <
        then_branch = t_{out} () => (float[3,3] r_{out}) {{ r_{out} = MatMul({a}, {w}) }},
        else_branch = e_{out} () => (float[3,3] s_{out}) <float[3,3] V = {{1, 2, 3, 4, 5, 6, 7, 8, 9}}> {{
            s_{out} = MatMul({a}, V)
        }}
    >""",
]


@st.composite
def networks(draw):
    """A random stack of layers over a few weights, as text, and the weights."""
    layers = draw(st.lists(st.tuples(st.sampled_from(LAYERS), st.integers(0, 2)), min_size=1, max_size=6))
    body = "\n".join(
        layer.format(a=f"v{number - 1}" if number else "x", out=f"v{number}", w=f"W{weight}")
        for number, (layer, weight) in enumerate(layers)
    )
    numbers = st.floats(-(2.0**10), 2.0**10, width=32).filter(lambda number: number == 0 or abs(number) > 2.0**-100)
    weights = {
        f"W{number}": np.array(draw(st.lists(numbers, min_size=9, max_size=9)), np.float32).reshape(3, 3)
        for number in range(3)
    }
    text = f"g (bool c, float[3,3] x) => (float[3,3] v{len(layers) - 1}) {{ {body} }}"
    return text, {**weights, "bias": np.ones(3, np.float32)}


@settings(max_examples=60)
@given(networks())
def test_any_network_that_is_mapped_exactly_and_restored_is_the_network_that_was_mapped(parse, network):
    text, initializers = network
    model = parse(text, **initializers)
    before = graph_text(model), values(model)
    if MapConductances(EXACT)(model).modified:
        restored(model)
    assert (graph_text(model), values(model)) == before


@settings(max_examples=60)
@given(networks())
def test_any_mapped_network_is_valid_and_holds_its_mapping(parse, network):
    text, initializers = network
    model = parse(text, **initializers)
    if MapConductances()(model).modified:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        CheckMapping()(model)


@settings(max_examples=25)
@given(networks(), st.booleans())
def test_any_mapped_network_computes_what_it_computed_before(parse, run, network, condition):
    text, initializers = network
    initializers = {name: array / max(float(np.abs(array).max()), 1) for name, array in initializers.items()}
    inputs = {"c": np.array(condition), "x": np.eye(3, dtype=np.float32)}
    model = parse(text, **initializers)
    [expected] = run(model, "none", **inputs)
    MapConductances()(model)
    for optimization in ("none", "all"):
        np.testing.assert_allclose(run(model, optimization, **inputs)[0], expected, rtol=1e-3, atol=1e-2)


class TestValues:
    @pytest.mark.parametrize(
        "converter", [SinglePairConductanceConverter(), SinglePairConductanceConverter(20.0, 2.0)], ids=repr
    )
    @pytest.mark.parametrize(
        ("name", "dtype"), [("float", np.float32), ("float16", np.float16), ("double", np.float64)]
    )
    def test_weights_are_those_that_onnx_runtime_computes_from_the_mapped_model(
        self, parse, run, normal, *, name, dtype, converter
    ):
        model = parse(
            f"g ({name}[2,3] x) => ({name}[2,4] y, {name}[3,4] W) {{ y = MatMul(x, W) }}", W=normal(3, 4, dtype=dtype)
        )
        MapConductances(converter)(model)
        computed = run(model, "none", x=normal(2, 3, dtype=dtype))[1]
        assert restored(model).graph.initializers["W"].const_value.tobytes() == computed.tobytes()

    def test_conductances_that_were_measured_give_the_weights_they_stand_for(self, mapped):
        initializers = mapped.graph.initializers
        scale = initializers["W.g_scale"].const_value.numpy()
        measured = initializers["W.g_plus"].const_value.numpy() + np.float32(0.25)
        expected = (measured - initializers["W.g_minus"].const_value.numpy()) / scale
        initializers["W.g_plus"].const_value = ir.tensor(measured, name="W.g_plus")
        assert restored(mapped).graph.initializers["W"].const_value.tobytes() == expected.tobytes()

    def test_a_saved_model_is_restored_from_its_files(self, parse, normal, tmp_path):
        w = normal(30, 40)
        model = parse("g (float[2,30] x) => (float[2,40] y) { y = MatMul(x, W) }", W=w)
        MapConductances(EXACT)(model)
        ir.save(model, tmp_path / "mapped.onnx", external_data="mapped.data")
        loaded = ir.load(tmp_path / "mapped.onnx")
        assert isinstance(loaded.graph.initializers["W.g_plus"].const_value, ir.ExternalTensor)
        assert restored(loaded).graph.initializers["W"].const_value.tobytes() == w.tobytes()

    def test_the_onnx_checker_accepts_the_result(self, mapped):
        onnx.checker.check_model(ir.to_proto(restored(mapped)), full_check=True)

    def test_metadata_of_others_stays_and_the_manifest_goes(self, mapped):
        mapped.metadata_props["of somebody else"] = "kept"
        assert restored(mapped).metadata_props == {"of somebody else": "kept"}

    def test_a_restored_model_can_be_mapped_again(self, mapped):
        restored(mapped)
        assert MapConductances()(mapped).modified
        CheckMapping()(mapped)


class TestAfterOtherTools:
    def test_nodes_and_values_between_may_have_been_renamed(self, mapped):
        sub, div, _ = mapped.graph
        sub.name, sub.outputs[0].name, div.name = "s", "difference", "d"
        restored(mapped)
        assert list(mapped.graph.initializers) == ["W"]

    def test_a_conductance_that_somebody_else_reads_stays(self, mapped, run, normal):
        g_plus = mapped.graph.initializers["W.g_plus"]
        node = ir.node("Relu", [g_plus], outputs=[ir.Value(name="z", type=g_plus.type, shape=g_plus.shape)])
        mapped.graph.append(node)
        mapped.graph.outputs.append(node.outputs[0])
        expected = g_plus.const_value.numpy()
        restored(mapped)
        assert set(mapped.graph.initializers) == {"W", "W.g_plus"}
        np.testing.assert_array_equal(run(mapped, x=normal(2, 3))[1], expected)

    def test_a_scale_that_somebody_else_reads_stays(self, mapped):
        for value in mapped.graph.initializers.values():
            mapped.graph.append(ir.node("Relu", [value]) if value.name != "W.g_scale" else ir.node("Abs", [value]))
        restored(mapped)
        assert set(mapped.graph.initializers) == {"W", "W.g_plus", "W.g_minus", "W.g_scale"}

    def test_a_conductance_that_was_made_a_graph_output_stays(self, mapped, run, normal):
        g_plus = mapped.graph.initializers["W.g_plus"]
        mapped.graph.outputs.append(g_plus)
        expected = g_plus.const_value.numpy()
        restored(mapped)
        np.testing.assert_array_equal(run(mapped, x=normal(2, 3))[1], expected)

    def test_a_mapping_that_was_made_graph_outputs_stays_beside_the_weight(self, mapped):
        mapped.graph.outputs.extend(mapped.graph.initializers.values())
        restored(mapped)
        assert list(mapped.graph.initializers) == ["W.g_plus", "W.g_minus", "W.g_scale", "W"]
        onnx.checker.check_model(ir.to_proto(mapped), full_check=True)


class TestRefusals:
    """A mapping that is not what its manifest says is not restored, and the model stays as it is."""

    def refusal(self, model, serialized):
        before = serialized(model)
        with pytest.raises(ModelError) as error:
            RestoreWeights()(model)
        assert serialized(model) == before
        return str(error.value)

    def test_a_model_that_was_never_mapped(self, parse, serialized, normal):
        message = self.refusal(parse(DENSE, W=normal(3, 4)), serialized)
        assert message.startswith("the model carries no mapping")

    def test_a_model_that_was_restored_already(self, mapped, serialized):
        assert "carries no mapping" in self.refusal(restored(mapped), serialized)

    def test_a_model_without_its_manifest(self, mapped, serialized):
        remove_manifest(mapped)
        assert "another tool removed the manifest" in self.refusal(mapped, serialized)

    def test_a_damaged_manifest(self, mapped, serialized):
        mapped.metadata_props[MANIFEST_KEY] = "{"
        assert "is damaged" in self.refusal(mapped, serialized)

    def test_a_manifest_of_a_newer_version(self, mapped, serialized):
        text = mapped.metadata_props[MANIFEST_KEY].replace('"format_version":1', '"format_version":4')
        mapped.metadata_props[MANIFEST_KEY] = text
        assert "format version 4" in self.refusal(mapped, serialized)

    def test_a_missing_conductance(self, mapped, serialized):
        g_plus = mapped.graph.initializers.pop("W.g_plus")
        g_plus.name = "renamed"
        mapped.graph.initializers.add(g_plus)
        *_, div, matmul = mapped.graph
        div.outputs[0].name, matmul.name = "weight", "renamed"
        message = self.refusal(mapped, serialized)
        assert message.startswith("the weight 'W' cannot be restored: ")
        assert "'W.g_plus' is gone" in message
        assert message.endswith("; restore the model as it was mapped")

    def test_swapped_inputs_of_sub(self, mapped, serialized):
        sub, *_ = mapped.graph
        first, second = sub.inputs
        sub.replace_input_with(0, second)
        sub.replace_input_with(1, first)
        assert "the nodes compute" in self.refusal(mapped, serialized)

    def test_another_scale_than_the_manifest_says(self, mapped, serialized):
        # The restored weight would not be the one that the mapped model computes.
        mapped.graph.initializers["W.g_scale"].const_value = ir.tensor(np.float32(3), name="W.g_scale")
        assert "scale" in self.refusal(mapped, serialized)

    def test_conductances_of_another_shape_than_the_weight(self, mapped, serialized):
        for name in ("W.g_plus", "W.g_minus"):
            value = mapped.graph.initializers[name]
            value.const_value = ir.tensor(np.ones((4, 3), np.float32), name=name)
            value.shape = ir.Shape((4, 3))
        assert "shape" in self.refusal(mapped, serialized)

    def test_conductances_of_another_type(self, mapped, serialized):
        for name in ("W.g_plus", "W.g_minus", "W.g_scale"):
            value = mapped.graph.initializers[name]
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
        assert "float16" in self.refusal(mapped, serialized)

    def test_an_unknown_type_of_a_later_weight_in_the_manifest(self, parse, serialized, normal):
        model = parse(
            "g (float16[3,3] x) => (float16[3,3] y) { a = MatMul(x, W) y = MatMul(a, V) }",
            W=normal(3, 3, dtype=np.float16),
            V=normal(3, 3, dtype=np.float16),
        )
        MapConductances()(model)
        head, found, tail = model.metadata_props[MANIFEST_KEY].rpartition('"dtype":"float16"')
        assert found
        model.metadata_props[MANIFEST_KEY] = head + '"dtype":"float99"' + tail
        assert "float99" in self.refusal(model, serialized)

    def test_a_difference_that_another_node_reads_too(self, mapped, serialized):
        sub, *_ = mapped.graph
        node = ir.node("Relu", [sub.outputs[0]], outputs=[ir.Value(name="z")])
        mapped.graph.append(node)
        assert "'W.g_difference'" in self.refusal(mapped, serialized)

    def test_a_difference_that_was_made_a_graph_output(self, mapped, serialized):
        sub, *_ = mapped.graph
        mapped.graph.outputs.append(sub.outputs[0])
        assert "'W.g_difference'" in self.refusal(mapped, serialized)


class TestWithOtherPasses:
    def test_a_functional_form_leaves_the_model_as_it_was(self, mapped, serialized):
        before = serialized(mapped)
        result = ir.passes.functionalize(RestoreWeights())(mapped)
        assert result.modified
        assert serialized(mapped) == before
        assert list(result.model.graph.initializers) == ["W"]

    def test_mapping_and_restoring_compose_to_a_sequence(self, parse, normal):
        model = parse(DENSE, W=normal(3, 4))
        result = ir.passes.Sequential(MapConductances(EXACT), CheckMapping(), RestoreWeights())(model)
        assert result.modified
        assert read_manifest(model) is None
        assert model.graph.initializers["W"].const_value.tobytes() == normal(3, 4).tobytes()


def test_a_code_that_stands_for_no_level_is_no_weight(parse, normal):
    model = parse(DENSE, W=normal(3, 4))
    MapConductances(levels=64, storage="codes")(model)
    codes = model.graph.initializers["W.g_minus_code"]
    array = codes.const_value.numpy().copy()
    array[1, 2] = 91
    codes.const_value = ir.tensor(array, name=codes.name)
    with pytest.raises(
        ModelError, match=r"'W' cannot be restored: 'W\.g_minus_code' has the code 91, but there are 64 levels"
    ):
        RestoreWeights()(model)
    assert read_manifest(model) is not None


@pytest.mark.parametrize("shape", [(1, 4, 1), (4, 1), (2,)])
def test_zero_points_of_another_shape_are_no_part_of_a_weight(parse, shape):
    text = "g (float[2,3] x) => (float[2,4] y) { w = DequantizeLinear <axis = 1> (W, s, z) y = MatMul(x, w) }"
    arrays = {
        "W": np.arange(12, dtype=np.int8).reshape(3, 4),
        "s": np.ones(4, np.float32),
        "z": np.arange(4, dtype=np.int8),
    }
    model = parse(text, **arrays)
    MapConductances()(model)
    zero_point = model.graph.initializers["W.g_zero_point"]
    zero_point.const_value = ir.tensor(
        np.ones(shape, np.float32).cumsum().reshape(shape).astype(np.float32), name=zero_point.name
    )
    with pytest.raises(
        ModelError, match=r"'W' cannot be restored: zero points of the shape .* do not fit a weight of \[3, 4\]"
    ):
        RestoreWeights()(model)
    assert read_manifest(model) is not None


def test_a_value_of_a_body_that_has_the_name_of_a_weight_by_now_is_not_hidden_by_it(parse, normal, serialized):
    model = parse(
        """g (bool c, float[2,2] x) => (float[2,2] y) {
            [choose] y = If (c) <
                then_branch = t () => (float[2,2] a) { n = Neg(x) a = MatMul(n, W) },
                else_branch = e () => (float[2,2] b) { b = MatMul(x, W) }
            >
        }""",
        W=normal(2, 2),
    )
    MapConductances(EXACT)(model)
    *_, choose = model.graph
    choose.attributes["then_branch"].as_graph().node(0).outputs[0].name = "W"
    before = serialized(model)
    with pytest.raises(ModelError, match=r"^the weight 'W' cannot be restored: the graph has another value of that na"):
        RestoreWeights()(model)
    assert serialized(model) == before
