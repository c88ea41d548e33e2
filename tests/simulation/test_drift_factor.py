"""A weight on a chip and its compensation of drift are those of aihwkit's one-step noise, with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aihwkit.inference.compensation.drift import GlobalDriftCompensation
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel

from onnx_gconv.devices import normal_numbers
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.mapping import read_manifest
from onnx_gconv.mapping.located import locate
from onnx_gconv.mapping.model_values import ModelValues
from onnx_gconv.passes import MapConductances
from onnx_gconv.simulation import program_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")

TIMES = [1.0, 20.0, 3600.0, 86400.0, 31536000.0]


@pytest.fixture
def constant_noise(monkeypatch):
    """Each normal number is 0.3, in aihwkit too."""
    monkeypatch.setattr(normal_numbers, "_filling", lambda _: lambda piece, *_: piece.fill(0.3))
    monkeypatch.setattr("aihwkit.inference.noise.pcm.randn_like", lambda like: torch.full_like(like, 0.3))


@pytest.fixture
def weights(normal):
    return normal(64, 48)


def on_chip(parse, tmp_path, weights, **options):
    model = parse("g (float[2,64] x) => (float[2,48] y) { y = MatMul(x, W) }", W=weights)
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", "pcm", **options)
    chip = load_model(tmp_path / "chip.onnx")
    [record] = read_manifest(chip).weights
    return locate(record, ModelValues(chip)).rebuilt.numpy(), record


@pytest.mark.parametrize("seconds", TIMES)
def test_programming_drift_and_reading_give_the_weight_of_apply_noise(
    parse, tmp_path, weights, constant_noise, seconds
):
    found, _ = on_chip(parse, tmp_path, weights, time=seconds)
    expected = PCMLikeNoiseModel(g_max=25.0).apply_noise(torch.from_numpy(weights), seconds).numpy()
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(weights).max()


@pytest.mark.parametrize("seconds", TIMES)
def test_the_factor_is_that_of_global_drift_compensation(parse, tmp_path, weights, constant_noise, seconds):
    noise, compensation = PCMLikeNoiseModel(g_max=25.0), GlobalDriftCompensation()
    tensor = torch.from_numpy(weights)
    programmed = noise.apply_programming_noise(tensor)[0]
    drifted = noise.apply_noise(tensor, seconds)
    # A tile's output for one-hot inputs is its weight.
    baseline, current = (float(compensation.readout(each)) for each in (programmed, drifted))
    found, record = on_chip(parse, tmp_path, weights, time=seconds, drift_compensation="global")
    assert record.measured.factor == pytest.approx(baseline / current, rel=1e-6)
    expected = drifted.numpy() * (baseline / current)
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(weights).max()
