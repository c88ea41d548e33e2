"""Tables of targets, and partial rounds, on the command line."""

from __future__ import annotations

import csv

import pytest

from onnx_gconv import map_model, write_bundle
from onnx_gconv.models import model_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    map_model(model_path("digits_cnn.onnx"), folder / "m.gconv.onnx", include=["classifier.weight"])
    write_bundle(folder / "m.gconv.onnx", folder / "m.gconv", (64, 64))
    return folder


def test_a_round_of_writing_and_verifying(gconv, folder, tmp_path):
    found = gconv("targets", folder / "m.gconv", "--tolerance", "0.5")
    assert (found.code, found.stderr) == (0, "")
    text = " ".join(found.stdout.split())
    assert "1,280 of 1,280 conductances are listed, of 2 arrays of the chip. Tolerance: 0.5 µS." in text
    with (folder / "m.targets.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        line["reading_us"] = float(line["target_us"]) + (2.0 if number % 10 == 0 else 0.25)
    save(tmp_path / "measured.csv", lines)
    asked = ["targets", folder / "m.gconv", "-o", tmp_path / "t.csv", "--only-off-target", tmp_path / "measured.csv"]
    found = gconv(*asked, "--tolerance", "0.5", "--json")
    assert (found.code, found.stderr) == (0, "")
    assert (found.json["cells"], found.json["listed"], found.json["off_target"]) == (1280, 128, 128)
    assert (found.json["measurements"], found.json["updates"]) == (str(tmp_path / "measured.csv"), [])
    for line in lines[::10]:
        line["reading_us"] -= 1.75
    save(tmp_path / "round.csv", lines[::10])
    update = ["--update", tmp_path / "round.csv", "--tolerance", "0.5"]
    found = gconv(*asked, *update)
    assert (found.code, found.stdout) == (2, "")
    assert "t.csv' exists; choose another name, or replace it with --overwrite" in found.stderr
    found = gconv(*asked, *update, "--overwrite")
    assert "All 1,280 conductances are within the tolerance; nothing is left to program." in " ".join(
        found.stdout.split()
    )
    found = gconv(
        "readback", folder / "m.gconv.onnx", tmp_path / "measured.csv", "--bundle", folder / "m.gconv",
        "-o", tmp_path / "chip.onnx", *update, "--json",
    )  # fmt: skip
    assert (found.json["within_tolerance"], found.json["updates"]) == (1.0, [str(tmp_path / "round.csv")])


def test_targets_are_no_measurements_unless_one_says_so(gconv, folder, tmp_path):
    asked = ["readback", folder / "m.gconv.onnx", folder / "m.gconv", "-o", tmp_path / "chip.onnx"]
    found = gconv(*asked)
    assert (found.code, found.stdout) == (2, "")
    assert "conductances.h5' holds the targets themselves: all its 2 arrays are those of the bundle" in found.stderr
    assert gconv(*asked, "--as-if-measured", "--quiet") == (0, "", "")


def save(path, lines):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
