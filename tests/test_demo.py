"""The demonstration on a small trained network."""

from __future__ import annotations

import json

import pytest

from onnx_gconv.cli import main
from onnx_gconv.demo import run_demo
from onnx_gconv.errors import ConfigError

FILES = [
    "accuracy.png",
    "digits_cnn.chip.onnx",
    "digits_cnn.gconv.onnx",
    "digits_cnn.levels.gconv.onnx",
    "digits_cnn.onnx",
    "digits_cnn.restored.onnx",
    "digits_inputs.npz",
    "digits_test.npz",
]


pytestmark = pytest.mark.xdist_group("demo")  # one worker runs the whole demo


@pytest.fixture
def short(monkeypatch):
    """Simulates two chips instead of 25 at each time."""
    monkeypatch.setattr("onnx_gconv.demo._CHIPS", 2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The report of a demo, and its folder."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return run_demo(folder), folder


def test_the_demo_passes(demo):
    report, _ = demo
    assert report.passed
    assert report.verification.passed


def test_all_files_of_the_demo_are_in_its_folder(demo):
    report, folder = demo
    assert sorted(item.name for item in folder.iterdir()) == FILES
    assert report.folder == folder


def test_every_model_recognizes_440_of_450_images_optimized_and_not(demo):
    report, _ = demo
    assert [(item.model.name, item.optimization, item.correct, item.images) for item in report.accuracies] == [
        (name, optimization, 440, 450)
        for name in (
            "digits_cnn.onnx",
            "digits_cnn.gconv.onnx",
            "digits_cnn.restored.onnx",
            "digits_cnn.levels.gconv.onnx",
        )
        for optimization in ("all", "none")
    ]


def test_the_json_of_the_demo_has_every_step(demo):
    report, folder = demo
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document.keys() == {"folder", "passed", "map", "verify", "restore", "with_levels", "sizes", "accuracies"} | {
        "program",
        "simulate",
        "picture",
    }
    assert document["folder"] == str(folder)
    assert document["passed"] is True
    assert len(document["map"]["mapped"]) == len(document["restore"]["restored"]) == 5
    assert document["accuracies"][0].keys() == {"model", "optimization", "correct", "images"}


def test_a_demo_whose_mapped_model_recognizes_fewer_images_has_not_passed(demo):
    from dataclasses import replace

    report, _ = demo
    first, *rest = report.accuracies
    assert not replace(report, accuracies=(replace(first, correct=439), *rest)).passed


def test_codes_of_levels_make_the_model_smaller_than_the_original(demo):
    report, _ = demo
    original, mapped, with_levels = report.sizes.values()
    assert with_levels < original < mapped


def test_the_chips_of_the_demo_lose_little_in_a_year(demo):
    report, folder = demo
    assert report.simulation.ideal == 440 / 450
    means = [time.spread.mean for time in report.simulation.times]
    assert len(means) == 5
    assert all(0.9 < mean < 440 / 450 for mean in means)
    assert report.picture == folder / "accuracy.png"


def test_without_matplotlib_there_is_no_picture(short, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_gconv.demo.has_matplotlib", lambda: False)
    report = run_demo(tmp_path)
    assert report.picture is None
    assert not (tmp_path / "accuracy.png").exists()


def test_the_demo_runs_again_in_the_same_folder(short, tmp_path):
    before = [run_demo(tmp_path), {file.name: file.read_bytes() for file in tmp_path.iterdir()}]
    after = [run_demo(tmp_path), {file.name: file.read_bytes() for file in tmp_path.iterdir()}]
    assert after[0].passed
    assert after[1] == before[1]


def test_the_command_prints_every_step_and_the_accuracies(short, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["onnx-gconv", "demo"])
    assert main() == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    for step in ("map", "verify", "restore", "program", "simulate"):
        assert f"$ onnx-gconv {step} " in output
    assert output.count("440 of 450 (97.8%)") == 8
    assert sorted(item.name for item in (tmp_path / "onnx-gconv-demo").iterdir()) == FILES


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=r"cannot write to the folder '.*taken': File exists"):
        run_demo(tmp_path / "taken")
    with pytest.raises(ConfigError, match=r"cannot write to the folder '.*sub': Not a directory"):
        run_demo(tmp_path / "taken" / "sub")
