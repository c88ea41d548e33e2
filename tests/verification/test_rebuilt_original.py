"""The original with the rebuilt weights in it, wherever its weights are from, and why it cannot always be made."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnx_gconv import map_model, read_back, verify, write_bundle
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes.decode_packed_weights import as_it_was_mapped
from onnx_gconv.verification.lossy_outputs import JUDGED_BY_REBUILT_WEIGHTS
from onnx_gconv.verification.raised_original import raised_original
from onnx_gconv.verification.random_numbers import random_numbers
from onnx_gconv.verification.rebuilt_original import NoRebuiltOriginalError, original_with_rebuilt_weights
from tests.handoff.chip import programmed

OLD = "g (float[2,6] x, float[6,4] W) => (float[2,4] y) { h = MatMul(x, W) y = Relu(h) }"
ALONE = "outputs are judged against the original alone, as it cannot hold the rebuilt weights: "


@pytest.fixture
def original(parse, tmp_path):
    """Writes an original."""

    def write(text, *, name="model.onnx", **options):
        save_model(parse(text, **options), tmp_path / name)
        return tmp_path / name

    return write


def spoil(path, name):
    """Change one element of a constant."""
    model = onnx.load(path)
    [tensor] = [item for item in model.graph.initializer if item.name == name]
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, path)


PLACES = {
    "an initializer that other nodes read": "y = MatMul(x, A) s = ReduceSum(A) r = Add(y, s)",
    "computed": "V = Neg(A) h = MatMul(x, V) r = Add(h, b)",
    "computed for others, too": "V = Neg(A) h = MatMul(x, V) s = ReduceSum(V) r = Add(h, s)",
    "a constant": "V = Constant <value = float[6,1] {1.0, 0.3, -0.2, 0.9, 0.1, 1.7}> () h = MatMul(x, V) r = Add(h, b)",
}


@pytest.mark.parametrize("place", PLACES)
def test_outputs_are_judged_by_the_rebuilt_weights_wherever_they_are_from(original, normal, place):
    source = original(f"g (float[2,6] x) => (float r) {{ {PLACES[place]} }}", A=normal(6, 4), b=normal(1))
    mapped = map_model(source, levels=32).output
    report = verify(source, mapped)
    report.raise_if_failed()
    assert report.outputs.notes[0].endswith(JUDGED_BY_REBUILT_WEIGHTS)
    for item in report.outputs.comparisons:
        assert item.rebuilt_error <= item.tolerance < item.max_abs_error
    if "b)" in PLACES[place]:
        spoil(mapped, "b")
        assert not verify(source, mapped).passed


def test_outputs_are_judged_by_the_rebuilt_numbers_of_codes(original):
    text = "g (float[2,6] x) => (float y) { W = DequantizeLinear(C, s) y = MatMul(x, W) }"
    codes = np.random.default_rng(0).integers(-128, 128, (6, 4)).astype(np.int8)
    source = original(text, C=codes, s=np.float32(0.02))
    report = verify(source, map_model(source, quantized="dequantized", levels=32).output)
    report.raise_if_failed()
    assert "judged against the original with the rebuilt weights" in report.outputs.notes[0]


def test_a_computed_weight_that_is_an_output_keeps_its_name(original, normal):
    text = "g (float[2,6] x) => (float y, float[6,4] V) { V = Neg(A) y = MatMul(x, V) }"
    source = original(text, A=normal(6, 4))
    mapped = map_model(source, levels=32).output
    report = verify(source, mapped)
    report.raise_if_failed()
    assert {item.name for item in report.outputs.comparisons} == {"y", "V"}
    manifest = read_manifest(load_model(mapped))
    with original_with_rebuilt_weights(source, mapped, manifest) as path:
        assert path.name == source.name
        model = load_model(path)
        assert [value.name for value in model.graph.outputs] == ["y", "V"]
        assert "V.rebuilt" in model.graph.initializers
    assert not path.exists()


def test_an_original_without_such_a_weight_is_named(original, normal):
    mapped = map_model(original("g (float[2,6] x) => (float y) { y = MatMul(x, A) }", A=normal(6, 4)), levels=32).output
    other = original("g (float[2,6] x) => (float y) { y = MatMul(x, A) }", name="other.onnx", A=normal(6, 5))
    said = "the original has no weight 'A' of its type and shape"
    with (
        pytest.raises(NoRebuiltOriginalError, match=f"^{said}$"),
        original_with_rebuilt_weights(other, mapped, read_manifest(load_model(mapped))),
    ):
        pass
    assert verify(other, mapped).outputs.notes[0] == f"{ALONE}{said}"


def test_a_weight_that_the_mapped_model_does_not_rebuild_is_named(original, normal):
    source = original("g (float[2,6] x) => (float y) { y = MatMul(x, A) }", A=normal(6, 4))
    mapped = map_model(source, levels=32).output
    model = load_model(mapped)
    [node] = [node for node in model.graph if node.op_type == "MatMul"]
    for value in node.inputs[1:]:
        value.name = "A_other"
    manifest = read_manifest(model)
    model.graph.initializers.pop("A.g_plus").name = "gone"
    model.graph.initializers.add(next(v for node in model.graph for v in node.inputs if v.name == "gone"))
    save_model(model, mapped)
    with (
        pytest.raises(NoRebuiltOriginalError, match=r"^the weight 'A' cannot be rebuilt: .*A\.g_plus"),
        original_with_rebuilt_weights(source, mapped, manifest),
    ):
        pass


def test_an_old_original_gets_the_weights_at_the_opset_of_the_mapped_model(original, normal):
    source = original(OLD, opsets='"" : 6', ir_version=3, W=normal(6, 4))
    report = verify(source, map_model(source, levels=32, upgrade_opset=True).output)
    report.raise_if_failed()
    assert report.outputs.notes[0].endswith(JUDGED_BY_REBUILT_WEIGHTS)


@pytest.mark.parametrize("levels", [None, 32])
def test_an_original_that_cannot_be_raised_is_reported_as_it_is(original, normal, levels):
    source = original(OLD, opsets='"" : 6', ir_version=3, W=normal(6, 4))
    mapped = map_model(source, levels=levels, upgrade_opset=True).output
    model = load_model(source)
    model.graph.append(ir.Node("", "Frobnicate", [model.graph.inputs[0]], num_outputs=1))
    save_model(model, source)
    with raised_original(source, mapped) as raised:
        assert raised is None
    report = verify(source, mapped)
    assert report.outputs.not_compared.startswith(f"{source}: ONNX Runtime does not load the original")
    if levels is not None:
        assert report.outputs.notes[0].startswith(f"{ALONE}onnx.version_converter cannot raise the model from opset 6")


def test_functions_that_cannot_be_inlined_stay(parse, normal):
    text = """g (float[2,6] x) => (float y) { y = own.f(x, W, x) }
    <domain: "own", opset_import: ["" : 17]>
    f (a, w) => (b) { b = MatMul(a, w) }"""
    model = parse(text, opsets='"" : 17, "own" : 1', W=normal(6, 4))
    other = parse("g (float[2,6] x) => (float y) { y = Neg(x) }")
    assert as_it_was_mapped(model, other) is model
    assert as_it_was_mapped(other, other) is other


def test_a_measured_bias_that_is_no_constant_any_more_is_named(original, normal, tmp_path):
    constants = {"W": normal(6, 4), "c": normal(4) / 10}
    source = original("g (float[2,6] x) => (float y) { y = Gemm(x, W, c) }", **constants)
    mapped = map_model(source).output
    write_bundle(mapped, tmp_path / "model.gconv", (8, 8), bias_rows=1)
    programmed(tmp_path / "model.gconv", dropped=0).write(tmp_path / "measured.h5")
    measured = tmp_path / "measured.onnx"
    read_back(mapped, tmp_path / "measured.h5", measured)
    manifest = read_manifest(load_model(measured))
    verify(source, measured).raise_if_failed()
    model = load_model(measured)
    bias = model.graph.initializers.pop("c")
    bias.name = "another"
    model.graph.initializers.add(bias)
    save_model(model, measured)
    with (
        pytest.raises(NoRebuiltOriginalError, match=r"^the measured bias 'c' is no constant of the mapped model$"),
        original_with_rebuilt_weights(source, measured, manifest),
    ):
        pass


# Random numbers


@pytest.mark.parametrize(
    ("seeds", "expected"), [([], "none"), ([1.0], "seeded"), ([None], "unseeded"), ([1.0, None], "unseeded")]
)
def test_a_model_draws_the_same_numbers_if_all_nodes_have_a_seed(tmp_path, seeds, expected):
    node = helper.make_node
    nodes = [
        node("RandomNormal", [], [f"n{k}"], shape=[2], **({} if seed is None else {"seed": seed}))
        for k, seed in enumerate(seeds)
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([*nodes, node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    assert random_numbers(tmp_path / "m.onnx") == expected


@pytest.mark.parametrize(("seed", "expected"), [({"seed": 1.0}, "seeded"), ({}, "unseeded")])
def test_random_numbers_that_a_function_draws_are_those_of_the_model(tmp_path, seed, expected):
    node, opset = helper.make_node, helper.make_opsetid
    function = helper.make_function(
        "own", "Noise", [], ["n"], [node("RandomNormal", [], ["n"], shape=[2], **seed)], [opset("", 17)]
    )
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    nodes = [node("Noise", [], ["n"], domain="own"), node("Add", ["x", "n"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [opset("", 17), opset("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10), tmp_path / "m.onnx")
    assert random_numbers(tmp_path / "m.onnx") == expected


# Weights


def test_an_original_whose_weight_is_not_computed_from_constants_is_a_problem(original, normal):
    text = "g (float[2,6] x, float[6,4] A) => (float y) { V = Neg(A) y = MatMul(x, V) }"
    source = original(text.replace(", float[6,4] A", ""), A=normal(6, 4))
    other = original(text, name="other.onnx")
    report = verify(other, map_model(source).output)
    assert report.problems[0].startswith("weight 'V': the original weight cannot be computed: ")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_clipped_weights_of_any_type_keep_their_promise(original, parse, normal, tmp_path, dtype):
    kind = np.dtype(dtype).name.replace("float32", "float")
    text = f"g ({kind}[2,16] x) => ({kind} y) {{ y = MatMul(x, A) }}"
    source = original(text, A=normal(16, 12).astype(dtype))
    report = verify(source, map_model(source, clipping={"percentile": 95.0}).output)
    report.raise_if_failed()
    [weight] = report.weights
    assert weight.clipped == 9
    assert weight.max_abs_error > weight.bound > 0


def test_an_original_that_could_not_be_mapped_to_the_range_fails(original, normal):
    text = "g (float[2,6] x) => (float y) { y = MatMul(x, A) }"
    mapped = map_model(original(text, A=normal(6, 4)), g_max=1e-8, unit="uS").output
    other = original(text, name="other.onnx", A=normal(6, 4) * np.float32(1e38))
    report = verify(other, mapped)
    assert not report.passed
    assert report.problems[0].startswith("weight 'A' is rebuilt with an error of ")
