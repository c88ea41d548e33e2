"""The benchmark of simulating measures trials and noise, in turn with aihwkit's. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulate import main
from onnx_gconv.models import model_path

pytestmark = pytest.mark.release

REPOSITORY = Path(__file__).parents[2]


def test_times_and_ratios_are_reported(tmp_path):
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.simulate", "--chips", "2", "--width", "96", "--rounds", "2"]
    found = subprocess.run(
        [*command, "--json", file], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    times = (
        "trial_seconds",
        "aihwkit_trial_seconds",
        "noise_seconds",
        "compiled_noise_seconds",
        "aihwkit_noise_seconds",
    )
    for name in times:
        assert len(report[name]) == 2
        assert min(report[name]) > 0
    for text in ("a trial, 2 chips x 5 times", "noise, 96 x 96", "the same with Numba", report["versions"]["aihwkit"]):
        assert text in found.stdout


def test_the_parts_of_a_trial_of_a_model_are_reported(tmp_path):
    images = np.zeros((3, 64), np.float32)
    np.savez(tmp_path / "data.npz", pixels=images)
    command = [sys.executable, "-m", "benchmarks.simulate_model", model_path("digits_mlp.onnx")]
    options = ["--inputs", tmp_path / "data.npz", "--chips", "2", "--many", "20", "--rounds", "1"]
    found = subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.returncode == 0, found.stderr
    for text in (
        "a trial: ",
        "its noise: ",
        "a run of the plain model: ",
        "trial / (noise + run): ",
        "MB for 21; goal",
    ):
        assert text in found.stdout


def test_a_number_that_is_not_positive_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])
    assert "--rounds should be positive, but is 0" in capsys.readouterr().err
