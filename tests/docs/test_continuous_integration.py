"""The workflow, the hook and the program of the page about continuous integration run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

import onnx_gconv as gconv
from onnx_gconv.cli import main
from onnx_gconv.models import model_path
from tests.docs.pages import blocks as page_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guide" / "continuous-integration.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository like the one that the page assumes: with a model, a configuration and samples."""
    shutil.copyfile(model_path("digits_cnn.onnx"), tmp_path / "model.onnx")
    [configuration] = (item for item in page_blocks("docs/reference/configuration.md") if item.title == "gconv.toml")
    (tmp_path / "gconv.toml").write_text(configuration.text, encoding="utf-8")
    with np.load(model_path("digits_test.npz")) as data:
        np.savez(tmp_path / "inputs.npz", image=data["images"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a line of a shell; lines with onnx-gconv run in this process."""

    def run_line(line):
        program, *arguments = shlex.split(line)
        if program == "onnx-gconv":
            monkeypatch.setattr("sys.argv", [program, *arguments])
            return main()
        return subprocess.run([program, *arguments], check=False).returncode

    return run_line


def test_every_step_of_the_workflow_passes(folder, run):
    workflow = yaml.safe_load(blocks(PAGE, "yaml")[0])
    [job] = workflow["jobs"].values()
    lines = [step["run"] for step in job["steps"] if "run" in step]
    assert re.fullmatch(r'pip install "onnx_gconv @ git\+REPOSITORY"', lines.pop(0))
    for line in lines:
        assert run(line) == 0, line
    assert {item.name for item in (folder / "reports").iterdir()} == {"check.xml", "verify.xml"}
    [pattern] = [step["with"]["report_paths"] for step in job["steps"] if "report_paths" in step.get("with", {})]
    assert len(list(folder.glob(pattern))) == 2


def test_the_hook_takes_the_files_that_it_is_for_and_its_command_checks_them(folder, run):
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    [repository] = yaml.safe_load(blocks(PAGE, "yaml")[1])["repos"]
    assert [item["id"] for item in repository["hooks"]] == [hook["id"]]
    assert hook["language"] == "python"
    mapped = [gconv.map_model("model.onnx", f"{name}.gconv.onnx").output for name in ("first", "second")]
    taken = [file.name for file in folder.iterdir() if re.search(hook["files"], file.name)]
    assert sorted(taken) == [file.name for file in mapped]
    command = hook["entry"].split()
    assert run(shlex.join([*command, *taken])) == 0
    shutil.copyfile("model.onnx", "third.gconv.onnx")
    assert run(shlex.join([*command, *taken, "third.gconv.onnx"])) == 1


def test_the_program_of_the_page_runs(folder):
    gconv.map_model("model.onnx", "model.gconv.onnx", levels=256)
    [program] = blocks(PAGE, "python")
    exec(compile(program, "continuous-integration.md", "exec"), {})  # noqa: S102 - that is the test
    assert "<testsuite " in (folder / "verify.xml").read_text(encoding="utf-8")


def test_the_codes_of_the_page_are_those_of_the_command_line(folder, run):
    codes = re.findall(r"^\| (\d) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert [code for code, _ in codes] == ["0", "1", "2"]
    gconv.map_model("model.onnx", "model.gconv.onnx")
    assert run("onnx-gconv check model.gconv.onnx") == 0
    assert run("onnx-gconv check model.onnx") == 1
    assert run("onnx-gconv verify model.onnx model.gconv.onnx --max-error 0") == 1
    assert run("onnx-gconv check none.onnx") == 2
