"""A bundle with folders for ZigZag and AccelForge, and the environments of both, which `make receiver-checks` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_gconv import map_model
from onnx_gconv.handoff import open_bundle, write_bundle
from onnx_gconv.models import model_path

ROWS, COLUMNS = 64, 32


def python_of(name):
    """A function that runs Python in the environment of a tool, and returns its output, decoded from JSON if asked."""
    python = Path(os.environ[f"ONNX_GCONV_{name}"])

    def run(*arguments, as_json=False):
        command = [python, *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr[-3000:]
        return json.loads(found.stdout) if as_json else found.stdout

    return run


@pytest.fixture(scope="session")
def zigzag():
    return python_of("ZIGZAG")


@pytest.fixture(scope="session")
def accelforge():
    return python_of("ACCELFORGE")


@pytest.fixture(scope="session")
def sample():
    with np.load(model_path("digits_test.npz")) as data:
        return {"image": data["images"][:2]}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, sample):
    """The open bundle of the digits CNN, mapped and handed off for both tools."""
    folder = tmp_path_factory.mktemp("receivers")
    mapped = folder / "digits.gconv.onnx"
    map_model(model_path("digits_cnn.onnx"), mapped)
    write_bundle(
        mapped, folder / "bundle", (ROWS, COLUMNS), formats=["zigzag", "accelforge"], inputs=sample, adc_bits=6
    )
    with open_bundle(folder / "bundle") as opened:
        yield opened


@pytest.fixture(scope="session")
def weights():
    """The number of weights of each layer of the original model, in the order of its nodes, read with onnx alone."""
    model = onnx.load(model_path("digits_cnn.onnx"))
    sizes = {item.name: numpy_helper.to_array(item).size for item in model.graph.initializer}
    return [sizes[node.input[1]] for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]
