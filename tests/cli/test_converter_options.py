"""The converter is chosen on the command line; options that contradict each other are refused in one line."""

from __future__ import annotations

import onnx_ir as ir
import pytest


@pytest.fixture
def folder(parse, normal, tmp_path, monkeypatch):
    """The current folder, with a model."""
    monkeypatch.chdir(tmp_path)
    ir.save(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4)), tmp_path / "in.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "name", "devices"),
    [
        ((), "SinglePairConductanceConverter", 2),
        (("--converter", "dual-pair", "--factor", "1", "--factor", "3"), "DualPairConductanceConverter", 4),
        (("--converter", "n-pair", *["--factor", "2"] * 3), "NPairConductanceConverter", 6),
    ],
    ids=["default", "dual", "three"],
)
def test_the_converter_is_the_one_that_was_chosen(gconv, folder, options, name, devices):
    found = gconv("map", "in.onnx", "-o", "out.onnx", *options, "--json")
    assert found.code == 0, found.stderr
    [weight] = found.json["mapped"]
    assert (weight["converter"], len(weight["conductances"])) == (name, devices)
    assert gconv("verify", "in.onnx", "out.onnx", "--quiet").code == 0
    shown = gconv("inspect", "in.onnx", *options)
    assert name in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--factor", "2"), "--factor needs --converter dual-pair, n-pair or custom-pair, not single-pair"),
        (("--converter", "n-pair"), "needs factors"),
        (("--converter", "dual-pair", "--factor", "2"), "should have two factors"),
        (("--converter", "n-pair", "--factor", "-1"), "factor 1 of f_lst should be positive"),
        (("--converter", "n-pair", "--factor", "1", "--exact"), "--exact needs --converter single-pair"),
        (
            ("--preset", "isaac", "--slice-bits", "4"),
            "--slice-bits: slices of 4 bits need 16 levels, but cells of preset",
        ),
        (
            ("--preset", "isaac", "--factor", "2"),
            "--factor needs --converter dual-pair, n-pair or custom-pair, not bit-sl",
        ),
        (("--preset", "isaac", "--slice-bits", "0"), "--slice-bits: should be at least 1, but it is 0"),
        (
            ("--converter", "bit-sliced-pair", "--bits", "0", "--slice-bits", "2"),
            "--bits: should be at least 1, but it is 0",
        ),
        (
            ("--converter", "bit-sliced-pair", "--converter-option", "bits=0"),
            "--converter-option bits: should be at least 1, but it is 0",
        ),
        (("--unit", "S"), '--unit: the unit "S" is that of g_max and g_min, but neither is given with it; give them'),
        (
            ("--g-max", "25", "--unit", "S"),
            "--g-max, --unit: g_max = 25 siemens is far more than a device conducts; is that µS? Then leave the unit",
        ),
        (("--g-max", "25e-6"), "--g-max: conductances up to 2.5e-05 µS are below a nanosiemens; is that siemens? Then"),
        (("--converter", "triple"), "--converter: there is no converter 'triple'; there are single-pair, dual-pair, "),
    ],
)
def test_options_that_contradict_each_other_are_refused(gconv, folder, options, message):
    found = gconv("map", "in.onnx", *options)
    assert (found.code, found.stdout) == (2, "")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert [file.name for file in folder.iterdir()] == ["in.onnx"]


def test_the_settings_of_the_converter_of_a_preset_need_not_name_it(gconv, folder):
    (folder / "gconv.toml").write_text('[defaults]\ndevice = "isaac"\n')
    for options in (("--preset", "isaac"), ("--config", "gconv.toml")):
        found = gconv("map", "in.onnx", "--dry-run", *options, "--slice-bits", "1", "--json")
        assert found.code == 0, found.stderr
        [weight] = found.json["mapped"]
        assert (weight["converter"], len(weight["conductances"])) == ("BitSlicedOffsetConductanceConverter", 8)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000])
def test_a_value_without_end_is_one_line(gconv, value):
    ended = gconv("map", "model.onnx", "--converter", "n-pair", "--converter-option", f"factors={value}")
    assert ended.code == 2
    assert ended.stderr.startswith("onnx-gconv: --converter-option: the value of factors should be in TOML syntax")
    assert ended.stderr.count("\n") == 1
