"""Many chips over time: the figures are those of the models that `program_model` writes, however they are computed."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from time import sleep

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import onnx_gconv as gconv
from onnx_gconv.errors import ConfigError
from onnx_gconv.files.models import load_model, save_model
from onnx_gconv.models import model_path
from onnx_gconv.passes import MapConductances
from onnx_gconv.runtime.session import run_model
from onnx_gconv.simulation import program_model, simulate
from onnx_gconv.simulation.bench import RANDOM_INPUTS
from onnx_gconv.simulation.chips.side_by_side import WeightsOnChips
from onnx_gconv.simulation.experiments import experiment
from onnx_gconv.simulation.metric_figures import Agreement, Cosine, Sqnr
from tests.scheme_choices import CONVERTERS

TIMES = ("0s", "1d")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with the mapped digits MLP, and its test images with labels."""
    folder = tmp_path_factory.mktemp("digits")
    gconv.map_model(model_path("digits_mlp.onnx"), folder / "mapped.onnx")
    with np.load(model_path("digits_test.npz")) as data:
        pixels = data["images"].reshape(450, 64).astype(np.float32)
        np.savez(folder / "data.npz", pixels=pixels, labels=data["labels"])
    return folder


def simulated(digits, **options):
    with_data = {"inputs": digits / "data.npz", "labels": "labels"}
    model = options.pop("model", digits / "mapped.onnx")
    return simulate(model, **{"times": TIMES, "repeats": 3, "seed": 5, **with_data, **options})


@pytest.mark.parametrize("compensation", ["none", "global"])
def test_each_value_is_that_of_the_model_of_that_chip(digits, tmp_path, compensation):
    report = simulated(digits, drift_compensation=compensation)
    with np.load(digits / "data.npz") as data:
        pixels, labels = data["pixels"], data["labels"]
    for time in report.times:
        assert len(time.values) == 3
        for chip, value in enumerate(time.values):
            options = {"time": time.seconds, "seed": 5, "chip": chip, "drift_compensation": compensation}
            program_model(digits / "mapped.onnx", tmp_path / "chip.onnx", **options)
            [scores] = run_model(tmp_path / "chip.onnx", {"pixels": pixels}, "all").values()
            assert value == (scores.argmax(axis=1) == labels).mean()
    [scores] = run_model(digits / "mapped.onnx", {"pixels": pixels}, "all").values()
    assert report.ideal == (scores.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn])
def test_weights_of_types_that_no_array_can_feed_are_simulated(parse, normal, tmp_path, dtype):
    weight = np.round(3 * normal(8, 6)).clip(0 if dtype == ml_dtypes.uint4 else -7, 7).astype(dtype)
    model = parse(
        "g (float[2,8] x) => (float[2,6] y) { V = DequantizeLinear(W, scale)  y = MatMul(x, V) }",
        opsets='"" : 21',
        W=weight,
        scale=np.array(0.1, np.float32),
    )
    save_model(model, tmp_path / "in.onnx")
    gconv.map_model(tmp_path / "in.onnx", tmp_path / "mapped.onnx")
    x = normal(2, 8, seed=1)
    np.savez(tmp_path / "x.npz", x=x)
    how = {"device": "gaussian", "settings": {"sigma_us": 2.0}, "seed": 3}
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", time="0s", **how)
    ideal, found = (run_model(tmp_path / name, {"x": x}, "all")["y"] for name in ("in.onnx", "chip.onnx"))
    expected = 10 * np.log10(
        np.square(ideal, dtype=np.float64).sum() / np.square(found - ideal, dtype=np.float64).sum()
    )
    report = simulate(tmp_path / "mapped.onnx", times="0s", repeats=1, inputs=tmp_path / "x.npz", **how)
    assert report.ideal == math.inf
    np.testing.assert_allclose(report.times[0].values, expected, rtol=1e-4)


@pytest.mark.parametrize("scales", [(), (6,), (2, 6)], ids=["tensor", "channel", "block"])
def test_trials_of_dequantized_products_are_those_of_the_chip_in_a_session_that_keeps_inputs(
    parse, normal, tmp_path, monkeypatch, scales
):
    blocks = "block_size = 32, axis = 0" if len(scales) > 1 else "axis = 1"
    model = parse(
        f"g (float[5,64] x) => (float[5,6] y) {{ V = DequantizeLinear <{blocks}> (W, s)  y = MatMul(x, V) }}",
        opsets='"" : 21',
        W=np.round(40 * normal(64, 6)).clip(-127, 127).astype(np.int8),
        s=np.abs(normal(*scales, seed=1)).astype(np.float32) + np.float32(0.01),
    )
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    x = normal(5, 64, seed=2)
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "last_outputs.py").write_text(
        "import numpy as np\ndef of(outputs, labels):\n    np.save('last', outputs['y'])\n    return 0.0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "last_outputs", raising=False)
    how = {"device": "gaussian", "settings": {"sigma_us": 2.0}, "seed": 4}
    simulate("mapped.onnx", times="0s", repeats=1, inputs="x.npz", metric="last_outputs:of", **how)
    program_model("mapped.onnx", "chip.onnx", time="0s", **how)
    trial, levels = np.load("last.npy"), onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # as docs/reference/limits.md
        [found] = onnxruntime.InferenceSession("chip.onnx", options).run(None, {"x": x})
        np.testing.assert_allclose(found, trial, rtol=0, atol=2e-6 * np.abs(trial).max())
    ideal = run_model(tmp_path / "mapped.onnx", {"x": x}, "all")["y"]
    assert np.abs(trial - ideal).max() > 1e-3 * np.abs(trial).max()  # it is a chip with errors


@pytest.mark.parametrize("converter", CONVERTERS)
def test_the_outputs_of_a_chip_of_any_converter_are_those_of_its_model(parse, normal, tmp_path, converter):
    text = "g (float[2,9] x) => (float[2,4] y) { h = MatMul(x, W) a = Relu(h) y = Gemm <transB = 1> (a, V, b) }"
    model = parse(text, W=normal(9, 7), V=normal(4, 7, seed=1), b=normal(4, seed=2))
    MapConductances(CONVERTERS[converter], granularity="channel")(model)
    save_model(model, tmp_path / "mapped.onnx")
    x = normal(2, 9, seed=3)
    np.savez(tmp_path / "x.npz", x=x)
    settings = {"g_max": CONVERTERS[converter].g_max * 1.001, "sigma_us": 0.1}
    options = {"settings": settings, "drift_compensation": "global", "seed": 1}
    report = simulate(
        tmp_path / "mapped.onnx", "gaussian", times=["1h"], repeats=1, inputs=tmp_path / "x.npz", **options
    )
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", "gaussian", time="1h", **options)
    outputs = [run_model(tmp_path / name, {"x": x}, "all")["y"].astype(float) for name in ("chip.onnx", "mapped.onnx")]
    expected = 10 * math.log10(np.square(outputs[1]).sum() / np.square(outputs[0] - outputs[1]).sum())
    assert report.times[0].values == (pytest.approx(expected, abs=1e-3),)


def test_weights_in_bodies_and_of_integers_are_simulated(parse, normal, tmp_path):
    codes = np.random.default_rng(0).integers(-127, 128, (4, 4)).astype(np.int8)
    text = """g (bool c, float[2,4] x) => (float[2,4] y) {
        d = DequantizeLinear(Q, s)  q = MatMul(x, d)
        y = If (c) <then_branch = t () => (float[2,4] a) { a = MatMul(q, W) },
                    else_branch = e () => (float[2,4] b) { b = MatMul(q, V) }> }"""
    model = parse(text, Q=codes, s=np.array(0.02, np.float32), W=normal(4, 4), V=normal(4, 4, seed=1))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", c=np.array(True), x=normal(2, 4, seed=2))
    report = simulate(tmp_path / "mapped.onnx", times=["1d"], repeats=2, inputs=tmp_path / "in.npz", sensitivity=True)
    of_layer = {layer.name: layer.values for layer in report.sensitivity}
    assert of_layer["V"] == (math.inf, math.inf)  # the branch that is not taken
    assert 0 < of_layer["W"][0] < 60
    assert 0 < of_layer["Q"][0] < 60
    with np.load(tmp_path / "in.npz") as data:
        feeds = dict(data)
    program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", time="1d", chip=1)
    outputs = [run_model(tmp_path / name, feeds, "all")["y"].astype(float) for name in ("chip.onnx", "mapped.onnx")]
    expected = 10 * math.log10(np.square(outputs[1]).sum() / np.square(outputs[0] - outputs[1]).sum())
    assert report.times[0].values[1] == pytest.approx(expected, abs=1e-3)


def test_threads_read_external_data_without_the_cache_that_they_would_share(digits, tmp_path, monkeypatch):
    expected = simulated(digits, sensitivity=True)
    gconv.map_model(model_path("digits_mlp.onnx"), tmp_path / "mapped.onnx", external_data=True)
    # Two threads that read the same tensor for the first time, each with this method, fail in onnx-ir.
    monkeypatch.setattr(ir.ExternalTensor, "numpy", lambda _: pytest.fail("a tensor is cached"))
    found = simulated(digits, sensitivity=True, workers=2, model=tmp_path / "mapped.onnx")
    assert [each.values for each in found.times] == [each.values for each in expected.times]


def test_threads_prepare_the_weights_of_all_chips_once(digits, monkeypatch):
    made = []

    def slowly(*arguments):
        made.append(sleep(0.05))
        return WeightsOnChips(*arguments)

    monkeypatch.setattr(experiment, "WeightsOnChips", slowly)
    simulated(digits, workers=4)
    assert len(made) == 1


def test_results_do_not_depend_on_workers_batches_and_other_times(digits):
    report = simulated(digits)
    for options in ({"workers": 4}, {"batch": 100}, {"times": ("1d", "0s", "1y", "1d")}, {"repeats": 4}):
        other = simulated(digits, **options)
        found = {time.seconds: time.values[:3] for time in other.times}
        assert [found[time.seconds] for time in report.times] == [time.values for time in report.times]
    assert simulated(digits, seed=6).times != report.times


def test_figures_over_time_are_plausible(digits):
    report = simulated(digits, times=("0s", "1d", "1y"), repeats=5, metric="sqnr")
    means = [time.spread.mean for time in report.times]
    assert means == sorted(means, reverse=True)
    assert report.ideal == math.inf
    compensated = simulated(digits, times=("1y",), repeats=5, metric="sqnr", drift_compensation="global")
    assert compensated.times[0].spread.mean > means[-1] + 3
    assert report.unit == "dB"


def test_an_output_that_no_weight_leads_to_is_noted_and_not_chosen(parse, normal, tmp_path):
    text = """g (int64[2] i, float[2,4] x) => (int64[2] j, float[2,4] z, float[2,4] y) {
        j = Identity(i) z = Neg(x) y = MatMul(x, W) }"""
    model = parse(text, W=normal(4, 4))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    options = {"times": ["1d"], "repeats": 2}
    report = simulate(tmp_path / "mapped.onnx", **options)
    assert report.output == "z"
    _, note = report.notes
    assert note.startswith("the metric of each chip equals that of the ideal model; if no mapped weight leads")
    assert f"Note: {note[:60]}" in str(report)
    assert simulate(tmp_path / "mapped.onnx", output="y", **options).notes == (RANDOM_INPUTS,)


@pytest.mark.parametrize("metric", ["cosine", "agreement"])
def test_metrics_of_vectors_need_vectors(parse, normal, tmp_path, metric):
    model = parse("g (float[2,4] x) => (float[2,1] y) { y = MatMul(x, W) }", W=normal(4, 1))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    with pytest.raises(
        gconv.ConfigError, match=r"along the last axis, but the output has the shape \[2, 1\]; take another"
    ):
        simulate(tmp_path / "mapped.onnx", metric=metric)


def test_metrics_of_many_kinds(digits):
    of = {name: simulated(digits, metric=name) for name in ("accuracy", "top1", "top3", "cosine", "agreement")}
    assert of["top1"].times == of["accuracy"].times
    assert all(a > b for a, b in zip(of["top3"].times[1].values, of["top1"].times[1].values, strict=True))
    assert of["cosine"].ideal == pytest.approx(1)
    assert of["agreement"].ideal == 1
    assert all(0.9 < value < 1 for name in ("cosine", "agreement") for value in of[name].times[1].values)


def test_a_metric_of_ones_own(digits, tmp_path, monkeypatch):
    (tmp_path / "lab_metrics.py").write_text(
        "def wrong(outputs, labels):\n    return (outputs['logits'].argmax(1) != labels).mean()\n"
        "def raises(outputs, labels):\n    raise KeyError('no\\nsuch')\n"
        "def nothing(outputs, labels):\n    return float('nan')\n"
        "def few(outputs):\n    return 1\n"
        "def text(outputs, labels):\n    return 'good'\n"
    )
    monkeypatch.chdir(tmp_path)
    accuracy, wrong = simulated(digits), simulated(digits, metric="lab_metrics:wrong")
    for one, other in zip(accuracy.times, wrong.times, strict=True):
        assert np.allclose(1 - np.array(one.values), other.values)
    called = "it is called with a dict of outputs by name, and the labels, and gives a number"
    for name, message in {
        "raises": f"the metric 'lab_metrics:raises' fails: KeyError: 'no\\nsuch'; {called}",
        "few": "the metric 'lab_metrics:few' fails: TypeError: few() takes 1 positional argument but 2 were given; "
        f"{called}",
        "text": f"the metric 'lab_metrics:text' fails: ValueError: could not convert string to float: 'good'; {called}",
        "nothing": "the metric 'lab_metrics:nothing' gives no number (NaN) for the output of a chip; give other "
        "inputs, or another metric",
    }.items():
        with pytest.raises(gconv.ConfigError) as found:
            simulated(digits, metric=f"lab_metrics:{name}")
        assert str(found.value) == message


def test_a_metric_that_cannot_be_imported(digits, tmp_path, monkeypatch):
    for name, text in {
        "lab_empty": "",
        "lab_several": "import os\ndef _own(): pass\n" + "".join(f"def f{k}(o, l): return 1\n" for k in range(7)),
        "lab_value": "number = 3\n",
        "lab_fails": "1 / 0\n",
        "lab_wrong": "def f(:\n",
        "lab_ends": "raise SystemExit(3)\n",
        "lab_needs": "import lab_surely_missing\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name, message in {
        "lab_none:f": "ModuleNotFoundError: No module named 'lab_none'; put lab_none.py into the folder "
        f"'{tmp_path}', or install the package that has it",
        "lab_none.part:f": "ModuleNotFoundError: No module named 'lab_none'; put lab_none.py into the folder "
        f"'{tmp_path}', or install the package that has it",
        "lab_needs:f": "ModuleNotFoundError: No module named 'lab_surely_missing'; install lab_surely_missing, which "
        "lab_needs imports",
        "lab_empty:f": "AttributeError: module 'lab_empty' has no attribute 'f'; define it there",
        "lab_several:f": "AttributeError: module 'lab_several' has no attribute 'f'; name one that it has: f0, f1, f2, "
        "f3, f4 and 2 more",
        "lab_fails:f": "ZeroDivisionError: division by zero; correct what lab_fails does when it is imported",
        "lab_ends:f": "SystemExit: 3; correct what lab_ends does when it is imported",
        "lab_wrong:f": "SyntaxError: invalid syntax (lab_wrong.py, line 1); correct what lab_wrong does when it is "
        "imported",
    }.items():
        with pytest.raises(gconv.ConfigError) as found:
            simulated(digits, metric=name)
        assert str(found.value) == f"the metric '{name}' cannot be imported: {message}"
    with pytest.raises(gconv.ConfigError) as found:
        simulated(digits, metric="lab_value:number")
    assert str(found.value) == (
        "the metric 'lab_value:number' is of the type int, and no function of outputs and labels; name a function"
    )


def test_labels_without_their_name_and_too_many_scores_have_a_remedy(digits):
    with pytest.raises(gconv.ConfigError) as found:
        simulated(digits, labels=None)
    assert str(found.value) == (
        f"{digits / 'data.npz'}: no input is named 'labels'; there is 'pixels'; if it has the classes of the "
        "samples, name it with --labels"
    )
    with pytest.raises(gconv.ConfigError) as found:
        simulated(digits, metric="top11")
    assert str(found.value) == "top11 is about 11 scores, but there are 10 classes; take a smaller number"


def test_the_worst_layer_comes_first(digits):
    report = simulated(digits, metric="sqnr", sensitivity=True)
    means = [layer.spread.mean for layer in report.sensitivity]
    assert means == sorted(means)
    assert len(means) == 3
    assert min(means) > report.times[-1].spread.mean  # all layers together do more harm than one
    assert {layer.seconds for layer in report.sensitivity} == {86400.0}


def test_what_is_reported(digits):
    report = simulated(digits, repeats=25, sensitivity=True)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["device"] == "pcm"
    assert (document["repeats"], document["seed"], document["metric"]) == (25, 5, "accuracy")
    assert document["samples"] == 450
    first = document["times"][0]
    assert (first["seconds"], first["time"], len(first["values"])) == (0.0, "0s", 25)
    assert first["mean"] == pytest.approx(np.mean(first["values"]))
    assert first["std"] == pytest.approx(np.std(first["values"], ddof=1))
    assert first["low"] < first["mean"] < first["high"]
    text = str(report)
    for part in (
        "Device pcm; drift compensation: none; seed 5",
        "(450 samples)",
        "accuracy of 25 chips",
        "1d",
        "hidden1",
    ):
        assert part in text
    lines = report.to_csv().splitlines()
    assert lines[0] == "seconds,chip,accuracy"
    assert len(lines) == 1 + 2 * 25
    assert (
        simulated(digits, metric="sqnr", device="gaussian", settings={"sigma_us": 0.0}).to_json()["times"][0]["mean"]
        is None
    )


def test_a_picture_has_the_times_and_the_ideal(digits, tmp_path):
    figure = simulated(digits).plot()
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0s", "1d"]
    assert axes.get_ylabel() == "accuracy"
    figure.savefig(tmp_path / "plot.png")


def test_progress_is_told(digits):
    told = []
    simulated(digits, progress=lambda *step: told.append(step))
    assert told == [("simulate", done, 6) for done in range(1, 7)]


# A run that is stopped


def test_a_stopped_run_goes_on_from_its_journal(digits, tmp_path):
    journal, whole = tmp_path / "j.jsonl", simulated(digits)

    def stop(_, done, __):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated(digits, journal=journal, progress=stop)
    assert len(journal.read_text().splitlines()) == 5
    with journal.open("a") as file:
        file.write('["2 864')  # a run was killed while it wrote this
    told = []
    assert simulated(digits, journal=journal, progress=lambda *step: told.append(step)) == whole
    assert [done for _, done, _ in told] == [5, 6]
    assert simulated(digits, journal=journal) == whole


@pytest.mark.parametrize(
    ("options", "key"),
    [({"seed": 6}, "seed"), ({"metric": "sqnr"}, "metric"), ({"device": "gaussian"}, "device")],
)
def test_a_journal_of_another_simulation_is_refused(digits, tmp_path, options, key):
    simulated(digits, journal=tmp_path / "j.jsonl")
    with pytest.raises(gconv.ConfigError, match=f"that of another simulation: its {key} is .*; remove it, or choose"):
        simulated(digits, journal=tmp_path / "j.jsonl", **options)


def test_a_journal_of_another_output_or_of_other_measurements_is_refused(parse, normal, tmp_path):
    model = parse("g (float[2,4] x) => (float[2,4] y, float[2,4] z) { y = MatMul(x, W) z = Neg(y) }", W=normal(4, 4))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    options = {"times": ["0s"], "repeats": 1, "journal": tmp_path / "j.jsonl"}
    device = tmp_path / "lab.csv"
    device.write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,1\n25,0,25,1\n")
    simulate(tmp_path / "mapped.onnx", str(device), **options)
    with pytest.raises(gconv.ConfigError, match="another simulation: its output is y, not z"):
        simulate(tmp_path / "mapped.onnx", str(device), output="z", **options)
    device.write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,2\n25,0,25,1\n")
    with pytest.raises(gconv.ConfigError, match="another simulation: its device_model is"):
        simulate(tmp_path / "mapped.onnx", str(device), **options)


@pytest.mark.parametrize("text", ["hello\n", "{}\n", "x", "[1]\n"])
def test_a_file_that_is_no_journal_is_left_alone(digits, tmp_path, text):
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(gconv.ConfigError, match=r"notes.txt' is no journal of a simulation; choose another name"):
        simulated(digits, journal=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == text


def test_a_damaged_line_is_named(digits, tmp_path):
    journal = tmp_path / "j.jsonl"
    simulated(digits, journal=journal)
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], "?", *lines[2:]]) + "\n")
    with pytest.raises(gconv.ConfigError, match="line 3, is damaged; remove that line, or the file"):
        simulated(digits, journal=journal)


def test_a_journal_that_cannot_be_written(digits, tmp_path):
    with pytest.raises(gconv.ConfigError, match=r"the journal '.*' cannot be used: "):
        simulated(digits, journal=tmp_path / "no" / "j.jsonl")


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "the number of chips is a whole number from 1.*, but it is 0"),
        ({"workers": -1}, "the number of workers is a whole number from 1.*, but it is -1"),
        ({"batch": 0}, "the batch is a whole number from 1.*, but it is 0"),
        ({"times": ()}, "there is no time to simulate; give one or more"),
        ({"times": ("1x",)}, "a time is a number and one of s, min, h, d, mo, y"),
        ({"labels": "classes"}, "there is no array 'classes'; did you mean 'labels'"),
        ({"labels": "pixels"}, "the labels 'pixels' are an input of the model"),
        ({"labels": None, "metric": "accuracy"}, r"no input is named 'labels'; there is 'pixels'"),
        ({"metric": "f1"}, r"there is no metric 'f1'; there are accuracy, topK, sqnr"),
        ({"output": "scores"}, "the model has no output 'scores'; there is 'logits'"),
        ({"dims": {"batch": 2}}, "sizes and values are for generated inputs"),
        ({"device": "reram-wan2022", "times": ("1h",)}, "reram-wan2022"),
        ({"device": "pmc"}, "there is no device model 'pmc'; did you mean pcm"),
        ({"inputs": "none.npz"}, "none.npz: does not exist"),
        ({"inputs": model_path("digits_mlp.onnx")}, "is not an .npz file"),
    ],
)
def test_wrong_options(digits, options, message):
    with pytest.raises(gconv.ConfigError, match=message):
        simulated(digits, **options)


def test_labels_and_batches_are_for_inputs_of_ones_own(digits):
    for options in ({"labels": "labels"}, {"batch": 3}):
        with pytest.raises(gconv.ConfigError, match="labels and batches are for inputs of your own"):
            simulate(digits / "mapped.onnx", **options)
    with pytest.raises(gconv.ConfigError, match="the metric 'top5' needs labels; name an array of the inputs"):
        simulate(digits / "mapped.onnx", metric="top5")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(449, np.int64), "there are 449 labels 'labels' for 450 samples; there is one for each"),
        (np.int64(3), "there are 1 labels 'labels' for 450 samples"),
        (np.zeros(450), "data.npz: the labels 'labels': they are float64, but classes are integers; give such, or a"),
        (np.full(450, "3"), "the labels 'labels': they are <U1, but classes are integers"),
        (np.full(450, 3j), "the labels 'labels' are complex128, but labels are numbers or texts"),
        (np.full(450, 2**63 + 5, np.uint64), r"the label at \[0\] is 9223372036854775813 \(and 449 more"),
        (np.full(450, 10), r"data.npz: the labels 'labels': the label at \[0\] is 10 \(and 449 more labels"),
        (np.full(450, -1), r"the label at \[0\] is -1 .*, but the scores are of the classes 0 to 9"),
        (np.arange(450) // 45 + (np.arange(450) == 449), r"the label at \[449\] is 10, but the scores"),
        (np.zeros((450, 2), np.int64), r"900 labels of the shape \[450, 2\] for outputs of the shape \[450, 10\]"),
    ],
    ids=["number", "scalar", "floats", "texts", "complex", "huge", "class", "negative", "last", "shape"],
)
def test_labels_that_do_not_fit(digits, tmp_path, labels, message):
    with np.load(digits / "data.npz") as data:
        np.savez(tmp_path / "data.npz", pixels=data["pixels"], labels=labels)
    with pytest.raises(gconv.ConfigError, match=message):
        simulated(digits, inputs=tmp_path / "data.npz")


@pytest.mark.parametrize("forms", [(450,), (450, 1), (450, 1, 1)])
def test_labels_may_have_axes_of_one_element(digits, tmp_path, forms):
    with np.load(digits / "data.npz") as data:
        np.savez(tmp_path / "data.npz", pixels=data["pixels"], labels=data["labels"].reshape(forms))
    assert simulated(digits, inputs=tmp_path / "data.npz").times == simulated(digits).times


def test_labels_in_another_order_than_the_rows_of_scores_are_refused(parse, normal, tmp_path):
    """An output with the time before the samples has as many rows as there are labels."""
    model = parse(
        "g (float[N,T,4] x) => (float[T,N,5] y, float[N,T,5] z) { z = MatMul(x, W) y = Transpose <perm=[1,0,2]> (z) }",
        W=normal(4, 5),
    )
    weight = model.graph.initializers["W"].const_value.numpy()
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    x, classes = normal(3, 6, 4), np.zeros((3, 6), np.int64)
    np.savez(tmp_path / "in.npz", x=x, classes=classes)
    options = {"times": ["0s"], "repeats": 1, "inputs": tmp_path / "in.npz", "labels": "classes"}
    with pytest.raises(
        gconv.ConfigError, match=r"18 labels of the shape \[3, 6\] for outputs of the shape \[6, 3, 5\]"
    ):
        simulate(tmp_path / "mapped.onnx", output="y", **options)
    of_class_0 = simulate(tmp_path / "mapped.onnx", output="z", **options).ideal
    assert of_class_0 == ((x @ weight).argmax(axis=-1) == 0).mean()


TARGETS = """
import numpy as np

def squared_error(outputs, labels):
    assert labels.dtype == np.float32
    return float(np.square(outputs["y"] - labels).mean())

def letters(outputs, labels):
    return float(np.mean([text == "abcde"[row.argmax()] for text, row in zip(labels, outputs["y"])]))
"""


def test_a_metric_of_ones_own_gets_targets_that_are_no_classes(parse, normal, tmp_path, monkeypatch):
    model = parse("g (float[N,4] x) => (float[N,5] y) { y = MatMul(x, W) }", W=normal(4, 5))
    weight = model.graph.initializers["W"].const_value.numpy()
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    (tmp_path / "own_targets.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(tmp_path)
    x = normal(6, 4)
    y = x @ weight
    texts = np.array([*"abcde"])[y.argmax(axis=1)]
    texts[0] = "f"
    for labels, metric, figure in ((y + np.float32(0.5), "squared_error", 0.25), (texts, "letters", 5 / 6)):
        np.savez(tmp_path / "in.npz", x=x, labels=labels)
        options = {"inputs": tmp_path / "in.npz", "labels": "labels", "metric": f"own_targets:{metric}"}
        found = simulate(tmp_path / "mapped.onnx", times=["0s"], repeats=1, **options)
        assert found.ideal == pytest.approx(figure, rel=1e-5)


def test_an_output_that_is_one_number(parse, normal, tmp_path):
    text = "g (float[N,4] x) => (float s) { y = MatMul(x, W) z = Abs(y) s = ReduceMean <keepdims = 0> (z) }"
    model = parse(text, W=normal(4, 5))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(6, 4), labels=np.zeros(6, np.int64))
    options = {"times": ["1d"], "repeats": 2, "inputs": tmp_path / "in.npz"}
    found = simulate(tmp_path / "mapped.onnx", metric="sqnr", **options, labels="labels")
    assert (found.output, found.ideal) == ("s", float("inf"))
    assert all(0 < value < 40 for value in found.times[0].values)
    for metric in ("cosine", "agreement", "accuracy", "top3", "sqnr@0"):
        with pytest.raises(gconv.ConfigError, match=r"the output (has|'s' has) the shape \[\]"):
            simulate(tmp_path / "mapped.onnx", metric=metric, labels="labels", **options)
    with pytest.raises(gconv.ConfigError, match="the output 's' cannot be joined from several batches"):
        simulate(tmp_path / "mapped.onnx", metric="sqnr", labels="labels", batch=2, **options)


@pytest.mark.parametrize("metric", ["sqnr", "cosine", "agreement"])
def test_an_output_whose_shape_depends_on_the_weights_is_not_compared(parse, normal, tmp_path, metric):
    """A detector may find one object where the ideal model finds four: NumPy would compare it with each of them."""
    text = """g (float[N,4] x) => (float[2,K] y) {
        z = MatMul(x, W) b = Greater(z, limit) t = NonZero(b) y = Cast <to = 1> (t) }"""
    model = parse(text, W=normal(4, 5), limit=np.array(0, np.float32))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(60, 4))
    options = {"device": "gaussian", "settings": {"sigma_us": 5.0}, "times": ["0s"], "repeats": 9}
    expected = (
        r"the output has the shape \[2, \d+\] on a chip, but \[2, \d+\] in the ideal model; choose an output whose"
    )
    with pytest.raises(gconv.ConfigError, match=expected):
        simulate(tmp_path / "mapped.onnx", metric=metric, inputs=tmp_path / "in.npz", **options)


@pytest.mark.parametrize("figure", [Sqnr, Cosine, Agreement])
def test_a_row_is_not_compared_with_several_rows(figure):
    with pytest.raises(gconv.ConfigError, match=r"the shape \[1, 5\] on a chip, but \[4, 5\] in the ideal model"):
        figure((1, 5), None).add(np.ones((1, 5)), None, lambda: np.ones((4, 5)))


def test_an_output_without_elements_has_no_figure(parse, normal, tmp_path):
    text = "g (float[N,4] x) => (float[N,0] y) { z = MatMul(x, W) y = Slice(z, a, a, o) }"
    model = parse(text, W=normal(4, 5), a=np.array([0]), o=np.array([1]))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(6, 4))
    with pytest.raises(gconv.ConfigError, match=r"the output has the shape \[6, 0\], without any element"):
        simulate(tmp_path / "mapped.onnx", times=["0s"], repeats=1, inputs=tmp_path / "in.npz")


@pytest.mark.parametrize("metric", ["sqnr", "cosine"])
def test_infinite_outputs_have_no_figure_and_no_warning(parse, normal, tmp_path, metric):
    model = parse("g (float[N,4] x) => (float[N,5] y) { z = MatMul(x, W) y = Exp(z) }", W=normal(4, 5) * 100)
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(6, 4) * 100)
    with pytest.raises(gconv.ConfigError, match=rf"the metric '{metric}' gives no number \(NaN\) for the output of"):
        simulate(tmp_path / "mapped.onnx", times=["0s"], repeats=1, inputs=tmp_path / "in.npz", metric=metric)


NOISY = "g (float[N,4] x) => (float[N,5] y) { n = RandomNormalLike(x) a = Add(x, n) y = MatMul(a, W) }"
STEADY = "g (float[N,4] x) => (float[N,5] y) { a = Dropout(x) y = MatMul(a, W) }"


def test_a_model_that_draws_random_numbers_itself_is_named(parse, normal, tmp_path):
    for text in (NOISY, STEADY):
        save_model(parse(text, W=normal(4, 5)), tmp_path / "plain.onnx")
        found = simulate(tmp_path / "plain.onnx", times=["0s"], repeats=1)
        compared = gconv.compare(tmp_path / "plain.onnx", {"candidates": [{"name": "a"}]}, times="0s", repeats=1)
        for notes in (found.notes, compared.notes):
            said = [note for note in notes if "the model itself draws random numbers (node, RandomNormalLike)" in note]
            assert len(said) == (text is NOISY)


def test_generated_inputs_are_those_of_a_seed(digits):
    options = {"times": ["1d"], "repeats": 2, "seed": 3}
    report = simulate(digits / "mapped.onnx", **options)
    assert report.inputs == "generated inputs, seed 3"
    assert report.notes == (RANDOM_INPUTS,)
    assert "Note: the inputs are random, so that these figures say little about the accuracy" in str(report)
    assert (report.metric, report.samples) == ("sqnr", 1)
    assert simulate(digits / "mapped.onnx", **options) == report


def test_a_model_of_a_fixed_batch_is_run_in_batches(parse, normal, tmp_path):
    model = parse("g (float[2,4] x, float s) => (float[2,4] y) { h = MatMul(x, W) y = Mul(h, s) }", W=normal(4, 4))
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    np.savez(tmp_path / "in.npz", x=normal(6, 4), s=np.float32(3))
    found = simulate(tmp_path / "mapped.onnx", times=["0s"], repeats=1, inputs=tmp_path / "in.npz")
    assert found.samples == 6
    np.savez(tmp_path / "odd.npz", x=normal(5, 4), s=np.float32(3))
    with pytest.raises(gconv.ConfigError, match=r"5 samples cannot be cut into batches of 2, .*; leave out 1 of them"):
        simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "odd.npz")
    with pytest.raises(gconv.ConfigError, match="the model takes batches of 2, not of 3; leave --batch out"):
        simulate(tmp_path / "mapped.onnx", inputs=tmp_path / "in.npz", batch=3)


def test_a_chip_is_not_simulated_again(digits, tmp_path):
    program_model(digits / "mapped.onnx", tmp_path / "chip.onnx")
    with pytest.raises(gconv.ModelError, match="has conductances of a simulated chip"):
        simulate(tmp_path / "chip.onnx")


# Plain models


def test_a_plain_model_is_mapped_in_memory(digits):
    plain = {"inputs": digits / "data.npz", "labels": "labels", "times": TIMES, "repeats": 3, "seed": 5}
    report = simulate(model_path("digits_mlp.onnx"), **plain)
    assert report.times == simulated(digits).times
    assert report.notes == ("mapped in memory: 3 weights, SinglePairConductanceConverter of 0 to 25 \u00b5S",)
    assert simulate(model_path("digits_mlp.onnx"), mapping={"granularity": "channel"}, **plain).times != report.times


def test_a_plain_model_is_mapped_to_the_range_of_the_device_unless_another_one_is_given(digits):
    plain = {"times": ["1h"], "repeats": 1}
    report = simulate(model_path("digits_mlp.onnx"), "reram-cmo", **plain)
    assert report.notes[0].startswith(
        "mapped in memory: 3 weights, SinglePairConductanceConverter of 9 to 88.2 \u00b5S"
    )
    with pytest.raises(
        gconv.ConfigError, match="has conductances from 9 to 90 \u00b5S, but the device reram-cmo is valid"
    ):
        simulate(model_path("digits_mlp.onnx"), "reram-cmo", mapping={"g_max": 90.0, "g_min": 9.0}, **plain)
    with pytest.raises(gconv.ConfigError, match="has conductances from 0 to 25 \u00b5S"):
        simulate(model_path("digits_mlp.onnx"), "reram-cmo", gconv.SinglePairConductanceConverter(), **plain)
    named = simulate(model_path("digits_mlp.onnx"), "reram-cmo", "single-pair", **plain)  # says no range
    assert named.times == report.times


def test_weights_that_are_left_out_are_counted_and_stay_ideal(digits):
    plain = {"times": ["1d"], "repeats": 1, "metric": "sqnr"}
    report = simulate(model_path("digits_mlp.onnx"), mapping={"exclude": ["hidden*"]}, **plain)
    assert report.notes[0].endswith("; 2 more weights of MVM ops are not mapped, and stay ideal")
    assert report.times[0].values[0] > simulate(model_path("digits_mlp.onnx"), **plain).times[0].values[0]


def test_options_of_the_mapping_are_for_plain_models(digits):
    for options, name in (({"mapping": {"levels": 16}}, "levels"), ({"converter": "dual-pair"}, "a converter")):
        with pytest.raises(gconv.ConfigError, match=f"the model is mapped already, so that {name} would say nothing"):
            simulate(digits / "mapped.onnx", **options)


def test_a_plain_model_without_weights(parse, tmp_path):
    save_model(parse("g (float[2,4] x) => (float[2,4] y) { y = Neg(x) }"), tmp_path / "plain.onnx")
    with pytest.raises(gconv.ModelError, match="has no weight that can be mapped, so that there is nothing"):
        simulate(tmp_path / "plain.onnx")


def test_the_model_is_not_changed_and_nothing_is_left_behind(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = (digits / "mapped.onnx").read_bytes()
    simulated(digits)
    assert (digits / "mapped.onnx").read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    assert load_model(digits / "mapped.onnx").graph.inputs[0].name == "pixels"


# Found by looking for faults


def mapped(tmp_path, parse, text, **weights):
    model = parse(text, **weights)
    MapConductances()(model)
    save_model(model, tmp_path / "mapped.onnx")
    return tmp_path / "mapped.onnx"


def test_a_weight_that_is_an_output_is_that_of_the_chip(parse, normal, tmp_path):
    text = "g (float[2,4] x) => (float[2,4] y, float[4,4] W) { y = MatMul(x, W) }"
    path = mapped(tmp_path, parse, text, W=normal(4, 4))
    feeds = {"x": normal(2, 4, seed=9)}
    np.savez(tmp_path / "in.npz", **feeds)
    program_model(path, tmp_path / "chip.onnx", time="1d", chip=1)
    ours, ideal = (run_model(tmp_path / name, feeds, "all") for name in ("chip.onnx", "mapped.onnx"))
    for output in ("y", "W"):
        report = simulate(path, times=["1d"], repeats=2, inputs=tmp_path / "in.npz", output=output)
        one, other = (outputs[output].astype(float) for outputs in (ours, ideal))
        expected = 10 * math.log10(np.square(other).sum() / np.square(one - other).sum())
        assert report.times[0].values[1] == pytest.approx(expected, abs=1e-3)


def test_outputs_without_the_axis_of_the_samples_are_not_joined(parse, normal, tmp_path):
    path = mapped(
        tmp_path, parse, "g (float[N,4] x) => (float[3,N] y) { h = MatMul(x, W) y = Transpose(h) }", W=normal(4, 3)
    )
    np.savez(tmp_path / "in.npz", x=normal(8, 4), labels=np.arange(8) % 3)
    for batch in (3, 4):
        with pytest.raises(gconv.ConfigError, match="the output 'y' cannot be joined from several batches"):
            simulate(path, inputs=tmp_path / "in.npz", labels="labels", batch=batch)
    with pytest.raises(gconv.ConfigError, match=r"there are 8 labels for outputs of the shape \[3, 8\]"):
        simulate(path, inputs=tmp_path / "in.npz", labels="labels")


def test_an_input_with_an_axis_of_another_name_is_not_cut(parse, normal, tmp_path):
    text = """g (float[N,4] x, float[M] s) => (float[N,4] y) {
        h = MatMul(x, W) m = ReduceMean <keepdims = 0> (s) y = Mul(h, m) }"""
    path = mapped(tmp_path, parse, text, W=normal(4, 4))
    np.savez(tmp_path / "in.npz", x=normal(8, 4), s=normal(8))
    found = {
        batch: simulate(path, times=["1d"], repeats=1, inputs=tmp_path / "in.npz", batch=batch) for batch in (8, 4, 3)
    }
    values = [report.times[0].values[0] for report in found.values()]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)


@pytest.mark.parametrize("metric", ["sqnr", "cosine", "agreement", "top3", "accuracy"])
def test_outputs_that_are_no_numbers_are_no_good_figures(digits, tmp_path, metric):
    np.savez(tmp_path / "nan.npz", pixels=np.full((2, 64), np.nan, np.float32), labels=np.zeros(2, np.int64))
    with pytest.raises(gconv.ConfigError, match="the output 'logits' has elements that are no numbers"):
        simulated(digits, inputs=tmp_path / "nan.npz", metric=metric)


def test_the_input_that_is_not_finite_is_named(digits, tmp_path):
    with np.load(digits / "data.npz") as data:
        pixels, labels = data["pixels"][:8], data["labels"][:8]
    pixels[3, 2] = np.inf
    np.savez(tmp_path / "inf.npz", pixels=pixels, labels=labels)
    for batch in (None, 2):  # in one run, and in several
        with pytest.raises(gconv.ConfigError) as found:
            simulated(digits, inputs=tmp_path / "inf.npz", batch=batch)
        assert str(found.value) == (
            "the output 'logits' has elements that are no numbers (NaN); "
            f"{tmp_path / 'inf.npz'}: the input 'pixels' is inf at [3, 2]; replace it by a number"
        )


def test_a_metric_that_ends_python_or_changes_labels_is_an_error(digits, tmp_path, monkeypatch):
    (tmp_path / "odd_metrics.py").write_text(
        "import sys\ndef ends(o, l):\n    sys.exit(0)\ndef changes(o, l):\n    l += 1\n    return 0.0\n"
        "def late(o, l):\n    import odd_neighbour\n    return odd_neighbour.value\n"
    )
    (tmp_path / "odd_neighbour.py").write_text("value = 0.25\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(gconv.ConfigError, match="the metric 'odd_metrics:ends' fails: SystemExit: 0"):
        simulated(digits, metric="odd_metrics:ends")
    with pytest.raises(gconv.ConfigError, match=r"the metric 'odd_metrics:changes' fails: ValueError: .*read-only"):
        simulated(digits, metric="odd_metrics:changes")
    assert simulated(digits, metric="odd_metrics:late").ideal == 0.25


def test_a_journal_of_another_function_or_of_other_data_is_refused(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "changing_metric.py").write_text("def of(o, l):\n    return 0.5\n")
    simulated(digits, metric="changing_metric:of", journal="j")
    (tmp_path / "changing_metric.py").write_text("def of(o, l):\n    return 0.9\n")
    with pytest.raises(gconv.ConfigError, match="its metric_function is"):
        simulated(digits, metric="changing_metric:of", journal="j")
    gconv.map_model(model_path("digits_mlp.onnx"), tmp_path / "m.onnx", external_data=True)
    options = {"times": ["0s"], "repeats": 1, "journal": "k"}
    simulate(tmp_path / "m.onnx", **options)
    data = (tmp_path / "m.onnx.data").read_bytes()
    (tmp_path / "m.onnx.data").write_bytes(data[:-8] + bytes(8))
    with pytest.raises(gconv.ConfigError, match="its data is"):
        simulate(tmp_path / "m.onnx", **options)


def test_a_journal_with_other_ends_of_lines_goes_on(digits, tmp_path):
    journal, whole = tmp_path / "j.jsonl", simulated(digits)
    simulated(digits, journal=journal)
    lines = journal.read_text().splitlines()
    journal.write_bytes("\r\n".join(lines[:3]).encode() + b"\r\n")
    assert simulated(digits, journal=journal) == whole
    assert simulated(digits, journal=journal) == whole


def test_inputs_of_bfloat16_come_as_bytes(parse, normal, tmp_path):
    text = "g (bfloat16[2,4] x) => (float[2,4] y) { f = Cast <to = 1> (x) y = MatMul(f, W) }"
    path = mapped(tmp_path, parse, text, W=normal(4, 4))
    x = normal(2, 4).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "in.npz", x=x.view("V2"))
    assert math.isfinite(simulate(path, times=["1d"], repeats=1, inputs=tmp_path / "in.npz").times[0].values[0])


@pytest.mark.parametrize("compensation", ["none", "global"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_chips_of_half_precision_are_verified(parse, normal, tmp_path, dtype, compensation):
    kind = "float16" if dtype is np.float16 else "bfloat16"
    text = f"g ({kind}[2,48] x) => ({kind}[2,20] y) {{ y = MatMul(x, W) }}"
    save_model(parse(text, W=normal(48, 20).astype(dtype)), tmp_path / "plain.onnx")
    gconv.map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    for seed in range(6):
        program_model(tmp_path / "mapped.onnx", tmp_path / "chip.onnx", seed=seed, drift_compensation=compensation)
        [weight] = gconv.verify(tmp_path / "plain.onnx", tmp_path / "chip.onnx").weights
        assert weight.passed, (weight.max_abs_error, weight.bound)


def test_seconds_in_tables_are_told_apart(digits):
    lines = simulated(digits, times=[1000000.0, 1000001.0, 0.125], repeats=1).to_csv().splitlines()
    assert [line.split(",")[0] for line in lines] == ["seconds", "0.125", "1000000", "1000001"]


def test_one_time_may_be_given_as_it_is(digits):
    for times in ("1d", 86400.0, "1d,0s"):
        assert simulated(digits, times=times, repeats=1).times[-1].seconds == 86400.0
    with pytest.raises(
        gconv.ConfigError, match="a time is a number of seconds, or a text such as 1d, but not a NoneType"
    ):
        simulated(digits, times=[None])


def test_numbers_of_numpy_are_numbers(digits):
    assert simulated(digits, repeats=np.int64(3), seed=np.int64(5)) == simulated(digits)
    with pytest.raises(gconv.ConfigError, match="are 2,000,000,000 trials, over 10,000,000; take fewer"):
        simulated(digits, repeats=10**9)


def test_an_error_of_somebody_else_is_no_error_of_the_journal(digits, tmp_path):
    def broken(*_):
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        simulated(digits, journal=tmp_path / "j", progress=broken)


def test_a_journal_on_a_full_disk_is_named(digits, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnx_gconv.simulation.experiments.journal.os.fsync", full)
    with pytest.raises(gconv.ConfigError, match=r"the journal '.*j' cannot be used: No space left on device; choose"):
        simulated(digits, journal=tmp_path / "j")


def test_an_old_plain_model_is_raised_if_that_is_asked_for(parse, normal, tmp_path):
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, W) }", opsets='"" : 6', W=normal(4, 4))
    save_model(model, tmp_path / "old.onnx")
    options = {"times": "0s", "repeats": 1}
    with pytest.raises(gconv.ModelError, match="--upgrade-opset"):
        simulate(tmp_path / "old.onnx", **options)
    report = simulate(tmp_path / "old.onnx", mapping={"upgrade_opset": True}, **options)
    assert report.notes[0].startswith("the opset is 7, raised from 6")


def test_each_rule_of_a_plain_model_is_named(digits, tmp_path):
    (tmp_path / "gconv.toml").write_text(
        '[[overrides]]\nweight = "hidden1*"\nconverter = "single-device"\ndevice = {g_max = 20.0}\n'
    )
    report = simulate(model_path("digits_mlp.onnx"), config=tmp_path / "gconv.toml", times="0s", repeats=1)
    note, _ = report.notes
    rules = "SingleDeviceConductanceConverter of 9 to 20 \u00b5S, SinglePairConductanceConverter of 0 to 25 \u00b5S"
    assert note == f"mapped in memory: 3 weights, {rules}"


def test_a_model_that_the_runtime_does_not_load_or_run_is_named(parse, normal, tmp_path):
    unknown = "g (float[2,4] x) => (float[2,4] y) { h = MatMul(x, W) y = lab.Odd(h) }"
    save_model(parse(unknown, opsets='"" : 17, "lab" : 1', W=normal(4, 4)), tmp_path / "odd.onnx")
    with pytest.raises(gconv.ModelError, match=r"odd.onnx' cannot be simulated: ONNX Runtime does not load the model"):
        simulate(tmp_path / "odd.onnx")
    text = "g (float[N,4] x, float[M,4] z) => (float[N,4] y) { h = MatMul(x, W) s = Add(h, z) y = Reshape(s, r) }"
    save_model(parse(text, W=normal(4, 4), r=np.array([3, 7])), tmp_path / "shapes.onnx")
    with pytest.raises(gconv.ConfigError, match=r"shapes.onnx' does not run on generated inputs \(.*\); give inputs"):
        simulate(tmp_path / "shapes.onnx")
    np.savez(tmp_path / "in.npz", x=normal(2, 4), z=normal(2, 4))
    with pytest.raises(gconv.ConfigError, match=r"in.npz: ONNX Runtime does not run the model"):
        simulate(tmp_path / "shapes.onnx", inputs=tmp_path / "in.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"x": np.zeros((2, 9), np.float32)}}, "inputs are the path of an .npz file, but not a dict"),
        (
            {"inputs": "i.npz", "labels": np.zeros(2)},
            "labels are the name of an array in the file of inputs, but not a nda",
        ),
        ({"metric": max}, "a metric is given by its name, such as 'sqnr' or 'module:function', but not as a builtin"),
    ],
)
def test_objects_in_place_of_names_are_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        gconv.simulate(model_path("digits_mlp.onnx"), repeats=1, **options)
