"""Mapped models that another tool has folded, wholly or in part: they are called so, and restored."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_gconv import ModelError, check_model, inspect_model, map_model, restore_model, verify
from onnx_gconv.cli import main
from onnx_gconv.files.models import load_model, save_model


@pytest.fixture
def mapped(tmp_path, parse, normal):
    model = parse(
        "g (float[2,16] x) => (float[2,9] y) { h = MatMul(x, W)  y = MatMul(h, V) }",
        W=normal(16, 12),
        V=normal(12, 9, seed=1),
    )
    save_model(model, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    return tmp_path / "mapped.onnx"


@pytest.fixture
def folded(mapped):
    """What ONNX Runtime saves after its basic optimizations: weights are initializers of their names again."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(mapped.with_name("folded.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(mapped, options, providers=["CPUExecutionProvider"])
    return mapped.with_name("folded.onnx")


def fold_one(path, name):
    """Fold one of the weights by hand, as a constant folder does."""
    model = onnx.load(path)
    tensors = {item.name: item for item in model.graph.initializer}
    parts = {part: onnx.numpy_helper.to_array(tensors[f"{name}.{part}"]) for part in ("g_plus", "g_minus", "g_scale")}
    weight = (parts["g_plus"] - parts["g_minus"]) / parts["g_scale"]
    for node in [node for node in model.graph.node if node.output[0] in {name, f"{name}.g_difference"}]:
        model.graph.node.remove(node)
    for part in parts:
        model.graph.initializer.remove(tensors[f"{name}.{part}"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, path)


def test_inspect_calls_a_folded_model_not_mapped(folded):
    report = inspect_model(folded)
    assert not report.is_mapped
    assert report.mapped == ()
    assert report.mvm_share == 0
    assert [record.name for record, _ in report.broken] == ["W", "V"]
    assert "the mapping was folded away: 'W' is a plain initializer again" in " ".join(str(report).split())
    assert "0 of 300 parameters of MVM ops (0.0%)" in " ".join(str(report).split())
    assert [item["name"] for item in report.to_json()["broken"]] == ["W", "V"]


def test_what_to_do_about_a_folded_model_is_said_alike_everywhere(folded, mapped):
    remedy = (
        "map the original again, after all other tools (docs/other-tools.md), or make a plain model of this one with "
        "`onnx-gconv restore`"
    )
    for report in (inspect_model(folded), check_model(folded), verify(mapped.with_name("model.onnx"), folded)):
        assert report.remedy == report.to_json()["remedy"] == remedy
        assert f"What to do: {remedy}." in " ".join(str(report).split())
    assert inspect_model(mapped).remedy is None


def test_arrays_of_conductances_are_those_that_are_there(folded, mapped):
    assert check_model(mapped).arrays == 4
    fold_one(mapped, "W")
    assert check_model(mapped).to_json()["conductance_arrays"] == 2
    assert check_model(folded).to_json()["conductance_arrays"] == 0


def test_a_folded_model_is_restored_by_dropping_its_manifest_and_can_be_mapped_again(folded, mapped, tmp_path):
    with pytest.raises(ModelError, match="is mapped already; restore it first"):
        map_model(folded)
    report = restore_model(folded, tmp_path / "plain.onnx")
    assert report.restored == ()
    assert report.folded == ("W", "V")
    assert "2 weights were plain already, as another tool has folded the mapping: W, V" in str(report)
    assert "onnx_gconv" not in load_model(tmp_path / "plain.onnx").metadata_props
    map_model(tmp_path / "plain.onnx", tmp_path / "again.onnx")
    verify(tmp_path / "plain.onnx", tmp_path / "again.onnx").raise_if_failed()
    restore_model(mapped, tmp_path / "restored.onnx")
    ours, theirs = (load_model(tmp_path / name).graph.initializers for name in ("restored.onnx", "plain.onnx"))
    for name in ("W", "V"):
        np.testing.assert_array_equal(ours[name].const_value.numpy(), theirs[name].const_value.numpy())


@pytest.mark.parametrize("name", ["W", "V"])
def test_of_a_partly_folded_model_the_rest_is_restored(mapped, tmp_path, name):
    fold_one(mapped, name)
    other = "V" if name == "W" else "W"
    report = inspect_model(mapped)
    assert report.is_mapped
    assert [item.name for item in report.mapped] == [other]
    assert 0 < report.mvm_share < 1
    report = restore_model(mapped, tmp_path / "plain.onnx")
    assert (report.restored, report.folded) == ((other,), (name,))
    assert {node.op_type for node in load_model(tmp_path / "plain.onnx").graph} == {"MatMul"}
    onnx.checker.check_model(tmp_path / "plain.onnx", full_check=True)


def test_a_folded_weight_of_another_shape_is_none(mapped, tmp_path):
    fold_one(mapped, "W")
    model = onnx.load(mapped)
    [tensor] = [item for item in model.graph.initializer if item.name == "W"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((16, 13), np.float32), "W"))
    onnx.save(model, mapped)
    with pytest.raises(ModelError, match="the weight 'W' cannot be restored: the mapping was folded away"):
        restore_model(mapped, tmp_path / "plain.onnx")


def test_a_weight_that_is_broken_otherwise_is_refused_as_before(mapped, tmp_path):
    model = onnx.load(mapped)
    next(node for node in model.graph.node if "W.g_minus" in node.input).op_type = "Add"
    onnx.save(model, mapped)
    assert [record.name for record, _ in inspect_model(mapped).broken] == ["W"]
    with pytest.raises(ModelError, match=r"'W' cannot be restored: the nodes compute \+1\*W.g_plus \+1\*W.g_minus"):
        restore_model(mapped, tmp_path / "plain.onnx")


def test_the_command_line_says_the_same(folded, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["onnx-gconv", *map(str, arguments)])
        assert main() == 0
        return capsys.readouterr().out

    assert "BROKEN: 'W': the mapping was folded away" in run("inspect", folded)
    found = json.loads(run("inspect", folded, "--json"))
    assert (found["is_mapped"], found["mapped"], found["mvm_share"]) == (False, [], 0)
    found = json.loads(run("restore", folded, "-o", folded.with_name("plain.onnx"), "--json"))
    assert (found["restored"], found["folded"]) == ([], ["W", "V"])
