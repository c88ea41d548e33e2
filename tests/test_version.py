"""The version is the same wherever it is said, installed or not."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import onnx_gconv

ROOT = Path(__file__).resolve().parent.parent

# The checkout is on the path, but the environment knows no distribution of that name.
NOT_INSTALLED = """
import importlib.metadata, json, sys
found = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name.replace("-", "_") == "onnx_gconv":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
from onnx_gconv.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["onnx-gconv", *arguments]
    if code := main():
        sys.exit(code)
"""


def not_installed(*commands):
    """What command lines print in an environment in which the package is not installed."""
    lines = json.dumps([list(map(str, command)) for command in commands])
    command = [sys.executable, "-c", NOT_INSTALLED, lines]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_package_has_the_version_of_its_distribution():
    assert onnx_gconv.__version__ == importlib.metadata.version("onnx_gconv")


def test_the_version_is_written_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]


def test_a_checkout_that_is_not_installed_tells_its_version():
    assert not_installed(["--version"]) == f"onnx-gconv {onnx_gconv.__version__}\n"


def test_a_checkout_that_is_not_installed_maps_verifies_hands_off_and_reads_back(tmp_path):
    original, mapped, bundle = ROOT / "models" / "digits_mlp.onnx", tmp_path / "mlp.gconv.onnx", tmp_path / "mlp.gconv"
    printed = not_installed(
        ["map", original, "-o", mapped, "--quiet"],
        ["verify", original, mapped, "--json"],
        ["handoff", mapped, "-o", bundle, "--array", "64x64", "--quiet"],
        ["readback", mapped, bundle, "-o", tmp_path / "measured.onnx", "--as-if-measured", "--quiet"],
    )
    assert json.loads(printed)["passed"]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["tool"] == f"onnx_gconv {onnx_gconv.__version__}"
    assert (tmp_path / "measured.onnx").exists()
