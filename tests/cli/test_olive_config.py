"""``onnx-gconv olive-config``: the package configuration for Olive, printed and written."""

from __future__ import annotations

import json
import sys

import pytest

BASE = {"passes": {"Mine": {"module_path": "my.passes.Mine"}}, "extra_dependencies": {"cpu": ["onnxruntime"]}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "base.json").write_text(json.dumps(BASE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_a_document_and_writes_the_same(gconv, folder):
    printed = gconv("olive-config", "base.json")
    assert (printed.code, printed.stderr) == (0, "")
    assert list(printed.json["passes"]) == ["Mine", "OnnxGConv"]
    written = gconv("olive-config", "base.json", "-o", "passes.json")
    assert written == (0, "Wrote passes.json\n", "")
    assert (folder / "passes.json").read_text(encoding="utf-8") == printed.stdout
    assert gconv("olive-config", "base.json", "-o", "-").stdout == printed.stdout


def test_json_is_one_document_with_and_without_a_file(gconv, folder):
    assert gconv("olive-config", "base.json", "--json").json["extra_dependencies"] == {"cpu": ["onnxruntime"]}
    found = gconv("olive-config", "base.json", "-o", "passes.json", "--json")
    assert found.json == {"output": "passes.json", "passes": ["Mine", "OnnxGConv"]}


def test_a_file_that_exists_is_overwritten_only_with_force(gconv, folder):
    (folder / "passes.json").write_text("mine", encoding="utf-8")
    refused = gconv("olive-config", "base.json", "-o", "passes.json")
    message = "onnx-gconv: 'passes.json' exists; choose another file with -o, or overwrite it with --force\n"
    assert refused == (2, "", message)
    assert (folder / "passes.json").read_text(encoding="utf-8") == "mine"
    assert gconv("olive-config", "base.json", "-o", "passes.json", "--force").code == 0


def test_without_olive_it_says_what_to_install(gconv, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "olive", None)
    found = gconv("olive-config")
    message = "Olive is not installed; pip install 'onnx_gconv[olive]', or name the package configuration to add to"
    assert found == (2, "", f"onnx-gconv: {message}\n")
