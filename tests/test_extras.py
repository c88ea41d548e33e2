"""The extras of the package: each has code behind it, and what the code asks for is in it."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What a module is called whose package has another name.
PACKAGES = {"olive": "olive-ai"}


def names(requirements):
    return {re.match(r"[\w-]+", requirement).group() for requirement in requirements}


@functools.cache
def imported_modules():
    """The top-level modules that the package imports anywhere, also inside functions."""
    found = set()
    for folder in (ROOT / "onnx_gconv", ROOT / "passes"):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return {PACKAGES.get(module, module) for module in found}


# Those of users; the others are for work on the package and its site.
EXTRAS = {extra: names(of) for extra, of in PROJECT["optional-dependencies"].items() if extra not in {"dev", "docs"}}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_an_extra_installs_is_imported_by_the_package(extra):
    assert EXTRAS[extra] & imported_modules()


def test_what_is_not_required_and_named_in_messages_is_in_an_extra():
    required = names(PROJECT["dependencies"])
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "onnx_gconv").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r"missing; pip install ([\w-]+)", text)}
    assert {"matplotlib", "pandas", "distributed"} <= named
    assert named <= set().union(*EXTRAS.values()) - required
