"""Gates of pipelines: `check`, and what `check` and `verify` write for CI services."""

from __future__ import annotations

import shutil

import junitparser
import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_gconv import map_model
from onnx_gconv.models import model_path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, its mapped form, and that folded by ONNX Runtime; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copyfile(model_path("digits_mlp.onnx"), folder / "mlp.onnx")
    map_model(folder / "mlp.onnx", folder / "mlp.gconv.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "mlp.gconv.onnx", options, providers=["CPUExecutionProvider"])
    return folder


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    return tmp_path


def outcomes(path):
    """The kind of result of each case, and its message."""
    [suite] = junitparser.JUnitXml.fromfile(str(path))
    found = {case.name: [(type(item).__name__, item.message) for item in case.result] for case in suite}
    kinds = [kind for results in found.values() for kind, _ in results]
    counts = tuple(kinds.count(kind) for kind in ("Failure", "Error", "Skipped"))
    assert (suite.failures, suite.errors, suite.skipped) == counts
    assert suite.tests == len(found)
    return found


def test_check_passes_a_mapping_that_stands(gconv, folder):
    found = gconv("check", "mlp.gconv.onnx", "--junit", folder / "junit.xml")
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.startswith("PASSED: the mapping of mlp.gconv.onnx holds: ")
    assert all(results == [] for results in outcomes(folder / "junit.xml").values())


def test_check_fails_a_folded_model_in_one_sentence_and_says_what_to_do(gconv, folder):
    found = gconv("check", "folded.onnx", "--junit", folder / "junit.xml")
    assert (found.code, found.stderr) == (1, "")
    assert " ".join(found.stdout.split()).startswith(
        "FAILED: folded.onnx: the mapping was folded away by another tool: 3 of 3 weights are plain initializers again"
    )
    assert "What to do: map the original again, after all other tools" in " ".join(found.stdout.split())
    assert "100" not in found.stdout
    failed = [results for name, results in outcomes(folder / "junit.xml").items() if name.startswith("mapping of ")]
    assert len(failed) == 3
    assert all(kind == "Failure" and "folded away" in message for [(kind, message)] in failed)


def test_check_prints_json(gconv, folder):
    found = gconv("check", "folded.onnx", "--json")
    assert found.code == 1
    assert (found.json["passed"], found.json["is_mapped"], len(found.json["folded"])) == (False, False, 3)
    assert gconv("check", "mlp.gconv.onnx", "--json").json["passed"]


@pytest.mark.parametrize("others", [(), ("mlp.gconv.onnx",)])
def test_a_quiet_check_that_fails_says_only_why(gconv, folder, others):
    found = gconv("check", *others, "folded.onnx", "-q")
    assert (found.code, found.stdout) == (1, "")
    assert found.stderr.startswith("onnx-gconv: 'folded.onnx'")
    assert "folded away" in found.stderr
    assert gconv("check", "mlp.gconv.onnx", "-q") == (0, "", "")


def test_several_models_are_checked_in_one_run(gconv, folder):
    found = gconv("check", "mlp.gconv.onnx", "folded.onnx", "mlp.onnx", "--junit", folder / "junit.xml")
    assert (found.code, found.stderr) == (1, "")
    assert [line.split(":")[0] for line in found.stdout.splitlines() if line[:6] in {"PASSED", "FAILED"}] == [
        "PASSED",
        "FAILED",
        "FAILED",
    ]
    assert "FAILED: folded.onnx: the mapping was folded away" in found.stdout
    suites = junitparser.JUnitXml.fromfile(str(folder / "junit.xml"))
    assert [(suite.name, suite.failures) for suite in suites] == [
        ("onnx-gconv check mlp.gconv.onnx", 0),
        ("onnx-gconv check folded.onnx", 3),
        ("onnx-gconv check mlp.onnx", 1),
    ]
    found = gconv("check", "mlp.gconv.onnx", "mlp.gconv.onnx", "--json")
    assert (found.code, found.json["passed"], len(found.json["models"])) == (0, True, 2)


def test_a_model_that_cannot_be_read_does_not_keep_others_from_being_checked(gconv, folder):
    found = gconv("check", "none.onnx", "mlp.gconv.onnx", "nor.onnx", "--junit", folder / "junit.xml")
    assert found.code == 2
    assert found.stdout.startswith("PASSED: ")
    assert found.stderr.count("\n") == 1
    assert all(name in found.stderr for name in ("none.onnx", "nor.onnx"))
    suites = junitparser.JUnitXml.fromfile(str(folder / "junit.xml"))
    assert [(suite.name, suite.errors) for suite in suites] == [
        ("onnx-gconv check mlp.gconv.onnx", 0),
        ("onnx-gconv check none.onnx", 1),
        ("onnx-gconv check nor.onnx", 1),
    ]
    found = gconv("check", "none.onnx", "mlp.gconv.onnx", "--json")
    assert (found.code, found.json["passed"]) == (2, False)
    assert [item["model"] for item in found.json["errors"]] == ["none.onnx"]


@pytest.mark.parametrize("command", [["check", "none.onnx"], ["verify", "mlp.onnx", "none.onnx"]])
def test_what_could_not_be_checked_is_an_error_for_ci_too(gconv, folder, command):
    found = gconv(*command, "--junit", folder / "junit.xml")
    assert (found.code, found.stdout) == (2, "")
    [[(kind, message)]] = outcomes(folder / "junit.xml").values()
    assert kind == "Error"
    assert message.startswith("ModelError: ")
    assert message.removeprefix("ModelError: ") in found.stderr


def test_an_older_model_is_not_replaced_by_xml(gconv, folder):
    shutil.copyfile("mlp.onnx", folder / "mlp.onnx")
    found = gconv("check", "mlp.gconv.onnx", "--junit", folder / "mlp.onnx")
    assert (found.code, found.stdout) == (2, "")
    assert "exists, and is no JUnit XML" in found.stderr
    assert (folder / "mlp.onnx").read_bytes() == model_path("digits_mlp.onnx").read_bytes()


def test_verify_writes_a_case_for_each_weight_output_and_level(gconv, folder):
    assert gconv("verify", "mlp.onnx", "mlp.gconv.onnx", "--junit", folder / "junit.xml").code == 0
    found = outcomes(folder / "junit.xml")
    assert all(results == [] for results in found.values())
    assert len([name for name in found if name.startswith("weight ")]) == 3
    [output] = {value.name for value in onnx.load("mlp.onnx").graph.output}
    assert {f"output {output} at optimization {level}" for level in ("all", "none")} < set(found)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (["--min-sqnr", "300"], "dB, below 300 dB"),
        (["--max-error", "0"], "above 0"),
    ],
)
def test_a_limit_that_an_output_does_not_keep_is_a_failure(gconv, folder, limit, message):
    assert gconv("verify", "mlp.onnx", "mlp.gconv.onnx", *limit, "--junit", folder / "junit.xml").code == 1
    failed = [results for results in outcomes(folder / "junit.xml").values() if results]
    assert len(failed) == 2
    assert all(kind == "Failure" and text.endswith(message) for [(kind, text)] in failed)


def test_limits_that_are_kept_pass(gconv, folder):
    limits = ["--min-sqnr", "60", "--min-agreement", "1", "--max-error", "0.01"]
    assert gconv("verify", "mlp.onnx", "mlp.gconv.onnx", *limits, "--junit", folder / "junit.xml").code == 0


@pytest.fixture
def shapeless(tmp_path, parse, normal, save):
    """A model whose input gives no size that a run could take."""
    text = "g (float[n] x) => (float[m] y) { s = Reshape(x, t) y1 = MatMul(s, W) y = Reshape(y1, u) }"
    t, u = np.array([3, 16], np.int64), np.array([-1], np.int64)
    save(parse(text, t=t, u=u, W=normal(16, 4)), tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    return tmp_path


@pytest.fixture
def save():
    from onnx_gconv.files.models import save_model

    return save_model


@pytest.mark.parametrize(
    ("given", "code", "kind"),
    [([], 0, "Skipped"), (["--dim", "n=5"], 1, "Failure"), (["--min-sqnr", "3"], 1, "Failure")],
)
def test_outputs_that_are_not_compared_are_skipped_and_fail_if_inputs_or_limits_were_given(
    gconv, shapeless, given, code, kind
):
    models = [shapeless / "plain.onnx", shapeless / "mapped.onnx"]
    found = gconv("verify", *models, *given, "--junit", shapeless / "junit.xml")
    assert found.code == code
    assert "OUTPUTS NOT COMPARED: " in found.stdout
    [(outcome, _)] = outcomes(shapeless / "junit.xml")["all outputs are compared"]
    assert outcome == kind


def test_a_limit_that_no_output_can_be_judged_by_fails(gconv, tmp_path, parse, normal, save):
    text = "g (float[2,16] x) => (int64[2,1] y) { h = MatMul(x, W) y = ArgMax<axis = 1>(h) }"
    save(parse(text, W=normal(16, 4)), tmp_path / "plain.onnx")
    map_model(tmp_path / "plain.onnx", tmp_path / "mapped.onnx")
    models = [tmp_path / "plain.onnx", tmp_path / "mapped.onnx"]
    assert gconv("verify", *models, "--max-error", "0").code == 0
    found = gconv("verify", *models, "--min-sqnr", "20", "--min-agreement", "0.9", "--junit", tmp_path / "junit.xml")
    assert found.code == 1
    printed = " ".join(found.stdout.split())
    assert "FAILED: the smallest SQNR could not be judged, as no output that was compared is of floats" in printed
    assert "FAILED: the smallest agreement of argmax could not be judged" in printed
    [(kind, _)] = outcomes(tmp_path / "junit.xml")["limits of errors"]
    assert kind == "Failure"
