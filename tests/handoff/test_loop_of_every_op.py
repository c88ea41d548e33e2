"""The loop of every op: the measured model computes in ONNX Runtime what NumPy computes with the tiles of the chip."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_gconv import read_back, write_bundle
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.passes import MapConductances
from tests.handoff.chip import programmed
from tests.handoff.op_graph import OPSETS
from tests.handoff.op_graphs import OP_GRAPHS
from tests.handoff.simulated_models import simulated_outputs
from tests.handoff.tile_products import tiled_layers


@pytest.mark.parametrize("op", OP_GRAPHS)
def test_the_measured_model_of_every_op_computes_what_the_tiles_of_the_chip_compute(parse, run, tmp_path, op):
    example, folder = OP_GRAPHS[op], tmp_path / "bundle"
    model = parse(example.text, opsets=OPSETS, **example.constants)
    MapConductances(include_ops=["Gather"])(model)
    save_model(model, tmp_path / "mapped.onnx")
    write_bundle(tmp_path / "mapped.onnx", folder, (5, 4), arrays="npz")
    chip = programmed(folder, sigma=0.2, dropped=0.05, dtype=np.float32)
    chip.write(tmp_path / "measured.npz")
    report = read_back(tmp_path / "mapped.onnx", tmp_path / "measured.npz", tmp_path / "measured.onnx", bundle=folder)
    errors = np.concatenate([found.ravel() for found in chip.errors.values()])
    assert report.errors.measured == np.count_nonzero(~np.isnan(errors))
    assert report.errors.std_us == pytest.approx(np.nanstd(errors))
    measured = load_model(tmp_path / "measured.onnx")
    if any(record.rounded for record in read_manifest(measured).weights):
        return  # each weight is rounded to a code, which tiles do not do; see test_read_back.py
    on_chip = {key: np.where(chip.success[key], chip.measured[key], targets) for key, targets in chip.targets.items()}
    np.savez(folder / "conductances.npz", **{**np.load(folder / "conductances.npz"), **on_chip})
    simulated = simulated_outputs(folder, tiled_layers(folder), example.feeds)
    for value, found in zip(measured.graph.outputs, run(measured, **example.feeds), strict=True):
        y = simulated[value.name]
        assert np.all(np.abs(y.value - found) <= y.error), value.name
        assert y.error.max() < 1e-4 * np.abs(y.value).max()
