"""`onnx-gconv program` and `simulate`."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest

from onnx_gconv.models import model_path


@pytest.fixture
def mapped(gconv, tmp_path):
    assert gconv("map", model_path("digits_mlp.onnx"), "-o", tmp_path / "m.gconv.onnx", "--quiet").code == 0
    with np.load(model_path("digits_test.npz")) as data:
        pixels = data["images"].reshape(450, 64).astype(np.float32)
        np.savez(tmp_path / "data.npz", pixels=pixels, labels=data["labels"])
    return tmp_path / "m.gconv.onnx"


def test_a_chip_is_written_beside_the_model_and_verified(gconv, mapped, tmp_path):
    found = gconv("program", mapped, "--device", "pcm", "--time", "1h", "--seed", 7, "--json")
    assert found.code == 0
    document = json.loads(found.stdout)
    assert document["output"] == str(tmp_path / "m.chip.onnx")
    assert (document["device"], document["seconds"], document["seed"]) == ("pcm", 3600.0, 7)
    assert [weight["name"] for weight in document["weights"]] == [
        "hidden1.weight",
        "hidden2.weight",
        "classifier.weight",
    ]
    assert gconv("verify", model_path("digits_mlp.onnx"), tmp_path / "m.chip.onnx").code == 0
    assert gconv("restore", tmp_path / "m.chip.onnx", "-o", tmp_path / "plain.onnx").code == 0


def test_what_was_programmed_is_shown(gconv, mapped, tmp_path):
    options = ["--device-option", "read_scale=0.5", "--drift-compensation", "global", "--chip", 3, "--time", "1mo"]
    found = gconv("program", mapped, "-o", tmp_path / "c.onnx", *options)
    assert found.code == 0
    for text in (
        "Device pcm, read_scale = 0.5, read 1mo after programming",
        "Drift compensation: global",
        "Chip 3 of seed 0, weights beside their targets",
        "c.onnx",
    ):
        assert text in found.stdout
    inspected = gconv("inspect", tmp_path / "c.onnx")
    assert inspected.code == 0
    assert "8,192 conductances are those of a simulated chip: device 'pcm'" in " ".join(inspected.stdout.split())


def test_accuracy_over_time(gconv, mapped, tmp_path):
    options = ["--times", "1s,1d", "--repeats", 2, "--inputs", tmp_path / "data.npz", "--labels", "labels"]
    found = gconv("simulate", mapped, *options, "--csv", tmp_path / "t.csv", "--plot", tmp_path / "p.png", "--json")
    assert found.code == 0, found.stderr
    document = json.loads(found.stdout)
    assert {"device", "repeats", "seed", "metric", "ideal", "times"} <= document.keys()
    assert [time["seconds"] for time in document["times"]] == [1.0, 86400.0]
    assert all({"seconds", "mean", "std", "values"} <= time.keys() for time in document["times"])
    assert 0.9 < document["ideal"] < 1
    assert (tmp_path / "t.csv").read_text().startswith("seconds,chip,accuracy\n1,0,0.")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["data.npz", "m.gconv.onnx", "p.png", "t.csv"]
    shown = gconv("simulate", mapped, *options, "--sensitivity")
    assert "accuracy of 2 chips; ideal: 0.9" in shown.stdout
    assert "One layer on the chip, all others ideal, 1d after" in shown.stdout


def test_a_plain_model_is_mapped_with_the_options_of_map(gconv):
    options = ["--device", "reram-cmo", "--granularity", "channel", "--times", "0s", "--repeats", 1]
    found = gconv("simulate", model_path("digits_mlp.onnx"), *options)
    assert found.code == 0, found.stderr
    assert "mapped in memory: 3 weights, SinglePairConductanceConverter of 9 to 88.2" in found.stdout


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("simulate", ["--levels", "16"], "the model is mapped already, so that a configuration would say nothing"),
        ("program", ["--device", "pmc"], "there is no device model 'pmc'; did you mean pcm"),
        ("program", ["--time", "soon"], "a time is a number and one of s, min, h, d, mo, y"),
        ("program", ["--device-option", "x"], "--device-option is KEY=VALUE, such as read_scale=0.5, but not 'x'"),
        ("program", ["--read-noise", "live", "--device", "{mapped}.csv"], "cannot read '"),
        ("program", ["--seed", "-1"], "the seed is a whole number from 0 to 2^64 - 1, but it is -1"),
        ("simulate", ["--times", "1s,,1d"], "a time is a number and one of s, min, h, d, mo, y"),
        ("simulate", ["--labels", "labels"], "labels and batches are for inputs of your own"),
        ("simulate", ["--plot", "p.gif"], "cannot draw 'p.gif': pictures end in .pdf, .png, .svg"),
        ("simulate", ["--csv", "no/such/t.csv"], "cannot write 'no/such/t.csv': there is no folder 'no/such'"),
        ("simulate", ["--csv", "{mapped}"], "exists, and is no table of a simulation; choose another name"),
        ("simulate", ["--plot", "{mapped}.png", "--csv", "{mapped}.png"], "cannot both be"),
        (
            "simulate",
            ["--csv", "{mapped}.csv", "--journal", "{mapped}/../{name}.csv"],
            "the table and the journal cannot both be '",
        ),
        ("simulate", ["--plot", "p.png", "--journal", "./p.png"], "the picture and the journal cannot both be 'p.png'"),
        ("simulate", ["--repeats", "0"], "the number of chips is a whole number from 1 to 2^64 - 1, but it is 0"),
    ],
)
def test_wrong_usage_is_one_line(gconv, mapped, command, options, message):
    before = mapped.read_bytes()
    found = gconv(command, mapped, *(option.format(mapped=mapped, name=mapped.name) for option in options))
    assert (found.code, found.stdout) == (2, "")
    [line] = found.stderr.splitlines()
    assert message in line
    assert mapped.read_bytes() == before


def test_results_replace_older_ones_and_nothing_else(gconv, mapped, tmp_path):
    options = ["--times", "0s", "--repeats", 1]
    for _ in range(2):
        results = ["--csv", tmp_path / "t.csv", "--plot", tmp_path / "p.svg"]
        assert gconv("simulate", mapped, *options, *results).code == 0
    assert (tmp_path / "t.csv").stat().st_mode == mapped.stat().st_mode
    (tmp_path / "q.svg").write_text("notes")
    (tmp_path / "link.csv").symlink_to(tmp_path / "t.csv")
    for option, name, said in (
        ("--plot", "q.svg", "is no picture of that kind"),
        ("--csv", "data.npz", "is no table of a simulation"),
        ("--csv", "link.csv", "it is a link, or no file"),
    ):
        found = gconv("simulate", mapped, *options, option, tmp_path / name)
        assert found.code == 2
        assert said in found.stderr


def test_figures_are_not_lost_if_the_disk_is_full(gconv, mapped, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    options = ["--times", "0s", "--repeats", 1]
    figures = gconv("simulate", mapped, *options, "--json")
    monkeypatch.setattr("onnx_gconv.simulation.results.write_small_file", full)
    found = gconv("simulate", mapped, *options, "--csv", tmp_path / "t.csv", "--json")
    assert found.code == 2
    assert found.json == figures.json
    assert found.stderr.splitlines()[-1] == (
        f"onnx-gconv: cannot write '{tmp_path / 't.csv'}': No space left on device; choose another place"
    )


def test_what_a_metric_prints_is_no_part_of_the_json(gconv, mapped, tmp_path, monkeypatch):
    (tmp_path / "noisy_metric.py").write_text("def of(outputs, labels):\n    print('hello')\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    found = gconv("simulate", mapped, "--metric", "noisy_metric:of", "--times", "0s", "--repeats", 1, "--json")
    assert json.loads(found.stdout)["ideal"] == 1.0
    assert "hello" in found.stderr


def test_a_table_of_measurements_is_not_overwritten_by_the_chip(gconv, mapped, tmp_path):
    (tmp_path / "lab.csv").write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,1\n25,0,25,1\n")
    found = gconv("program", mapped, "--device", tmp_path / "lab.csv", "-o", tmp_path / "lab.csv")
    assert found.code == 2
    assert "lab.csv" in found.stderr
    assert (tmp_path / "lab.csv").read_text().startswith("target_us")


def test_a_chip_that_draws_readings_is_programmed_inspected_verified_and_restored(gconv, mapped, tmp_path):
    chip, plain = tmp_path / "c.onnx", model_path("digits_mlp.onnx")
    found = gconv("program", mapped, "-o", chip, "--time", "1d", "--read-noise", "live", "--json")
    document = json.loads(found.stdout)
    assert (document["read_noise"], document["device"]) == ("live", "pcm")
    shown = gconv("inspect", chip)
    assert (shown.code, shown.stderr) == (0, "")
    assert json.loads(gconv("inspect", chip, "--json").stdout)["is_mapped"] is True
    verified = gconv("verify", plain, chip)
    assert verified.code == 0
    assert "PASSED WITHOUT THE NOISE OF READINGS" in verified.stdout
    assert gconv("restore", chip, "-o", tmp_path / "r.onnx").code == 0
    found = gconv("program", mapped, "-o", tmp_path / "f.onnx", "--json")
    assert json.loads(found.stdout)["read_noise"] == "fixed"
    for command in ("simulate", "program"):
        refused = gconv(command, chip, "-o" if command == "program" else "--csv", tmp_path / "x.onnx")
        assert refused.code == 2
        assert (
            "has conductances of a simulated chip ('pcm'), no targets; take the model that was mapped" in refused.stderr
        )


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        (
            ["--journal", "j.jsonl"],
            "interrupted; 'j.jsonl' keeps the chips that are done, and the same command goes on",
        ),
        ([], "interrupted; nothing was left behind"),
    ],
)
def test_an_interrupt_names_the_journal_that_is_left(gconv, tmp_path, monkeypatch, journal, said):
    monkeypatch.chdir(tmp_path)

    def interrupted(*_, journal, **__):
        if journal is not None:
            journal.write_text("{}\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_gconv.simulation.simulate", interrupted)
    found = gconv("simulate", "m.onnx", *journal)
    assert (found.code, found.stdout) == (130, "")
    assert said in found.stderr
