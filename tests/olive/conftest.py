"""Fixtures for tests of Olive: models, and folders in which workflows run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv.integrations.olive_config import merged_package_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "olive"


def save_network(path, *, data_file=None, rows=5, **weights):
    """Write a model with a MatMul, and a Gather that is never mapped; its tensors go to a data file if one is named."""
    rng = np.random.default_rng(0)
    tensors = {
        "W": rng.standard_normal((8, 16)).astype(np.float32),
        "table": rng.standard_normal((rows, 16)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["product"], name="layer"),
        helper.make_node("Gather", ["table", "i"], ["row"]),
        helper.make_node("Add", ["product", "row"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8]),
            helper.make_tensor_value_info("i", TensorProto.INT64, [3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 16])],
        [numpy_helper.from_array(array, name) for name, array in (tensors | weights).items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path, save_as_external_data=data_file is not None, location=data_file, size_threshold=0)
    return path


@pytest.fixture
def network():
    return save_network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, in which workflows run and keep their cache."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workflow(folder):
    """Runs a workflow with the pass of onnx_gconv in this process, and returns Olive's best candidate."""
    from olive.workflows import run

    def run_workflow(model, options=None, **more):
        passes = {"conductances": {"type": "OnnxGConv", **(options or {})}}
        content = {"input_model": {"type": "ONNXModel", **model}, "passes": passes, "output_dir": "out", **more}
        return run(content, package_config=merged_package_config()).get_best_candidate()

    return run_workflow


@pytest.fixture
def examples(folder):
    """The current folder, with the files of the examples, and the package configuration that `olive-config` writes."""
    for file in EXAMPLES.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    gconv("olive-config", "-o", "passes.json")
    return folder


def gconv(*arguments):
    """Runs the command line in the current folder."""
    command = [sys.executable, "-m", "onnx_gconv", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def olive_run(config, **more):
    """Runs Olive's command line, in the current folder."""
    command = [Path(sys.executable).with_name("olive"), "run", "--config", config, "--package-config", "passes.json"]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=600, env={**os.environ, "CI": "true"}, **more
    )


@pytest.fixture(name="gconv")
def gconv_fixture():
    return gconv


@pytest.fixture(name="olive_run")
def olive_run_fixture():
    return olive_run


@pytest.fixture
def written():
    """Reads a JSON file that Olive has written."""
    return lambda path: json.loads(Path(path).read_text(encoding="utf-8"))
