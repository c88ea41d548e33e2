"""CONTRIBUTING.md, CITATION.cff and the files of versions say what is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import onnx_gconv

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIRED = PROJECT["project"]["dependencies"]


def section(title):
    [text] = re.findall(rf"^### {title}\n(.*?)(?=^##)", CONTRIBUTING, flags=re.MULTILINE | re.DOTALL)
    return text


@pytest.mark.parametrize("title", ["An MVM op", "A converter", "A device", "A hand-off format"])
def test_the_files_of_a_worked_example_are_there(title):
    named = re.findall(r"\]\(([^)]+)\)", section(title))
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).exists()] == []
    for pattern in re.findall(r"`([\w/]+)/\w*NAME\.py`", section(title)):
        assert (ROOT / pattern).is_dir()


def test_the_house_has_the_rooms_of_the_import_rules_in_their_order():
    [house] = re.findall(r"^## The house.*?(?=^## )", CONTRIBUTING, flags=re.MULTILINE | re.DOTALL)
    lines = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in house.splitlines() if line.startswith("| `")]
    [contract] = (each for each in PROJECT["tool"]["importlinter"]["contracts"] if each.get("exhaustive"))
    layers = [sorted(layer.split(" | ")) for layer in contract["layers"]]
    rooms = [layer for layer in layers if any((ROOT / "onnx_gconv" / room).is_dir() for room in layer)]
    assert [sorted(line) for line in lines[:-1]] == rooms
    assert {*lines[-1]} <= {name for layer in layers if layer not in rooms for name in layer}


def test_make_knows_the_targets_that_contributors_are_told_of():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    told = {*re.findall(r"make ([a-z-]+)", CONTRIBUTING)}
    assert told <= {*re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE)}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == onnx_gconv.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["authors"] == PROJECT["project"]["authors"]


def requirements(lines):
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def pins(name):
    """Names and versions that a file pins; of a package there may be several versions, for several Pythons."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^([\w.-]+)==([\w.+-]+)", text, flags=re.MULTILINE)


def test_the_oldest_versions_are_those_that_the_package_and_its_extras_allow():
    allowed = requirements(
        [*REQUIRED, *(line for extra in ("report", "notebook", "dask", "fast") for line in EXTRAS[extra])]
    )
    lowest = {
        name: specifier.version
        for name, requirement in allowed.items()
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    assert dict(pins("constraints-oldest.txt")) == lowest


def test_the_locked_versions_are_among_those_that_the_package_and_its_tests_allow():
    locked = [(name.lower().replace("_", "-"), version) for name, version in pins("requirements-locked.txt")]
    wanted = requirements([*REQUIRED, *EXTRAS["dev"]])
    del wanted["torch"]  # whose files differ between machines
    for name, requirement in wanted.items():
        versions = [version for locked_name, version in locked if locked_name == name.lower().replace("_", "-")]
        assert versions, f"{name} is not locked; run: make lock"
        assert all(map(requirement.specifier.contains, versions)), f"{requirement} is not met; run: make lock"
    assert "torch" not in dict(locked)
    text = (ROOT / "requirements-locked.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^--", text, flags=re.MULTILINE), "an index is named"
