"""Several candidates in one run: their figures are those of single simulations, on the same samples and numbers."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

import onnx_gconv as gconv
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.files.models import save_model
from onnx_gconv.runtime.session import run_model
from onnx_gconv.simulation import bench, compare, program_model, simulate
from onnx_gconv.terminal_text import rendered

COMPARISON = """\
device = "pcm"                 # shared by all, each may say otherwise
times = ["1s", "1y"]
repeats = 3
[mapping]
converter = "single-pair"
[[candidates]]
name = "as it is"
[[candidates]]
name = "4 levels"
mapping = { levels = 4 }
[[candidates]]
name = "ReRAM, per channel"
device = "reram-cmo"
device_options = { read_scale = 0.5 }
mapping = { granularity = "channel" }
times = ["1s", "1d"]
drift_compensation = "global"
repeats = 2
"""
OPTIONS = {"inputs": "data.npz", "labels": "labels", "seed": 5}


@pytest.fixture
def lab(parse, normal, tmp_path, monkeypatch):
    """A folder with a plain model, its mapped form, samples with labels, and a comparison."""
    text = "g (float[N,9] x) => (float[N,4] y) { h = MatMul(x, W) a = Relu(h) y = Gemm <transB = 1> (a, V, b) }"
    save_model(parse(text, W=normal(9, 7), V=normal(4, 7, seed=1), b=normal(4, seed=2)), tmp_path / "model.onnx")
    gconv.map_model(tmp_path / "model.onnx", tmp_path / "mapped.onnx")
    x = normal(40, 9, seed=3)
    [scores] = run_model(tmp_path / "model.onnx", {"x": x}, "all").values()
    np.savez(tmp_path / "data.npz", x=x, labels=scores.argmax(axis=1))
    (tmp_path / "c.toml").write_text(COMPARISON)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(simulation):
    return simulation.ideal, [(time.seconds, time.values) for time in simulation.times]


def test_each_candidate_has_the_figures_of_its_own_simulation(lab):
    report = compare("model.onnx", "c.toml", **OPTIONS)
    alone = [
        simulate("model.onnx", "pcm", times=["1s", "1y"], repeats=3, **OPTIONS),
        simulate("model.onnx", "pcm", mapping={"levels": 4}, times=["1s", "1y"], repeats=3, **OPTIONS),
        simulate(
            "model.onnx",
            "reram-cmo",
            mapping={"granularity": "channel"},
            settings={"read_scale": 0.5},
            times=["1s", "1d"],
            repeats=2,
            drift_compensation="global",
            **OPTIONS,
        ),
    ]
    assert [values(each.simulation) for each in report.candidates] == [values(each) for each in alone]
    assert [each.simulation.to_json() for each in report.candidates] == [each.to_json() for each in alone]
    assert report.unmapped == 1.0
    assert report.candidates[1].simulation.ideal < 1  # the labels are what the plain model says
    assert [each.name for each in report.candidates] == ["as it is", "4 levels", "ReRAM, per channel"]
    assert report.candidates[1].differences == {"mapping.levels": 4}
    assert compare("model.onnx", "c.toml", workers=3, **OPTIONS) == report


@pytest.mark.parametrize("levels", ["none", 8])
def test_outputs_are_compared_with_those_of_the_plain_model(lab, levels):
    report = compare("model.onnx", {"candidates": [{"name": "a", "mapping": {"levels": levels}}]}, **OPTIONS,
                     metric="sqnr", times="1d", repeats=2)  # fmt: skip
    gconv.map_model("model.onnx", "own.onnx", levels=levels)
    program_model("own.onnx", "chip.onnx", "pcm", time="1d", seed=5, chip=1)
    with np.load("data.npz") as data:
        feeds = {"x": data["x"]}
    plain, chip, ideal = (
        run_model(lab / name, feeds, "all")["y"].astype(float) for name in ("model.onnx", "chip.onnx", "own.onnx")
    )
    expected = 10 * math.log10(np.square(plain).sum() / np.square(chip - plain).sum())
    [candidate] = report.candidates
    assert candidate.simulation.times[0].values[1] == pytest.approx(expected, abs=1e-3)
    if levels == 8:
        of_ideal = 10 * math.log10(np.square(plain).sum() / np.square(ideal - plain).sum())
        assert candidate.simulation.ideal == pytest.approx(of_ideal, abs=1e-3)
    assert (report.reference, report.unmapped) == ("unmapped", None)


def test_a_grid_gives_all_combinations_after_the_candidates(lab):
    (lab / "grid.toml").write_text(
        'times = "1s"\nrepeats = 1\n[[candidates]]\nname = "first"\n[grid]\ndevice = ["pcm", "pcm-hermes-1"]\n'
        'mapping.levels = [16, [0.0, 5.0, 10.0]]\nmapping.converter = [{ name = "n-pair", factors = [1, 3] }]\n'
    )
    report = compare("model.onnx", "grid.toml", device="pcm", **OPTIONS)
    assert [each.name for each in report.candidates] == [
        "first",
        "pcm, levels=16, n-pair factors=[1, 3]",
        "pcm, levels=[0.0, 5.0, 10.0], n-pair factors=[1, 3]",
        "pcm-hermes-1, levels=16, n-pair factors=[1, 3]",
        "pcm-hermes-1, levels=[0.0, 5.0, 10.0], n-pair factors=[1, 3]",
    ]
    notes = [each.simulation.notes[0] for each in report.candidates]
    assert [note.partition(", ")[2] for note in notes] == [
        "SinglePairConductanceConverter of 0 to 25 \u00b5S",
        *["NPairConductanceConverter of 0 to 25 \u00b5S", "NPairConductanceConverter of 0 to 10 \u00b5S"] * 2,
    ]
    # The device that is given for all wins, so that it tells no candidates apart.
    assert {each.simulation.device for each in report.candidates} == {"pcm"}
    assert all("device" not in each.differences for each in report.candidates)
    twins = (("pcm-hermes-1, " + levels, "pcm, " + levels) for levels in ("levels=16", "levels=[0.0, 5.0, 10.0]"))
    pairs = "n-pair factors=[1, 3]"
    assert report.notes == tuple(
        f"'{one}, {pairs}' is the same as '{other}, {pairs}': nothing is different for this model"
        for one, other in twins
    )


def test_what_a_caller_says_wins_over_the_file(lab):
    (lab / "more.toml").write_text('seed = 9\nlabels = "labels"\ninputs = "data.npz"\nmetric = "top2"\n' + COMPARISON)
    report = compare("model.onnx", "more.toml")
    assert (report.seed, report.metric, report.samples) == (9, "top2", 40)
    report = compare(
        "model.onnx", "more.toml", seed=5, metric="cosine", repeats=1, times="1s", mapping={"granularity": "tensor"},
        drift_compensation="none", device="pcm", settings={},
    )  # fmt: skip
    assert (report.seed, report.metric) == (5, "cosine")
    for each in report.candidates:
        assert (each.simulation.repeats, each.simulation.times[0].seconds, each.simulation.device) == (1, 1.0, "pcm")
    first, _, last = report.candidates
    assert first.simulation.times == last.simulation.times
    assert "mapping.granularity" not in last.differences


def test_what_a_file_names_lies_beside_it(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("data.npz", "c.toml"):
        shutil.move(lab / name, folder / name)
    (folder / "lab.csv").write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,0.1\n25,0,25,0.1\n")
    (folder / "gconv.toml").write_text('[[overrides]]\nweight = "W"\nskip = true\n')
    (folder / "c.toml").write_text(
        'inputs = "data.npz"\nlabels = "labels"\ntimes = "0s"\nrepeats = 1\n'
        '[[candidates]]\ndevice = "lab.csv"\n[[candidates]]\nname = "V"\nmapping = { config = "gconv.toml" }\n'
        '[[candidates]]\ndevice = "lab.toml"\n'
    )
    (folder / "lab.toml").write_text(
        "target_us = [0, 25]\nseconds = [0]\nmean_us = [[0], [25]]\nsigma_us = [[0.1], [0.1]]\n"
    )
    report = compare("model.onnx", folder / "c.toml")
    assert report.candidates[0].name == "lab.csv"
    assert report.candidates[2].simulation.times == report.candidates[0].simulation.times
    assert report.candidates[1].simulation.notes[0].startswith("mapped in memory: 1 weights")


def test_objects_are_candidates_of_programs(lab):
    converter = gconv.SinglePairConductanceConverter(g_max=20.0)
    of = {"candidates": [{"device": PcmDevice(g_max=20.0), "mapping": {"converter": converter}}]}
    [candidate] = compare("model.onnx", of, times="1s", repeats=1, **OPTIONS).candidates
    assert candidate.name == "pcm, single-pair"
    assert candidate.to_json()["differences"] == {"device": "pcm", "mapping.converter": "single-pair"}
    alone = simulate("model.onnx", PcmDevice(g_max=20.0), converter, times="1s", repeats=1, **OPTIONS)
    assert values(candidate.simulation) == values(alone)


def test_candidates_of_a_mapped_model_differ_in_all_but_the_mapping(lab):
    grid = {"grid": {"device": ["pcm"], "device_options": {"read_scale": [0.0, 2.0]}}}
    report = compare("mapped.onnx", {**grid, "times": "1d", "repeats": 2}, seed=5)
    for each, scale in zip(report.candidates, (0.0, 2.0), strict=True):
        assert each.name == f"pcm, read_scale={scale}"
        alone = simulate("mapped.onnx", "pcm", settings={"read_scale": scale}, times="1d", repeats=2, seed=5)
        assert values(each.simulation) == values(alone)
    assert (report.reference, report.unmapped) == ("ideal", None)
    place = r"'c.toml', line 6: candidates\[0\] 'as it is': the model 'mapped.onnx'"
    said = "is mapped already, so that mapping.converter would say nothing; leave it out, or give the plain model"
    with pytest.raises(gconv.ConfigError, match=f"{place} {said}"):
        compare("mapped.onnx", "c.toml")
    with pytest.raises(gconv.ConfigError, match="is mapped already, so that levels would say nothing; leave it out"):
        compare("mapped.onnx", grid, mapping={"levels": 4})


def test_mappings_that_leave_the_same_graph_share_a_session(lab, monkeypatch):
    made = []
    begin = bench.Bench.__init__
    monkeypatch.setattr(bench.Bench, "__init__", lambda *arguments: made.append(begin(*arguments)))
    kinds = ["single-pair", "offset", "bit-sliced-pair", "two-sided-pair"]
    mapping = {"converter": kinds, "granularity": ["tensor", "channel"], "exclude": [["V"], []]}
    report = compare("model.onnx", {"times": "1s", "repeats": 1, "grid": {"mapping": mapping}}, **OPTIONS)
    assert len(report.candidates) == 16
    assert len(made) == 1 + 16  # the plain model; what is left out changes from one to the next
    made.clear()
    compare("model.onnx", {"times": "1s", "repeats": 1, "grid": {"mapping": {**mapping, "exclude": [[]]}}}, **OPTIONS)
    assert len(made) == 2


class StopError(Exception):
    """As Ctrl-C, in the middle."""


def test_a_run_that_was_stopped_goes_on_with_all_candidates(lab):
    whole, seen = compare("model.onnx", "c.toml", **OPTIONS), []

    def stop(step, done, total):
        seen.append((step, done, total))
        if done == 10:
            raise StopError

    with pytest.raises(StopError):
        compare("model.onnx", "c.toml", journal="j", progress=stop, **OPTIONS)
    assert seen == [("simulate", done, 16) for done in range(1, 11)]
    seen.clear()
    with (lab / "j").open("a") as journal:
        journal.write('["half a li')
    again = compare("model.onnx", "c.toml", journal="j", progress=lambda *step: seen.append(step), **OPTIONS)
    assert again == whole
    assert seen == [("simulate", done, 16) for done in range(11, 17)]
    # A candidate more, in front of the others, and another name: what was computed is known by what it is.
    more = COMPARISON.replace(
        '[[candidates]]\nname = "as it is"', '[[candidates]]\nmapping.levels = 8\n[[candidates]]\nname = "old"'
    )
    (lab / "c.toml").write_text(more)
    seen.clear()
    compare("model.onnx", "c.toml", journal="j", progress=lambda *step: seen.append(step), **OPTIONS)
    assert len(seen) == 6
    for metric in ("top2", "sqnr"):
        with pytest.raises(gconv.ConfigError, match="the journal 'j' is that of another simulation: its metric is acc"):
            compare("model.onnx", "c.toml", journal="j", metric=metric, **OPTIONS)
    with pytest.raises(gconv.ConfigError, match="the journal 'j' is that of another simulation"):
        simulate("model.onnx", journal="j", **OPTIONS)


def test_json_and_csv_have_all_of_it(lab):
    report = compare("model.onnx", "c.toml", **OPTIONS)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {"model", "comparison", "seed", "metric", "output", "unmapped", "best", "candidates"} <= document.keys()
    assert document["comparison"] == "c.toml"
    simulation = simulate("model.onnx", times="1s", repeats=1, **OPTIONS).to_json()
    for each in document["candidates"]:
        assert each.keys() == {"name", "differences", *simulation}
    assert document["candidates"][2]["differences"] == {
        "device": "reram-cmo",
        "device_options.read_scale": 0.5,
        "mapping.granularity": "channel",
        "times": ["1s", "1d"],
        "drift_compensation": "global",
        "repeats": 2,
    }
    lines = report.to_csv().splitlines()
    assert lines[0] == "candidate,seconds,chip,accuracy"
    assert len(lines) == 1 + 3 * 2 + 3 * 2 + 2 * 2
    assert lines[-1].startswith('"ReRAM, per channel",86400,1,')


def test_values_that_json_has_not_are_texts(lab):
    candidates = [{"name": "a", "mapping": {"levels": None}, "device_options": {"read_scale": 1.0}}]
    [candidate] = compare("model.onnx", {"candidates": candidates}, times="0s", repeats=1).candidates
    assert candidate.differences == {"device_options.read_scale": 1.0}
    of = {"x": math.inf, "y": [math.nan, 1.5, True], "z": {"converter": gconv.SinglePairConductanceConverter()}}
    report = replace(candidate, differences=of)
    assert report.to_json()["differences"] == {"x": "inf", "y": ["nan", 1.5, True], "z": {"converter": "single-pair"}}


def test_the_table_marks_the_best_and_fits_a_terminal(lab):
    report = compare("model.onnx", "c.toml", metric="sqnr", **OPTIONS)
    means = {each.name: each.at(1.0).spread.mean for each in report.candidates}
    assert report.best(1.0) == (max(means, key=means.get),)
    assert report.best(86400.0) == ()  # there is one alone
    for width in (80, 120):
        table = rendered(report, width)
        assert max(map(len, table.splitlines())) <= width
        assert table.count(f"*{max(means.values()):.4f}") == 1
        assert (
            "sqnr in dB of 2 or 3 chips, mean \u00b1 standard deviation, compared with the unmapped model"
            in " ".join(table.split())
        )
    row = next(line for line in str(report).splitlines() if "4 levels" in line)
    assert row.split("\u2502")[-3].strip() == "-"  # no figure after a day
    labelled = str(compare("model.onnx", "c.toml", **OPTIONS))
    assert "accuracy of 2 or 3 chips, mean \u00b1 standard deviation; unmapped model: 1.0000" in labelled
    many = compare("model.onnx", "c.toml", times="1s,1min,1h,1d", device="pcm", settings={}, **OPTIONS)
    narrow = rendered(many, 72)
    assert max(map(len, narrow.splitlines())) <= 72
    assert all(f"{time.spread.mean:.4f}" in narrow for each in many.candidates for time in each.simulation.times)


def test_the_best_by_a_metric_of_ones_own_is_nearest_to_the_unmapped_model(lab):
    (lab / "spread_metric.py").write_text("def of(outputs, labels):\n    return float(abs(outputs['y']).mean())\n")
    report = compare("model.onnx", "c.toml", metric="spread_metric:of", inputs="data.npz", labels="labels")
    distances = {each.name: abs(each.at(1.0).spread.mean - report.unmapped) for each in report.candidates}
    assert report.best(1.0) == (min(distances, key=distances.get),)
    assert "* the nearest to the model without a chip, by the mean" in str(report)


def test_the_picture_has_a_line_for_each_candidate(lab):
    pytest.importorskip("matplotlib")
    names = ["_4 $ levels^", "\u8a66\x1b", "ReRAM"]  # which Matplotlib would hide, take for a formula, and not know
    candidates = [{"name": name} for name in names]
    report = compare("model.onnx", {"candidates": candidates}, times="0s,1h", repeats=2, **OPTIONS)
    figure = report.plot()
    figure.draw_without_rendering()
    [axes] = figure.axes
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "_4 $ levels^", "\\u8a66\\x1b", "ReRAM", "unmapped model",
    ]  # fmt: skip
    assert list(axes.lines[1].get_ydata()) == [time.spread.mean for time in report.candidates[1].simulation.times]
    assert list(axes.lines[0].get_xdata()) == [360.0, 3600.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0s", "1h"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'c.toml': there are no candidates; write \[\[candidates\]\] and name = \"...\" above what each of them"),
        ('devise = "pcm"', r"'c.toml', line 1: devise: unknown key; did you mean device"),
        (
            '[[candidates]]\nname = "a"\nmapping = { level = 4 }',
            r"'c.toml', line 3: candidates\[0\].mapping.level of 'a': unknown key; did you mean le",
        ),
        (
            '[[candidates]]\nname = "a"\n[[candidates]]\nname = "a"\nrepeats = 2',
            "'c.toml': there are two candidates 'a'; give each of them a name of its own",
        ),
        (
            '[[candidates]]\nname = "a"\nrepeats = "few"',
            r"'c.toml', line 3: candidates\[0\].repeats of 'a': should be a whole number, but it is 'few'",
        ),
        ("candidates = 3", r"candidates: should be a list of tables; write \[\[candidates\]\] above each of them"),
        ("[[candidates]]\nmapping = {}\ndevice_options = 3", r"candidates\[0\].device_options: should be a table"),
        ("[[candidates]]", r"'c.toml', line 1: candidates\[0\]: says nothing of its own; give it a name, or what is"),
        ('[[candidates]]\ntimes = "soon"', r"candidates\[0\].times: a time is a number and one of s, min, h, d, mo, y"),
        ("[[candidates]]\ntimes = true", r"candidates\[0\].times: should be a list of times, such as .*it is true"),
        ("[[candidates]]\ndevice = 3", r"candidates\[0\].device: should be the name of a device model, but it is 3"),
        (
            "[[candidates]]\nmapping = { clip_percentile = 99.9 }",
            r"mapping.clip_percentile.*: unknown key; it is written clipping = { percentile = 99.9 }$",
        ),
        (
            "[[candidates]]\nlevels = 16",
            r"candidates\[0\].levels: unknown key; it stands in the table mapping: mapping = { levels = ... }$",
        ),
        ("[[candidates]]\nseed = 3", r"candidates\[0\].seed: unknown key; there are device, device_options, "),
        ("[grid]\nmapping.levels = 16", "'c.toml', line 2: grid.mapping.levels: should be a list of values, each of"),
        ("[grid]\nmapping.levels = [16, 1]", r"'c.toml', line 2: grid.mapping.levels\[1\]: should be a number of lev"),
        ("[grid]\nmapping.levels = [16, 16]", "'c.toml': there are two candidates 'levels=16'; give each of them a"),
        (
            f"[grid]\nmapping.levels = {list(range(2, 50))}\nmapping.g_max = {[float(g) for g in range(5, 35)]}",
            "'c.toml', line 1: grid: has 1,440 combinations, over 1,000; give fewer values",
        ),
        (
            '[[candidates]]\nname = "b"\ndevice = "pmc"',
            r"'c.toml', line 1: candidates\[0\] 'b': there is no device model 'pmc'; did you mean pcm",
        ),
        (
            'device_options = { reed_scale = 2.0 }\n[[candidates]]\nname = "b"',
            r"'c.toml', line 2: candidates\[0\] 'b': the device model 'pcm' has no setting 'reed_scale'; did you mean",
        ),
        (
            '[[candidates]]\nname = "b"\nmapping = { g_max = 60.0 }',
            r"'c.toml', line 1: candidates\[0\] 'b': 'model.onnx': the weight 'W' has conductances from 0 to 60 .*",
        ),
        (
            '[[candidates]]\nname = "b"\nmapping = { g_max = 6.0, device = "pcm-joshi" }',
            r"candidates\[0\] 'b': mapping.g_max: device says which devices there are, too; give all of it in one",
        ),
        (
            '[mapping]\nstorage = "codes"\n[[candidates]]\nname = "b"',
            r"'c.toml', line 3: candidates\[0\] 'b': mapping.storage: codes need levels; say how many levels",
        ),
        (
            '[grid]\nmapping.include = [["W"], ["No"]]',
            r"'c.toml', line 1: grid 'include=\[No\]': the pattern 'No' matches no weight",
        ),
        ('[[candidates]]\nmapping = { config = "no.toml" }', r"candidates\[0\] 'config=no.toml': 'no.toml' cannot be"),
        ("[[candidates]", "'c.toml', line 1, column 13: no TOML: Expected ']]' at the end of an array declaration"),
        ('seed = -1\n[[candidates]]\nname = "b"', "'c.toml', line 1: seed: should be at least 0, but it is -1"),
        (
            'times = "1s"\n[[candidates]]\nname = "a"\n[[candidates]]\ndevice = "reram-wan2022"\ntimes = "1y"',
            r"candidates\[1\] 'reram-wan2022, times=1y': device reram-wan2022: errors were published for 1 s, 1 day",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_is_simulated(lab, text, message):
    (lab / "c.toml").write_text(text)
    with pytest.raises(gconv.ConfigError, match=message):
        compare("model.onnx", "c.toml", progress=pytest.fail)


def test_data_that_do_not_fit_are_refused_as_for_one_simulation(lab):
    for options, message in (
        ({"labels": "labels"}, "labels and batches are for inputs of your own"),
        ({"inputs": "data.npz", "labels": "label"}, "there is no array 'label'"),
        ({"metric": "accuracy"}, "the metric 'accuracy' needs labels"),
        ({"seed": -1}, "the seed is a whole number"),
        ({"repeats": 0}, "the number of chips is a whole number from 1"),
        ({"times": []}, "there is no time to simulate"),
    ):
        with pytest.raises(gconv.ConfigError, match=message):
            compare("model.onnx", "c.toml", **options)
