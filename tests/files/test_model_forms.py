"""Models of every form that exporters write are mapped, verified and restored: older, with inputs, with functions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnx_gconv.errors import ConfigError, ModelError, UnmappableWeightError
from onnx_gconv.mapping import read_manifest
from onnx_gconv.operations.operations import inspect_model, map_model, restore_model
from onnx_gconv.passes import CheckMapping, InlineWeightFunctions, MapConductances, RaiseOpset, RestoreWeights
from onnx_gconv.verification import verify
from onnx_gconv.weights import find_weights

DENSE = "g (float[2,3] x) => (float[2,4] y) { [mm] y = MatMul(x, W) }"
WITH_INPUTS = "g (float[2,3] x, float[3,4] W, float[4] b) => (float[2,4] y) { [fc] y = Gemm(x, W, b) }"


def inputs(model):
    return [value.name for value in model.graph.inputs]


def content(model):
    """A model as it would be written, once onnx-ir has read, and thereby named, the tensors in attributes."""
    find_weights(model)
    return ir.to_proto(model).SerializeToString(deterministic=True)


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

    def test_all_that_a_weight_is_computed_from_becomes_constant(self, parse, run, normal):
        text = """g (float[2,3] x, float[3,4] A, float s, float t) => (float[2,4] y) {
            W = Mul(A, s) a = MatMul(x, W) y = Mul(a, t)
        }"""
        model = parse(text, A=normal(3, 4), s=np.float32(0.5), t=np.float32(2))
        [expected] = run(model, x=normal(2, 3))
        MapConductances(freeze_inputs=True)(model)
        assert inputs(model) == ["x", "t"]
        [note] = read_manifest(model).notes
        assert set(note.partition(": ")[2].split(", ")) == {"'A'", "'s'"}
        assert note.startswith("constants now, no graph inputs that a caller may replace: ")
        onnx.checker.check_model(ir.to_proto(model))
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

    def test_a_weight_that_is_an_input_and_an_output_is_still_given(self, parse, run, normal):
        model = parse(
            "g (float[2,3] x, float[3,4] W) => (float[2,4] y, float[3,4] W) { y = MatMul(x, W) }", W=normal(3, 4)
        )
        MapConductances(freeze_inputs=True)(model)
        assert inputs(model) == ["x"]
        np.testing.assert_allclose(run(model, x=normal(2, 3))[1], normal(3, 4), rtol=1e-5, atol=1e-6)

    def test_a_weight_that_the_user_feeds_cannot_be_compared_and_the_message_names_it(self, parse, save, normal):
        path = save(parse(WITH_INPUTS, W=normal(3, 4), b=normal(4)))
        output = map_model(path, freeze_inputs=True).output
        with pytest.raises(ConfigError, match="no input is named 'W'"):
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
        assert (skipped.name, skipped.reason, skipped.detail) == (
            "W",
            "opset_too_old",
            f"bfloat16 at opset {opset}, needs 13",
        )
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


class TestFunctions:
    OPSETS = '"" : 17, "local" : 1'
    DENSE = """<domain: "local", opset_import: ["" : 17]>
        dense (v) => (r) { K = Constant <value = float[2,2] {1, -2, 3, 4}> () [inner] r = MatMul(v, K) }"""
    TWICE = "g (float[1,2] x) => (float[1,2] y) { a = local.dense(x) y = local.dense(a) }" + DENSE
    X = np.array([[0.5, -1.0]], np.float32)

    def mapped_in_runtime(self, model, run, **feeds):
        """The manifest of the mapped model, whose outputs are those of the model."""
        feeds = feeds or {"x": self.X}
        expected = run(model, **feeds)
        assert MapConductances()(model).modified
        onnx.checker.check_model(ir.to_proto(model))
        CheckMapping()(model)
        for ours, theirs in zip(run(model, **feeds), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        return read_manifest(model)

    def weights(self, manifest):
        return [(item.name, item.graph, len(item.consumers)) for item in manifest.weights]

    def test_two_calls_of_a_function_share_the_weight_of_its_body(self, parse, run):
        model = parse(self.TWICE, opsets=self.OPSETS)
        manifest = self.mapped_in_runtime(model, run)
        assert self.weights(manifest) == [("K", "", 2)]
        assert manifest.notes == ("inlined the functions that use weights: local.dense",)
        assert not model.functions

    def test_calls_in_two_branches_share_the_weight_in_the_graph_around_them(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) {
                y = If (c) <
                    then_branch = t () => (float[1,2] a) { a = local.dense(x) },
                    else_branch = e () => (float[1,2] b) { n = Neg(x) b = local.dense(n) }
                >
            }"""
            + self.DENSE,
            opsets=self.OPSETS,
        )
        manifest = self.mapped_in_runtime(model, run, x=self.X, c=np.array(False))
        assert self.weights(manifest) == [("K", "", 2)]

    def test_a_weight_that_is_the_argument_of_calls_is_mapped_once(self, parse, run, normal):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { a = local.linear(x, W) y = local.linear(a, W) }
            <domain: "local", opset_import: ["" : 17]>
            linear (v, w) => (r) { t = Transpose(w) r = MatMul(v, t) }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        assert self.weights(self.mapped_in_runtime(model, run)) == [("W", "", 2)]

    def test_weights_of_functions_that_functions_call_are_mapped(self, parse, run):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { a = local.outer(x) b = local.dense(a) y = local.outer(b) }
            <domain: "local", opset_import: ["" : 17, "local" : 1]>
            outer (v) => (r) {
                L = Constant <value = float[2,2] {5, 6, -7, 8}> ()
                d = local.dense(v)
                s = local.times(d, L)
                r = local.dense(s)
            }
            <domain: "local", opset_import: ["" : 17]>
            times (v, w) => (r) { r = MatMul(v, w) }"""
            + self.DENSE,
            opsets=self.OPSETS,
        )
        manifest = self.mapped_in_runtime(model, run)
        assert sorted(self.weights(manifest)) == [("K", "", 5), ("L", "", 2)]
        assert not model.functions

    def test_a_weight_that_calls_give_as_an_attribute_is_mapped(self, parse, run, save):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { y = local.dense <w = float[2,2] {1, 2, 3, 4}> (x) }
            <domain: "local", opset_import: ["" : 17]>
            dense <w> (v) => (r) { K = Constant <value: tensor = @w> () r = MatMul(v, K) }""",
            opsets=self.OPSETS,
        )
        report = map_model(source := save(model))
        verify(source, report.output).raise_if_failed()
        assert self.weights(self.mapped_in_runtime(model, run)) == [("K", "", 1)] == self.weights(report.manifest)

    def test_functions_without_weights_stay(self, parse, run, normal):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { a = local.dense(x) b = local.twice(a) y = MatMul(b, W) }
            <domain: "local", opset_import: ["" : 17]>
            twice (v) => (r) { r = Add(v, v) }"""
            + self.DENSE,
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        assert self.weights(self.mapped_in_runtime(model, run)) == [("K", "", 1), ("W", "", 1)]
        assert [name for _, name, _ in model.functions] == ["twice"]

    def test_a_model_whose_functions_have_no_weights_is_not_inlined(self, parse, normal):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { b = local.twice(x) y = MatMul(b, W) }
            <domain: "local", opset_import: ["" : 17]>
            twice (v) => (r) { r = Add(v, v) }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        MapConductances()(model)
        assert [name for _, name, _ in model.functions] == ["twice"]
        assert read_manifest(model).notes == ()

    def test_a_function_that_makes_random_numbers_of_a_weight_stays(self, parse, normal):
        model = parse(
            """g (float[1,2] x) => (float[1,2] y) { t = local.noisy(W) y = MatMul(x, t) }
            <domain: "local", opset_import: ["" : 17]>
            noisy (w) => (r) { n = RandomNormalLike(w) r = Add(w, n) }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        assert not InlineWeightFunctions()(model).modified
        assert find_weights(model).weights == ()

    def test_functions_stay_if_asked_for(self, parse, normal):
        model = parse(
            self.TWICE.replace("y = local.dense(a)", "b = local.dense(a) y = MatMul(b, W)"),
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        MapConductances(inline_functions=False)(model)
        assert [name for _, name, _ in model.functions] == ["dense"]
        assert reasons(read_manifest(model)) == [("K", "inside_function")]

    def test_names_of_inlined_values_do_not_clash_with_names_of_the_model(self, parse, run, normal):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) { K = MatMul(x, W) y = local.dense(c, K, W) }
            <domain: "local", opset_import: ["" : 17]>
            dense (c, v, w) => (r) {
                r = If (c) <
                    then_branch = t () => (float[1,2] q) <float[2,2] W = {5, 6, 7, 8}> {
                        z = MatMul(v, W)
                        q = MatMul(z, w)
                    },
                    else_branch = e () => (float[1,2] p) {
                        K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                        p = MatMul(v, K)
                    }
                >
            }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        for condition in (True, False):
            manifest = self.mapped_in_runtime(model.clone(), run, x=self.X, c=np.array(condition))
        assert len({item.name for item in manifest.weights}) == len(manifest.weights) == 3

    def test_an_input_with_a_default_keeps_its_name_when_functions_are_inlined(self, parse, run, normal):
        text = "g (float[1,2] x, float[2,2] W) => (float[1,2] y) { a = local.dense(x) y = MatMul(a, W) }" + self.DENSE
        model = parse(text, opsets=self.OPSETS, W=normal(2, 2))
        manifest = self.mapped_in_runtime(model, run)
        assert inputs(model) == ["x", "W"]
        assert reasons(manifest) == [("W", "overridable_input")]

    def test_names_of_inlined_results_do_not_clash_with_initializers_in_their_own_body(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) { h = Neg(x) y = local.dense(c, h) }
            <domain: "local", opset_import: ["" : 17]>
            dense (c, v) => (r) {
                r = If (c) <
                    then_branch = t () => (float[1,2] q) <float[2,2] h_2 = {5, 6, 7, 8}> {
                        h = Neg(v)
                        q = MatMul(h, h_2)
                    },
                    else_branch = e () => (float[1,2] p) { p = Neg(v) }
                >
            }""",
            opsets=self.OPSETS,
        )
        assert len(self.mapped_in_runtime(model, run, x=self.X, c=np.array(True)).weights) == 1

    def test_a_shared_weight_gets_another_name_where_the_graph_around_its_calls_has_that_name(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) { V = Neg(x) a = local.choose(c, V) y = local.choose(c, a) }
            <domain: "local", opset_import: ["" : 17]>
            choose (c, v) => (r) {
                r = If (c) <
                    then_branch = t () => (float[1,2] a) { a = Identity(v) },
                    else_branch = e () => (float[1,2] b) <float[2,2] V = {1, -2, 3, 4}> { b = MatMul(v, V) }
                >
            }""",
            opsets=self.OPSETS,
        )
        assert MapConductances()(model).modified
        [(name, graph, readers)] = self.weights(read_manifest(model))
        assert (name != "V", graph, readers) == (True, "", 2)
        weight = np.array([[1, -2], [3, 4]], np.float32)
        [found] = run(model, x=self.X, c=np.array(False))
        np.testing.assert_allclose(found, -self.X @ weight @ weight, rtol=1e-5, atol=1e-6)

    def test_values_in_a_list_of_bodies_get_names_of_their_own(self, parse):
        model = parse(self.TWICE, opsets=self.OPSETS + ', "custom" : 1')
        bodies = [parse("b () => (float[1,2] K) { K = Constant <value = float[1,2] {1, 2}> () }").graph for _ in "ab"]
        choose = ir.Node("custom", "Choose", [], [ir.AttrGraphs("bodies", bodies)], name="choose")
        model.graph.append(choose)
        InlineWeightFunctions()(model)
        names = [body.outputs[0].name for body in bodies]
        outside = {value.name for node in model.graph for value in node.outputs} | {*model.graph.initializers}
        assert "K" in outside
        assert not outside & set(names)

    def test_initializers_in_bodies_of_a_function_are_shared_by_its_calls(self, parse, run):
        model = parse(
            """g (bool c, float[1,2] x) => (float[1,2] y) { a = local.dense(c, x) y = local.dense(c, a) }
            <domain: "local", opset_import: ["" : 17]>
            dense (c, v) => (r) {
                r = If (c) <
                    then_branch = t () => (float[1,2] q) <float[2,2] W = {5, 6, 7, 8}> { q = MatMul(v, W) },
                    else_branch = e () => (float[1,2] p) { p = Neg(v) }
                >
            }""",
            opsets=self.OPSETS,
        )
        manifest = self.mapped_in_runtime(model, run, x=self.X, c=np.array(True))
        assert self.weights(manifest) == [("W", "", 2)]

    def test_a_function_of_another_opset_stays_and_the_note_says_why(self, parse, normal):
        model = parse(
            self.TWICE.replace("y = local.dense(a)", "b = local.dense(a) y = MatMul(b, W)").replace("17]", "16]"),
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        MapConductances()(model)
        [note] = read_manifest(model).notes
        assert note == (
            "functions that use weights and cannot be inlined: local.dense "
            "(it imports version 16 of 'ai.onnx', the model version 17)"
        )
        assert reasons(read_manifest(model)) == [("K", "inside_function")]

    def test_a_function_that_calls_itself_stays_and_the_note_says_why(self, parse, normal):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) { a = local.endless(x, W) y = MatMul(a, V) }
            <domain: "local", opset_import: ["" : 17, "local" : 1]>
            endless (v, w) => (r) { b = local.endless(v, w) r = MatMul(b, w) }""",
            opsets=self.OPSETS,
            W=normal(2, 2),
            V=normal(2, 2),
        )
        MapConductances()(model)
        assert [weight.name for weight in read_manifest(model).weights] == ["V"]
        [note] = read_manifest(model).notes
        assert note.startswith("local functions cannot be inlined: ")

    def test_a_function_that_nobody_calls_is_listed(self, parse, normal):
        model = parse(
            "g (float[1,2] x) => (float[1,2] y) { y = MatMul(x, W) }" + self.DENSE,
            opsets=self.OPSETS,
            W=normal(2, 2),
        )
        MapConductances()(model)
        assert reasons(read_manifest(model)) == [("K", "inside_function")]
        assert len(model.functions) == 1

    def test_the_long_name_of_the_default_domain_is_the_same_domain(self, parse, run):
        model = parse(self.TWICE, opsets='"ai.onnx" : 17, "local" : 1')
        self.mapped_in_runtime(model, run)
        assert model.opset_imports == {"": 17, "local": 1}

    def test_a_refused_model_with_functions_stays_as_it_is(self, parse):
        model = parse(
            self.TWICE.replace("y = local.dense(a)", "b = local.dense(a) y = MatMul(b, W)"),
            opsets=self.OPSETS,
            W=np.full((2, 2), np.nan, np.float32),
        )
        before = content(model)
        with pytest.raises(UnmappableWeightError, match="'W'"):
            MapConductances()(model)
        assert content(model) == before

    def test_looking_at_the_plan_and_at_the_manifest_changes_nothing(self, parse):
        model = parse(self.TWICE, opsets=self.OPSETS)
        before = content(model)
        assert [weight.found.name for weight in MapConductances().plan(model).weights] == ["K"]
        preview = MapConductances().preview(model)
        assert content(model) == before
        MapConductances()(model)
        assert read_manifest(model) == preview

    def test_patterns_choose_among_the_weights_of_functions(self, parse):
        model = parse(self.TWICE, opsets=self.OPSETS)
        MapConductances(include=["inner*"])(model)
        assert [weight.name for weight in read_manifest(model).weights] == ["K"]

    def test_the_mapped_model_is_verified_and_restored(self, parse, save, run):
        path = save(parse(self.TWICE, opsets=self.OPSETS))
        report = map_model(path, dry_run=True)
        assert map_model(path).manifest == report.manifest == inspect_model(path).manifest
        verification = verify(path, path.with_name("model.gconv.onnx"))
        verification.raise_if_failed()
        assert [item.name for item in verification.weights] == ["K"]
        assert verification.outputs.comparisons
        plain = ir.load(restore_model(path.with_name("model.gconv.onnx")).output)
        assert not plain.functions
        np.testing.assert_allclose(run(plain, x=self.X)[0], run(ir.load(path), x=self.X)[0], rtol=1e-5)

    def test_another_original_with_functions_is_found_out(self, parse, save, tmp_path):
        path = save(parse(self.TWICE, opsets=self.OPSETS))
        output = map_model(path, tmp_path / "mapped.onnx").output
        other = save(parse(self.TWICE.replace("-2", "-3"), opsets=self.OPSETS))
        assert not verify(other, output).passed


class TestInlining:
    """The pass of its own."""

    def test_a_model_without_functions_is_not_modified(self, parse, normal):
        assert not InlineWeightFunctions()(parse(DENSE, W=normal(3, 4))).modified

    def test_a_function_that_cannot_be_inlined_is_named_with_the_reason(self, parse):
        model = parse(TestFunctions.TWICE.replace("17]", "16]"), opsets=TestFunctions.OPSETS)
        result = InlineWeightFunctions().call(model)
        assert (result.modified, result.inlined) == (False, ())
        assert result.left == ("local.dense (it imports version 16 of 'ai.onnx', the model version 17)",)

    def test_a_function_that_calls_itself_is_refused(self, parse, normal):
        model = parse(
            """g (float[2,2] x) => (float[2,2] y) { y = local.endless(x, W) }
            <domain: "local", opset_import: ["" : 17, "local" : 1]>
            endless (v, w) => (r) { b = local.endless(v, w) r = MatMul(b, w) }""",
            opsets=TestFunctions.OPSETS,
            W=normal(2, 2),
        )
        with pytest.raises(ModelError, match=r"local functions cannot be inlined: .*endless"):
            InlineWeightFunctions()(model)


class TestUpgradedOpsets:
    GEMM = """g (float[2,3] x, float[3,64] W, float[64] b) => (float[2,64] y) {
        [fc] h = Gemm <broadcast = 1> (x, W, b)
        [drop] y = Dropout <is_test = 1> (h)
    }"""
    MATMUL = "g (float[2,3] x, float[3,4] W) => (float[2,4] y) { [mm] y = MatMul(x, W) }"

    @pytest.fixture
    def old(self, parse, save, normal):
        """A model of opset 6, which ONNX Runtime does not run."""
        return save(parse(self.GEMM, opsets='"" : 6', ir_version=3, W=normal(3, 640)[:, :64].copy(), b=normal(64)))

    def expected(self, x, path):
        tensors = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
        return x @ tensors["W"] + tensors["b"]

    def test_a_model_below_opset_7_is_raised_and_mapped(self, old, run, normal):
        report = map_model(old, upgrade_opset=True)
        assert report.manifest.notes == (
            "the opset is 7, raised from 6 with onnx.version_converter",
            "the IR version is 4, it was 3: initializers are constants now, no graph inputs",
        )
        assert report.manifest.notes == inspect_model(report.output).manifest.notes
        model = ir.load(report.output)
        assert (model.opset_imports, inputs(model)) == ({"": 7}, ["x"])
        onnx.checker.check_model(ir.to_proto(model))
        CheckMapping()(model)
        x = normal(2, 3, seed=5)
        np.testing.assert_allclose(run(model, x=x)[0], self.expected(x, old), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("opset", [1, 2, 3, 4, 5, 6])
    def test_a_network_of_every_old_opset_computes_what_it_does_at_a_new_one(self, tmp_path, run, normal, opset):
        new, old = self.network(normal, 9), self.network(normal, opset)
        onnx.save(old, tmp_path / "old.onnx")
        report = map_model(tmp_path / "old.onnx", upgrade_opset=True)
        assert [weight.name for weight in report.mapped] == ["kernel", "W"]
        x = normal(1, 1, 8, 8, seed=9)
        [expected], [ours] = run(ir.from_proto(new), x=x), run(ir.load(report.output), x=x)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        verify(tmp_path / "old.onnx", report.output).raise_if_failed()

    def network(self, normal, opset):
        """The same network, with the attributes that its opset asks for."""
        in_place = {"consumed_inputs": [0]} if opset < 6 else {}
        statistics = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}
        node = onnx.helper.make_node
        nodes = [
            node("Conv", ["x", "kernel", "bias"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node(
                "BatchNormalization",
                ["c", "scale", "shift", "mean", "variance"],
                ["n"],
                **statistics,
                **({"is_test": 1} if opset < 7 else {}),
            ),
            node("Relu", ["n"], ["r"], **in_place),
            node("Flatten", ["r"], ["f"]) if opset > 4 else node("Reshape", ["r"], ["f"], shape=[1, 256]),
            node("Gemm", ["f", "W", "b"], ["g"], **({"broadcast": 1} if opset < 7 else {})),
            node("Softmax", ["g"], ["y"], axis=1),
        ]
        tensors = {
            "kernel": normal(4, 1, 3, 3),
            "W": normal(256, 10, seed=1) / 16,
            "variance": normal(4) ** 2 + 1,
            **{name: normal(4, seed=number) for number, name in enumerate(("bias", "scale", "shift", "mean"))},
            "b": normal(10),
        }
        shapes = {"x": (1, 1, 8, 8)} | {name: tensor.shape for name, tensor in tensors.items()}
        graph = onnx.helper.make_graph(
            nodes,
            "network",
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])],
            [onnx.numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=3)

    def test_inspecting_and_a_dry_run_say_the_same(self, old):
        previews = inspect_model(old, upgrade_opset=True), map_model(old, upgrade_opset=True, dry_run=True)
        report = map_model(old, upgrade_opset=True)
        assert all(preview.manifest == report.manifest for preview in previews)

    def test_verifying_compares_with_the_raised_original_and_says_so(self, old):
        output = map_model(old, upgrade_opset=True).output
        report = verify(old, output)
        report.raise_if_failed()
        assert [item.name for item in report.outputs.comparisons] == ["y", "y"]
        [note] = report.outputs.notes
        assert note.startswith("ONNX Runtime does not run the original at opset 6; its outputs are those that it has")
        assert note in " ".join(str(report).split())

    def test_a_spoiled_output_of_a_raised_model_is_found(self, old):
        output = map_model(old, upgrade_opset=True).output
        proto = onnx.load(output)
        [bias] = [item for item in proto.graph.initializer if item.name == "b"]
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, "b"))
        onnx.save(proto, output)
        assert not verify(old, output).passed

    def test_an_original_that_does_not_run_at_the_raised_opset_either_is_reported_as_it_is(self, parse, save, normal):
        path = save(
            parse(
                "g (float[2,3] x) => (float y) { h = MatMul(x, W) y = custom.Unknown(h) }",
                opsets='"" : 6, "custom" : 1',
                W=normal(3, 4),
            )
        )
        report = verify(path, map_model(path, upgrade_opset=True).output)
        report.raise_if_failed()
        assert report.outputs.not_compared.startswith(f"{path}: ONNX Runtime does not load the original")

    def test_an_old_original_that_the_runtime_runs_is_compared_as_it_is(self, parse, save, normal):
        path = save(parse(self.MATMUL, opsets='"" : 6', ir_version=3, W=normal(3, 4)))
        report = verify(path, map_model(path, upgrade_opset=True).output)
        report.raise_if_failed()
        assert report.outputs.comparisons
        assert report.outputs.notes == ()

    @pytest.mark.parametrize("size_threshold", [0, 1024])
    def test_external_data_is_raised_with_the_model(self, old, tmp_path, normal, size_threshold):
        folder = tmp_path / "external"
        folder.mkdir()
        path = folder / "model.onnx"
        onnx.save(onnx.load(old), path, save_as_external_data=True, location="w", size_threshold=size_threshold)
        report = map_model(path, upgrade_opset=True, external_data=True)
        assert len(report.files) == 2
        x = normal(2, 3, seed=5)
        [y] = ort.InferenceSession(str(report.output)).run(None, {"x": x})
        np.testing.assert_allclose(y, self.expected(x, old), rtol=1e-4, atol=1e-5)
        verify(path, report.output).raise_if_failed()

    def test_initializers_keep_their_order_and_the_large_ones_their_tensors(self, parse, normal):
        model = parse(
            "g (float[2,64] x) => (float[2,4] y) { h = MatMul(x, V) y = Gemm <broadcast = 1> (h, W, b) }",
            opsets='"" : 6',
            ir_version=4,
            b=normal(4),
            V=normal(64, 64),
            W=normal(64, 4),
        )
        tensor = model.graph.initializers["V"].const_value
        assert RaiseOpset(7)(model).modified
        assert not RaiseOpset(7)(model).modified
        assert list(model.graph.initializers) == ["b", "V", "W"]
        assert model.graph.initializers["V"].const_value is tensor
        assert inputs(model) == ["x"]

    def test_a_model_that_cannot_be_raised_is_left_as_it_was(self, parse, serialized, normal):
        model = parse(
            "g (float[2,64] x) => (float[2,64] y) { h = MatMul(x, V) y = test.Unknown(h) }",
            opsets='"" : 6, "test" : 1',
            ir_version=4,
            V=normal(64, 64),
        )
        model.graph.node(1).domain = ""  # which the converter does not know
        before = serialized(model)
        with pytest.raises(ModelError, match=r"cannot raise the model from opset 6 to 7: .*; export it again"):
            RaiseOpset(7)(model)
        assert serialized(model) == before

    def test_a_model_in_which_all_weights_can_be_mapped_keeps_its_opset(self, parse, normal):
        for opset in (7, 21):
            model = parse(DENSE, opsets=f'"" : {opset}', W=normal(3, 4))
            assert not RaiseOpset()(model).modified
            assert model.opset_imports == {"": opset}

    def test_a_converter_that_renames_an_output_has_not_raised_the_model(self, parse, serialized, normal, monkeypatch):
        def renaming(proto, version):
            proto.graph.output[0].name = proto.graph.node[-1].output[0] = "renamed"
            return proto

        model = parse(self.MATMUL, opsets='"" : 6', ir_version=3, W=normal(3, 4))
        before = serialized(model)
        monkeypatch.setattr(onnx.version_converter, "convert_version", renaming)
        message = (
            "onnx.version_converter cannot raise the model from opset 6 to 7: it changes the inputs or outputs; export "
            "it again with opset 7 or newer"
        )
        with pytest.raises(ModelError) as raised:
            RaiseOpset(7)(model)
        assert message in str(raised.value)
        assert serialized(model) == before

    def test_bfloat16_weights_raise_the_opset_to_13(self, parse, save, normal):
        path = save(
            parse(
                "g (bfloat16[2,3] x) => (bfloat16[2,4] y) { y = MatMul(x, W) }",
                opsets='"" : 9',
                W=normal(3, 4, dtype=ml_dtypes.bfloat16),
            )
        )
        report = map_model(path, upgrade_opset=True)
        assert report.manifest.notes == ("the opset is 13, raised from 9 with onnx.version_converter",)
        onnx.checker.check_model(onnx.load(report.output))

    def test_a_model_that_is_new_enough_stays_at_its_opset(self, parse, save, normal):
        path = save(parse(DENSE, opsets='"" : 9', W=normal(3, 4)))
        report = map_model(path, upgrade_opset=True)
        assert report.manifest.notes == ()
        assert ir.load(report.output).opset_imports == {"": 9}

    def test_a_model_without_weights_stays_at_its_opset(self, parse, save):
        path = save(parse("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", opsets='"" : 9'))
        assert inspect_model(path, upgrade_opset=True).manifest.notes == ()

    def test_weights_of_bodies_are_raised_with_them(self, parse, save, run):
        path = save(
            parse(
                """g (bool c, float[1,2] x) => (float[1,2] y) <float[2,2] V = {1, 2, 3, 4}> {
                    y = If (c) <
                        then_branch = t () => (float[1,2] a) {
                            K = Constant <value = float[2,2] {1, 2, 3, 4}> ()
                            a = MatMul(x, K)
                        },
                        else_branch = e () => (float[1,2] b) { b = MatMul(x, V) }
                    >
                }""",
                opsets='"" : 6',
                ir_version=4,
            )
        )
        report = map_model(path, upgrade_opset=True)
        assert [weight.name for weight in report.mapped] == ["K", "V"]
        for condition, matrix in ((True, [[1, 2], [3, 4]]), (False, [[1, 2], [3, 4]])):
            x = np.array([[0.5, -1]], np.float32)
            [y] = run(ir.load(report.output), c=np.array(condition), x=x)
            np.testing.assert_allclose(y, x @ np.array(matrix, np.float32), rtol=1e-5)

    def test_metadata_and_foreign_ops_stay(self, parse, save, normal):
        model = parse(
            "g (float[2,3] x) => (float y) { h = MatMul(x, W) y = custom.Unknown(h) }",
            opsets='"" : 6, "custom" : 1',
            ir_version=4,
            W=normal(3, 4),
        )
        model.metadata_props["author"] = "somebody"
        report = map_model(save(model), upgrade_opset=True)
        mapped = ir.load(report.output)
        assert mapped.metadata_props["author"] == "somebody"
        assert mapped.opset_imports == {"": 7, "custom": 1}

    def test_an_op_that_the_converter_does_not_know_is_one_error_with_a_remedy(self, parse, save, normal):
        path = save(
            parse("g (float[2,3] x) => (float y) { h = MatMul(x, W) y = Unknown(h) }", opsets='"" : 6', W=normal(3, 4))
        )
        with pytest.raises(
            ModelError,
            match=r"model.onnx': onnx.version_converter cannot raise .* 6 to 7: .*; export it again with opset",
        ):
            map_model(path, upgrade_opset=True)

    def test_functions_which_the_converter_would_drop_are_refused(self, parse, save, normal):
        path = save(
            parse(
                """g (float[2,3] x) => (float[2,4] y) { a = local.twice(x) y = MatMul(a, W) }
                <domain: "local", opset_import: ["" : 6]>
                twice (v) => (r) { r = Sum(v, v) }""",
                opsets='"" : 6, "local" : 1',
                W=normal(3, 4),
            )
        )
        with pytest.raises(ModelError, match="it has local functions; inline them first"):
            map_model(path, upgrade_opset=True)

    def test_bfloat16_weights_of_functions_below_opset_13_are_refused_too(self, parse, save, normal):
        path = save(
            parse(
                """g (bfloat16[2,3] x) => (bfloat16[2,4] y) { y = local.dense(x, W) }
                <domain: "local", opset_import: ["" : 12]>
                dense (v, w) => (r) { r = MatMul(v, w) }""",
                opsets='"" : 12, "local" : 1',
                W=normal(3, 4, dtype=ml_dtypes.bfloat16),
            )
        )
        assert reasons(inspect_model(path).manifest) == [("W", "opset_too_old")]
        with pytest.raises(ModelError, match="it has local functions; inline them first"):
            map_model(path, upgrade_opset=True)

    def test_the_long_name_of_the_default_domain_is_raised_too(self, parse, save, normal):
        path = save(parse(self.MATMUL, opsets='"ai.onnx" : 6', ir_version=3, W=normal(3, 4)))
        assert ir.load(map_model(path, upgrade_opset=True).output).opset_imports == {"": 7}
