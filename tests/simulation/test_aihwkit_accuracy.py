"""Accuracy over time beside aihwkit's own simulation of the same network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import onnx_gconv as gconv
from benchmarks.simulate import analog_network, digits
from onnx_gconv.models import model_path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:aihwkit.*", "ignore::UserWarning:aihwkit.*")

TIMES = (1.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0)
CHIPS = 200
WIDTH = 2.576  # in standard errors; all five intervals together hold with 95 % (Bonferroni)


def test_mean_accuracies_agree_within_the_joint_interval(tmp_path):
    analog, (pixels, labels) = analog_network(), digits()
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
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= WIDTH * error)
    assert ours.mean(axis=0) == pytest.approx([0.967, 0.966, 0.964, 0.960, 0.957], abs=0.003)
