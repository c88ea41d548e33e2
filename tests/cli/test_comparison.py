"""`onnx-gconv simulate --compare`."""

from __future__ import annotations

import pytest

from onnx_gconv.files.models import save_model

COMPARISON = """\
times = "1s"
repeats = 2
[[candidates]]
name = "as it is"
[[candidates]]
name = "ReRAM"
device = "reram-cmo"
mapping = { levels = 16 }
"""


@pytest.fixture
def model(parse, normal, tmp_path, monkeypatch):
    save_model(parse("g (float[2,4] x) => (float[2,3] y) { y = MatMul(x, W) }", W=normal(4, 3)), tmp_path / "m.onnx")
    (tmp_path / "c.toml").write_text(COMPARISON)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "m.onnx"


def test_candidates_are_shown_and_written(gconv, model):
    pytest.importorskip("matplotlib")
    for results in (["--plot", "p.svg", "--journal", "j"], []):  # a table replaces an older one
        found = gconv("simulate", model, "--compare", "c.toml", "--csv", "t.csv", *results)
        assert (found.code, found.stderr) == (0, "")
        assert "sqnr in dB of 2 chips" in found.stdout
        assert "as it is" in found.stdout
    folder = model.parent
    assert (folder / "t.csv").read_text().startswith("candidate,seconds,chip,sqnr\nas it is,1,0,")
    assert (folder / "p.svg").read_bytes().startswith(b"<?xml")
    again = gconv("simulate", model, "--times", "1s", "--repeats", 1, "--csv", "t.csv")
    assert again.code == 0
    assert (folder / "t.csv").read_text().startswith("seconds,chip,sqnr\n1,0,")
    shown = gconv("simulate", model, "--compare", "c.toml", "--quiet")
    assert (shown.code, shown.stdout) == (0, "")


def test_options_that_are_given_win_over_the_file(gconv, model):
    found = gconv("simulate", model, "--compare", "c.toml", "--json").json
    assert (found["seed"], found["comparison"]) == (0, "c.toml")
    first, second = found["candidates"]
    assert (first["device"], second["device"], first["repeats"]) == ("pcm", "reram-cmo", 2)
    assert [time["seconds"] for time in first["times"]] == [1.0]
    assert second["differences"] == {"device": "reram-cmo", "mapping.levels": 16}
    options = ["--times", "0s,1d", "--repeats", 1, "--seed", 3, "--device", "pcm", "--levels", 8]
    found = gconv("simulate", model, "--compare", "c.toml", "--json", *options).json
    for each in found["candidates"]:
        assert (each["seed"], each["device"], each["repeats"], each["differences"]) == (3, "pcm", 1, {})
        assert [time["seconds"] for time in each["times"]] == [0.0, 86400.0]
    assert found["candidates"][0]["times"] == found["candidates"][1]["times"]
    twins, of_inputs = found["notes"]
    assert twins == "'ReRAM' is the same as 'as it is': nothing is different for this model"
    assert of_inputs.startswith("the inputs are random, so that these figures say little about the accuracy on real")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sensitivity"], "--sensitivity is for one simulation, not for --compare; leave one of them out"),
        (["--levels", "1"], "--levels: should be a number of levels"),
        (["--g-max", "60"], "'c.toml', line 3: candidates[0] 'as it is': 'm.onnx': the weight 'W' has conductances"),
        (["--config", "no.toml"], "'no.toml' cannot be read"),
        (["--compare", "no.toml"], "'no.toml' cannot be read: No such file or directory; give the path of a TOML file"),
        (["--csv", "m.onnx"], "'m.onnx' exists, and is no table of a simulation; choose another name"),
        (["--dask", "tcp://127.0.0.1:1", "--workers", "2"], "the number of workers is for this machine"),
    ],
)
def test_wrong_usage_is_one_line(gconv, model, options, message):
    found = gconv("simulate", model.name, "--compare", "c.toml", *options)
    assert (found.code, found.stdout) == (2, "")
    [line] = found.stderr.splitlines()
    assert message in line
