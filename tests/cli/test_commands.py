"""The command line as programs and people use it: what each command prints, writes and returns."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_gconv import map_model
from onnx_gconv.models import model_path

COMMANDS = ["map", "inspect", "verify", "check", "restore", "program", "simulate", "presets", "olive-config", "demo"]
MAPPED_KEYS = {"name", "shape", "dtype", "converter", "granularity", "scale", "consumers"}


def names(folder):
    return sorted(item.name for item in folder.iterdir())


@pytest.fixture(scope="module")
def both_models(tmp_path_factory):
    """A folder with a model and its mapped form; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copyfile(model_path("digits_cnn.onnx"), folder / "cnn.onnx")
    map_model(folder / "cnn.onnx", folder / "cnn.gconv.onnx")
    return folder


@pytest.fixture
def folder(both_models, tmp_path, monkeypatch):
    """A copy of it, the current folder."""
    copy = Path(shutil.copytree(both_models, tmp_path / "folder"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def plain(folder):
    """The folder without the mapped model."""
    (folder / "cnn.gconv.onnx").unlink()
    return folder


@pytest.fixture
def short_demo(monkeypatch):
    """The demo simulates two chips instead of 25 at each time."""
    monkeypatch.setattr("onnx_gconv.demo._CHIPS", 2)


@pytest.fixture
def gconv_json(gconv):
    """Runs a command that succeeds, in this process, for its JSON document."""

    def run(*arguments):
        found = gconv(*arguments, "--json")
        assert (found.code, found.stderr) == (0, "")
        return found.json

    return run


# The happy path of each command


def test_map_writes_the_mapped_model_beside_the_model_and_shows_a_table(program, plain):
    found = program("map", "cnn.onnx", cwd=plain)
    assert (found.code, found.stderr) == (0, "")
    assert names(plain) == ["cnn.gconv.onnx", "cnn.onnx"]
    assert "5 weights mapped" in found.stdout
    assert "34,208 of 34,208 parameters of MVM ops (100.0%) are mapped to conductances." in found.stdout
    assert "Written: cnn.gconv.onnx" in found.stdout
    onnx.checker.check_model(plain / "cnn.gconv.onnx", full_check=True)


def test_map_writes_to_the_output_that_it_is_given(gconv, plain):
    (plain / "sub").mkdir()
    assert gconv("map", "cnn.onnx", "-o", "sub/out.onnx").code == 0
    assert names(plain / "sub") == ["out.onnx"]
    assert gconv("map", "cnn.onnx", "--output", plain / "long.onnx").code == 0
    assert (plain / "long.onnx").read_bytes() == (plain / "sub" / "out.onnx").read_bytes()


def test_map_takes_its_options(gconv_json, plain):
    report = gconv_json(
        "map", "cnn.onnx", "--g-max", 40, "--g-min", 0.5, "--include", "*weight", "--exclude", "stem*", "--exclude",
        "node_linear", "--external-data",
    )  # fmt: skip
    assert [weight["name"] for weight in report["mapped"]] == [
        "depthwise.weight",
        "pointwise.weight",
        "classifier.weight",
    ]
    assert report["mapped"][0]["converter_parameters"] == {"g_max": 40.0, "g_min": 0.5, "exact": False}
    assert {item["name"]: item["reason"] for item in report["skipped"]} == {
        "stem.weight": "not_selected",
        "hidden.weight": "not_selected",
    }
    assert names(plain) == ["cnn.gconv.onnx", "cnn.gconv.onnx.data", "cnn.onnx"]


def test_inspect_shows_the_mapping_of_a_mapped_model(gconv, folder):
    found = gconv("inspect", "cnn.gconv.onnx")
    assert (found.code, found.stderr) == (0, "")
    assert "5 weights mapped" in found.stdout


def test_inspect_shows_what_map_would_do_with_a_plain_model(gconv, plain):
    found = gconv("inspect", "cnn.onnx", "--include", "stem*")
    assert (found.code, found.stderr) == (0, "")
    assert "1 weight to be mapped" in found.stdout
    assert "4 weights skipped" in found.stdout
    assert names(plain) == ["cnn.onnx"]


def test_verify_proves_that_nothing_changed(program, both_models):
    found = program("verify", "cnn.onnx", "cnn.gconv.onnx", cwd=both_models)
    assert (found.code, found.stderr) == (0, "")
    assert "PASSED: 5 weights" in found.stdout


def test_verify_takes_inputs_from_a_file(gconv_json, folder, tmp_path):
    with np.load(model_path("digits_test.npz")) as data:
        np.savez(tmp_path / "inputs.npz", image=data["images"][:7])
    report = gconv_json("verify", "cnn.onnx", "cnn.gconv.onnx", "--inputs", tmp_path / "inputs.npz")
    assert report["inputs"]["source"] == str(tmp_path / "inputs.npz")
    assert report["inputs"]["tensors"][0]["shape"] == [7, 1, 8, 8]


def test_verify_generates_inputs_of_the_sizes_and_values_that_it_is_given(gconv_json, folder):
    options = ["--dim", "batch=3", "--value", "image=0..1", "--seed", "5"]
    report = gconv_json("verify", "cnn.onnx", "cnn.gconv.onnx", *options)
    assert report["inputs"]["tensors"][0]["shape"][0] == 3
    assert report["inputs"]["seed"] == 5


def test_restore_writes_the_plain_model(gconv, folder):
    found = gconv("restore", "cnn.gconv.onnx")
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.startswith("5 weights restored.\nWritten: cnn.restored.onnx (")
    assert names(folder) == ["cnn.gconv.onnx", "cnn.onnx", "cnn.restored.onnx"]


def test_exact_mapping_and_restoring_gives_the_very_weights_back(gconv, gconv_json, plain):
    assert gconv("map", "cnn.onnx", "--exact").code == 0
    report = gconv_json("verify", "cnn.onnx", "cnn.gconv.onnx")
    assert all(weight["bit_identical"] for weight in report["weights"])
    assert gconv("restore", "cnn.gconv.onnx", "-o", "back.onnx").code == 0
    before, after = ({i.name: i for i in onnx.load(plain / f).graph.initializer} for f in ("cnn.onnx", "back.onnx"))
    assert before.keys() == after.keys()
    assert all(
        numpy_helper.to_array(before[name]).tobytes() == numpy_helper.to_array(after[name]).tobytes() for name in before
    )


def test_demo_runs_into_a_folder_of_its_own(short_demo, gconv, tmp_path):
    found = gconv("demo", "-o", tmp_path / "here")
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.count("440 of 450") == 8
    assert names(tmp_path) == ["here"]


# --json


def test_the_json_of_map_has_the_documented_keys(gconv_json, plain):
    report = gconv_json("map", "cnn.onnx", "--exclude", "stem*")
    assert report["output"] == "cnn.gconv.onnx"
    assert all(weight.keys() >= MAPPED_KEYS for weight in report["mapped"])
    consumers = [consumer for weight in report["mapped"] for consumer in weight["consumers"]]
    assert all(consumer.keys() >= {"node", "op_type", "slot"} for consumer in consumers)
    assert all(item.keys() >= {"name", "shape", "reason"} for item in report["skipped"])


def test_the_json_of_inspect_has_the_documented_keys(gconv_json, folder):
    mapped = gconv_json("inspect", "cnn.gconv.onnx")
    plain = gconv_json("inspect", "cnn.onnx")
    assert (mapped["is_mapped"], plain["is_mapped"]) == (True, False)
    assert mapped["mapped"] == plain["mapped"]
    assert all(weight.keys() >= MAPPED_KEYS for weight in mapped["mapped"])


def test_the_json_of_verify_has_the_documented_keys(gconv_json, folder):
    report = gconv_json("verify", "cnn.onnx", "cnn.gconv.onnx")
    assert report["passed"] is True
    assert len(report["weights"]) == 5
    for weight in report["weights"]:
        assert weight.keys() >= {"name", "max_abs_error", "max_relative_error", "bit_identical"}
    assert {(item["name"], item["optimization"]) for item in report["outputs"]} == {
        ("logits", "all"),
        ("logits", "none"),
    }
    for output in report["outputs"]:
        assert output.keys() >= {"name", "optimization", "max_abs_error", "sqnr_db"}


def test_the_json_of_restore_has_the_documented_keys(gconv_json, folder):
    report = gconv_json("restore", "cnn.gconv.onnx", "-o", "back.onnx")
    assert report["output"] == "back.onnx"
    assert len(report["restored"]) == 5


def test_the_json_of_demo_has_all_steps(short_demo, gconv_json, tmp_path):
    report = gconv_json("demo", "-o", tmp_path)
    assert report["passed"] is True
    assert {item["correct"] for item in report["accuracies"]} == {440}


def test_json_holds_names_of_any_script_as_they_are(program, tmp_path):
    name = "层/重み[0]"
    node = helper.make_node("MatMul", ["x", name], ["y"], name="ノード")
    x, y = (helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 4]) for value in "xy")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), name)
    graph = helper.make_graph([node], "graph", [x], [y], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "模型.onnx"
    )
    report = program("map", "模型.onnx", "--json", cwd=tmp_path).json
    assert report["output"] == "模型.gconv.onnx"
    assert report["mapped"][0]["name"] == name


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_characters_that_the_terminal_does_not_have_are_no_error(program, folder, options):
    shutil.copyfile(folder / "cnn.onnx", folder / "µ.onnx")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    found = program("inspect", "µ.onnx", *options, cwd=folder, env=environment)
    assert (found.code, found.stderr) == (0, "")
    assert "stem.weight" in found.stdout


# --quiet, --dry-run, --help, --version, --debug


@pytest.mark.parametrize("option", ["--quiet", "-q"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["map", "cnn.onnx", "-o", "out.onnx"],
        ["inspect", "cnn.onnx"],
        ["verify", "cnn.onnx", "cnn.gconv.onnx"],
        ["check", "cnn.gconv.onnx"],
        ["restore", "cnn.gconv.onnx"],
        ["program", "cnn.gconv.onnx"],
        ["simulate", "cnn.gconv.onnx", "--times", "0s", "--repeats", "1"],
        ["presets"],
        ["olive-config", "base.json", "-o", "passes.json"],
        ["demo", "-o", "demo"],
    ],
    ids=COMMANDS,
)
def test_a_quiet_command_prints_nothing(short_demo, gconv, folder, arguments, option):
    (folder / "base.json").write_text("{}", encoding="utf-8")
    found = gconv(*arguments, option)
    assert (found.code, found.stdout, found.stderr) == (0, "", "")


def test_a_quiet_command_still_prints_the_json_that_it_is_asked_for(gconv, folder):
    assert gconv("inspect", "cnn.onnx", "--json", "--quiet").json["is_mapped"] is False


def test_a_dry_run_writes_nothing(gconv, gconv_json, plain):
    found = gconv("map", "cnn.onnx", "--dry-run")
    assert (found.code, found.stderr) == (0, "")
    assert "5 weights to be mapped" in found.stdout
    assert gconv_json("map", "cnn.onnx", "--dry-run")["output"] is None
    assert names(plain) == ["cnn.onnx"]


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(gconv, tmp_path, command, option):
    found = gconv(command, option)
    assert (found.code, found.stderr) == (0, "")
    assert f"Usage: onnx-gconv {command} " in found.stdout
    for expected in ("--json", "--quiet", "--debug"):
        assert expected in found.stdout
    assert names(tmp_path) == []


def test_the_program_lists_its_commands_and_exit_codes(gconv, tmp_path):
    found = gconv("--help")
    assert (found.code, found.stderr) == (0, "")
    for command in COMMANDS:
        assert f"│ {command} " in found.stdout
    assert "0 done, 1 what was checked does not hold, 2 bad usage or bad input" in " ".join(found.stdout.split())


def test_the_program_without_arguments_explains_itself(program, tmp_path):
    found = program(cwd=tmp_path)
    assert found.code == 2
    assert "Usage: onnx-gconv" in found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_the_program_tells_its_version(gconv, tmp_path):
    found = gconv("--version")
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout == f"onnx-gconv {importlib.metadata.version('onnx_gconv')}\n"


def test_the_installed_command_is_the_module(program, tmp_path):
    script = Path(sys.executable).with_name("onnx-gconv")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    found = subprocess.run([script, "map", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout == program("map", "--help", cwd=tmp_path).stdout


def test_debug_prints_log_lines_to_stderr(program, plain):
    found = program("map", "cnn.onnx", "--debug", "--json", cwd=plain)
    assert found.code == 0
    assert found.json["output"] == "cnn.gconv.onnx"
    assert "Mapped weight 'stem.weight'" in found.stderr


def test_debug_prints_the_traceback_of_an_error(program, tmp_path):
    (tmp_path / "in.onnx").write_text("no model")
    found = program("map", "in.onnx", "--debug", cwd=tmp_path)
    assert (found.code, found.stdout) == (2, "")
    assert "Traceback (most recent call last):" in found.stderr
    assert found.stderr.splitlines()[-1].startswith("onnx-gconv: 'in.onnx' is not an ONNX model")


# A reader that goes away


@pytest.fixture
def program_without_reader(program):
    """Runs the program with a stdout that nobody reads any more."""

    def run(*arguments, cwd):
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
            reader.wait()
            return program(*arguments, cwd=cwd, stdout=reader.stdin)

    return run


@pytest.mark.parametrize(
    "arguments",
    [["map", "cnn.onnx", "-o", "out.onnx", "--json"], ["inspect", "cnn.onnx"], ["map", "--help"]],
    ids=["json", "table", "help"],
)
def test_a_success_whose_reader_has_gone_is_no_error(program_without_reader, folder, arguments):
    found = program_without_reader(*arguments, cwd=folder)
    assert found.stderr == ""
    assert found.code in {0, -signal.SIGPIPE}


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "table"])
def test_a_failed_verification_whose_reader_has_gone_is_no_success(program_without_reader, folder, options):
    spoil(folder / "cnn.gconv.onnx")
    found = program_without_reader("verify", "cnn.onnx", "cnn.gconv.onnx", *options, cwd=folder)
    assert found.stderr == ""
    assert found.code in {1, -signal.SIGPIPE}


def test_the_first_line_can_be_taken_with_head(folder):
    command = f"'{sys.executable}' -m onnx_gconv inspect cnn.gconv.onnx --json | head -n 1"
    found = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    assert (found.stdout, found.stderr) == ("{\n", "")


# verify that fails


def spoil(mapped):
    """Change one conductance of one weight."""
    model = onnx.load(mapped)
    (tensor,) = (item for item in model.graph.initializer if item.name == "hidden.weight.g_plus")
    array = numpy_helper.to_array(tensor).copy()
    array[3, 7] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, mapped)


def test_verify_of_a_spoiled_conductance_fails_and_names_the_weight(gconv, folder):
    spoil(folder / "cnn.gconv.onnx")
    found = gconv("verify", "cnn.onnx", "cnn.gconv.onnx")
    assert (found.code, found.stderr) == (1, "")
    assert "FAILED: weight 'hidden.weight' is rebuilt with an error of" in found.stdout


def test_a_quiet_verify_that_fails_says_so_by_its_exit_code(gconv, folder):
    spoil(folder / "cnn.gconv.onnx")
    found = gconv("verify", "cnn.onnx", "cnn.gconv.onnx", "--quiet")
    assert (found.code, found.stdout) == (1, "")


def test_the_json_of_a_verify_that_fails_names_the_problems(gconv, folder):
    spoil(folder / "cnn.gconv.onnx")
    found = gconv("verify", "cnn.onnx", "cnn.gconv.onnx", "--json")
    assert (found.code, found.stderr) == (1, "")
    report = found.json
    assert report["passed"] is False
    assert any("hidden.weight" in problem for problem in report["problems"])


def test_verify_of_a_model_that_is_not_mapped_fails(gconv, plain):
    found = gconv("verify", "cnn.onnx", "cnn.onnx")
    assert (found.code, found.stderr) == (1, "")
    assert "FAILED: the model carries no mapping" in found.stdout


def test_a_verification_of_a_model_with_an_infinite_weight_can_be_written_as_json(gconv, folder):
    model = onnx.load(folder / "cnn.onnx")
    (tensor,) = (item for item in model.graph.initializer if item.name == "stem.weight")
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, folder / "cnn.onnx")
    found = gconv("verify", "cnn.onnx", "cnn.gconv.onnx", "--json")
    assert (found.code, found.stderr) == (1, "")
    assert found.json["passed"] is False


def test_a_digital_copy_is_split_off_on_demand(gconv, tmp_path, parse, normal):
    model = parse("g (float[2,4] x) => (float y, float z) { y = MatMul(x, W) z = Add(x, W) }", W=normal(4, 4))
    onnx.save(ir.to_proto(model), tmp_path / "in.onnx")
    for command in ("map", "inspect"):
        [weight] = gconv(command, tmp_path / "in.onnx", "--shared", "split", "--json").json["mapped"]
        assert weight["digital_copy"] == "W.digital"
    [weight] = gconv("inspect", tmp_path / "in.onnx", "--json").json["mapped"]
    assert weight["digital_copy"] is None


def test_another_policy_for_shared_weights_is_bad_usage(gconv, tmp_path):
    ended = gconv("map", tmp_path / "in.onnx", "--shared", "skip")
    assert ended.code == 2
    assert "--shared" in ended.stderr
