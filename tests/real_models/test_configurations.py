"""A configuration with overrides for some layers of a published model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import onnx_gconv as gconv
from onnx_gconv.cli import main

FOLDER = Path(os.environ.get("ONNX_GCONV_REAL_MODELS", Path(__file__).resolve().parents[2] / ".cache" / "real-models"))
MODEL = "silero_vad/data/silero_vad_16k_op15.onnx"
CONFIGURATION = """
[defaults]
device = "pcm-hermes-2"
granularity = "channel"

[[overrides]]
op = "LSTM"
granularity = "tile"          # of the preset's array
levels = 256
storage = "codes"

[[overrides]]
parameter = "model.encoder.0.*"
converter = { name = "n-pair", factors = [1, 3] }
clipping = { percentile = 99.5 }

[[overrides]]
node = "*/decoder/decoder/*"
op = "Conv"
skip = true
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    source = FOLDER / MODEL
    if not source.exists():
        message = f"{source} is not installed; `make test` installs it from tests/real_models/packages.txt"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    monkeypatch.chdir(tmp_path)
    Path("vad.onnx").write_bytes(source.read_bytes())
    Path("vad.toml").write_text(CONFIGURATION, encoding="utf-8")
    return tmp_path / "vad.onnx"


def test_inspect_shows_what_the_overrides_say(model, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["onnx-gconv", "inspect", "vad.onnx", "--config", "vad.toml"])
    assert main() == 0
    output = " ".join(capsys.readouterr().out.split())
    for expected in (
        "SinglePairConductanceConverter, 0 to 20.7 µS, a scale for each tile of 256x256 (equal), 256 levels as uint8",
        "SinglePairConductanceConverter, 0 to 20.7 µS, a scale for each output channel (",
        "NPairConductanceConverter, 0 to 20.7 µS, pairs with factors 1, 3, a scale for each output channel, clipped at",
        "skipped by overrides[2] of 'vad.toml'",
        "9 weights to be mapped",
    ):
        assert expected in output


def test_the_mapped_model_verifies_and_is_restored(model):
    report = gconv.map_model(model, config="vad.toml")
    by_name = {weight.name: weight for weight in report.mapped}
    lstm = [weight for weight in report.mapped if any(consumer.op_type == "LSTM" for consumer in weight.consumers)]
    assert len(lstm) == 4
    assert {(weight.granularity, weight.scale.shape, weight.levels.storage) for weight in lstm} == {
        ("tile", (1, 2), "uint8")
    }
    encoder = by_name["model.encoder.0.reparam_conv.weight"]
    assert encoder.converter.parameters["f_lst"] == [1.0, 3.0]
    assert encoder.clipping.percentile == 99.5
    assert encoder.loss.clipped > 0
    assert by_name["model.encoder.1.reparam_conv.weight"].granularity == "channel"
    gconv.verify(model, report.output).raise_if_failed()
    assert sorted(gconv.restore_model(report.output).restored) == sorted(by_name)
