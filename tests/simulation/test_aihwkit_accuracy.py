"""Accuracy over time beside aihwkit's own simulation of the same network."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import onnx_gconv as gconv
from onnx_gconv.models import model_path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")

TIMES = (1.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0)
CHIPS = 200


@pytest.fixture(scope="module")
def digits():
    with np.load(model_path("digits_test.npz")) as data:
        return data["images"].reshape(450, 64).astype(np.float32), data["labels"]


@pytest.fixture(scope="module")
def analog():
    """The digits MLP on aihwkit's tiles: PCM, global drift compensation, and else perfect."""
    model = onnx.load(model_path("digits_mlp.onnx"))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    layers = []
    for name in ("hidden1", "hidden2", "classifier"):
        weight = torch.from_numpy(stored[f"{name}.weight"].copy())
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, torch.from_numpy(stored[f"{name}.bias"].copy())
        layers += [layer, torch.nn.ReLU()]
    configs, inference = (importlib.import_module(f"aihwkit.{name}") for name in ("simulator.configs", "inference"))
    config = configs.TorchInferenceRPUConfig(forward=configs.IOParameters(is_perfect=True))
    config.noise_model = inference.PCMLikeNoiseModel(g_max=25.0)
    config.drift_compensation = inference.GlobalDriftCompensation()
    convert = importlib.import_module("aihwkit.nn.conversion").convert_to_analog
    return convert(torch.nn.Sequential(*layers[:-1]), config).eval()


def test_mean_accuracies_agree_within_the_joint_interval(analog, digits, tmp_path):
    pixels, labels = digits
    torch.manual_seed(1)
    theirs = np.empty((CHIPS, len(TIMES)))
    with torch.no_grad():
        for chip in range(CHIPS):
            analog.program_analog_weights()
            for number, seconds in enumerate(TIMES):
                analog.drift_analog_weights(seconds)
                theirs[chip, number] = (analog(torch.from_numpy(pixels)).argmax(dim=1).numpy() == labels).mean()
    np.savez(tmp_path / "data.npz", pixels=pixels, labels=labels)
    gconv.map_model(model_path("digits_mlp.onnx"), tmp_path / "mapped.onnx")
    report = gconv.simulate(
        tmp_path / "mapped.onnx",
        "pcm",
        times=TIMES,
        repeats=CHIPS,
        inputs=tmp_path / "data.npz",
        labels="labels",
        seed=2,
        drift_compensation="global",
    )
    ours = np.array([time.values for time in report.times]).T
    error = np.sqrt((ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / CHIPS)
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 1.96 * error)
    assert ours.mean(axis=0) == pytest.approx([0.967, 0.966, 0.964, 0.960, 0.957], abs=0.003)
