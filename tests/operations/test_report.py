"""What reports say, to people and to programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.models import model_path
from onnx_gconv.operations.operations import inspect_model, map_model, restore_model
from onnx_gconv.terminal_text import rendered
from tests import graphs


def write(path, *, op_type="MatMul", shape=(16, 16), nodes=(), names=("w",), dtype=np.float32):
    weights = [
        numpy_helper.from_array(np.random.default_rng(0).normal(size=shape).astype(dtype), name) for name in names
    ]
    model = graphs.chain_model(*weights, op_type=op_type)
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


@pytest.fixture
def cnn(tmp_path):
    return Path(shutil.copyfile(model_path("digits_cnn.onnx"), tmp_path / "cnn.onnx"))


# To programs


def test_the_json_of_a_mapping_has_everything_that_the_command_line_promises(cnn):
    report = map_model(cnn, exclude=["stem*"]).to_json()
    assert report.keys() >= {"output", "mapped", "skipped", "is_mapped", "model", "files"}
    assert report["output"] == str(cnn.with_name("cnn.gconv.onnx"))
    assert report["files"] == [report["output"]]
    assert report["is_mapped"] is False
    for weight in report["mapped"]:
        assert weight.keys() >= {"name", "shape", "dtype", "converter", "granularity", "scale", "consumers"}
        assert weight["converter"] == "SinglePairConductanceConverter"
        assert weight["converter_parameters"] == {"g_max": 25.0, "g_min": 0.0, "exact": False}
        assert weight["granularity"] == "tensor"
        assert isinstance(weight["scale"], float)
        for consumer in weight["consumers"]:
            assert consumer.keys() >= {"node", "op_type", "slot"}
    for item in report["skipped"]:
        assert item.keys() >= {"name", "shape", "reason", "explanation", "detail"}


def test_the_json_of_a_mapping_can_be_written_and_read(cnn):
    report = map_model(cnn, exclude=["stem*"]).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == json.loads(json.dumps(report))


def test_the_json_has_the_very_scale_of_the_model(cnn):
    report = map_model(cnn)
    scales = {
        item.name: float(numpy_helper.to_array(item))
        for item in onnx.load(report.output).graph.initializer
        if item.name.endswith("g_scale")
    }
    assert {weight["scale_name"]: weight["scale"] for weight in report.to_json()["mapped"]} == scales


def test_the_json_of_a_dry_run_has_no_output(cnn):
    report = map_model(cnn, dry_run=True).to_json()
    assert report["output"] is None
    assert report["files"] == []
    assert len(report["mapped"]) == 5


def test_the_json_of_an_inspection_has_the_keys_of_a_mapping(cnn):
    mapped = map_model(cnn)
    plain, after = inspect_model(cnn).to_json(), inspect_model(mapped.output).to_json()
    assert plain.keys() == after.keys() == mapped.to_json().keys()
    assert (plain["is_mapped"], after["is_mapped"]) == (False, True)
    assert plain["mapped"] == after["mapped"] == mapped.to_json()["mapped"]


def test_the_json_of_restoring_lists_the_weights(cnn):
    report = restore_model(map_model(cnn).output).to_json()
    assert report == {
        "model": str(cnn.with_name("cnn.gconv.onnx")),
        "output": str(cnn.with_name("cnn.restored.onnx")),
        "files": [str(cnn.with_name("cnn.restored.onnx"))],
        "restored": ["stem.weight", "depthwise.weight", "pointwise.weight", "hidden.weight", "classifier.weight"],
        "folded": [],
        "notes": [],
    }


def test_the_share_of_mapped_parameters_counts_skipped_weights_of_mvm_ops(tmp_path):
    report = map_model(write(tmp_path / "in.onnx", names=("a", "b", "c", "d")), exclude=["a"])
    assert (report.mapped_parameters, report.skipped_mvm_parameters, report.mvm_share) == (768, 256, 0.75)


def test_the_share_is_none_if_there_are_no_weights_of_mvm_ops(tmp_path):
    report = inspect_model(write(tmp_path / "in.onnx", op_type="Add"))
    assert report.to_json()["mvm_share"] is None


# To people


def test_the_text_shows_every_mapped_weight_with_shape_type_scale_and_reader(tmp_path):
    report = map_model(write(tmp_path / "in.onnx", shape=(16, 16)))
    (line,) = (line for line in str(report).splitlines() if "node_w" in line)
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == [
        "w",
        "16x16",
        "float32",
        f"{report.mapped[0].scale.value:.6g}",
        "MatMul node_w 16x16",
    ]


def test_the_text_counts_in_words(tmp_path):
    assert "1 weight mapped" in str(map_model(write(tmp_path / "in.onnx")))
    assert "2 weights mapped" in str(map_model(write(tmp_path / "two.onnx", names=("a", "b"))))


def test_the_text_says_what_share_of_the_parameters_is_mapped(tmp_path):
    report = map_model(write(tmp_path / "in.onnx", names=("a", "b", "c", "d")), exclude=["a"])
    assert "768 of 1,024 parameters of MVM ops (75.0%) are mapped to conductances." in str(report)


def test_the_text_of_a_plan_is_in_the_conditional(tmp_path):
    source = write(tmp_path / "in.onnx")
    for report in (map_model(source, dry_run=True), inspect_model(source)):
        assert "1 weight to be mapped" in str(report)
        assert "would be mapped" in str(report)
        assert "Written" not in str(report)


def test_the_text_of_a_mapped_model_is_in_the_indicative(tmp_path):
    text = str(inspect_model(map_model(write(tmp_path / "in.onnx")).output))
    assert "1 weight mapped" in text
    assert "are mapped" in text


def test_the_text_shows_skipped_weights_of_mvm_ops_with_their_reasons(tmp_path):
    report = map_model(write(tmp_path / "in.onnx", names=("a", "b")), exclude=["a"])
    assert "1 weight skipped" in str(report)
    (line,) = (line for line in str(report).splitlines() if "patterns or an override" in line)
    assert "│ a " in line


def test_the_text_sums_up_other_constants(tmp_path):
    text = str(inspect_model(write(tmp_path / "in.onnx", op_type="Add")))
    assert "Other constants with two or more axes are not weights of MVM ops: 1 read by Add." in text
    assert "The model has no weights of MVM ops." in text


def test_the_text_names_the_converter_with_its_range(tmp_path):
    source = write(tmp_path / "in.onnx")
    plain = map_model(source, None, SinglePairConductanceConverter(g_max=40.0, g_min=0.5))
    exact = map_model(source, None, SinglePairConductanceConverter(exact=True))
    assert "Converter: SinglePairConductanceConverter, 0.5 to 40 µS" in str(plain)
    assert "Converter: SinglePairConductanceConverter, 0 to 25 µS, exact" in str(exact)


def test_the_text_names_the_written_files_with_their_sizes(tmp_path):
    report = map_model(write(tmp_path / "in.onnx", shape=(512, 512)), external_data=True)
    small, large = report.files
    text = " ".join(str(report).split())  # where lines are broken depends on the length of the path
    assert f"{small} ({small.stat().st_size / 1024:.1f} KiB)" in text
    assert f"{large} (2.0 MiB)" in text


def test_the_text_can_be_printed_when_the_files_have_gone(tmp_path):
    report = map_model(write(tmp_path / "in.onnx"))
    restored = restore_model(report.output)
    restored.output.unlink()
    report.output.unlink()
    assert "in.gconv.onnx" in str(report)
    assert "in.restored.onnx" in str(restored)


def test_the_text_of_restoring_counts_the_weights_and_names_the_files(cnn):
    report = restore_model(map_model(cnn).output)
    assert str(report).startswith("5 weights restored.\nWritten: ")
    assert str(report.output) in str(report)


@pytest.mark.parametrize("name", ["layers[0]/w", "layer[red]/w", "[bold]w", "w[/x]", "a\\[b]", ":smile:", "ünï/重み"])
def test_names_are_shown_as_they_are_whatever_they_look_like(tmp_path, name):
    source = write(tmp_path / "in.onnx", names=(name, "other"))
    assert f"│ {name} " in str(map_model(source))
    assert f"MatMul node_{name} " in str(map_model(source))
    assert f"│ {name} " in str(map_model(source, include=["other"]))


def test_a_grouped_convolution_is_shown_as_its_matrices(cnn):
    assert "Conv node_conv2d_1 16 x 9x1" in str(map_model(cnn))


def test_a_weight_in_a_body_is_shown_with_its_graph(tmp_path):
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x0", "inner"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((16, 16), np.float32), "inner")],
    )
    choice = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    node = helper.make_node("If", ["c"], ["unused"], name="choose", then_branch=body, else_branch=body)
    report = map_model(write(tmp_path / "in.onnx", nodes=[choice, node]))
    assert "in choose.then_branch" in str(report)
    assert "in choose.else_branch" in str(report)


def test_a_note_on_a_weight_is_shown(tmp_path):
    source = write(tmp_path / "in.onnx", shape=(2, 1))
    model = onnx.load(source)
    # The smallest subnormal number has no exact conductance in float32 at a scale below one.
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([[60], [1e-45]], np.float32), "w"))
    onnx.save(model, source)
    report = map_model(source, None, SinglePairConductanceConverter(exact=True))
    assert report.mapped[0].notes
    assert f"'w': {report.mapped[0].notes[0]}" in " ".join(str(report).split())


def test_weights_that_come_back_through_levels_without_an_error_are_said_to(tmp_path):
    source = write(tmp_path / "in.onnx", op_type="MatMulInteger", shape=(4, 3), dtype=np.int8)
    report = map_model(source, levels=256)
    assert report.mapped[0].loss.sqnr_db is None
    assert "no error" in str(report)
    rounded = map_model(write(tmp_path / "floats.onnx"), levels=256)
    assert "no error" not in str(rounded)
    assert f"{rounded.mapped[0].loss.sqnr_db:.1f}" in str(rounded)


def test_rendered_text_has_no_colours_and_keeps_to_its_width(cnn):
    text = rendered(map_model(cnn), width=90)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize(
    ("converter", "text"),
    [
        ({"name": "Newer", "parameters": {"g_max": 25.0}}, "the converter 'Newer', which this version does not know"),
        (
            {"name": "SinglePairConductanceConverter", "parameters": {"g_max": "x", "g_min": 0.0}},
            "wrong parameters for 'SinglePairConductanceConverter': g_max should be a number",
        ),
    ],
)
def test_a_converter_that_cannot_be_told_does_not_hide_the_rest(cnn, converter, text):
    mapped = map_model(cnn).output
    model = onnx.load(mapped)
    [entry] = model.metadata_props
    document = json.loads(entry.value)
    document["weights"][0]["converter"] = converter
    entry.value = json.dumps(document)
    onnx.save(model, mapped)
    report = " ".join(str(inspect_model(mapped)).split())
    assert text in report
    assert "SinglePairConductanceConverter, 0 to 25 µS" in report
