"""AccelForge loads the folder that is written for it, and makes of it what the bundle says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnx_gconv.models import model_path
from onnx_gconv.runtime.session import ModelSession

LAYERS = ["L000", "L001", "L002", "L003", "L004"]

COUNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import load
import accelforge as af
from accelforge.frontend._workload_isl._isl import get_operation_space_size, get_tensor_size

workload = af.Workload.from_yaml(load.FOLDER / "workload.yaml", top_key="workload")
found = {}
for einsum in workload.einsums:
    weight = einsum.name.replace("O_", "W_")
    found[einsum.name] = [
        int(get_operation_space_size(workload, einsum.name)), int(get_tensor_size(workload, weight)),
        int(get_tensor_size(workload, einsum.name)),
    ]
print(json.dumps(found))
"""

CELL = """
import json, logging, os, sys
from hwcomponents_neurosim import neurointerface

template = os.path.join(os.path.dirname(neurointerface.__file__), "default_config.cfg")
neurointerface._buildcfg(sys.argv[1], template, logging.getLogger())
names = ["resistanceOn:", "resistanceOff:", "CELL_AREA", "readVoltage:"]
print(json.dumps([neurointerface.PARSED[name] for name in names]))
"""


def test_einsums_have_the_products_weights_and_outputs_of_the_model(accelforge, bundle, weights):
    found = accelforge("-c", COUNT, bundle.path / "accelforge", as_json=True)
    assert list(found) == [f"O_{name}" for name in LAYERS]
    assert [size for _, size, _ in found.values()] == weights
    outputs = [2 * 16 * 64, 2 * 16 * 64, 2 * 32 * 64, 2 * 64, 2 * 10]
    assert [size for _, _, size in found.values()] == outputs
    inputs_of_an_output = [9, 9, 16, 512, 64]
    products = [size * count for size, count in zip(outputs, inputs_of_an_output, strict=True)]
    assert [count for count, _, _ in found.values()] == products


def test_averages_are_those_of_conductances_and_inputs(accelforge, bundle, sample):
    """By AccelForge's own evaluation of its architecture, with the variables of each layer."""
    inner = ["relu", "relu_1", "view", "relu_3"]
    with ModelSession(model_path("digits_cnn.onnx"), "all", inner=inner) as session:
        known = {**sample, **session.run(sample)}
    text = accelforge(bundle.path / "accelforge/load.py")
    for name, layer, values in zip(LAYERS, bundle.layers, ["image", *inner], strict=True):
        line = re.search(
            rf"^{name}: (\d+) cells of a weight, average conductance (\S+), average input (\S+),", text, re.MULTILINE
        )
        assert line is not None
        assert int(line[1]) == 2
        record = layer.record
        shares = [(array - record.g_min) / (record.g_max - record.g_min) for array in layer.conductances().values()]
        assert float(line[2]) == pytest.approx(np.mean([share.mean() for share in shares]), abs=0.5 / 255)
        assert known[values].min() >= 0  # so that AccelForge encodes them as magnitudes
        integers = np.rint(known[values] / known[values].max() * 127)
        expected = np.mean([(integers.astype(int) >> bit & 1).mean() for bit in range(7)])
        assert float(line[3]) == pytest.approx(expected, abs=1e-3)
    assert f"arrays of {bundle.geometry.rows} x {bundle.geometry.columns}" in text


def test_its_cell_has_the_resistances_of_the_devices(accelforge, bundle):
    on, off, area, voltage = accelforge("-c", CELL, bundle.path / "accelforge/cell.yaml", as_json=True)
    record = bundle.layers[0].record
    assert on == pytest.approx(1 / (record.g_max * 1e-6), rel=1e-6)
    assert (off, area, voltage) == (1e12, 40, 0.1)
