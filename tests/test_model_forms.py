"""Models of every form that exporters write are mapped, verified and restored: older, with inputs, with functions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_gconv.errors import ModelError
from onnx_gconv.file_operations import inspect_model, map_model, restore_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import CheckMapping, MapConductances, RestoreWeights
from onnx_gconv.verification import verify

DENSE = "g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }"
WITH_INPUTS = "g (float[2,3] x, float[3,4] W, float[4] b) => (float[2,4] y) { [fc] y = Gemm(x, W, b) }"


def inputs(model):
    return [value.name for value in model.graph.inputs]


def reasons(manifest):
    return [(item.name, item.reason) for item in manifest.skipped]


@pytest.fixture
def save(tmp_path, serialized):
    """Writes a model and gives its path."""

    def write(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(serialized(model))
        return path

    return write


def overridable(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return [item.name for item in ort.InferenceSession(str(path), options).get_overridable_initializers()]


class TestInitializersThatAreInputs:
    def test_below_ir_version_4_they_are_mapped_and_become_constants(self, parse, run, normal):
        model = parse(WITH_INPUTS, opsets='"" : 8', ir_version=3, W=normal(3, 4), b=normal(4))
        [expected] = run(model, x=normal(2, 3))
        assert MapConductances()(model).modified
        assert (inputs(model), model.ir_version) == (["x"], 4)
        onnx.checker.check_model(ir.to_proto(model))
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], expected, rtol=1e-5, atol=1e-6)
        assert read_manifest(model).notes == (
            "the IR version is 4, it was 3: initializers are constants now, no graph inputs",
        )

    def test_below_ir_version_4_the_runtime_takes_none_for_an_input_before_and_after(self, parse, save, normal):
        path = save(parse(WITH_INPUTS, opsets='"" : 8', ir_version=3, W=normal(3, 4), b=normal(4)))
        assert overridable(path) == []
        assert overridable(map_model(path).output) == []

    def test_weights_that_are_left_out_become_constants_below_ir_version_4_too(self, parse, normal):
        text = "g (float[2,3] x, float[3,3] V, float[3,4] W) => (float[2,4] y) { a = MatMul(x, V) y = MatMul(a, W) }"
        model = parse(text, opsets='"" : 8', ir_version=3, W=normal(3, 4), V=normal(3, 3))
        MapConductances(exclude=["V"])(model)
        assert inputs(model) == ["x"]
        assert "V" in model.graph.initializers

    def test_below_ir_version_4_a_model_without_weights_stays_as_it_is(self, parse, serialized, normal):
        text = "g (float[2,3] x, float[3] b) => (float[2,3] y) { y = Add(x, b) }"
        model = parse(text, opsets='"" : 8', ir_version=3, b=normal(3))
        before = serialized(model)
        assert not MapConductances()(model).modified
        assert serialized(model) == before

    @pytest.mark.parametrize("ir_version", [4, 10])
    def test_since_ir_version_4_they_are_skipped_because_a_caller_may_replace_them(self, parse, normal, ir_version):
        text = "g (float[2,3] x, float[3,3] V) => (float[2,4] y) { a = MatMul(x, V) y = MatMul(a, W) }"
        model = parse(text, opsets='"" : 9', ir_version=ir_version, W=normal(3, 4), V=normal(3, 3))
        MapConductances()(model)
        assert inputs(model) == ["x", "V"]
        assert reasons(read_manifest(model)) == [("V", "overridable_input")]
        assert read_manifest(model).notes == ()

    def test_frozen_ones_are_mapped_and_become_constants(self, parse, run, normal):
        model = parse(WITH_INPUTS, W=normal(3, 4), b=normal(4))
        [expected] = run(model, x=normal(2, 3))
        MapConductances(freeze_inputs=True)(model)
        assert inputs(model) == ["x", "b"], "only mapped weights are taken from callers"
        assert model.ir_version == 10
        assert read_manifest(model).notes == ("constants now, no graph inputs that a caller may replace: 'W'",)
        onnx.checker.check_model(ir.to_proto(model))
        CheckMapping()(model)
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], expected, rtol=1e-5, atol=1e-6)

    def test_excluded_ones_stay_inputs(self, parse, normal):
        text = "g (float[2,3] x, float[3,3] V, float[3,4] W) => (float[2,4] y) { a = MatMul(x, V) y = MatMul(a, W) }"
        model = parse(text, W=normal(3, 4), V=normal(3, 3))
        MapConductances(freeze_inputs=True, exclude=["V"])(model)
        assert inputs(model) == ["x", "V"]

    def test_freezing_says_nothing_of_a_model_without_such_inputs(self, parse, normal):
        model = parse(DENSE, W=normal(3, 4))
        MapConductances(freeze_inputs=True)(model)
        assert read_manifest(model).notes == ()

    @pytest.mark.parametrize(("ir_version", "options"), [(3, {}), (8, {"freeze_inputs": True})])
    def test_the_mapped_model_is_verified_with_the_defaults_and_restored_without_the_inputs(
        self, parse, save, normal, ir_version, options
    ):
        path = save(parse(WITH_INPUTS, opsets='"" : 8', ir_version=ir_version, W=normal(3, 4), b=normal(4)))
        report = map_model(path, **options)
        assert [weight.name for weight in report.mapped] == ["W"]
        assert "Note: " in str(report)
        verification = verify(path, report.output)
        verification.raise_if_failed()
        assert verification.outputs.comparisons
        assert [tensor.name for tensor in verification.outputs.inputs.tensors] == ["x"]
        plain = ir.load(restore_model(report.output).output)
        assert "W" not in inputs(plain)
        assert "W" in plain.graph.initializers

    def test_a_weight_that_the_user_feeds_cannot_be_compared_and_the_message_names_it(self, parse, save, normal):
        path = save(parse(WITH_INPUTS, W=normal(3, 4), b=normal(4)))
        output = map_model(path, freeze_inputs=True).output
        with pytest.raises(Exception, match="no input is named 'W'"):
            verify(path, output, inputs={"x": normal(2, 3), "W": normal(3, 4)})

    def test_inspecting_shows_what_freezing_would_do(self, parse, save, normal):
        path = save(parse(WITH_INPUTS, W=normal(3, 4), b=normal(4)))
        assert reasons(inspect_model(path).manifest) == [("W", "overridable_input")]
        assert [weight.name for weight in inspect_model(path, freeze_inputs=True).mapped] == ["W"]


class TestOpsets:
    @pytest.mark.parametrize("opset", [7, 12])
    def test_bfloat16_weights_below_opset_13_are_skipped_with_the_remedy(self, parse, normal, opset):
        model = parse(
            """g (bfloat16[2,3] x, float[2,3] z) => (bfloat16[2,4] y, float[2,4] q) {
                y = MatMul(x, W)
                q = MatMul(z, V)
            }""",
            opsets=f'"" : {opset}',
            W=normal(3, 4, dtype=ml_dtypes.bfloat16),
            V=normal(3, 4),
        )
        MapConductances()(model)
        [skipped] = read_manifest(model).skipped
        assert (skipped.name, skipped.reason, skipped.detail) == ("W", "opset_too_old", f"bfloat16 at opset {opset}")
        assert [weight.name for weight in read_manifest(model).weights] == ["V"]

    def test_bfloat16_weights_since_opset_13_are_mapped(self, parse, normal):
        model = parse(
            "g (bfloat16[2,3] x) => (bfloat16[2,4] y) { y = MatMul(x, W) }",
            opsets='"" : 13',
            W=normal(3, 4, dtype=ml_dtypes.bfloat16),
        )
        assert MapConductances()(model).modified

    def test_a_model_that_imports_other_domains_only_gets_the_default_domain(self, parse, run, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,4] y) { y = com.microsoft.FusedMatMul(x, W) }",
            opsets='"com.microsoft" : 1',
            W=normal(3, 4),
        )
        MapConductances()(model)
        assert model.opset_imports == {"com.microsoft": 1, "": 13}
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], normal(2, 3) @ normal(3, 4), rtol=1e-4, atol=1e-5)
        CheckMapping()(model)

    def test_the_long_name_of_the_default_domain_needs_no_other_import(self, parse, normal):
        model = parse(DENSE, opsets='"ai.onnx" : 17', W=normal(3, 4))
        MapConductances()(model)
        assert model.opset_imports == {"ai.onnx": 17}

    @pytest.mark.parametrize("opset", [1, 6])
    def test_models_below_opset_7_are_refused_with_the_remedy(self, parse, save, normal, opset):
        path = save(parse(DENSE, opsets=f'"" : {opset}', W=normal(3, 4)))
        with pytest.raises(ModelError, match=rf"has opset {opset}, .* --upgrade-opset \(upgrade_opset=True\)"):
            map_model(path)


class TestOutputs:
    """Weights that are results of the model, too."""

    def test_an_initializer_that_is_a_graph_output_is_still_given(self, parse, run, normal):
        model = parse("g (float[2,3] x) => (float[2,4] y, float[3,4] W) { y = MatMul(x, W) }", W=normal(3, 4))
        expected = run(model, x=normal(2, 3))
        MapConductances()(model)
        onnx.checker.check_model(ir.to_proto(model))
        for ours, theirs in zip(run(model, x=normal(2, 3)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        CheckMapping()(model)
        RestoreWeights()(model)
        assert [value.name for value in model.graph.outputs] == ["y", "W"]
        np.testing.assert_allclose(run(model, x=normal(2, 3))[1], normal(3, 4), rtol=1e-5, atol=1e-6)

    def test_a_weight_of_a_body_that_is_an_output_of_the_body_is_still_given(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y, float[2,2] w) {
                y, w = If (c) <
                    then_branch = t () => (float[1,2] a, float[2,2] K) <float[2,2] K = {1, 2, 3, 4}> {
                        a = MatMul(x, K)
                    },
                    else_branch = e () => (float[1,2] b, float[2,2] L) <float[2,2] L = {5, -6, 7, 8}> {
                        b = MatMul(x, L)
                    }
                >
            }"""
        )
        feeds = {"c": np.array(True), "x": np.ones((1, 2), np.float32)}
        expected = run(model, **feeds)
        MapConductances()(model)
        assert [weight.name for weight in read_manifest(model).weights] == ["K", "L"]
        CheckMapping()(model)
        for ours, theirs in zip(run(model, **feeds), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        RestoreWeights()(model)
        np.testing.assert_allclose(run(model, **feeds)[1], expected[1], rtol=1e-5, atol=1e-6)

    def test_an_unused_initializer_is_listed_and_stays(self, parse, normal):
        model = parse(DENSE, W=normal(3, 4), idle=normal(5, 6))
        MapConductances()(model)
        [skipped] = read_manifest(model).skipped
        assert (skipped.name, skipped.reason, skipped.detail, skipped.is_mvm) == (
            "idle",
            "not_an_mvm_weight",
            "unused",
            False,
        )
        assert "idle" in model.graph.initializers


class TestNames:
    def test_a_generated_name_that_another_initializer_has_gets_a_suffix(self, parse, run, normal):
        text = "g (float[2,3] x) => (float[2,4] y) { a = MatMul(x, clash) y = MatMul(a, W) }"
        model = parse(text, W=normal(3, 4), clash=normal(3, 3, seed=1))
        model.graph.initializers["clash"].name = "W.g_plus"
        [expected] = run(model, x=normal(2, 3))
        MapConductances()(model)
        names = [item.name for weight in read_manifest(model).weights for item in weight.conductances]
        assert sorted(names) == ["W.g_minus", "W.g_plus.g_minus", "W.g_plus.g_plus", "W.g_plus_1"]
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], expected, rtol=1e-4, atol=1e-5)
        CheckMapping()(model)
        RestoreWeights()(model)
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], expected, rtol=1e-4, atol=1e-5)

    def test_a_generated_name_that_a_value_in_a_body_has_gets_a_suffix(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) <float[2,2] W = {1, 2, 3, 4}> {
                y = If (c) <
                    then_branch = t () => (float[1,2] a) <float[2,2] clash = {5, 6, 7, 8}> {
                        h = MatMul(x, W)
                        a = Mul(h, h)
                    },
                    else_branch = e () => (float[1,2] b) { z = MatMul(x, W) b = Neg(z) }
                >
            }"""
        )
        [choose] = model.graph
        body = choose.attributes["then_branch"].as_graph()
        body.initializers["clash"].name = "W.g_difference"
        feeds = {"c": np.array(True), "x": np.ones((1, 2), np.float32)}
        expected = run(model, **feeds)
        MapConductances()(model)
        assert "W.g_difference_1" in {node.outputs[0].name for node in model.graph}
        np.testing.assert_allclose(run(model, **feeds)[0], expected[0], rtol=1e-5)

    def test_nodes_without_names_are_mapped_and_listed_with_empty_names(self, parse, run, normal):
        model = parse(
            "g (float[2,3] x) => (float[2,4] y) { a = MatMul(x, V) y = MatMul(a, W) }", W=normal(3, 4), V=normal(3, 3)
        )
        [expected] = run(model, x=normal(2, 3))
        MapConductances()(model)
        assert [c.node for weight in read_manifest(model).weights for c in weight.consumers] == ["", ""]
        CheckMapping()(model)
        np.testing.assert_allclose(run(model, x=normal(2, 3))[0], expected, rtol=1e-4, atol=1e-5)

    def test_a_model_with_ops_that_the_runtime_lacks_is_mapped_checked_and_restored(self, parse, save, normal):
        path = save(
            parse(
                "g (float[2,3] x) => (float y) { h = MatMul(x, W) y = custom.Unknown(h) }",
                opsets='"" : 17, "custom" : 1',
                W=normal(3, 4),
            )
        )
        report = map_model(path)
        verification = verify(path, report.output)
        verification.raise_if_failed()
        assert verification.outputs.not_compared is not None
        assert restore_model(report.output).restored == ("W",)
