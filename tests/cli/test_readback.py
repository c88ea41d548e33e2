"""Read-back on the command line: the whole loop with a trained network."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_gconv import map_model, write_bundle
from onnx_gconv.models import model_path
from tests.handoff.chip import programmed


@pytest.fixture(scope="module")
def chip(tmp_path_factory):
    """A chip that is programmed with a network: errors of 0.3 µS, 1 % of the cells dropped."""
    folder = tmp_path_factory.mktemp("readback")
    map_model(model_path("digits_cnn.onnx"), folder / "digits.gconv.onnx")
    write_bundle(folder / "digits.gconv.onnx", array=(64, 64))
    on_chip = programmed(folder / "digits.gconv", sigma=0.3)
    on_chip.write(folder / "measured.h5")
    return folder, on_chip


def errors_of(chip):
    errors = np.concatenate([found.ravel() for found in chip.errors.values()])
    return errors[~np.isnan(errors)]


def test_the_report_shows_the_errors_of_every_layer(gconv, chip, tmp_path):
    folder, on_chip = chip
    found = gconv(
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx", "--tolerance", 0.6
    )
    assert (found.code, found.stderr) == (0, "")
    errors = errors_of(on_chip)
    assert f"{errors.size:,} of 68,416 conductances were measured." in found.stdout
    assert f"standard deviation {errors.std():.4g} µS" in found.stdout
    within = np.mean(np.abs(errors) <= 0.6)
    assert f"Within the tolerance of 0.6 µS: {within:.2%} of what was measured." in found.stdout
    assert f"Written: {tmp_path / 'm.onnx'}" in found.stdout.replace("\n", "")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)


def test_json_has_the_figures_and_the_verification_against_the_original(gconv, chip, tmp_path):
    folder, on_chip = chip
    digits = np.load(model_path("digits_test.npz"))
    np.savez(tmp_path / "x.npz", image=digits[next(name for name in digits if digits[name].ndim == 4)])
    found = gconv(
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx", "--json",
        "--original", model_path("digits_cnn.onnx"), "--inputs", tmp_path / "x.npz",
    )  # fmt: skip
    assert found.code == 0, found
    document = found.json
    errors = errors_of(on_chip)
    assert document["measurements"].endswith("measured.h5")
    assert document["std_error_us"] == pytest.approx(errors.std())
    assert document["mean_error_us"] == pytest.approx(errors.mean())
    assert document["tolerance_us"] is None
    assert document["within_tolerance"] is None
    verification = document["verification"]
    assert verification["passed"]
    assert {item["name"] for item in verification["weights"]} == {layer["weight"] for layer in document["layers"]}
    for item in verification["weights"]:
        assert 0 < item["max_abs_error"] <= item["bound"]
    assert all(item["sqnr_db"] > 10 for item in verification["outputs"])


def test_a_chip_that_is_close_to_its_targets_still_reads_digits(gconv, chip, tmp_path):
    folder, _ = chip
    assert gconv(
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx", "--quiet"
    ) == (0, "", "")
    digits = np.load(model_path("digits_test.npz"))
    images = digits[next(name for name in digits if digits[name].ndim == 4)]
    labels = digits[next(name for name in digits if digits[name].ndim == 1)]
    [logits] = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"image": images})
    assert np.mean(logits.argmax(axis=1) == labels) > 0.95


def test_a_dry_run_writes_nothing(gconv, chip, tmp_path):
    folder, _ = chip
    before = sorted(path.name for path in folder.iterdir())
    found = gconv("readback", folder / "digits.gconv.onnx", folder / "measured.h5", "--dry-run", "--json")
    assert (found.code, found.json["output"], found.json["files"]) == (0, None, [])
    assert sorted(path.name for path in folder.iterdir()) == before


def test_wrong_input_is_one_line_and_code_2(gconv, chip, tmp_path):
    folder, _ = chip
    mapped, measured = folder / "digits.gconv.onnx", folder / "measured.h5"
    original, copied = model_path("digits_cnn.onnx"), tmp_path / "digits.onnx"
    shutil.copy(original, copied)
    for arguments, message in [
        ((original, measured), "the model carries no mapping"),
        ((mapped, tmp_path / "none.h5"), "none.h5' does not exist"),
        ((mapped, measured, "--limits", "0-30"), "limits are given as LOW..HIGH in µS, e.g. -1..30, but not as '0-30'"),
        ((mapped, measured, "--limits", "0..10"), "out of the range 0 .. 10 µS"),
        ((mapped, measured, "--tolerance", "-1"), "--tolerance (tolerance_us) is positive and finite, but it is -1.0"),
        ((mapped, measured, "--inputs", "x.npz"), "inputs are for running the models; give --original MODEL, too"),
        ((mapped, measured, "--dry-run", "--original", original), "--dry-run writes no model"),
        ((mapped, measured, "-o", folder / "digits.gconv" / "plain.onnx"), "plain.onnx' is the input"),
        ((mapped, measured, "-o", folder / "digits.gconv" / "new.onnx"), "digits.gconv', which is read"),
        ((mapped, measured, "-o", measured), "measured.h5' is the input"),
        ((mapped, measured, "-o", mapped), "digits.gconv.onnx' is the input"),
        ((mapped, measured, "--original", copied, "-o", copied), "digits.onnx' is the input"),
    ]:  # fmt: skip
        found = gconv("readback", *arguments)
        assert found.code == 2
        assert found.stdout == ""
        assert message in found.stderr
        assert found.stderr.count("\n") == 1


def test_a_model_of_other_weights_than_the_original_is_code_1(gconv, chip, tmp_path, normal):
    folder, _ = chip
    other = onnx.load(model_path("digits_cnn.onnx"))
    [tensor] = [item for item in other.graph.initializer if item.name == "hidden.weight"]
    tensor.raw_data = normal(*tensor.dims).tobytes()
    onnx.save(other, tmp_path / "other.onnx")
    found = gconv(
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx",
        "--original", tmp_path / "other.onnx", "--json",
    )  # fmt: skip
    assert found.code == 1
    assert not json.loads(found.stdout)["verification"]["passed"]


def other_model(tmp_path, normal):
    """The digits CNN with other weights in one layer."""
    other = onnx.load(model_path("digits_cnn.onnx"))
    [tensor] = [item for item in other.graph.initializer if item.name == "hidden.weight"]
    tensor.raw_data = normal(*tensor.dims).tobytes()
    onnx.save(other, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"


def test_nothing_is_written_beside_an_original_that_the_model_does_not_belong_to(gconv, chip, tmp_path, normal):
    folder, _ = chip
    other = other_model(tmp_path, normal)
    (tmp_path / "out").mkdir()
    arguments = (
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "out" / "m.onnx",
        "--original", other, "--pictures", tmp_path / "out" / "pictures", "--external-data",
    )  # fmt: skip
    found = gconv(*arguments)
    why = f"Not written: the model does not belong to '{other}'; give its own original, or leave --original out"
    assert found.code == 1
    said = " ".join(found.stdout.split())
    assert "FAILED: weight 'hidden.weight'" in said
    assert why in said
    assert "Written" not in found.stdout
    assert list((tmp_path / "out").iterdir()) == []
    quiet = gconv(*arguments, "--quiet")
    assert (quiet.code, quiet.stdout) == (1, "")
    assert quiet.stderr.startswith(f"onnx-gconv: '{tmp_path / 'out' / 'm.onnx'}' does not verify against '{other}': ")
    assert quiet.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert gconv(*arguments, "--json").json["output"] is None


def test_an_older_output_stays_if_inputs_do_not_fit_the_original(gconv, chip, tmp_path):
    folder, _ = chip
    (tmp_path / "m.onnx").write_bytes(b"old")
    np.savez(tmp_path / "x.npz", wrong=np.zeros(3))
    found = gconv(
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx",
        "--original", model_path("digits_cnn.onnx"), "--inputs", tmp_path / "x.npz",
    )  # fmt: skip
    assert found.code == 2
    assert "no input is named 'wrong'" in found.stderr
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_a_chip_beyond_a_limit_is_written_and_code_1(gconv, chip, tmp_path):
    folder, _ = chip
    arguments = (
        "readback", folder / "digits.gconv.onnx", folder / "measured.h5", "-o", tmp_path / "m.onnx",
        "--original", model_path("digits_cnn.onnx"), "--min-sqnr", "200",
    )  # fmt: skip
    found = gconv(*arguments)
    assert found.code == 1
    assert f"Written: {tmp_path / 'm.onnx'}" in found.stdout.replace("\n", "")
    assert "below 200" in found.stdout.replace("\n", " ")
    assert "Not written" not in found.stdout
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    quiet = gconv(*arguments, "--quiet")
    assert (quiet.code, quiet.stdout, quiet.stderr.count("\n")) == (1, "", 1)


def test_a_check_that_fails_quietly_says_why(gconv, chip, tmp_path, normal):
    folder, _ = chip
    found = gconv("verify", other_model(tmp_path, normal), folder / "digits.gconv.onnx", "--quiet")
    assert (found.code, found.stdout, found.stderr.count("\n")) == (1, "", 1)
    assert "does not verify against" in found.stderr
    assert "weight 'hidden.weight' is rebuilt with an error of" in found.stderr
