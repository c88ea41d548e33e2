"""The example workflows, by Olive's command line: export, map, evaluate; what they write is verified."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_gconv.models import model_path


def accuracy(metrics):
    return metrics["accuracy-accuracy_score"]["value"]


def exported_model(folder):
    """The model that Olive's own pass has exported, in Olive's cache."""
    for file in folder.glob(".olive-cache/*/runs/*/run.json"):
        if "onnxconversion" in file.read_text(encoding="utf-8"):
            return file.parent / "models" / "model.onnx"
    raise AssertionError("nothing was exported")


def data_files(model):
    """The files in which a model has tensors."""
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


@pytest.mark.parametrize(
    ("config", "output", "files"),
    [
        ("workflow.json", "mapped", set()),
        ("external_data.json", "mapped_external_data", {"model.gconv.onnx.data"}),
    ],
)
def test_a_network_is_exported_mapped_and_evaluated(examples, olive_run, gconv, written, config, output, files):
    found = olive_run(config)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 weights mapped" in found.stdout
    mapped, exported = examples / output / "model.onnx", exported_model(examples)
    assert data_files(mapped) == files
    assert bool(data_files(exported)) == bool(files)
    verified = json.loads(gconv("verify", exported, mapped, "--dim", "batch=4", "--json"))
    assert verified["passed"] is True
    attributes = written(examples / output / "model_config.json")["config"]["model_attributes"]["onnx_gconv"]
    assert [weight["name"] for weight in attributes["mapped"]] == ["hidden.weight", "scores.weight"]
    before, after = (written(examples / output / f"{name}.json") for name in ("input_model_metrics", "metrics"))
    assert accuracy(before) > 0.9
    assert abs(accuracy(after) - accuracy(before)) < 0.03


def test_a_search_shows_how_accuracy_grows_with_the_levels(examples, olive_run, written):
    shutil.copyfile(model_path("digits_mlp.onnx"), examples / "network.onnx")
    found = olive_run("levels.json")
    assert found.returncode == 0, found.stdout + found.stderr
    nodes = written(examples / "levels" / "footprint.json").values()
    results = {
        node["pass_run_config"]["levels"]: accuracy(node["metrics"]["value"])
        for node in nodes
        if node["pass_run_config"] is not None
    }
    assert list(results) == [2, 4, 16, 64]
    assert results[2] < 0.8
    assert 0.9 < results[4] < results[64]


def test_a_model_that_cannot_be_mapped_ends_the_workflow_with_an_error(examples, network, olive_run):
    network(examples / "in.onnx", W=np.full((8, 16), np.nan, np.float32))
    content = {"input_model": {"type": "ONNXModel", "model_path": "in.onnx"}, "passes": {"c": {"type": "OnnxGConv"}}}
    (examples / "nan.json").write_text(json.dumps(content), encoding="utf-8")
    found = olive_run("nan.json")
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert last.startswith("onnx_gconv.integrations.olive.MappingPassError: '")
    assert "in.onnx': the weight 'W' has the value nan at flat index 0; no conductance can hold it" in last


def test_the_numbered_example_prints_what_it_shows(tmp_path):
    example = Path(__file__).resolve().parents[2] / "examples" / "14_olive.py"
    shown = example.read_text(encoding="utf-8").split("# Output:\n")[1]
    found = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == [line.removeprefix("# ") for line in shown.splitlines()]
