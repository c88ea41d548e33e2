"""Olive's list of passes, and ours in it; a folder stands for the installed Olive."""

from __future__ import annotations

import importlib
import json
import re
import sys

import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.integrations.olive_config import merged_package_config, own_package_config

OF_OLIVE = {
    "passes": {
        "OnnxConversion": {"module_path": "olive.passes.onnx.conversion.OnnxConversion", "supported_providers": ["*"]},
        "OnnxQuantization": {"module_path": "olive.passes.onnx.quantization.OnnxQuantization"},
    },
    "extra_dependencies": {"cpu": ["onnxruntime"]},
}
OURS = "onnx_gconv.integrations.olive.OnnxGConv"


@pytest.fixture
def base(tmp_path):
    """Writes a package configuration."""

    def write(content, name="base.json"):
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return write


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package named olive onto the path, which must not be imported."""

    def install(content):
        package = tmp_path / "site" / "olive"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('Olive was imported')", encoding="utf-8")
        if content is not None:
            (package / "olive_config.json").write_text(json.dumps(content), encoding="utf-8")
        monkeypatch.syspath_prepend(package.parent)
        return package

    return install


def test_the_passes_of_the_installed_olive_are_kept_and_ours_is_among_them(installed):
    installed(OF_OLIVE)
    merged = merged_package_config()
    assert merged["passes"].pop("OnnxGConv")["module_path"] == OURS
    assert merged == OF_OLIVE


def test_olive_is_not_imported(installed, monkeypatch):
    monkeypatch.delitem(sys.modules, "olive", raising=False)
    installed(OF_OLIVE)
    merged_package_config()
    assert "olive" not in sys.modules


def test_the_pass_is_added_to_a_file_of_ones_own(base):
    mine = {"passes": {"Mine": {"module_path": "my.passes.Mine"}}}
    assert list(merged_package_config(base(mine))["passes"]) == ["Mine", "OnnxGConv"]


def test_merging_again_changes_nothing(base):
    once = merged_package_config(base(OF_OLIVE))
    assert merged_package_config(base(once)) == once


def test_an_entry_of_ours_in_other_case_is_replaced(base):
    older = {"passes": {"onnxgconv": {"module_path": OURS, "supported_providers": []}}}
    assert merged_package_config(base(older)) == own_package_config()


def test_another_pass_of_that_name_is_refused(base):
    file = base({"passes": {"ONNXGCONV": {"module_path": "other.Pass"}}})
    message = (
        f"'{file}' has a pass ONNXGCONV already, with the module_path 'other.Pass'; take it out, as Olive tells passes "
        "apart by their names alone"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        merged_package_config(file)


@pytest.fixture
def no_olive(monkeypatch):
    """There is no Olive, wherever the tests run."""
    monkeypatch.setitem(sys.modules, "olive", None)


def test_without_olive_the_message_says_what_to_install(no_olive):
    message = "Olive is not installed; pip install 'onnx_gconv[olive]', or name the package configuration to add to"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        merged_package_config()


def test_another_package_of_that_name_is_told(installed):
    package = installed(None)
    message = (
        f"the package olive in '{package / '__init__.py'}' has no olive_config.json, so it is not Olive, or a "
        "version that is not supported; pip install 'onnx_gconv[olive]'"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        merged_package_config()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON: .*; give a package configuration of Olive"),
        ("[]", "is no package configuration of Olive, which is a table with the key passes"),
        ('{"passes": []}', "passes should be a table of passes by their names; give a file as Olive has it"),
    ],
)
def test_a_file_that_is_no_package_configuration_is_refused(base, content, message):
    file = base(content)
    with pytest.raises(ConfigError, match=f"^'{re.escape(str(file))}'(:)? {message}$"):
        merged_package_config(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for file, reason in (
        (tmp_path / "none.json", "No such file or directory"),
        (tmp_path, "it is a folder"),
    ):
        message = f"'{file}' cannot be read: {reason}; give a JSON file"
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            merged_package_config(file)


def test_importing_the_pass_without_olive_is_one_sentence(no_olive):
    message = r"^the pass for Olive needs olive(\.common)?, which is missing; pip install 'onnx_gconv\[olive\]'$"
    with pytest.raises(ConfigError, match=message):
        importlib.import_module("onnx_gconv.integrations.olive")
