"""The script that leads from a network in PyTorch to a chip runs as it stands."""

from __future__ import annotations

import runpy
from pathlib import Path

import onnx
import pytest
import torch

import onnx_gconv as gconv

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # torch's exporter warns of its own parts
    pytest.mark.xdist_group("torch_integration"),  # one worker exports for all
]

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "torch_to_chip.py"


def test_it_trains_exports_verifies_simulates_and_hands_off(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        ran = runpy.run_path(str(SCRIPT))
    report = ran["report"]
    assert [weight.name for weight in report.mapped] == ["0.weight", "2.weight"]
    assert report.mvm_share == 1
    folder = tmp_path / "torch_to_chip"
    assert sorted(item.name for item in folder.iterdir()) == ["digits.gconv", "digits.gconv.onnx", "test.npz"]
    onnx.checker.check_model(folder / "digits.gconv.onnx", full_check=True)
    with gconv.open_bundle(folder / "digits.gconv") as bundle:
        assert [layer.record.weight for layer in bundle.layers] == ["0.weight", "2.weight"]
        bundle.verify_hashes()
    said = capsys.readouterr().out
    for text in ("2 weights mapped", "accuracy of 25 chips", "1d", "2 weights handed off"):
        assert text in said
    trained = gconv.simulate(report.program, "pcm", times="1d", repeats=3, **ran["of_data"])
    assert trained.ideal > 0.95
    assert trained.times[0].spread.mean > 0.9


def test_it_is_short():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 40
