"""How far outputs may be from the original's: always said, and failed if asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_gconv import map_model, verify
from onnx_gconv.cli import main
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import save_model
from onnx_gconv.verification.error_limits import ErrorLimits

LAST = "outputs are FAR FROM THE ORIGINAL'S: "


@pytest.fixture
def models(tmp_path, parse, normal):
    """Writes an original, and what a mapping to so many levels makes of it."""

    def write(levels):
        model = parse("g (float[N,16] x) => (float[N,9] y) { h = MatMul(x, W)  y = MatMul(h, V) }",
                      W=normal(16, 12), V=normal(12, 9, seed=1))  # fmt: skip
        save_model(model, tmp_path / "model.onnx")
        map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx", levels=levels)
        return tmp_path / "model.onnx", tmp_path / "mapped.onnx"

    return write


def figures(report):
    [item] = [item for item in report.outputs.comparisons if item.optimization == "none"]
    return item


@pytest.fixture
def inputs():
    return {"x": np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)}


def test_outputs_far_from_the_original_pass_and_are_called_so_in_the_last_line(models, inputs):
    report = verify(*models(3), inputs=inputs)
    assert report.passed
    assert figures(report).sqnr_db < 10
    assert figures(report).argmax_agreement < 0.9
    *_, last = str(report).strip().splitlines()
    text = " ".join(str(report).split())
    assert LAST in text
    assert text.endswith(f"agreement {figures(report).argmax_agreement:.1%}, below 0.9.")
    assert last.endswith("below 0.9.")
    assert report.to_json()["far_from_original"] == list(report.far_from_original)
    assert len(report.far_from_original) == 2


def test_outputs_near_the_original_are_not_called_far(models, inputs):
    report = verify(*models(256), inputs=inputs)
    assert report.passed
    assert report.far_from_original == ()
    assert LAST not in str(report)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"min_sqnr_db": 90.0}, r"output 'y' at optimization 'all': SQNR \d+\.\d dB, below 90 dB"),
        ({"min_agreement": 1.0}, r"argmax agreement 9\d\.\d%, below 1"),
        ({"max_error": 1e-6}, r"error 0\.\d+, above 1e-06"),
    ],
)
def test_what_does_not_keep_a_limit_fails(models, inputs, limits, problem):
    report = verify(*models(64), inputs=inputs, **limits)
    assert not report.passed
    with pytest.raises(Exception, match=problem):
        report.raise_if_failed()


def test_what_keeps_all_limits_passes(models, inputs):
    report = verify(*models(256), inputs=inputs, min_sqnr_db=20, min_agreement=0.9, max_error=10)
    report.raise_if_failed()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_agreement": 95}, "the smallest agreement of argmax should be a share from 0 to 1, but it is 95"),
        ({"min_sqnr_db": float("nan")}, "the smallest SQNR should be a number of dB, but it is nan"),
        ({"max_error": -1}, "the largest error should be a number from 0 on, but it is -1"),
    ],
)
def test_a_limit_that_is_none_is_refused(models, limits, message):
    with pytest.raises(ConfigError, match=message):
        verify(*models(64), **limits)


def test_outputs_that_were_to_be_compared_and_could_not_be_fail(tmp_path, parse, normal):
    """The shape of the input does not fit what a Reshape in the model makes of it, whatever sizes are tried."""
    model = parse("g (float[2,16] x) => (float y) { h = MatMul(x, W)  y = test.Unknown(h) }",
                  opsets='"" : 17, "test" : 1', W=normal(16, 12))  # fmt: skip
    save_model(model, tmp_path / "model.onnx")
    map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    alone = verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    assert alone.passed
    assert "outputs were not compared" in str(alone)
    for asked in ({"max_error": 1.0}, {"dims": {"N": 3}}, {"values": {"x": (0, 1)}}):
        report = verify(tmp_path / "model.onnx", tmp_path / "mapped.onnx", **asked)
        assert not report.passed
        assert report.problems[0].startswith("outputs were to be compared, but were not: ")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["onnx-gconv", *map(str, arguments)])
    code = main()
    return code, capsys.readouterr()


def test_the_command_line_has_the_limits(models, monkeypatch, capsys):
    original, mapped = models(8)
    assert run(monkeypatch, capsys, "verify", original, mapped, "-q")[0] == 0
    for option, value in (("--min-sqnr", 90), ("--min-agreement", 1), ("--max-error", "1e-6")):
        code, said = run(monkeypatch, capsys, "verify", original, mapped, "--dim", "N=64", option, value)
        assert code == 1
        assert ", below" in said.out or ", above" in said.out
    code, said = run(monkeypatch, capsys, "verify", original, mapped, "--min-agreement", "95")
    assert code == 2
    assert said.err == ("onnx-gconv: the smallest agreement of argmax should be a share from 0 to 1, but it is 95\n")


def test_read_back_takes_limits_only_with_an_original(models, monkeypatch, capsys):
    _, mapped = models(64)
    code, said = run(monkeypatch, capsys, "readback", mapped, mapped, "--max-error", "1")
    assert code == 2
    assert "limits of errors are for running the models; give --original MODEL, too" in said.err


def test_an_output_of_zeros_with_an_error_has_no_ratio_and_fails_a_limit_of_it(models, inputs):
    item = replace(figures(verify(*models(256), inputs=inputs)), sqnr_db=None, max_abs_error=0.5)
    limits = ErrorLimits(min_sqnr_db=10.0)
    assert list(limits.not_judged([item])) == [
        "output 'y' at optimization 'none': its SQNR could not be judged, as it is 0 and its error 0.5"
    ]
    assert list(limits.not_judged([replace(item, max_abs_error=0.0)])) == []
    assert limits.exceeded_by(item) == ()


def test_nothing_is_said_of_limits_where_nothing_was_compared(models, inputs):
    item = replace(figures(verify(*models(256), inputs=inputs)), is_random=True)
    assert list(ErrorLimits(10.0, 0.5, 1.0).not_judged([item])) == []
    assert list(ErrorLimits(10.0, 0.5, 1.0).not_judged([])) == []
