"""Verification from end to end: what passes, what fails, and what is said of it."""

from __future__ import annotations

import gc
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnx_gconv.verification
from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.errors import ConfigError, ModelError, VerificationError
from onnx_gconv.models import model_path
from onnx_gconv.operations.operations import map_model
from onnx_gconv.verification.verify import VerificationReport, _on_disk, verify
from tests import graphs

MODELS = ["digits_cnn.onnx", "digits_cnn_torchscript.onnx", "digits_mlp.onnx"]


def array(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape or (16, 16)).astype(dtype)


def write(path, nodes=None, *, batch="batch", **weights):
    """A chain of MatMul nodes from 'x' to 'h', and after it `nodes`, which lead from 'h' to 'y'."""
    first = next(iter(weights.values()))
    nodes = [*graphs.chain(weights, first="x", last="h"), *(nodes or [helper.make_node("Identity", ["h"], ["y"])])]
    kind = helper.np_dtype_to_tensor_dtype(first.dtype)
    ends = [graphs.value("x", kind, [batch, first.shape[0]])], [graphs.value("y", kind)]
    onnx.save(graphs.model(nodes, *ends, graphs.tensors(weights), domains=["", "custom"]), path)
    return path


def spoil(mapped, name, change=lambda conductance: conductance + 1):
    """Change one element of a conductance in a mapped model."""
    model = onnx.load(mapped)
    (tensor,) = (item for item in model.graph.initializer if item.name == name)
    conductance = numpy_helper.to_array(tensor).copy()
    conductance.flat[7] = change(conductance.flat[7])
    tensor.CopyFrom(numpy_helper.from_array(conductance, name))
    onnx.save(model, mapped)


@pytest.fixture
def original(tmp_path):
    return write(tmp_path / "in.onnx", first=array(), second=array(seed=1))


@pytest.fixture
def mapped(original):
    return map_model(original).output


# What passes


@pytest.mark.parametrize("exact", [False, True], ids=["default", "exact"])
@pytest.mark.parametrize("name", MODELS)
def test_the_mapping_of_a_trained_model_passes(tmp_path, name, exact):
    source = Path(shutil.copyfile(model_path(name), tmp_path / "in.onnx"))
    report = verify(source, map_model(source, None, SinglePairConductanceConverter(exact=exact)).output)
    report.raise_if_failed()
    assert report.passed
    assert report.problems == ()
    assert report.violations == ()
    assert report.weights
    assert all(item.bit_identical for item in report.weights) or not exact
    assert {item.optimization for item in report.outputs.comparisons} == {"all", "none"}
    assert all(item.compared_elements for item in report.outputs.comparisons)


def test_the_outputs_of_an_exact_mapping_are_bit_identical_when_optimized(tmp_path):
    source = Path(shutil.copyfile(model_path("digits_cnn.onnx"), tmp_path / "in.onnx"))
    report = verify(source, map_model(source, None, SinglePairConductanceConverter(exact=True)).output)
    (optimized,) = (item for item in report.outputs.comparisons if item.optimization == "all")
    assert optimized.bit_identical
    assert optimized.max_abs_error == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("external_data", [False, True])
def test_models_of_every_float_type_pass(tmp_path, dtype, external_data):
    source = write(tmp_path / "in.onnx", w=array(dtype=dtype))
    mapped = map_model(source, external_data=external_data).output
    verify(source, mapped).raise_if_failed()


def test_a_range_of_conductances_that_does_not_start_at_zero_passes(original):
    mapped = map_model(original, None, SinglePairConductanceConverter(g_max=40.0, g_min=2.0)).output
    verify(original, mapped).raise_if_failed()


def test_a_model_that_is_mapped_in_part_passes(original):
    report = verify(original, map_model(original, exclude=["first"]).output)
    report.raise_if_failed()
    assert [item.name for item in report.weights] == ["second"]


def test_verifying_changes_no_file(original, mapped):
    before = {file.name: file.read_bytes() for file in original.parent.iterdir()}
    verify(original, mapped)
    assert {file.name: file.read_bytes() for file in original.parent.iterdir()} == before


def test_the_package_offers_the_function_itself():
    assert onnx_gconv.verification.verify is verify
    assert onnx_gconv.verify is verify


# What fails


def test_a_changed_conductance_fails_and_the_weight_is_named(original, mapped):
    spoil(mapped, "second.g_plus")
    report = verify(original, mapped)
    assert not report.passed
    assert {item.name: item.passed for item in report.weights} == {"first": True, "second": False}
    assert any(problem.startswith("weight 'second' is rebuilt with an error of ") for problem in report.problems)


def test_a_failure_is_raised_with_both_files_and_the_weight(original, mapped):
    spoil(mapped, "second.g_plus")
    report = verify(original, mapped)
    with pytest.raises(VerificationError, match=r"in\.gconv\.onnx' does not verify against '.*in\.onnx': .*'second'"):
        report.raise_if_failed()


def test_a_message_of_many_problems_gives_the_first_three_and_the_number_of_the_others(tmp_path):
    source = write(tmp_path / "in.onnx", **{f"w{k}": array(seed=k) for k in range(6)})
    mapped = map_model(source).output
    for k in range(6):
        spoil(mapped, f"w{k}.g_plus")
    report = verify(source, mapped)
    with pytest.raises(VerificationError) as caught:
        report.raise_if_failed()
    message = str(caught.value)
    assert f"(and {len(report.problems) - 3} more)" in message
    assert all(problem in message for problem in report.problems[:3])
    assert report.problems[3] not in message


def test_a_conductance_below_the_range_is_a_violation(original, mapped):
    spoil(mapped, "first.g_minus", lambda _: -1e-3)
    report = verify(original, mapped)
    assert [violation.weight for violation in report.violations] == ["first"]
    assert "outside 0 to 25 µS" in report.violations[0].message


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_conductance_that_is_no_conductance_fails_and_is_named(original, mapped, value):
    spoil(mapped, "first.g_plus", lambda _: value)
    report = verify(original, mapped)
    assert not report.passed
    assert [violation.weight for violation in report.violations] == ["first"]
    assert {item.name for item in report.weights if not item.passed} == {"first"}
    json.dumps(report.to_json(), allow_nan=False)
    assert "'first'" in str(report)


def test_an_error_that_the_weights_hide_is_found_in_the_outputs(original, mapped):
    model = onnx.load(mapped)
    (last,) = (node for node in model.graph.node if list(node.output) == ["y"])
    last.op_type = "Neg"
    onnx.save(model, mapped)
    report = verify(original, mapped)
    assert all(item.passed for item in report.weights)
    assert not report.outputs.passed
    assert any(problem.startswith("output 'y' at optimization 'all'") for problem in report.problems)


def test_the_bias_of_another_model_is_found_in_the_outputs(tmp_path):
    def with_bias(path, bias):
        node = helper.make_node("Add", ["h", "b"], ["y"])
        source = write(path, [node], w=array())
        model = onnx.load(source)
        model.graph.initializer.append(numpy_helper.from_array(np.full(16, bias, np.float32), "b"))
        onnx.save(model, source)
        return source

    mapped = map_model(with_bias(tmp_path / "in.onnx", 1.0)).output
    report = verify(with_bias(tmp_path / "other.onnx", 1.5), mapped)
    assert all(item.passed for item in report.weights)
    assert not report.passed


def test_a_mapping_that_was_folded_away_fails_and_says_so(original, mapped):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(mapped.with_name("folded.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(mapped), options, providers=["CPUExecutionProvider"])
    report = verify(original, mapped.with_name("folded.onnx"))
    assert not report.passed
    for name in ("first", "second"):
        assert any(f"'{name}'" in problem and "folded away" in problem for problem in report.problems)
    assert report.outputs.passed  # its outputs are right; only the mapping has gone


def fold(mapped, *, keep_manifest=True):
    """Replace a mapped model by one in which a later tool has folded the nodes that rebuild weights."""
    model = onnx.load(mapped)
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    folded = {
        name.removesuffix(".g_scale"): (
            arrays[name.replace("g_scale", "g_plus")] - arrays[name.replace("g_scale", "g_minus")]
        )
        / scale
        for name, scale in arrays.items()
        if name.endswith(".g_scale")
    }
    nodes = [node for node in model.graph.node if node.op_type not in {"Sub", "Div"}]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(weight, name) for name, weight in folded.items())
    if not keep_manifest:
        del model.metadata_props[:]
    onnx.save(model, mapped)


def test_a_folded_mapping_whose_manifest_is_left_is_reported_for_every_weight(original, mapped):
    fold(mapped)
    report = verify(original, mapped)
    assert not report.passed
    for name in ("first", "second"):
        assert any(f"'{name}'" in problem and "folded away" in problem for problem in report.problems)
    assert any("last step, after all constant folding" in problem for problem in report.problems)


def test_a_folded_mapping_without_its_manifest_is_no_mapping(original, mapped):
    fold(mapped, keep_manifest=False)
    report = verify(original, mapped)
    assert report.problems == (
        "the model carries no mapping: it was never mapped, or a later tool removed the mapping and its manifest",
    )


def test_a_model_that_was_never_mapped_fails(original):
    report = verify(original, original)
    assert not report.passed
    assert report.weights == ()
    assert "carries no mapping" in report.problems[0]
    remedy = "map it with `onnx-gconv map`; if it was mapped, map it after all other tools (docs/other-tools.md)"
    assert report.remedy == report.to_json()["remedy"] == remedy
    assert f"What to do: {remedy}." in " ".join(str(report).split())
    with pytest.raises(VerificationError, match=r"removed the mapping and its manifest; map it with `onnx-gconv map`"):
        report.raise_if_failed()


def test_a_mapping_without_its_manifest_fails_and_says_what_happened(original, mapped):
    model = onnx.load(mapped)
    del model.metadata_props[:]
    onnx.save(model, mapped)
    report = verify(original, mapped)
    assert "the manifest is gone, but node" in report.problems[0]
    assert not report.passed


def test_a_damaged_manifest_fails_and_says_where(original, mapped):
    model = onnx.load(mapped)
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"scale":{', '"scale":[{', 1)
    onnx.save(model, mapped)
    report = verify(original, mapped)
    assert not report.passed
    assert "the manifest in metadata 'onnx_gconv' is damaged" in report.problems[0]


def test_another_original_fails_and_says_so(tmp_path, mapped):
    other = write(tmp_path / "other.onnx", first=array(), third=array(seed=1))
    report = verify(other, mapped)
    assert any(
        problem.startswith("weight 'second': the original has no weight of this name") for problem in report.problems
    )


def test_a_mapped_model_that_does_not_load_fails_and_says_so(original, mapped):
    model = onnx.load(mapped)
    (last,) = (node for node in model.graph.node if list(node.output) == ["h"])
    last.domain = "custom"
    onnx.save(model, mapped)
    report = verify(original, mapped)
    assert not report.passed
    assert {failure.stage for failure in report.outputs.failures} == {"load"}
    assert any("the mapped model does not load" in problem for problem in report.problems)


@pytest.mark.parametrize("which", ["original", "mapped"])
def test_a_file_that_is_no_model_is_an_error_that_names_it(original, mapped, which):
    (original if which == "original" else mapped).write_text("no model")
    with pytest.raises(ModelError, match=rf"{'in' if which == 'original' else 'in.gconv'}\.onnx' is not an ONNX model"):
        verify(original, mapped)


# Models that ONNX Runtime cannot run


@pytest.fixture
def custom(tmp_path):
    """A model with an op that ONNX Runtime does not know."""
    return write(tmp_path / "in.onnx", [helper.make_node("Unknown", ["h"], ["y"], domain="custom")], w=array())


def test_the_weights_of_a_model_that_the_runtime_cannot_run_are_compared(custom):
    report = verify(custom, map_model(custom).output)
    assert [(item.name, item.passed) for item in report.weights] == [("w", True)]
    assert report.outputs.comparisons == ()
    assert "ONNX Runtime does not load the original" in report.outputs.not_compared
    assert report.passed


def test_the_report_says_that_outputs_were_not_compared(custom):
    report = verify(custom, map_model(custom).output)
    text = " ".join(str(report).split())
    assert "OUTPUTS NOT COMPARED: " in text
    assert "NOT VERIFIED AS A WHOLE: 1 weight (" in text
    assert "and the mapping hold, but outputs were not compared." in text
    assert "PASSED" not in text
    assert report.to_json()["outputs_not_compared"] == report.outputs.not_compared
    assert report.to_json()["outputs"] == []


def test_a_changed_conductance_of_a_model_that_the_runtime_cannot_run_fails(custom):
    mapped = map_model(custom).output
    spoil(mapped, "w.g_plus")
    with pytest.raises(VerificationError, match="weight 'w' is rebuilt with an error of"):
        verify(custom, mapped).raise_if_failed()


# Inputs


def test_inputs_of_the_user_are_used(original, mapped, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=array(5, 16))
    report = verify(original, mapped, inputs=tmp_path / "inputs.npz")
    report.raise_if_failed()
    assert report.outputs.inputs.source == str(tmp_path / "inputs.npz")
    assert report.outputs.inputs.tensors[0].shape == (5, 16)
    assert report.outputs.comparisons[0].compared_elements == 5 * 16


def test_the_file_of_inputs_may_be_named_by_text(original, mapped, tmp_path):
    np.savez(tmp_path / "inputs.npz", x=array(5, 16))
    verify(str(original), str(mapped), inputs=str(tmp_path / "inputs.npz")).raise_if_failed()


def test_inputs_may_be_arrays(original, mapped):
    report = verify(original, mapped, inputs={"x": array(3, 16)})
    assert report.outputs.comparisons[0].compared_elements == 3 * 16


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": array(3, 16)}, "'y'"),
        ({"x": array(3, 15)}, r"\[3, 15\]"),
        ({"x": array(3, 16, dtype=np.float64)}, "float64"),
        ({}, "'x' is missing"),
    ],
    ids=["name", "shape", "type", "none"],
)
def test_inputs_that_do_not_fit_are_an_error(original, mapped, inputs, message):
    with pytest.raises(ConfigError, match=message):
        verify(original, mapped, inputs=inputs)


def test_sizes_of_generated_inputs_can_be_given(original, mapped):
    report = verify(original, mapped, dims={"batch": 7}, seed=3)
    assert report.outputs.inputs.tensors[0].shape == (7, 16)
    assert report.outputs.inputs.seed == 3


# Reports


def test_the_json_of_a_report_has_everything_that_the_command_line_promises(original, mapped):
    document = json.loads(json.dumps(verify(original, mapped).to_json(), allow_nan=False))
    assert document["passed"] is True
    assert document["original"] == str(original)
    assert document["mapped"] == str(mapped)
    assert document["problems"] == document["violations"] == document["run_failures"] == []
    for weight in document["weights"]:
        assert weight.keys() >= {"name", "max_abs_error", "max_relative_error", "bit_identical"}
    for output in document["outputs"]:
        assert output.keys() >= {"name", "optimization", "max_abs_error", "sqnr_db"}


def test_the_text_of_a_report_has_every_weight_every_output_and_a_verdict(original, mapped):
    report = verify(original, mapped)
    text = str(report)
    for name in ("first", "second", "y"):
        assert f"│ {name} " in text
    assert "PASSED: 2 weights (0 bit-identical), 2 comparisons of outputs, and the mapping hold." in text
    assert "seed 0" in text
    assert "\x1b" not in text


def test_the_text_of_a_failure_has_every_problem(original, mapped):
    spoil(mapped, "second.g_plus")
    report = verify(original, mapped)
    text = " ".join(str(report).split())
    assert "PASSED" not in text
    for problem in report.problems:
        assert " ".join(f"FAILED: {problem}".split()) in text


@pytest.mark.parametrize("name", ["layer[red]/w", "w[/x]", ":smile:"])
def test_names_of_weights_are_shown_as_they_are(tmp_path, name):
    source = write(tmp_path / "in.onnx", **{name: array()})
    mapped = map_model(source).output
    assert f"│ {name} " in str(verify(source, mapped))
    spoil(mapped, f"{name}.g_plus")
    assert f"FAILED: weight '{name}'" in str(verify(source, mapped))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_original_with_a_number_that_is_not_finite_fails_and_can_be_reported(tmp_path, value):
    mapped = map_model(write(tmp_path / "in.onnx", w=array()), tmp_path / "out.onnx").output
    weight = array()
    weight[0, 0] = value
    report = verify(write(tmp_path / "in.onnx", w=weight), mapped)
    assert not report.passed
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["weights"][0]["max_abs_error"] is None
    assert "'w'" in str(report)


def test_progress_is_told(original, mapped):
    steps = []
    verify(original, mapped, progress=lambda step, done, total: steps.append((step, done, total)))
    assert ("weights", 2048, 2048) in steps
    assert len({step for step, _, _ in steps}) > 1


def test_a_report_is_a_value_of_its_own_type(original, mapped):
    report = verify(original, mapped)
    assert isinstance(report, VerificationReport)
    assert (report.original, report.mapped) == (original, mapped)


# Memory: never more than one model's weights


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def large_tensors(model):
    values = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    return [tensor for tensor in values if tensor.nbytes > 1024]


def test_the_weights_of_a_model_in_one_file_are_spooled_to_a_temporary_folder(tmp_path, temporary):
    mapped = map_model(write(tmp_path / "in.onnx", w=array(32, 32))).output
    with _on_disk(mapped) as model:
        assert len(large_tensors(model)) == 2
        for tensor in large_tensors(model):
            assert isinstance(tensor, ir.ExternalTensor)
            assert temporary in Path(tensor.path).parents
    assert list(temporary.iterdir()) == []


def test_the_spooled_weights_are_those_of_the_model(tmp_path, temporary):
    mapped = map_model(write(tmp_path / "in.onnx", w=array(32, 32))).output
    expected = {item.name: numpy_helper.to_array(item).tobytes() for item in onnx.load(mapped).graph.initializer}
    with _on_disk(mapped) as model:
        found = {name: value.const_value.tobytes() for name, value in model.graph.initializers.items()}
    assert found == expected


def test_the_weights_in_memory_are_gone_while_those_on_disk_are_compared(tmp_path, temporary):
    mapped = map_model(write(tmp_path / "in.onnx", w=array(32, 32))).output
    with _on_disk(mapped):
        gc.collect()
        alive = [
            item
            for item in gc.get_objects()
            if type(item) in {ir.TensorProtoTensor, ir.Tensor} and item.name in {"w.g_plus", "w.g_minus"}
        ]
        assert alive == []


def test_a_model_with_external_data_is_read_where_it_is(tmp_path, temporary):
    mapped = map_model(write(tmp_path / "in.onnx", w=array(32, 32)), external_data=True).output
    with _on_disk(mapped) as model:
        assert {Path(tensor.path).parent for tensor in large_tensors(model)} == {tmp_path}
        assert list(temporary.iterdir()) == []


def test_the_temporary_folder_is_removed_when_the_verification_fails_or_is_interrupted(tmp_path, temporary):
    source = write(tmp_path / "in.onnx", w=array(32, 32))
    mapped = map_model(source).output

    def interrupt(*_):
        assert len(list(temporary.iterdir())) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(source, mapped, progress=interrupt)
    assert list(temporary.iterdir()) == []


def test_nothing_is_left_in_the_temporary_folder_after_a_verification(original, mapped, temporary):
    verify(original, mapped)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("external_data", [False, True])
@pytest.mark.parametrize("options", [{}, {"levels": 16}], ids=["floats", "levels"])
def test_weights_are_compared_if_the_data_of_other_tensors_is_missing_but_the_report_does_not_pass(
    tmp_path, options, external_data
):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [graphs.value("ids", 7, ["n"])], [graphs.value("y", 1)]
    absent = graphs.external_tensor("table", (100, 32), "table.bin")
    onnx.save(graphs.model(nodes, *ends, [absent, *graphs.tensors({"w": array(32, 32)})]), tmp_path / "in.onnx")
    mapped = map_model(tmp_path / "in.onnx", external_data=external_data, **options).output
    found = verify(tmp_path / "in.onnx", mapped)
    [weight] = found.weights
    assert weight.passed
    why = (
        f"'{tmp_path / 'in.onnx'}': the data file 'table.bin' of the tensor 'table' is not there, so that the model "
        "cannot be run; copy the data file there"
    )
    assert found.outputs.not_compared == why
    assert found.problems == (f"outputs were to be compared, but were not: {why}",)
    assert not found.passed
    array(100, 32, seed=1).tofile(tmp_path / "table.bin")
    assert verify(tmp_path / "in.onnx", mapped).passed
    if external_data:
        (tmp_path / f"{mapped.name}.data").unlink()
        with pytest.raises(ModelError, match=r"in.gconv.onnx': external data of tensor 'w.g_plus' cannot be read"):
            verify(tmp_path / "in.onnx", mapped)


def test_an_error_stands_beside_its_limit(tmp_path):
    """The limit is absolute: beside the relative error, it was read as the limit of that, which may be larger."""
    original = model_path("digits_mlp.onnx")
    report = verify(original, map_model(original, tmp_path / "mapped.onnx").output)
    lines = [[cell.strip() for cell in re.split("[┃│]", line)][1:-1] for line in str(report).splitlines()]
    [names] = [cells for cells in lines if cells[:1] == ["weight"]]
    assert names[:4] == ["weight", "max |error|", "allowed", "/ max |W|"]
    for item in report.weights:
        [cells] = [cells for cells in lines if cells[:1] == [item.name]]
        shown = [float(cell) for cell in cells[1:4]]
        assert shown == pytest.approx([item.max_abs_error, item.bound, item.max_relative_error], rel=5e-3)
