"""Checking finds everything that breaks a mapping, names the weight and says what happened; a sound mapping passes."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.converters import Decoding, SinglePairConductanceConverter
from onnx_gconv.errors import ModelError, VerificationError
from onnx_gconv.mapping import MANIFEST_KEY, read_manifest, remove_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.mapping.nodes import rebuild_nodes
from onnx_gconv.mapping.operands import BrokenMappingError
from onnx_gconv.mapping.unique_names import UniqueNames
from onnx_gconv.passes import CheckMapping, MapConductances, Violation

DENSE = "g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }"


@pytest.fixture
def mapped(parse, normal):
    """A mapped model with one weight of 0 to 25 µS."""
    model = parse(DENSE, W=normal(3, 4))
    MapConductances()(model)
    return model


def violations(model):
    return [str(violation) for violation in CheckMapping().violations(model)]


def replace(model, name, array):
    """Give an initializer other values."""
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array, name=name)
    value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)


def edit(model, name, index, number):
    """Change one element of an initializer."""
    array = model.graph.initializers[name].const_value.numpy().copy()
    array.flat[index] = number
    replace(model, name, array)


def rename_initializer(model, name, new):
    value = model.graph.initializers.pop(name)
    value.name = new
    model.graph.initializers.add(value)


SCANS = {
    "states": (
        "g (float[2,3] x) => (float[2,3] y) {"
        " y = Scan <num_scan_inputs = 1, body = b (float[2,3] s, float[3,3] w) => (float[2,3] t) {"
        " [inner] t = MatMul(s, w) }> (x, W) }"
    ),
    "no states, and the part of a matrix": (
        "g (float[2,3] x) => (float[4,2,3] y) {"
        " y = Scan <num_scan_inputs = 1, body = b (float[3,3] w) => (float[2,3] t) {"
        " v = Transpose <perm = [1, 0]> (w)"
        " [inner] t = MatMul(x, v) }> (W) }"
    ),
}


class TestNodesInTheBodyOfAScan:
    @pytest.mark.parametrize("text", SCANS.values(), ids=SCANS)
    def test_read_the_matrices_of_a_rebuilt_stack(self, parse, normal, text):
        model = parse(text, W=normal(4, 3, 3))
        MapConductances()(model)
        [record] = read_manifest(model).weights
        assert [consumer.node for consumer in record.consumers] == ["inner"]
        assert violations(model) == []

    @pytest.mark.parametrize("text", SCANS.values(), ids=SCANS)
    def test_are_noticed_if_the_scan_is_given_something_else(self, parse, normal, text):
        model = parse(text, W=normal(4, 3, 3))
        MapConductances()(model)
        [scan] = [node for node in model.graph if node.op_type == "Scan"]
        model.graph.initializers.add(ir.Value(name="other", const_value=ir.tensor(normal(4, 3, 3), name="other")))
        scan.replace_input_with(len(scan.inputs) - 1, model.graph.initializers["other"])
        assert any(
            "node 'inner' (MatMul) does not read the rebuilt weight any more" in each for each in violations(model)
        )


class TestSoundMappings:
    @settings(max_examples=200)
    @given(
        g_max=st.floats(0.1, 1000),
        share=st.sampled_from([0.0, 1e-4, 0.01, 0.1, 0.5]) | st.floats(0, 0.9),
        largest=st.floats(2.0**-10, 2.0**10, width=32),
        wide=st.booleans(),
    )
    def test_a_model_that_was_just_mapped_passes_for_any_range(self, parse, g_max, share, largest, wide):
        w = np.array([[largest, -largest], [largest / 3, 0]], np.float64 if wide else np.float32)
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=w)
        MapConductances(SinglePairConductanceConverter(g_max, g_max * share))(model)
        assert violations(model) == []

    @pytest.mark.parametrize(
        ("g_max", "g_min", "weight"), [(15.9, 0.1, 0.8106693), (31.9, 1.0, 0.9), (1.99, 0.01, 0.7)]
    )
    def test_conductances_that_rounding_puts_some_ulps_above_g_max_pass(self, parse, g_max, g_min, weight):
        converter = SinglePairConductanceConverter(g_max, g_min)
        weights = np.float32(weight) + np.arange(2000, dtype=np.float32) * np.float32(1e-5)
        highest = max(weights, key=lambda number: converter.convert_to_conductances(number)[0][0])
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=np.array([[highest]], np.float32))
        MapConductances(converter)(model)
        assert violations(model) == []

    def test_a_sound_mapping_is_not_modified(self, mapped, serialized):
        before = serialized(mapped)
        result = CheckMapping()(mapped)
        assert (result.modified, result.model) == (False, mapped)
        assert serialized(mapped) == before

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_types_of_weights_pass(self, parse, normal, dtype):
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=dtype))
        MapConductances()(model)
        assert violations(model) == []

    def test_exact_mappings_with_negative_zeros_pass(self, parse):
        w = np.array([[-0.0, 1.0], [0.0, -3.0]], np.float32)
        model = parse("g (float x) => (float y) { y = MatMul(x, W) }", W=w)
        MapConductances(SinglePairConductanceConverter(exact=True))(model)
        assert violations(model) == []

    def test_a_weight_that_is_only_read_through_identity_nodes_passes(self, parse, normal):
        text = "g (float[2,3] x) => (float[2,4] y) { i = Identity(W) j = Identity(i) y = MatMul(x, j) }"
        model = parse(text, W=normal(3, 4))
        MapConductances()(model)
        assert violations(model) == []

    def test_a_weight_that_is_read_through_thousands_of_identity_nodes_passes(self, parse, normal):
        chain = " ".join(f"i{number + 1} = Identity(i{number})" for number in range(3000))
        model = parse(
            f"g (float[2,3] x) => (float[2,4] y) {{ i0 = Identity(W) {chain} y = MatMul(x, i3000) }}", W=normal(3, 4)
        )
        MapConductances()(model)
        assert violations(model) == []

    def test_equally_named_nodes_in_sibling_bodies_are_told_apart(self, parse):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[1,2] a) <float[2,2] W = {1, 2, 3, 4}> { [mm] a = MatMul(x, W) },
                    else_branch = e () => (float[1,2] b) <float[2,2] V = {5, 6, 7, 8}> { [mm] b = MatMul(x, V) }
                >
            }"""
        )
        MapConductances()(model)
        assert violations(model) == []

    def test_equally_named_nodes_in_one_graph_are_told_apart(self, parse, normal):
        text = "g (float[3,3] x) => (float[3,3] y) { [mm] a = MatMul(x, W) [mm] y = MatMul(a, V) }"
        model = parse(text, W=normal(3, 3), V=normal(3, 3))
        MapConductances()(model)
        assert violations(model) == []

    def test_a_saved_and_loaded_mapping_passes(self, mapped, tmp_path):
        ir.save(mapped, tmp_path / "mapped.onnx", external_data="mapped.data")
        assert violations(ir.load(tmp_path / "mapped.onnx")) == []

    def test_metadata_of_nodes_and_values_that_was_cleared_does_not_matter(self, mapped):
        ir.passes.common.ClearMetadataAndDocStringPass()(mapped)
        assert not any(node.metadata_props for node in mapped.graph)
        assert violations(mapped) == []

    def test_renamed_nodes_and_values_between_do_not_matter(self, mapped):
        sub, div, _ = mapped.graph
        sub.name, sub.outputs[0].name, div.name = "s", "difference", "d"
        assert violations(mapped) == []

    def test_a_conductance_that_somebody_else_reads_too_does_not_matter(self, mapped):
        mapped.graph.append(ir.node("Relu", [mapped.graph.initializers["W.g_plus"]]))
        assert violations(mapped) == []

    def test_a_consumer_that_was_replaced_by_another_node_does_not_matter(self, mapped):
        *_, matmul = mapped.graph
        matmul.name = "renamed by another tool"
        assert violations(mapped) == []


class TestFolded:
    def test_a_mapping_that_onnx_runtime_folded_and_saved(self, mapped, run, normal, tmp_path):
        run(mapped, "basic", tmp_path / "folded.onnx", x=normal(2, 3))
        [message] = violations(ir.load(tmp_path / "folded.onnx"))
        assert message == (
            "'W': the mapping was folded away: 'W' is a plain initializer again and 'W.g_plus' is gone; "
            "mapping has to be the last step, after all constant folding"
        )

    def test_a_mapping_that_the_optimizer_of_onnxscript_folded(self, mapped):
        optimizer = pytest.importorskip("onnxscript.optimizer")
        optimizer.optimize_ir(mapped, input_size_limit=1 << 20, output_size_limit=1 << 20)
        [message] = violations(mapped)
        assert message.startswith("'W': the mapping was folded away: 'W' is a plain initializer again")

    def test_each_folded_weight_is_named(self, parse, run, normal, tmp_path):
        model = parse(
            "g (float[3,3] x) => (float[3,3] y) { a = MatMul(x, W) y = MatMul(a, V) }", W=normal(3, 3), V=normal(3, 3)
        )
        MapConductances()(model)
        run(model, "basic", tmp_path / "folded.onnx", x=normal(3, 3))
        assert [message[:28] for message in violations(ir.load(tmp_path / "folded.onnx"))] == [
            "'W': the mapping was folded ",
            "'V': the mapping was folded ",
        ]


class TestManifest:
    def test_a_model_that_was_never_mapped(self, parse, normal):
        [message] = violations(parse(DENSE, W=normal(3, 4)))
        assert message.startswith("the model carries no mapping: it was never mapped, or a later tool removed")

    def test_a_removed_manifest(self, mapped):
        remove_manifest(mapped)
        assert violations(mapped) == [
            "the manifest is gone, but node 'W/gconv_Sub' still rebuilds a weight; another tool cleared the metadata"
        ]

    def test_a_damaged_manifest(self, mapped):
        mapped.metadata_props[MANIFEST_KEY] = mapped.metadata_props[MANIFEST_KEY][:-20]
        [message] = violations(mapped)
        assert message.startswith("the manifest in metadata 'onnx_gconv' is damaged: the document: ")

    def test_a_manifest_of_a_newer_version(self, mapped):
        document = json.loads(mapped.metadata_props[MANIFEST_KEY])
        mapped.metadata_props[MANIFEST_KEY] = json.dumps({**document, "format_version": 4})
        [message] = violations(mapped)
        assert message.startswith("the manifest has format version 4, this version reads 1, 2 and 3")

    @pytest.mark.parametrize(
        ("converter", "expected"),
        [
            ({"name": "Other", "parameters": {}}, "'W': the manifest names the converter 'Other'"),
            (
                {"name": "SinglePairConductanceConverter", "parameters": {"g_max": -1}},
                "'W': the manifest has wrong parameters for 'SinglePairConductanceConverter': g_max should be",
            ),
            (
                {
                    "name": "SinglePairConductanceConverter",
                    "parameters": {"g_max": 1e300, "g_min": 0.0, "exact": False},
                },
                "'W': the manifest names devices of up to 1e+300 µS, but float32 holds up to 3.40282e+38",
            ),
        ],
    )
    def test_a_converter_that_cannot_be_built(self, mapped, converter, expected):
        document = json.loads(mapped.metadata_props[MANIFEST_KEY])
        document["weights"][0]["converter"] = converter
        mapped.metadata_props[MANIFEST_KEY] = json.dumps(document)
        [message] = violations(mapped)
        assert message.startswith(expected)


class TestValues:
    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (25.001, "25.00"),
            (1e9, "1000000000.0"),
            (-0.001, "-0.001"),
            (np.nan, "nan"),
            (np.inf, "inf"),
            (-np.inf, "-inf"),
        ],
    )
    @pytest.mark.parametrize(("name", "index"), [("W.g_plus", 0), ("W.g_minus", 11)])
    def test_a_conductance_out_of_range(self, mapped, name, index, number, expected):
        edit(mapped, name, index, number)
        [message] = violations(mapped)
        assert message.startswith(f"'W': '{name}' has {expected}")
        assert message.endswith(f" µS at flat index {index}, outside 0 to 25 µS")

    def test_a_conductance_below_g_min(self, parse, normal):
        model = parse(DENSE, W=normal(3, 4))
        MapConductances(SinglePairConductanceConverter(20.0, 1.0))(model)
        edit(model, "W.g_minus", 5, 0.5)
        [message] = violations(model)
        assert message == "'W': 'W.g_minus' has 0.5 µS at flat index 5, outside 1 to 20 µS"

    def test_a_pair_of_which_neither_device_is_at_g_min(self, mapped):
        edit(mapped, "W.g_plus", 7, 2.0)
        edit(mapped, "W.g_minus", 7, 3.0)
        assert violations(mapped) == [
            "'W': neither device of the pair at flat index 7 is at g_min = 0 µS (they have 2.0 and 3.0 µS)"
        ]

    def test_a_violation_is_found_in_every_chunk(self, mapped, monkeypatch):
        monkeypatch.setattr("onnx_gconv.tensors.streamed.CHUNK_ELEMENTS", 5)
        edit(mapped, "W.g_plus", 11, np.nan)
        assert "'W.g_plus' has nan µS at flat index 11," in violations(mapped)[0]
        edit(mapped, "W.g_plus", 11, 1.0)
        edit(mapped, "W.g_minus", 11, 1.0)
        assert "neither device of the pair at flat index 11 " in violations(mapped)[0]

    @pytest.mark.parametrize("number", [0.0, -2.0, np.nan, np.inf])
    def test_a_scale_that_is_no_positive_number(self, mapped, number):
        replace(mapped, "W.g_scale", np.array(number, np.float32))
        assert violations(mapped) == ["'W': the scale 'W.g_scale' is not one positive finite number"]

    @pytest.mark.parametrize("shape", [(2,), (0,), (3, 4)])
    def test_a_scale_of_several_numbers(self, mapped, shape):
        replace(mapped, "W.g_scale", np.ones(shape, np.float32))
        assert violations(mapped) == ["'W': the scale 'W.g_scale' is not one positive finite number"]

    def test_a_scale_that_is_not_the_manifests(self, mapped):
        stated = read_manifest(mapped).weights[0].scale.value
        replace(mapped, "W.g_scale", np.nextafter(np.float32(stated), np.float32(np.inf)))
        [message] = violations(mapped)
        assert message.startswith("'W': the scale 'W.g_scale' is ")
        assert message.endswith(f", the manifest says {stated!r}")

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_a_scale_of_another_type(self, parse, dtype):
        model = parse("g (float[1,2] x) => (float[1,2] y) { y = MatMul(x, W) }", W=np.eye(2, dtype=np.float32))
        MapConductances()(model)
        replace(model, "W.g_scale", np.array(25, dtype))  # the same value
        [message] = violations(model)
        assert "'W.g_scale' is " in message
        assert message.endswith(" now, it was float32")

    def test_other_weights_are_checked_too(self, parse, normal):
        model = parse(
            "g (float[3,3] x) => (float[3,3] y) { a = MatMul(x, W) b = MatMul(a, V) y = MatMul(b, U) }",
            W=normal(3, 3),
            V=normal(3, 3),
            U=normal(3, 3),
        )
        MapConductances()(model)
        edit(model, "V.g_plus", 0, 99.0)
        edit(model, "U.g_minus", 8, np.nan)
        assert [message[:15] for message in violations(model)] == ["'V': 'V.g_plus'", "'U': 'U.g_minus"]


class TestStructure:
    @pytest.mark.parametrize("shape", [(4, 3), (2, 2), (12,)])
    def test_conductances_of_another_shape(self, mapped, shape):
        replace(mapped, "W.g_plus", np.zeros(shape, np.float32))
        assert violations(mapped) == [f"'W': 'W.g_plus' has the shape {list(shape)}, the weight [3, 4]"]

    def test_conductances_converted_to_float16(self, mapped):
        for name in ("W.g_plus", "W.g_minus"):
            replace(mapped, name, mapped.graph.initializers[name].const_value.numpy().astype(np.float16))
        assert violations(mapped)[:2] == [
            "'W': 'W.g_plus' is float16 now, it was float32",
            "'W': 'W.g_minus' is float16 now, it was float32",
        ]

    def test_a_conductance_that_is_no_number(self, mapped):
        value = mapped.graph.initializers["W.g_plus"]
        value.const_value = ir.StringTensor(np.full((3, 4), b"25 uS", object), shape=ir.Shape((3, 4)), name="W.g_plus")
        assert violations(mapped) == ["'W': 'W.g_plus' is string now, it was float32"]

    @pytest.mark.parametrize("name", ["W.g_plus", "W.g_minus", "W.g_scale"])
    def test_a_renamed_initializer_is_found_where_it_is_read(self, mapped, name):
        rename_initializer(mapped, name, "another name")
        assert violations(mapped) == []

    def test_renamed_initializers_of_swapped_conductances_are_not_taken_for_each_other(self, mapped):
        sub, *_ = mapped.graph
        first, second = sub.inputs
        sub.replace_input_with(0, second)
        sub.replace_input_with(1, first)
        rename_initializer(mapped, "W.g_plus", "another name")
        [message] = violations(mapped)
        assert message.startswith("'W': the nodes compute +1*W.g_minus -1*another name instead of")

    def test_everything_of_a_weight_renamed_but_the_weight(self, mapped):
        for name in ("W.g_plus", "W.g_minus", "W.g_scale"):
            rename_initializer(mapped, name, f"new.{name}")
        assert violations(mapped) == []

    def test_a_renamed_conductance_of_a_weight_that_nothing_leads_to(self, mapped):
        rename_initializer(mapped, "W.g_plus", "another name")
        *_, div, matmul = mapped.graph
        div.outputs[0].name, matmul.name = "renamed", "renamed, too"
        [message] = violations(mapped)
        assert message == "'W': the initializer 'W.g_plus' is gone; another tool removed or renamed it"

    def test_swapped_inputs_of_sub(self, mapped):
        sub, *_ = mapped.graph
        first, second = sub.inputs
        sub.replace_input_with(0, second)
        sub.replace_input_with(1, first)
        assert violations(mapped) == [
            "'W': the nodes compute +1*W.g_minus -1*W.g_plus instead of +1*W.g_plus -1*W.g_minus"
        ]

    def test_a_conductance_subtracted_from_itself(self, mapped):
        sub, *_ = mapped.graph
        sub.replace_input_with(1, sub.inputs[0])
        [message] = violations(mapped)
        assert message.startswith("'W': the nodes compute +0*W.g_plus instead of")

    def test_sub_replaced_by_add(self, mapped):
        sub, div, _ = mapped.graph
        add = ir.node("Add", list(sub.inputs))
        mapped.graph.insert_before(div, add)
        div.replace_input_with(0, add.outputs[0])
        mapped.graph.remove(sub, safe=True)
        [message] = violations(mapped)
        assert message.startswith("'W': the nodes compute +1*W.g_plus +1*W.g_minus instead of")

    def test_a_node_that_does_something_else_in_between(self, mapped):
        sub, div, _ = mapped.graph
        relu = ir.node("Relu", [sub.outputs[0]], name="clamp")
        mapped.graph.insert_before(div, relu)
        div.replace_input_with(0, relu.outputs[0])
        assert violations(mapped) == ["'W': the weight is computed by an unexpected node Relu ('clamp')"]

    def test_a_conductance_that_is_computed(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] live) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
        MapConductances()(model)
        sub, *_ = model.graph
        sub.replace_input_with(0, model.graph.inputs[1])
        assert violations(model) == ["'W': the weight is computed from 'live', which is no initializer"]

    def test_an_input_of_sub_removed(self, mapped):
        sub, *_ = mapped.graph
        sub.replace_input_with(1, None)
        assert violations(mapped) == ["'W': a node that rebuilds the weight lacks an input"]

    def test_div_replaced_by_mul(self, mapped):
        _, div, matmul = mapped.graph
        mul = ir.node("Mul", list(div.inputs))
        mapped.graph.insert_before(matmul, mul)
        matmul.replace_input_with(1, mul.outputs[0])
        mapped.graph.remove(div, safe=True)
        assert violations(mapped) == ["'W': 'W.g_scale' should be read by one Div node (input 1), but by Mul[1]"]

    def test_swapped_inputs_of_div(self, mapped):
        _, div, _ = mapped.graph
        first, second = div.inputs
        div.replace_input_with(0, second)
        div.replace_input_with(1, first)
        assert violations(mapped) == ["'W': 'W.g_scale' should be read by one Div node (input 1), but by Div[0]"]

    def test_a_scale_that_nothing_reads(self, mapped):
        _, div, _ = mapped.graph
        div.replace_input_with(1, mapped.graph.initializers["W.g_plus"])
        assert violations(mapped) == ["'W': it is divided by 'W.g_plus', but the manifest names 'W.g_scale'"]

    def test_a_consumer_that_reads_something_else(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] live) => (float[2,4] y) { [mm] y = MatMul(x, W) }", W=normal(3, 4))
        MapConductances()(model)
        *_, matmul = model.graph
        matmul.replace_input_with(1, model.graph.inputs[1])
        assert violations(model) == [
            "'W': node 'mm' (MatMul) does not read the rebuilt weight any more",
            "'W': nothing reads the rebuilt weight any more",
        ]

    def test_one_of_two_consumers_that_reads_something_else(self, parse, normal):
        model = parse(
            "g (float[2,3] x, float[3,4] live) => (float y, float z) { [a] y = MatMul(x, W) [b] z = MatMul(x, W) }",
            W=normal(3, 4),
        )
        MapConductances()(model)
        *_, second = model.graph
        second.replace_input_with(1, model.graph.inputs[1])
        assert violations(model) == ["'W': node 'b' (MatMul) does not read the rebuilt weight any more"]

    def test_a_consumer_in_a_body_that_reads_something_else(self, parse, normal):
        model = parse(
            """g (bool c, float[2,2] x) => (float[2,2] y) {
                [choose] y = If (c) <
                    then_branch = t () => (float[2,2] a) { [mm] a = MatMul(x, W) },
                    else_branch = e () => (float[2,2] b) { [mm] b = MatMul(x, W) }
                >
            }""",
            W=normal(2, 2),
        )
        MapConductances()(model)
        *_, choose = model.graph
        [matmul] = choose.attributes["else_branch"].as_graph()
        matmul.replace_input_with(1, model.graph.inputs[1])
        assert violations(model) == ["'W': node 'mm' (MatMul) does not read the rebuilt weight any more"]

    def test_a_consumer_that_reads_the_weight_as_its_other_operand(self, parse, normal):
        model = parse("g (float[3,3] x) => (float[3,3] y) { [mm] y = MatMul(x, W) }", W=normal(3, 3))
        MapConductances()(model)
        *_, matmul = model.graph
        first, second = matmul.inputs
        matmul.replace_input_with(0, second)
        matmul.replace_input_with(1, first)
        assert violations(model) == ["'W': node 'mm' (MatMul) does not read the rebuilt weight any more"]

    def test_an_unnamed_consumer_that_reads_something_else(self, parse, normal):
        model = parse("g (float[2,3] x, float[3,4] live) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4))
        MapConductances()(model)
        *_, matmul = model.graph
        matmul.replace_input_with(1, model.graph.inputs[1])
        assert violations(model) == ["'W': nothing reads the rebuilt weight any more"]

    def test_a_cast_that_was_dropped(self, parse, normal):
        model = parse("g (float16[2,3] x) => (float16[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=np.float16))
        MapConductances()(model)
        _, div, cast, matmul = model.graph
        matmul.replace_input_with(1, div.outputs[0])
        model.graph.remove(cast, safe=True)
        assert violations(model) == ["'W': 'W.g_quotient' should be read by one Cast node (input 0), but by MatMul[1]"]

    def test_a_cast_to_another_type(self, parse, normal):
        model = parse("g (float16[2,3] x) => (float16[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4, dtype=np.float16))
        MapConductances()(model)
        cast = list(model.graph)[2]
        cast.attributes.add(ir.AttrInt64("to", ir.DataType.BFLOAT16.value))
        [message] = violations(model)
        assert "bfloat16" in message

    def test_a_broken_weight_does_not_hide_another(self, parse, normal):
        model = parse(
            "g (float[3,3] x) => (float[3,3] y) { a = MatMul(x, W) y = MatMul(a, V) }", W=normal(3, 3), V=normal(3, 3)
        )
        MapConductances()(model)
        next(iter(model.graph)).op_type = "Add"
        edit(model, "V.g_plus", 3, -1.0)
        first, second = violations(model)
        assert "the nodes compute +1*W.g_plus +1*W.g_minus" in first
        assert "'V.g_plus' has -1.0 µS" in second


class TestReporting:
    def test_the_error_has_the_violations(self, mapped):
        edit(mapped, "W.g_plus", 0, -5.0)
        with pytest.raises(VerificationError, match=r"^'W': 'W.g_plus' has -5.0 µS at flat index 0"):
            CheckMapping()(mapped)

    def test_the_error_has_three_violations_and_counts_the_rest(self, parse, normal):
        names = "ABCDE"
        chain = " ".join(f"{n.lower()} = MatMul({'x' if n == 'A' else chr(ord(n) + 31)}, {n})" for n in names)
        model = parse(f"g (float[3,3] x) => (float[3,3] e) {{ {chain} }}", **{name: normal(3, 3) for name in names})
        MapConductances()(model)
        for name in names:
            edit(model, f"{name}.g_plus", 0, -5.0)
        with pytest.raises(VerificationError) as error:
            CheckMapping()(model)
        assert str(error.value).count("; ") == 2
        assert str(error.value).endswith(" (and 2 more)")

    def test_a_violation_of_the_whole_model_names_no_weight(self):
        assert str(Violation(None, "something is wrong")) == "something is wrong"
        assert str(Violation("W", "something is wrong")) == "'W': something is wrong"

    def test_external_data_that_cannot_be_read_is_an_error_of_its_own(self, parse, normal, tmp_path):
        model = parse("g (float[2,30] x) => (float[2,40] y) { y = MatMul(x, W) }", W=normal(30, 40))
        MapConductances()(model)
        ir.save(model, tmp_path / "mapped.onnx", external_data="mapped.data")
        loaded = ir.load(tmp_path / "mapped.onnx")
        (tmp_path / "mapped.data").unlink()
        with pytest.raises(ModelError, match=r"mapped\.data"):
            CheckMapping().violations(loaded)


class TestLocating:
    """What is found for one weight, for every decoding there can be."""

    def located(self, parse, normal, decoding, dtype=ir.DataType.FLOAT, shape=(3, 4), **stated):
        """A model with a weight of that decoding, what was found of it, and what was put in."""
        model = parse(DENSE, W=normal(3, 4))
        MapConductances()(model)
        [record] = read_manifest(model).weights
        tensors = [
            ir.tensor(normal(*shape, seed=number), name=f"V.{number}") for number in range(len(decoding.coefficients))
        ]
        rebuilt = rebuild_nodes("V", tensors, decoding, dtype=dtype, scale_name="V.g_scale", names=UniqueNames(model))
        graph = model.graph
        graph.insert_before(next(iter(graph)), rebuilt.nodes)
        for value in rebuilt.initializers:
            graph.initializers.add(value)
        list(graph)[-1].replace_input_with(1, rebuilt.value)
        conductance = record.conductances[0]
        record = record.model_copy(
            update={
                "name": "V",
                "dtype": np.dtype(dtype.numpy()).name,
                "conductances": tuple(
                    conductance.model_copy(update={"name": f"V.{number}", "coefficient": coefficient})
                    for number, coefficient in enumerate(decoding.coefficients)
                ),
                "offset_us": decoding.offset_us,
                "scale": record.scale.model_copy(update={"name": "V.g_scale", "value": decoding.scale}),
                "zero": decoding.zero,
                **stated,
            }
        )
        return locate(record, ModelValues(model)), rebuilt

    @pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
    @pytest.mark.parametrize(
        "decoding",
        [
            Decoding((1.0, -1.0), 0.0, 2.0, 0.0),
            Decoding((1.0,), 0.0, 2.0, 0.0),
            Decoding((1.0,), 9.0, 2.0, 0.0),
            Decoding((1.0,), 9.0, 2.0, -0.5),
            Decoding((-2.0, 1.0), 0.0, 2.0, 0.25),
            Decoding((1.0, -1.0, 3.0, -3.0), 0.5, 2.0, 0.0),
            Decoding((0.3, -0.3, 0.7, -0.7), 0.1, 2.0, 0.1),
        ],
        ids=str,
    )
    def test_all_that_was_emitted_is_found(self, parse, normal, decoding, dtype):
        found, rebuilt = self.located(parse, normal, decoding, dtype)
        assert found.value is rebuilt.value
        assert {node.name for node in found.nodes} == {node.name for node in rebuilt.nodes}
        assert {v.name for v in (*found.conductances, found.scale, *found.constants)} == {
            value.name for value in rebuilt.initializers
        }

    @pytest.mark.parametrize(("computed", "stated"), [(0.5, 0.25), (0.0, 0.5), (0.5, 0.0)])
    def test_another_offset_than_the_record_says_is_a_broken_mapping(self, parse, normal, computed, stated):
        with pytest.raises(BrokenMappingError, match="the nodes compute"):
            self.located(parse, normal, Decoding((1.0,), computed, 2.0, 0.0), offset_us=stated)

    @pytest.mark.parametrize(("computed", "stated"), [(0.5, 0.25), (0.0, 0.5)])
    def test_another_zero_than_the_record_says_is_a_broken_mapping(self, parse, normal, computed, stated):
        with pytest.raises(BrokenMappingError):
            self.located(parse, normal, Decoding((1.0, -1.0), 0.0, 2.0, computed), zero=stated)

    def test_conductances_without_axes_are_told_from_constants(self, parse, normal):
        found, _ = self.located(parse, normal, Decoding((1.0, -1.0, 3.0), 0.5, 2.0, 0.0), shape=())
        assert [value.name for value in found.conductances] == ["V.0", "V.1", "V.2"]
        assert len(found.constants) == 2  # the factor 3 and the offset

    def test_tensors_come_in_the_order_of_the_record(self, parse, normal):
        found, _ = self.located(parse, normal, Decoding((1.0, -1.0, 3.0, -3.0), 0.0, 2.0, 0.0))
        assert [tensor.name for tensor in found.tensors] == ["V.0", "V.1", "V.2", "V.3"]
